// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A fixed set of threads that shares out the tasks of one loop at a time, the caller among them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Thread:  Requires external synchronization
class ThreadPool {
 public:
  /// `threads` counts the caller: with 1 everything runs on it, and no thread is started.
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned size() const { return static_cast<unsigned>(workers_.size()) + 1; }

  /// Calls body(task, worker) for every task in [0, n_tasks), in any order and on any thread of the
  /// pool; `worker` in [0, size()) is never on two threads at once. Returns when all have ended.
  /// The body must not throw.
  template <class Body>
  void run(unsigned n_tasks, Body&& body) {
    if (workers_.empty() || n_tasks <= 1) {
      for (unsigned task = 0; task < n_tasks; ++task) body(task, 0u);
      return;
    }
    run_shared(
        n_tasks,
        [](void* b, unsigned task, unsigned worker) {
          (*static_cast<std::remove_reference_t<Body>*>(b))(task, worker);
        },
        &body);
  }

 private:
  using Call = void (*)(void* body, unsigned task, unsigned worker);
  void run_shared(unsigned n_tasks, Call call, void* body);
  void work(unsigned worker);

  std::mutex mutex_;
  std::condition_variable work_, done_;
  // The loop in progress; all under the mutex, also `generation_`, which idle workers read without
  // it to see new work before they sleep.
  Call call_ = nullptr;
  void* body_ = nullptr;
  unsigned n_tasks_ = 0;
  unsigned next_ = 0;
  unsigned ended_ = 0;
  std::atomic<std::uint64_t> generation_{0};
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace cake::inline CAKE_ABI::reference
