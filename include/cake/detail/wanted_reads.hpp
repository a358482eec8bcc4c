// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which reads a session still waits for, for threads that must not wait for its scheduler.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "cake/detail/read_table.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use.
class WantedReads {
 public:
  /// Makes room for as many reads, so that publish() needs no memory.
  void reserve(std::size_t reads) {
    std::lock_guard lock(mutex_);
    if (wanted_.capacity() < reads) wanted_.reserve(2 * reads);
  }
  void publish(std::span<const ReadEntry> reads) {
    std::lock_guard lock(mutex_);
    wanted_.clear();
    for (const ReadEntry& entry : reads) {
      if (!entry.holds_claim()) continue;
      const bool landed = entry.phase == ReadPhase::inserting;
      wanted_.push_back({entry.ticket.id, landed ? kNever : entry.ticket.deadline});
    }
  }
  bool contains(std::uint64_t read, Time now) const {
    std::lock_guard lock(mutex_);
    return std::any_of(wanted_.begin(), wanted_.end(),
                       [&](const Wanted& w) { return w.read == read && now < w.deadline; });
  }

 private:
  struct Wanted {
    std::uint64_t read = 0;
    Time deadline = kNever;
  };
  mutable std::mutex mutex_;
  std::vector<Wanted> wanted_;
};

}  // namespace cake::inline CAKE_ABI::detail
