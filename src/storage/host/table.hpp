// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a HostStorage holds, and which objects go for others. The caller has a lock.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"
#include "cake/storage/host.hpp"
#include "src/storage/host/memory.hpp"
#include "src/storage/posix/index.hpp"

namespace cake::inline CAKE_ABI::detail {

inline constexpr std::size_t kMostCandidates = 256;  // of one class of age, to choose from
inline constexpr std::size_t kMostLooked = 1024;     // objects that one write looks at

/// Whoever holds one keeps its bytes: the store while it is visible, and each loan.
struct HostObject {
  explicit HostObject(std::shared_ptr<HostMemory> memory_in) : memory(std::move(memory_in)) {}
  HostObject(const HostObject&) = delete;
  HostObject& operator=(const HostObject&) = delete;
  ~HostObject() {
    if (data != nullptr) memory->give_back(data, bytes);
  }
  ConstBytes content() const { return {data, bytes}; }

  std::shared_ptr<HostMemory> memory;
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  std::optional<std::uint32_t> seal;
  std::uint32_t position = 0;  // of the first token; 0 for what is no chunk, so that it goes first
  std::int64_t used = 0;       // seconds
  bool read = false;           // since it was written
};

/// Where its memory ends.
inline const std::byte* end_of(const HostObject& object) {
  return object.data + align_up(object.bytes);
}

/// The first ones to go, the first of them first.
inline std::vector<ObjectIndex::Entry> first_to_go(const ObjectIndex& index, std::int64_t now) {
  auto oldest = index.oldest(now, kMostCandidates);
  std::sort(oldest.begin(), oldest.end(), [](const auto& a, const auto& b) {
    return std::tie(a.object.position, a.object.used, a.key) <
           std::tie(b.object.position, b.object.used, b.key);
  });
  return oldest;
}

/// The visible objects. Those that are being written, and those that are lent, hold memory, too.
///
/// Thread:  Requires external synchronization
class HostTable {
 public:
  /// `clock`: seconds.
  HostTable(std::shared_ptr<HostMemory> memory, std::function<std::int64_t()> clock)
      : memory_(std::move(memory)), clock_(std::move(clock)) {}

 protected:
  using Objects = std::unordered_map<ChunkKey, std::shared_ptr<HostObject>>;

  static KnownObject known(const HostObject& object) {
    return {object.bytes, object.used, object.position, true, false, keep_of(object.read, 0)};
  }
  /// Somebody beside the store holds the object. Under the lock: nobody new comes meanwhile.
  static bool in_use(const std::shared_ptr<HostObject>& object) { return object.use_count() > 1; }
  void touch(const ChunkKey& key, HostObject& object) {
    const std::int64_t now = clock_();
    if (object.used == now && object.read) return;
    object.used = now;
    object.read = true;
    index_.put(key, known(object));
  }

  std::shared_ptr<HostObject> forget(Objects::iterator it) {
    std::shared_ptr<HostObject> object = std::move(it->second);
    index_.remove(it->first);
    objects_.erase(it);
    return object;
  }
  /// Its memory is free when this returns.
  void evict(Objects::iterator it) {
    ++stats_.evicted;
    stats_.evicted_bytes += it->second->bytes;
    (void)forget(it);
  }

  /// Takes memory for the object, and evicts for it if need be.
  ///
  /// Errors:  out_of_memory
  Status take_memory(const ChunkKey& key, std::uint64_t bytes, HostObject& object) {
    if (align_up(bytes) > memory_->largest_object() || bytes > memory_->capacity()) {
      ++stats_.refused;
      return Error{Errc::out_of_memory, 0,
                   "HostStorage: an object of " + std::to_string(bytes) +
                       " bytes is larger than an arena (" +
                       std::to_string(memory_->largest_object()) +
                       " bytes); raise capacity_bytes or arena_bytes, or store smaller chunks"};
    }
    object.data = memory_->take(bytes, key);
    if (object.data == nullptr) object.data = take_from_others(key, bytes);
    if (object.data != nullptr) {
      object.bytes = bytes;
      return {};
    }
    ++stats_.refused;
    return Error{Errc::out_of_memory, 0,
                 "HostStorage: no room for an object of " + std::to_string(bytes) +
                     " bytes: all that could go is lent or being read"};
  }

  const std::shared_ptr<HostMemory> memory_;
  const std::function<std::int64_t()> clock_;
  Objects objects_;
  ObjectIndex index_;
  HostStats stats_;

 private:
  /// Null: nothing more can go, or the work has lasted long enough.
  std::byte* take_from_others(const ChunkKey& key, std::uint64_t bytes) {
    std::size_t looked = 0;
    std::uint64_t freed = 0;
    while (looked < kMostLooked && index_.size() != 0) {
      for (const ObjectIndex::Entry& candidate : first_to_go(index_, clock_())) {
        if (looked++ == kMostLooked) return nullptr;
        const auto it = objects_.find(candidate.key);
        // It may have gone as another one's neighbour.
        if (it == objects_.end()) continue;
        if (in_use(it->second)) {  // that is a use, too
          touch(candidate.key, *it->second);
          continue;
        }
        std::byte* data = nullptr;
        if (freed >= 2 * align_up(bytes)) {  // enough has gone, but not side by side
          data = take_around(it, key, bytes, looked);
        } else {
          freed += align_up(it->second->bytes);
          evict(it);
          data = memory_->take(bytes, key);
        }
        if (data != nullptr) return data;
      }
    }
    return nullptr;
  }

  /// Evicts an object and what lies around it, the longer unused one of both sides first. Nothing
  /// where that leads to no gap of the size.
  std::byte* take_around(Objects::iterator first, const ChunkKey& key, std::uint64_t bytes,
                         std::size_t& looked) {
    std::vector<Objects::iterator> going{first};
    const std::byte* begin = first->second->data;
    const std::byte* end = end_of(*first->second);
    for (;; ++looked) {
      const HostMemory::Space space = memory_->space_around(begin, end);
      begin = space.begin;
      end = space.end;
      if (static_cast<std::uint64_t>(end - begin) >= align_up(bytes)) break;
      const auto next = longer_unused(space);
      if (next == objects_.end() || looked >= kMostLooked) return nullptr;
      going.push_back(next);
      begin = std::min<const std::byte*>(begin, next->second->data);
      end = std::max(end, end_of(*next->second));
    }
    for (const auto& object : going) evict(object);
    return memory_->take(bytes, key);
  }
  /// Of the two neighbours of a space; end(): neither may go.
  Objects::iterator longer_unused(const HostMemory::Space& space) {
    const auto before = unused(space.before);
    const auto behind = unused(space.behind);
    // What lies there may be an erased object that is lent, or one being written, whose key has
    // another object by now.
    const bool ends_it = before != objects_.end() && end_of(*before->second) == space.begin;
    const bool begins_it = behind != objects_.end() && behind->second->data == space.end;
    if (ends_it && begins_it) {
      return behind->second->used < before->second->used ? behind : before;
    }
    return ends_it ? before : begins_it ? behind : objects_.end();
  }
  /// end(): there is none of the key, or it is in use.
  Objects::iterator unused(const std::optional<ChunkKey>& key) {
    const auto it = key ? objects_.find(*key) : objects_.end();
    return it == objects_.end() || in_use(it->second) ? objects_.end() : it;
  }
};

}  // namespace cake::inline CAKE_ABI::detail
