// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/memory.hpp"

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

namespace cake::inline CAKE_ABI {

namespace {

// Its text is short enough to need no memory.
Error no_memory() { return Error{Errc::out_of_memory, 0, "no host memory"}; }

}  // namespace

struct MemoryStorage::Inside {
  std::shared_ptr<const Object> find(const ChunkKey& key) const {
    std::shared_lock lock(mutex);
    const auto it = objects.find(key);
    return it == objects.end() ? nullptr : it->second;
  }

  mutable std::shared_mutex mutex;
  std::unordered_map<ChunkKey, std::shared_ptr<const Object>> objects;
};

MemoryStorage::MemoryStorage() : inside_(std::make_unique<Inside>()) {}
MemoryStorage::~MemoryStorage() = default;

Result<std::vector<StoredChunk>> MemoryStorage::lookup(std::span<const ChunkKey> keys) const {
  try {
    std::vector<StoredChunk> found(keys.size());
    std::shared_lock lock(inside_->mutex);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto it = inside_->objects.find(keys[i]);
      if (it != inside_->objects.end() && !it->second->empty()) found[i] = {it->second->size(), 1};
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
    const auto object = inside_->find(key);
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
  if (inside_->find(key)) return false;
  try {
    auto object = std::make_shared<const Object>(bytes.begin(), bytes.end());
    std::unique_lock lock(inside_->mutex);
    return inside_->objects.try_emplace(key, std::move(object)).second;
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Status MemoryStorage::erase(const ChunkKey& key) {
  std::unique_lock lock(inside_->mutex);
  inside_->objects.erase(key);
  return {};
}

std::size_t MemoryStorage::size() const {
  std::shared_lock lock(inside_->mutex);
  return inside_->objects.size();
}

std::uint64_t MemoryStorage::bytes() const {
  std::shared_lock lock(inside_->mutex);
  std::uint64_t sum = 0;
  for (const auto& [key, object] : inside_->objects) sum += object->size();
  return sum;
}

void MemoryStorage::replace(const ChunkKey& key, Object object) {
  auto shared = std::make_shared<const Object>(std::move(object));
  std::unique_lock lock(inside_->mutex);
  inside_->objects[key] = std::move(shared);
}

std::vector<ChunkKey> MemoryStorage::keys() const {
  std::shared_lock lock(inside_->mutex);
  std::vector<ChunkKey> all;
  all.reserve(inside_->objects.size());
  for (const auto& [key, object] : inside_->objects) all.push_back(key);
  return all;
}

void MemoryStorage::clear() {
  std::unique_lock lock(inside_->mutex);
  inside_->objects.clear();
}

std::optional<MemoryStorage::Object> MemoryStorage::get(const ChunkKey& key) const {
  const auto object = inside_->find(key);
  if (!object) return std::nullopt;
  return *object;
}

}  // namespace cake::inline CAKE_ABI
