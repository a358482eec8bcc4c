// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects in this process's memory: for tests, and as a fast tier in front of a slow one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

/// Keeps every object that is written, without a limit.
///
/// Thread:  Safe for concurrent use
class MemoryStorage {
 public:
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true, .write_new = true};
  using Object = std::vector<std::byte>;

  /// Errors:  out_of_memory
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) const {
    try {
      std::vector<StoredChunk> found(keys.size());
      std::shared_lock lock(mutex_);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const auto it = objects_.find(keys[i]);
        if (it != objects_.end() && !it->second->empty()) found[i] = {it->second->size(), 1};
      }
      return found;
    } catch (const std::bad_alloc&) {
      return no_memory();
    }
  }

  /// Errors:  not_found; corrupt: the object ends before the read does; invalid_argument: another
  ///          tier than 0; out_of_memory
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
              MutableBytes out) const {
    try {
      if (tier != 0) return Error{Errc::invalid_argument, 0, "read: memory has only tier 0"};
      // The copy runs without the lock; replaced or erased meanwhile, the object lives until its
      // end.
      const auto object = find(key);
      if (!object) return Error{Errc::not_found, 0, "no object in memory has this key"};
      if (offset > object->size() || out.size() > object->size() - offset) {
        return Error{Errc::corrupt, 0, "an object in memory ends before the read does"};
      }
      if (!out.empty()) std::memcpy(out.data(), object->data() + offset, out.size());
      return {};
    } catch (const std::bad_alloc&) {
      return no_memory();
    }
  }

  /// Errors:  out_of_memory; invalid_argument: no bytes
  Status write(const ChunkKey& key, ConstBytes bytes) {
    const auto written = write_new(key, bytes);
    return written ? Status() : Status(written.error());
  }
  /// write(), and whether this call stored the object. False: one was there already.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) {
    if (bytes.empty()) return Error{Errc::invalid_argument, 0, "an object cannot be empty"};
    if (find(key)) return false;
    try {
      auto object = std::make_shared<const Object>(bytes.begin(), bytes.end());
      std::unique_lock lock(mutex_);
      return objects_.try_emplace(key, std::move(object)).second;
    } catch (const std::bad_alloc&) {
      return no_memory();
    }
  }

  Status erase(const ChunkKey& key) {
    std::unique_lock lock(mutex_);
    objects_.erase(key);
    return {};
  }

  /// Objects, and bytes of all objects.
  std::size_t size() const {
    std::shared_lock lock(mutex_);
    return objects_.size();
  }
  std::uint64_t bytes() const {
    std::shared_lock lock(mutex_);
    std::uint64_t sum = 0;
    for (const auto& [key, object] : objects_) sum += object->size();
    return sum;
  }

  /// A copy of one object's bytes.
  std::optional<Object> get(const ChunkKey& key) const {
    const auto object = find(key);
    if (!object) return std::nullopt;
    return *object;
  }
  /// Puts `object` under `key` whatever is there now. For tests: a store never replaces an object.
  void replace(const ChunkKey& key, Object object) {
    auto shared = std::make_shared<const Object>(std::move(object));
    std::unique_lock lock(mutex_);
    objects_[key] = std::move(shared);
  }
  std::vector<ChunkKey> keys() const {
    std::shared_lock lock(mutex_);
    std::vector<ChunkKey> all;
    all.reserve(objects_.size());
    for (const auto& [key, object] : objects_) all.push_back(key);
    return all;
  }
  void clear() {
    std::unique_lock lock(mutex_);
    objects_.clear();
  }

 private:
  // Its text is short enough to need no memory.
  static Error no_memory() { return Error{Errc::out_of_memory, 0, "no host memory"}; }
  std::shared_ptr<const Object> find(const ChunkKey& key) const {
    std::shared_lock lock(mutex_);
    const auto it = objects_.find(key);
    return it == objects_.end() ? nullptr : it->second;
  }

  mutable std::shared_mutex mutex_;
  std::unordered_map<ChunkKey, std::shared_ptr<const Object>> objects_;
};
static_assert(StorageBackend<MemoryStorage>);

}  // namespace cake::inline CAKE_ABI
