// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reading a stored chunk: nothing reaches attention before it went through here.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI {

class SliceDigests;

namespace detail {
struct SealedBlocks;
}

/// The result of parsing an object's head: its geometry and the digests of its blocks.
class ChunkTables {
 public:
  ChunkTables() = default;
  bool parsed() const { return geometry_.valid(); }
  /// Needs:   parsed()
  const ChunkGeometry& geometry() const { return geometry_; }
  /// Layers that the object holds, from the first one on, as KvLayout::stored_order() has them.
  std::uint32_t held() const { return held_; }

 private:
  friend Result<ChunkTables> parse_chunk(ConstBytes, std::uint64_t, const ChunkIdentity&);
  friend Result<KvView> verify_slice(const ChunkTables&, const ChunkIdentity&, LayerRange,
                                     ConstBytes);
  friend Result<KvView> verify_slice(const ChunkTables&, const ChunkIdentity&, LayerRange,
                                     ConstBytes, DeviceStaging&);
  friend Result<KvView> verify_slice(const ChunkTables&, const ChunkIdentity&, LayerRange,
                                     ConstBytes, std::uint32_t);
  friend Result<KvView> verify_slice(const ChunkTables&, const ChunkIdentity&, LayerRange,
                                     ConstBytes, const SliceDigests&);
  friend Result<KvView> open_slice(const ChunkTables&, const ChunkIdentity&, LayerRange, ConstBytes,
                                   MutableBytes);
  ChunkGeometry geometry_;
  std::vector<std::uint32_t> digests_;  // of all extents, block by block
  std::uint32_t header_crc_ = 0;
  std::uint32_t held_ = 0;
  std::shared_ptr<const detail::SealedBlocks> sealed_;  // of an encrypted object: its key and tags
};

/// Parses and checks header, tables and token ids: first that they are undamaged, then that they
/// are the ones expected, then that every offset and size is the only one that the geometry allows.
/// Reads `head` only: the object from its first byte on, at least head_bytes() of it. Of an encrypted
/// object it is also authentic. `expected.keys` are told of an object that none of them decrypts.
///
/// Errors:  corrupt: damaged or forged, or `object_size` is not what was written; mismatch: whole, but
///          not `expected`; unsupported: a newer major version, an unknown incompatible feature, digest
///          or codec, an encrypted object where a plain one was expected; not_found: whole, but with other
///          layers than an object of `object_size` holds, or encrypted with a key that `expected.keys`
///          lack; invalid_argument: `expected` is no chunk that can be stored, or has no keys although its
///          geometry is encrypted, or `head` is shorter than a whole head although the object is not
CAKE_API Result<ChunkTables> parse_chunk(ConstBytes head, std::uint64_t object_size,
                                         const ChunkIdentity& expected);

/// Digests every block of these layers, padding included, and with the last layer the footer.
/// `layers` are positions of KvLayout::stored_order(); the view knows them by their own numbers.
///
/// Needs:   `bytes` is exactly what geometry().read_range(layers) names, and outlives the view
/// Errors:  corrupt; invalid_argument: wrong size of `bytes`, layers that the object does not hold,
///          tables of another geometry, or an encrypted object (open_slice() is for these)
CAKE_API Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                                     LayerRange layers, ConstBytes bytes);

/// The same for bytes that lie in `device`; the digests are computed there, and of the footer alone
/// a copy is made.
///
/// Errors:  as above, and device
CAKE_API Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                                     LayerRange layers, ConstBytes bytes, DeviceStaging& device);

/// The same for bytes that a store lends out of an object which it has verified. `seal`: what
/// verify_object() returned for that object. Where the tables are that object's, too, nothing is
/// digested again; else all is, as above.
CAKE_API Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                                     LayerRange layers, ConstBytes bytes, std::uint32_t seal);

/// Digests a slice while its bytes arrive, part by part, in any order. Needs no tables: blocks lie
/// where the geometry says.
///
/// Thread:  Safe for concurrent use
class CAKE_API SliceDigests {
 public:
  /// Needs:   `bytes` is what geometry.read_range(layers) names, and outlives this
  /// Errors:  throws std::bad_alloc
  SliceDigests(const ChunkGeometry& geometry, LayerRange layers, ConstBytes bytes);
  /// This part of the bytes is there and stays as it is. A block is digested by whoever brings the
  /// last of it; bytes beside the slice are left alone.
  void arrived(ConstBytes part) noexcept;
  bool complete() const;
  /// Every block was digested, to exactly these.
  bool equal(std::span<const std::uint32_t> digests) const;

 private:
  struct Block {
    std::atomic<std::uint32_t> arrived{0};  // bytes
    std::atomic<std::uint32_t> digest{0};
    std::atomic<bool> digested{false};
  };
  void arrived_in(std::uint32_t extent, std::uint64_t begin, std::uint64_t end) noexcept;

  ChunkGeometry geometry_;
  std::uint32_t first_;  // extent,
  std::uint32_t end_;    // and one past the last
  const std::byte* extents_;
  std::vector<Block> blocks_;
};

/// The same for bytes that were digested while they arrived. What was not, or came out differently
/// from what the tables say, is digested again: how a store tells of its pieces cannot make a good
/// object a bad one.
CAKE_API Result<KvView> verify_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                                     LayerRange layers, ConstBytes bytes,
                                     const SliceDigests& arrived);

/// Of an encrypted object: checks the tag of every block of these layers and decrypts it, and checks the
/// footer with the last layer. The extents go into `out`, where the view is of.
///
/// Needs:   `bytes` is exactly what geometry().read_range(layers) names; `out` has room for the extents
///          (payload_bytes(layers)), lies apart from `bytes` or just where the extents lie there, and
///          outlives the view
/// Errors:  corrupt, not_found: of another writing of the object than `tables` (then, or after corrupt,
///          `out` holds nothing of use); invalid_argument: as verify_slice(), or `out` is too small, or
///          the object is not encrypted
CAKE_API Result<KvView> open_slice(const ChunkTables& tables, const ChunkIdentity& expected,
                                   LayerRange layers, ConstBytes bytes, MutableBytes out);

/// Checks a whole object by its own tables, for stores, which know no model and no keys: header, tables,
/// every block and the footer are undamaged and belong to each other, and the object is that of `key`.
/// Returns its seal, the CRC of its header. The header holds the CRC of the tables, and these the
/// digests, so objects of one seal have the same content. Whether it is the object that a prompt
/// needs is parse_chunk()'s to say.
///
/// Errors:  corrupt; mismatch: the object of another key; unsupported: as parse_chunk()
CAKE_API Result<std::uint32_t> verify_object(ConstBytes object, const ChunkKey& key);

/// Fields of an object's header.
struct ChunkSummary {
  ChunkKey key;
  ChunkKey parent;
  std::uint32_t token_begin = 0;
  std::uint32_t token_count = 0;
  std::uint64_t object_bytes = 0;
  ModelFingerprint fingerprint = {};
  std::array<std::byte, 16> tenant = {};  // tenant_tag() of the salt
  std::uint32_t n_layers = 0;             // of the model
  std::uint32_t held = 0;                 // of them, in this object
  std::uint64_t layout = 0;               // ChunkGeometry::layout_digest()
  Cipher cipher = Cipher::none;
  std::array<std::byte, 16> key_id = {};  // TenantKeyId, of an encrypted object
};

/// Reads the first 4 KiB of an object without checking them against an expectation. Empty unless
/// they are an undamaged header of a version that this build reads. For tools and eviction, not for
/// loading.
CAKE_API std::optional<ChunkSummary> peek_chunk(ConstBytes first_page);

}  // namespace cake::inline CAKE_ABI
