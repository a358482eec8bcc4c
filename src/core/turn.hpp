// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Who may ask a session's scheduler: one thread at a time. The driving thread waits for it; a lane's
// thread does not, but leaves word that it came. Free of locks, so that taking it and giving it back
// are one instruction each.
#pragma once

#include <atomic>
#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use.
class Turn {
 public:
  /// Waits until it is free.
  void take() noexcept {
    if (try_for_a_while()) return;
    for (;;) {
      std::uint32_t was = kFree;
      if (state_.compare_exchange_strong(was, kTaken)) return;
      if (state_.compare_exchange_strong(was, was | kWaited)) state_.wait(was | kWaited);
    }
  }
  /// False: somebody has it, and is told by give() that it was missed.
  bool try_take() noexcept {
    if (try_for_a_while()) return true;
    for (;;) {
      std::uint32_t was = kFree;
      if (state_.compare_exchange_strong(was, kTaken)) return true;
      if (state_.compare_exchange_strong(was, was | kMissed)) return false;
    }
  }
  /// Whether a try_take() has failed meanwhile.
  bool give() noexcept {
    const std::uint32_t was = state_.exchange(kFree);
    if ((was & kWaited) != 0) state_.notify_all();
    return (was & kMissed) != 0;
  }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kTaken = 1;
  static constexpr std::uint32_t kMissed = 2;
  static constexpr std::uint32_t kWaited = 4;
  static constexpr int kTries = 100;

  /// A few microseconds: most answers take less than a thread takes to fall asleep and wake.
  bool try_for_a_while() noexcept {
    for (int i = 0; i < kTries; ++i) {
      std::uint32_t was = state_.load(std::memory_order_relaxed);
      if (was == kFree && state_.compare_exchange_strong(was, kTaken)) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    return false;
  }

  std::atomic<std::uint32_t> state_{kFree};
};

}  // namespace cake::inline CAKE_ABI::detail
