// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which keys were named before, of the last few thousand.
#pragma once

#include <cstddef>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Two sets: when the newer one is full it takes the place of the older one.
///
/// Thread:  Safe for concurrent use
class RecentKeys {
 public:
  static constexpr std::size_t kMost = 16384;  // in each set

  /// Whether the key was noted before; it is from here on.
  ///
  /// Errors:  throws std::bad_alloc
  bool again(const ChunkKey& key) {
    const std::lock_guard lock(mutex_);
    if (newer_.contains(key)) return true;
    const bool before = older_.contains(key);
    if (newer_.size() >= kMost) {
      older_ = std::move(newer_);
      newer_.clear();
    }
    newer_.insert(key);
    return before;
  }

 private:
  std::mutex mutex_;
  std::unordered_set<ChunkKey> newer_;
  std::unordered_set<ChunkKey> older_;
};

}  // namespace cake::inline CAKE_ABI::detail
