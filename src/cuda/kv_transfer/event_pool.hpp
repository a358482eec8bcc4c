// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Events that are used again: the driver makes and ends them under a lock that all threads which
// enqueue copies wait for.
#pragma once

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "cake/cuda/runtime.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Of one device.
///
/// Thread:  Safe for concurrent use
class EventPool {
 public:
  EventPool() { idle_.reserve(kMost); }
  /// Errors:  throws Exception(device)
  /// Needs:   the device is current
  Event take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        Event event = std::move(idle_.back());
        idle_.pop_back();
        return event;
      }
    }
    return Event();
  }
  /// Needs:   nobody waits for it any more
  void give_back(Event event) noexcept {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kMost) idle_.push_back(std::move(event));
  }

 private:
  static constexpr std::size_t kMost = 64;
  std::mutex mutex_;
  std::vector<Event> idle_;
};

}  // namespace cake::inline CAKE_ABI::cuda
