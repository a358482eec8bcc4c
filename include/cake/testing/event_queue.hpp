// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What is still to happen in virtual time. Requires external synchronization.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// Acts at their times; of two at one time the one that was put in first comes first.
class EventQueue {
 public:
  using Act = std::function<void()>;

  void put(Time time, Act act) { events_.push({time, ++order_, std::move(act)}); }
  /// Of the next act; kNever: there is none.
  Time next() const { return events_.empty() ? kNever : events_.top().time; }
  /// Takes the next act out.
  ///
  /// Needs:   there is one
  Act take() {
    Act act = events_.top().act;
    events_.pop();
    return act;
  }

 private:
  struct Event {
    Time time;
    std::uint64_t order;
    Act act;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };

  std::priority_queue<Event> events_;
  std::uint64_t order_ = 0;
};

}  // namespace cake::inline CAKE_ABI
