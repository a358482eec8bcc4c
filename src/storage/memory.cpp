// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/memory.hpp"

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <utility>

namespace cake::inline CAKE_ABI {

namespace {

// Its text is short enough to need no memory.
Error no_memory() { return Error{Errc::out_of_memory, 0, "no host memory"}; }

}  // namespace

Result<std::vector<StoredChunk>> MemoryStorage::lookup(std::span<const ChunkKey> keys) const {
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

Status MemoryStorage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
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

Status MemoryStorage::write(const ChunkKey& key, ConstBytes bytes) {
  const auto written = write_new(key, bytes);
  return written ? Status() : Status(written.error());
}

Result<bool> MemoryStorage::write_new(const ChunkKey& key, ConstBytes bytes) {
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

Status MemoryStorage::erase(const ChunkKey& key) {
  std::unique_lock lock(mutex_);
  objects_.erase(key);
  return {};
}

std::size_t MemoryStorage::size() const {
  std::shared_lock lock(mutex_);
  return objects_.size();
}

std::uint64_t MemoryStorage::bytes() const {
  std::shared_lock lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [key, object] : objects_) sum += object->size();
  return sum;
}

void MemoryStorage::replace(const ChunkKey& key, Object object) {
  auto shared = std::make_shared<const Object>(std::move(object));
  std::unique_lock lock(mutex_);
  objects_[key] = std::move(shared);
}

std::vector<ChunkKey> MemoryStorage::keys() const {
  std::shared_lock lock(mutex_);
  std::vector<ChunkKey> all;
  all.reserve(objects_.size());
  for (const auto& [key, object] : objects_) all.push_back(key);
  return all;
}

void MemoryStorage::clear() {
  std::unique_lock lock(mutex_);
  objects_.clear();
}

std::optional<MemoryStorage::Object> MemoryStorage::get(const ChunkKey& key) const {
  const auto object = find(key);
  if (!object) return std::nullopt;
  return *object;
}

std::shared_ptr<const MemoryStorage::Object> MemoryStorage::find(const ChunkKey& key) const {
  std::shared_lock lock(mutex_);
  const auto it = objects_.find(key);
  return it == objects_.end() ? nullptr : it->second;
}

}  // namespace cake::inline CAKE_ABI
