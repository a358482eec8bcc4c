// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An allocator over one range of addresses, for any device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <span>

#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Allocates parts of one range of addresses, first fit, in multiples of 4 KiB. Does not access the
/// memory itself.
///
/// Needs:   the range begins at a 4 KiB boundary
/// Thread:  Safe for concurrent use
class ArenaMap {
 public:
  explicit ArenaMap(std::span<std::byte> range) : range_(range) {
    const std::size_t whole = range.size() / kIoAlignment * kIoAlignment;
    if (whole != 0) free_[0] = whole;
  }
  ArenaMap(const ArenaMap&) = delete;
  ArenaMap& operator=(const ArenaMap&) = delete;

  /// Errors:  throws std::bad_alloc when no gap is large enough
  std::byte* take(std::size_t bytes) {
    bytes = align_up(std::max<std::size_t>(bytes, 1));
    const std::lock_guard lock(mutex_);
    for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
      if (gap->second < bytes) continue;
      const std::size_t at = gap->first;
      const std::size_t rest = gap->second - bytes;
      if (rest != 0) free_[at + bytes] = rest;  // first: it may throw
      free_.erase(at);
      return range_.data() + at;
    }
    throw std::bad_alloc();
  }
  /// Needs:   bytes that were taken: all that were taken at once, or the last pages of them
  void give_back(std::byte* data, std::size_t bytes) noexcept {
    if (data == nullptr) return;
    const std::lock_guard lock(mutex_);
    auto at = static_cast<std::size_t>(data - range_.data());
    std::size_t size = align_up(std::max<std::size_t>(bytes, 1));
    const auto after = free_.find(at + size);
    if (after != free_.end()) {
      size += after->second;
      free_.erase(after);
    }
    const auto next = free_.lower_bound(at);
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == at) {
        before->second += size;
        return;
      }
    }
    try {
      free_[at] = size;
    } catch (const std::bad_alloc&) {  // a few pages of the arena are lost, and nothing else
    }
  }
  /// The largest size that take() could return now.
  std::size_t largest_gap() const {
    const std::lock_guard lock(mutex_);
    std::size_t most = 0;
    for (const auto& [at, size] : free_) most = std::max(most, size);
    return most;
  }
  std::span<std::byte> range() const { return range_; }

 private:
  std::span<std::byte> range_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::size_t> free_;  // offset, bytes; no two of them touch
};

}  // namespace cake::inline CAKE_ABI::detail
