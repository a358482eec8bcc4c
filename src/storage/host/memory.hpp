// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The memory of a HostStorage: a few arenas, and which object lies where in them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "cake/detail/arena.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Allocated once, by the constructor: never more than the capacity, never again.
///
/// Thread:  Safe for concurrent use
class HostMemory {
 public:
  /// `memory` is asked until it refuses; what is missing then is plain memory.
  ///
  /// Errors:  throws Exception(out_of_memory) when there is no plain memory
  HostMemory(std::uint64_t capacity_bytes, std::uint64_t arena_bytes, StagingMemory* memory);

  /// Null: there is no such gap.
  ///
  /// Errors:  throws std::bad_alloc when there is no memory to note it
  std::byte* take(std::uint64_t bytes, const ChunkKey& key);
  /// Needs:   as many bytes as were taken
  void give_back(std::byte* data, std::uint64_t bytes) noexcept;
  /// What was taken is only to have `to` bytes: gives back the pages behind them.
  ///
  /// Needs:   `from` bytes were taken, at least `to`
  void shrink(std::byte* data, std::uint64_t from, std::uint64_t to) noexcept;

  /// The space that there would be if [begin, end) of one arena were free, and the keys of what ends
  /// it on both sides.
  struct Space {
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
    std::optional<ChunkKey> before;
    std::optional<ChunkKey> behind;
  };
  Space space_around(const std::byte* begin, const std::byte* end) const;

  /// The largest object that could ever have room.
  std::uint64_t largest_object() const { return largest_; }
  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t plain_bytes() const { return plain_; }
  /// Of the memory that refused.
  const Status& problem() const { return problem_; }
  std::uint64_t used() const;

 private:
  struct Taken {
    std::uint64_t bytes = 0;
    ChunkKey key;
  };
  struct Arena {
    explicit Arena(AlignedBuffer memory_in) : memory(std::move(memory_in)), map(memory.bytes()) {}
    AlignedBuffer memory;
    ArenaMap map;
    std::uint64_t used = 0;
    std::map<const std::byte*, Taken> taken;
  };
  template <class Arenas>
  static auto& arena_of(Arenas& arenas, const std::byte* place) {
    return *std::find_if(arenas.begin(), arenas.end(), [&](const Arena& arena) {
      return std::uintptr_t(place) - std::uintptr_t(arena.memory.data()) < arena.memory.size();
    });
  }

  std::uint64_t capacity_ = 0;
  std::uint64_t plain_ = 0;
  std::uint64_t largest_ = 0;
  Status problem_;
  mutable std::mutex mutex_;  // guards the arenas
  std::deque<Arena> arenas_;
};

}  // namespace cake::inline CAKE_ABI::detail
