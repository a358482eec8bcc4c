// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects in host memory of a bounded size: the fastest tier. It lends its bytes in place, so
// that an engine inserts straight from them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class HostEngine;
}  // namespace detail

struct HostOptions {
  // What all objects together may take, in whole pages of 4 KiB each. Required. All of it is
  // allocated when the store is made.
  std::uint64_t capacity_bytes = 0;
  // Where it comes from: page-locked memory (cake::cuda::PinnedStaging), which a device copies from
  // at full speed. Null: plain memory.
  StagingMemory* memory = nullptr;
  // Most that is asked of `memory` at once, and so the largest object. 0: 4 GiB, or a sixteenth of
  // the capacity if that is more.
  std::uint64_t arena_bytes = 0;
  bool verify_on_read = false;  // what was verified on the way in is verified again on the way out
  // Seconds, for the age of objects. Null: a clock that is never set back. For tests.
  std::function<std::int64_t()> clock = nullptr;
};

/// What a store holds, and did since it was made.
struct HostStats {
  std::uint64_t capacity_bytes = 0;  // in whole pages
  std::uint64_t plain_bytes = 0;     // of them, not from HostOptions::memory; problem() says why
  std::uint64_t used_bytes =
      0;                      // by objects, also by those being written, or erased and still lent
  std::uint64_t objects = 0;  //
  std::uint64_t in_use = 0;   // of them, lent or being read at this moment
  std::uint64_t reads = 0;    // copies made by read(),
  std::uint64_t read_bytes = 0;  // and their bytes
  std::uint64_t loans = 0;       // calls of borrow() that lent,
  std::uint64_t loan_bytes = 0;  // and their bytes
  std::uint64_t published = 0;   // objects that write() made visible
  std::uint64_t published_bytes = 0;
  std::uint64_t unverified = 0;      // of them: no chunk objects, so that nobody could verify them
  std::uint64_t already_stored = 0;  // writes of objects that were there
  std::uint64_t evicted = 0;         // objects that made room for others
  std::uint64_t evicted_bytes = 0;
  std::uint64_t refused = 0;  // writes for which nothing could be evicted
  std::uint64_t damaged = 0;  // writes of chunk objects that were not whole
};

struct StoreCounts;  // metrics.hpp
/// For metric_families() (metrics.hpp); `store` is its name, for people.
CAKE_API StoreCounts store_counts(const HostStats& stats, std::string store);

/// Keeps objects by key in memory that is allocated once, in a few large arenas: locking pages is
/// slow and may stop the device, so no call but the constructor does it. Where `memory` has no more,
/// the rest is plain memory, and problem() says so.
///
/// A chunk object is verified while it is copied in, or digested where it is built (make_room()); one
/// that is damaged, or that of another key, is refused. What is no chunk object is kept as it is, and lent as unverified.
///
/// Eviction: a write that finds no room evicts in the order of PosixStorage: by age since the last
/// read or loan or, if there was none, the write, in classes that double (1, 2, 4, ... minutes), and
/// within a class the lowest token position first, because the tail of a prompt saves the most
/// compute; what was never read or lent counts as four times as old. With over 256 objects of one class the order within it is that of the oldest 256. Where
/// objects of many sizes leave no gap of the size that is needed, the neighbours of one that goes go
/// as well. An object that is lent or being read at that moment stays. A write looks at up to 1024
/// objects; when it has found no room by then, it is refused.
///
/// Erasing an object makes it invisible at once; its memory is free when the last loan of it ends.
///
/// Needs:   `memory` outlives the store and all its loans
/// Thread:  Safe for concurrent use. No call waits for a loan or a device
class CAKE_API HostStorage {
 public:
  static constexpr StorageAbilities abilities{
      .lookup_never_blocks = true, .write_new = true, .write_in_place = true, .borrow = true};

  /// Errors:  throws Exception: invalid_argument without capacity_bytes; out_of_memory when there is
  ///          no plain memory, either
  explicit HostStorage(const HostOptions& options);
  ~HostStorage();
  HostStorage(const HostStorage&) = delete;
  HostStorage& operator=(const HostStorage&) = delete;

  /// Errors:  out_of_memory
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) const;

  /// Copies. The bytes are not verified.
  ///
  /// Errors:  not_found; corrupt: the object ends before the read does; invalid_argument: another
  ///          tier than 0
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out);

  /// Copies and verifies once. Nothing is left behind by a write that fails.
  ///
  /// Errors:  invalid_argument: no bytes; corrupt, mismatch: a chunk object that is damaged or that
  ///          of another key; out_of_memory: larger than an arena, or nothing can be evicted for it
  Status write(const ChunkKey& key, ConstBytes bytes);
  /// write(), and whether this call stored the object. False: one was there already.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes);

  /// Memory for an object, which is built there instead of being copied in; as much of it as the object
  /// does not need goes back with publish().
  ///
  /// Errors:  invalid_argument: no bytes; out_of_memory as write()
  Result<ObjectRoom> make_room(const ChunkKey& key, std::uint64_t bytes);
  /// Makes the first `bytes` of the room visible. With a seal no block is digested again: whoever
  /// gives it has digested these very bytes; header, key and size are checked against it. Without one
  /// all is verified as by write().
  ///
  /// Needs:   the room is this store's, for this key
  /// Errors:  as write(); invalid_argument: the room is smaller; mismatch: the seal is another object's
  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal);

  Status erase(const ChunkKey& key);

  /// Bytes in place. With a seal, unless the object is no chunk object, or HostOptions::verify_on_read.
  ///
  /// Errors:  as read()
  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size);

  /// Why not all of the capacity comes from HostOptions::memory; ok: it does, or there is none.
  ///
  /// Errors:  out_of_memory, which says how much is plain
  Status problem() const;
  HostStats stats() const;

 private:
  std::unique_ptr<detail::HostEngine> engine_;
};
static_assert(StorageBackend<HostStorage>);

}  // namespace cake::inline CAKE_ABI
