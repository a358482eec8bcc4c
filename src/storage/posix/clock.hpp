// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The time by which a store's objects age.
#pragma once

#include <cstdint>
#include <mutex>

#include "calls.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The system's clock, of which a step is believed once it has lasted: one that is set wrongly for a
/// moment, or back, neither ages all objects at once nor makes them young. Seconds since 1970.
///
/// Thread:  Safe for concurrent use
class StoreClock {
 public:
  static constexpr std::int64_t kStep = 60;       // what the system may correct at once
  static constexpr std::int64_t kBelieved = 600;  // so long after a step

  explicit StoreClock(PosixCalls& calls)
      : calls_(calls), ahead_(calls.now() - calls.seconds_running()) {}

  std::int64_t now() {
    const std::int64_t running = calls_.seconds_running();
    const std::int64_t ahead = calls_.now() - running;
    const std::lock_guard lock(mutex_);
    const bool lasted = stepped_ && near(ahead, new_ahead_) && running - since_ >= kBelieved;
    if (near(ahead, ahead_) || lasted) {
      ahead_ = ahead;
      stepped_ = false;
    } else if (!stepped_ || !near(ahead, new_ahead_)) {
      stepped_ = true;
      new_ahead_ = ahead;
      since_ = running;
    }
    return running + ahead_;
  }

 private:
  static bool near(std::int64_t a, std::int64_t b) { return a - b <= kStep && b - a <= kStep; }

  PosixCalls& calls_;
  std::mutex mutex_;
  std::int64_t ahead_;  // of the time that the machine has run
  bool stepped_ = false;
  std::int64_t new_ahead_ = 0, since_ = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
