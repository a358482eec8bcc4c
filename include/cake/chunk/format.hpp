// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The stored chunk object, version 1.0: one chunk of one prefix, all layers. All integers are
// little endian; every part begins at a multiple of 4 KiB; unused bytes are zero, which the reader
// checks. docs/storage_format.md describes keys and compatibility as well.
//
//   part           begin                 length
//   header         0                     4096
//   tables         4096                  extents, digests, token ids, zeros up to 4 KiB
//   payload        payload_begin         one extent per layer and side, in the order [layer][K|V]
//   footer         object_bytes - 4096   4096
//
// Header. The CRC at its end covers the 4092 bytes before it.
//
//     0  u8[8]   magic 8C 'c' 'a' 'k' 'e' 0D 0A 1A   64  u8[32]  key
//     8  u16     major version = 1                   96  u8[32]  key of the parent
//    10  u16     minor version = 0                  128  u8[32]  model fingerprint
//    12  u32     header bytes = 4096                160  u8[16]  tenant tag
//    16  u64     incompatible features: one that    176  u32     position of the first token
//                the reader does not know: no read  180  u32     tokens
//    24  u64     compatible features: ignored       184  u32     layers
//    32  u64     object bytes                       188  u32     KV heads
//    40  u64     payload begin                      192  u32     head dimension
//    48  u64     payload bytes, with padding        196  u8      dtype: 0 f32, 1 f16, 2 bf16
//    56  u64     raw bytes, all extents, no padding 197  u8      order: 0 nhd, 1 hnd
//                                                   198  u8      digest: 1 CRC-32C
//   200  u32     extents = 2 * layers               199  u8      log2 of the digest block = 16
//   204  u32     digests                            208  u64     offset of the extents = 4096
//   216  u64     offset of the digests              224  u64     offset of the token ids
//   232  u64     end of the token ids               240  u32     CRC-32C of [4096, payload begin)
//   244  zeros (a newer minor version may use them) 4092 u32     CRC-32C of [0, 4092)
//
// Extent, 32 bytes. Extents are disjoint and without gaps: each begins at the next multiple of 4
// KiB after the one before.
//
//     0  u32     layer                                8  u64     offset in the object
//     4  u8      side: 0 K, 1 V                      16  u64     stored bytes, without padding
//     5  u8      codec: 0 raw                        24  u64     raw bytes
//     6  u16     flags = 0
//
// Digests: for every extent, in order, one u32 per 64 KiB block of the extent with its padding.
// Blocks begin anew with each extent, so any layer can be verified alone. Token ids: i32 each.
//
// Footer: shows, for the price of one page, that the object is complete and belongs to this header.
//
//     0  u8[8]   magic 8C 'e' 'k' 'a' 'c' 0D 0A 1A   40  u64     object bytes
//     8  u8[32]  key                                 48  u32     CRC of the header (its last field)
//    52  zeros                                     4092  u32     CRC-32C of the 4092 bytes before
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// What a reader expects of an object, and a writer puts into it.
///
/// Needs:   `tokens` (the chunk's own tokens) outlive it
struct ChunkIdentity {
  ChunkKey key;
  ChunkKey parent;
  ModelFingerprint fingerprint;
  std::array<std::byte, 16> tenant{};
  std::uint32_t token_begin = 0;
  Tokens tokens;
  KvLayout layout;
};

/// Half-open range of bytes of an object.
struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  constexpr std::uint64_t size() const { return end > begin ? end - begin : 0; }
  friend constexpr bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// Offsets and sizes in an object of one layout and chunk size. They depend on nothing else, so
/// reads are planned before the header was read.
///
/// Units:   bytes of the object
/// Errors:  the constructor throws Exception(invalid_argument) unless fits(layout, chunk_tokens)
class CAKE_API ChunkGeometry {
 public:
  static constexpr std::size_t kPage = kIoAlignment;
  static constexpr std::uint32_t kMaxLayers = 2048;
  static constexpr std::uint32_t kMaxTokens = 65536;
  static constexpr std::uint32_t kMaxHeads = 65536;
  static constexpr std::uint32_t kMaxHeadDim = 65536;
  static constexpr std::uint64_t kMaxObjectBytes = std::uint64_t{16} << 30;

  /// True when such a chunk can be stored: all sizes above zero and within the limits above.
  static bool fits(const KvLayout& layout, std::uint64_t chunk_tokens);

  ChunkGeometry(const KvLayout& layout, std::uint32_t chunk_tokens);

  const KvLayout& layout() const { return layout_; }
  std::uint32_t chunk_tokens() const { return chunk_tokens_; }

  std::uint64_t object_bytes() const { return payload_end() + kPage; }
  /// Header, tables and token ids, padded to 4 KiB: where the payload begins.
  std::uint64_t head_bytes() const { return head_bytes_; }
  std::uint64_t payload_end() const { return head_bytes_ + n_extents() * run_stride_; }
  /// One layer's K or V, and the same padded to 4 KiB.
  std::uint64_t run_bytes() const { return run_bytes_; }
  std::uint64_t run_stride() const { return run_stride_; }

  std::uint64_t n_extents() const { return 2 * std::uint64_t{layout_.n_layers}; }
  std::uint64_t digests_per_extent() const;
  std::uint64_t n_digests() const { return n_extents() * digests_per_extent(); }
  std::uint64_t extents_offset() const { return kPage; }
  std::uint64_t digests_offset() const { return extents_offset() + 32 * n_extents(); }
  std::uint64_t tokens_offset() const { return digests_offset() + 4 * n_digests(); }
  std::uint64_t tables_end() const { return tokens_offset() + 4 * std::uint64_t{chunk_tokens_}; }

  /// Extent of one layer's K (side 0) or V (side 1), with its padding.
  ByteRange extent(std::uint32_t layer, std::uint32_t side) const;

  /// What a read of these layers must fetch: their extents; from byte 0 when they begin with layer
  /// 0 (header and tables come with the first slice), to the end of the object when they end with
  /// the last one (footer). Multiples of 4 KiB. The ranges of adjacent layer ranges join without a
  /// gap.
  ByteRange read_range(LayerRange layers) const;

  friend bool operator==(const ChunkGeometry&, const ChunkGeometry&) = default;

 private:
  KvLayout layout_;
  std::uint32_t chunk_tokens_;
  std::uint64_t run_bytes_;
  std::uint64_t run_stride_;
  std::uint64_t head_bytes_;
};

}  // namespace cake::inline CAKE_ABI
