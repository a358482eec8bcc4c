// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Waiting for an event without blocking in the driver.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

#include "cake/cuda/runtime.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

using Clock = std::chrono::steady_clock;

/// cudaEventQuery, without leaving "not ready" behind as this thread's last error.
inline bool passed(const Event& event) {
  if (event.ready()) return true;
  if (cudaPeekAtLastError() == cudaErrorNotReady) (void)cudaGetLastError();
  return false;
}

/// Polls: a thread that blocks in the driver spins there or wakes up late.
inline bool passed_by(const Event& event, Clock::time_point end) {
  const auto begin = Clock::now();
  while (!passed(event)) {
    const auto now = Clock::now();
    if (now >= end) return false;
    if (now - begin < std::chrono::microseconds(50)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(
          std::min<Clock::duration>(end - now, std::chrono::microseconds(20)));
    }
  }
  return true;
}

inline Status wait_for_event(const Event& event) {
  (void)passed_by(event, Clock::time_point::max());
  return event.wait();
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
