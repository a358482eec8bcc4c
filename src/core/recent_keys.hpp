// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How often keys were named before, of the last few thousand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Two sets: when the newer one is full it takes the place of the older one.
///
/// Thread:  Safe for concurrent use
class RecentKeys {
 public:
  static constexpr std::size_t kMost = 16384;  // in each set

  /// How often the key was noted before; it is once more from here on.
  ///
  /// Errors:  throws std::bad_alloc
  std::uint32_t times(const ChunkKey& key) {
    const std::lock_guard lock(mutex_);
    if (const auto it = newer_.find(key); it != newer_.end()) return it->second++;
    const auto old = older_.find(key);
    const std::uint32_t before = old == older_.end() ? 0 : old->second;
    if (newer_.size() >= kMost) {
      older_ = std::move(newer_);
      newer_.clear();
    }
    newer_.emplace(key, before + 1);
    return before;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<ChunkKey, std::uint32_t> newer_;
  std::unordered_map<ChunkKey, std::uint32_t> older_;
};

}  // namespace cake::inline CAKE_ABI::detail
