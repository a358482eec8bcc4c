// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The stored chunk object, version 2.2: one chunk of one prefix. All integers are little endian;
// every part begins at a multiple of 4 KiB; unused bytes are zero, which the reader checks.
// docs/storage_format.md describes keys and compatibility as well.
//
//   part           begin                 length
//   header         0                     4096
//   tables         4096                  extents, digests, token ids, tags of blocks (of an encrypted
//                                        object), zeros up to 4 KiB
//   payload        payload_begin         one extent per layer and plane, in the order [layer][plane]
//   footer         object_bytes - 4096   4096
//
// Layers lie in the order of KvLayout::stored_order(). An object may hold the first of them only:
// it ends behind them, and the tables' entries of the others are zero.
//
// Header. The CRC at its end covers the 4092 bytes before it.
//
//     0  u8[8]   magic 8C 'c' 'a' 'k' 'e' 0D 0A 1A   64  u8[32]  key
//     8  u16     major version = 2                   96  u8[32]  key of the parent
//    10  u16     minor version: 2 encrypted, else   128  u8[32]  model fingerprint
//                1 with windows or states, else 0
//    12  u32     header bytes = 4096                160  u8[16]  tenant tag
//    16  u64     incompatible features: one that    176  u32     position of the first token
//                the reader does not know: no read  180  u32     tokens
//    24  u64     compatible features: ignored       184  u32     layers
//    32  u64     object bytes                       188  u8      digest: 1 CRC-32C
//    40  u64     payload begin                      189  u8      log2 of the digest block = 16
//    48  u64     payload bytes, with padding        190  u16     zero
//    56  u64     raw bytes, all extents, no padding 192  u64     layout: the first 8 bytes of
//                                                                SHA-256 of KvLayout::canonical()
//   200  u32     extents                            208  u64     offset of the extents = 4096
//   204  u32     digests                            224  u64     offset of the token ids
//   216  u64     offset of the digests              240  u32     CRC-32C of [4096, payload begin)
//   232  u64     end of the token ids
//   244  u32     layers held; 0: all                4092 u32     CRC-32C of [0, 4092)
//   248  of an encrypted object (incompatible feature 1), else zeros:
//   248  u8[16]  key ID                             296  u64     offset of the tags
//   264  u8[32]  random value                       304  u8[16]  tag of the head
//   320  zeros (a newer minor version may use them)
//
// Extent, 48 bytes. Extents are disjoint and without gaps: each begins at the next multiple of 4
// KiB after the one before. A layer that keeps nothing has none. Of a layer that is not held: zeros.
//
//     0  u32     layer                               24  u64     raw bytes
//     4  u8      plane                               32  u32     rows of a token
//     5  u8      codec: 0 raw                        36  u32     bytes of a row
//     6  u16     flags = 0                           40  u8      order: 0 nhd, 1 hnd
//     8  u64     offset in the object                41  u8      dtype, as DType numbers them
//    16  u64     stored bytes, without padding       42  u8[6]   zero
//
// Digests: for every extent, in order, one u32 per 64 KiB block of the extent with its padding.
// Blocks begin anew with each extent, so any layer can be verified alone. Token ids: i32 each.
//
// Footer: says at the cost of one page that the object is whole and belongs to this header.
//
//     0  u8[8]   magic 8C 'e' 'k' 'a' 'c' 0D 0A 1A   40  u64     object bytes
//     8  u8[32]  key                                 48  u32     CRC of the header (its last field)
//    52  zeros                                     4092  u32     CRC-32C of the 4092 bytes before
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// Half-open range of bytes of an object.
struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  constexpr std::uint64_t size() const { return end > begin ? end - begin : 0; }
  friend constexpr bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// Offsets and sizes in an object of one layout and chunk size, encrypted or not. They depend on nothing
/// else, so reads are planned before the header was read. Copies share one table. Ranges of layers count
/// positions of KvLayout::stored_order(); an object holds all layers or, of a layout with windows or
/// states, the first `held` of them.
///
/// Units:   bytes of the object
/// Errors:  the constructor throws Exception(invalid_argument) unless fits(layout, chunk_tokens)
class CAKE_API ChunkGeometry {
 public:
  static constexpr std::size_t kPage = kIoAlignment;
  static constexpr std::uint32_t kMaxLayers = 2048;
  static constexpr std::uint32_t kMaxPlanes = 16;  // of one layer
  static constexpr std::uint32_t kMaxTokens = 65536;
  static constexpr std::uint32_t kMaxRows = 65536;
  static constexpr std::uint32_t kMaxRowBytes = 1 << 20;
  static constexpr std::uint64_t kMaxObjectBytes = std::uint64_t{16} << 30;
  static constexpr std::size_t kExtentBytes = 48;
  static constexpr std::size_t kTagBytes = 16;  // of each block, where it is encrypted

  /// True when such a chunk can be stored: the layout is valid, and all sizes are above zero and
  /// within the limits above.
  static bool fits(const KvLayout& layout, std::uint64_t chunk_tokens);

  /// Of no chunk: only valid() may be asked.
  ChunkGeometry() = default;
  ChunkGeometry(const KvLayout& layout, std::uint32_t chunk_tokens, Cipher cipher = Cipher::none);
  bool valid() const { return parts_ != nullptr; }

  const KvLayout& layout() const { return parts_->layout; }
  /// The first 8 bytes of SHA-256 of the canonical layout.
  std::uint64_t layout_digest() const { return parts_->layout_digest; }
  std::uint32_t chunk_tokens() const { return parts_->chunk_tokens; }
  Cipher cipher() const { return parts_->cipher; }
  bool encrypted() const { return cipher() != Cipher::none; }

  std::uint64_t object_bytes() const { return payload_end() + kPage; }
  std::uint64_t object_bytes(std::uint32_t held) const { return payload_end(held) + kPage; }
  /// How many layers an object may hold: up to each change of reach, the most last.
  const std::vector<std::uint32_t>& held_counts() const { return parts_->held_counts; }
  /// Layers that an object of this size holds; 0: no object of this layout has it.
  std::uint32_t held_by(std::uint64_t object_bytes) const;
  /// KvLayerKind::reach() of the layer at each position, from the widest on; empty: all layers need
  /// all tokens.
  ///
  /// Shape:   [n_layers]
  std::span<const std::uint32_t> reaches() const { return parts_->reaches; }
  /// Position of each layer; empty: its number.
  ///
  /// Shape:   [n_layers]
  std::span<const std::uint32_t> positions() const { return parts_->positions; }
  /// Header and tables, padded to 4 KiB: where the payload begins.
  std::uint64_t head_bytes() const { return parts_->head_bytes; }
  std::uint64_t payload_end() const { return payload_end(runs().n_layers()); }
  std::uint64_t payload_end(std::uint32_t held) const {
    return head_bytes() + runs().begin_at(held);
  }
  /// Bytes of the extents of the first `held` layers, without padding.
  std::uint64_t raw_bytes(std::uint32_t held) const;
  std::uint64_t raw_bytes() const { return raw_bytes(runs().n_layers()); }
  /// The extents; begins and ends count from head_bytes().
  const KvRuns& runs() const { return parts_->runs; }
  std::shared_ptr<const KvRuns> shared_runs() const { return {parts_, &parts_->runs}; }

  std::uint64_t n_extents() const { return runs().size(); }
  /// Digests of all extents before this one; of n_extents(): of all.
  std::uint32_t first_digest(std::uint64_t extent) const { return parts_->first_digest[extent]; }
  std::uint64_t n_digests() const { return first_digest(n_extents()); }
  std::uint64_t extents_offset() const { return kPage; }
  std::uint64_t digests_offset() const { return extents_offset() + kExtentBytes * n_extents(); }
  std::uint64_t tokens_offset() const { return digests_offset() + 4 * n_digests(); }
  /// Behind the token ids.
  std::uint64_t tables_end() const { return tokens_offset() + 4 * std::uint64_t{chunk_tokens()}; }
  /// The tags of an encrypted object's blocks, one for each digest.
  std::uint64_t tags_offset() const { return tables_end(); }
  std::uint64_t tags_end() const {
    return tags_offset() + (encrypted() ? kTagBytes * n_digests() : 0);
  }

  /// Extent of one plane of one layer, with its padding.
  ByteRange extent(std::uint32_t layer, std::uint32_t plane) const;

  /// What a read of these layers must fetch, as positions: their extents; from byte 0 when they begin with layer
  /// 0 (header and tables come with the first slice), to the end of the object when they end with
  /// the last one (footer). Multiples of 4 KiB. The ranges of adjacent layer ranges join without a
  /// gap.
  ByteRange read_range(LayerRange layers) const;
  /// Bytes of the extents of these layers, as positions, with padding.
  std::uint64_t payload_bytes(LayerRange layers) const {
    return runs().begin_at(layers.end) - runs().begin_at(layers.begin);
  }
  /// Where the extents begin in what a read of these layers fetches.
  std::uint64_t payload_in(LayerRange layers) const {
    return layers.begin == 0 && !layers.empty() ? head_bytes() : 0;
  }
  /// The most that a read of a single layer fetches, header and footer not counted.
  std::uint64_t largest_layer() const { return parts_->largest_layer; }
  /// Bytes of the payload before each layer.
  ///
  /// Shape:   [n_layers + 1]
  std::span<const std::uint64_t> layer_begins() const { return parts_->layer_begins; }

  friend bool operator==(const ChunkGeometry& a, const ChunkGeometry& b) {
    return a.parts_ == b.parts_ ||
           (a.valid() && b.valid() && a.chunk_tokens() == b.chunk_tokens() &&
            a.cipher() == b.cipher() && a.layout_digest() == b.layout_digest() &&
            a.layout() == b.layout());
  }

 private:
  struct Parts {
    Parts(const KvLayout& layout_in, std::uint32_t chunk_tokens_in, Cipher cipher_in);
    KvLayout layout;
    std::uint32_t chunk_tokens;
    Cipher cipher;
    KvRuns runs;
    std::uint64_t layout_digest = 0;
    std::uint64_t head_bytes = 0;
    std::uint64_t largest_layer = 0;
    std::vector<std::uint32_t> first_digest;  // [n_extents + 1]
    std::vector<std::uint64_t> layer_begins;  // [n_layers + 1]
    std::vector<std::uint32_t> held_counts;
    std::vector<std::uint32_t> reaches;    // [n_layers], or empty
    std::vector<std::uint32_t> positions;  // [n_layers], or empty
  };
  std::shared_ptr<const Parts> parts_;
};

/// What a reader expects of an object, and a writer puts into it.
///
/// Needs:   `tokens` (the chunk's own tokens) outlive it; `keys` where the geometry is encrypted()
struct ChunkIdentity {
  ChunkKey key;
  ChunkKey parent;
  ModelFingerprint fingerprint;
  std::array<std::byte, 16> tenant{};
  std::uint32_t token_begin = 0;
  Tokens tokens;
  ChunkGeometry geometry;
  std::shared_ptr<const TenantKeys> keys = {};
};

}  // namespace cake::inline CAKE_ABI
