// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The same work for many objects, by several threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace cake::tools {

/// Calls `each(i)` for all i below `count`, by up to `workers` threads at once.
///
/// Errors:  what a call threw first is thrown when all have ended; the others end early
template <class Each>
void in_parallel(std::size_t count, unsigned workers, Each&& each) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr thrown;
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) each(i);
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!thrown) thrown = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < workers && i < count; ++i) threads.emplace_back(work);
    work();
  }
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace cake::tools
