// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects in this process's memory: for tests, and as a fast tier in front of a slow one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

/// Keeps every object that is written, without a limit.
///
/// Thread:  Safe for concurrent use
class CAKE_API MemoryStorage {
 public:
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true, .write_new = true};
  using Object = std::vector<std::byte>;

  MemoryStorage();
  MemoryStorage(const MemoryStorage&) = delete;
  MemoryStorage& operator=(const MemoryStorage&) = delete;
  ~MemoryStorage();

  /// Errors:  out_of_memory
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) const;

  /// Errors:  not_found; corrupt: the object ends before the read does; invalid_argument: another
  ///          tier than 0; out_of_memory
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
              MutableBytes out) const;

  /// Errors:  out_of_memory; invalid_argument: no bytes
  Status write(const ChunkKey& key, ConstBytes bytes);
  /// write(), and whether this call stored the object. False: one was there already.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes);

  Status erase(const ChunkKey& key);

  /// Objects, and bytes of all objects.
  std::size_t size() const;
  std::uint64_t bytes() const;

  /// A copy of one object's bytes.
  std::optional<Object> get(const ChunkKey& key) const;
  /// Puts `object` under `key` whatever is there now. For tests: a store never replaces an object.
  void replace(const ChunkKey& key, Object object);
  std::vector<ChunkKey> keys() const;
  void clear();

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};
static_assert(StorageBackend<MemoryStorage>);

}  // namespace cake::inline CAKE_ABI
