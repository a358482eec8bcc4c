// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "thread_pool.hpp"

#include <chrono>

namespace cake::inline CAKE_ABI::reference {
namespace {

// Loops of one pass follow each other within microseconds, and waking a sleeping thread takes tens
// of them; longer than this between two loops means that the pass is over.
constexpr auto kSpin = std::chrono::microseconds(60);

}  // namespace

ThreadPool::ThreadPool(unsigned threads) {
  for (unsigned worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  work_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_shared(unsigned n_tasks, Call call, void* body) {
  std::unique_lock lock(mutex_);
  call_ = call;
  body_ = body;
  n_tasks_ = n_tasks;
  next_ = 0;
  ended_ = 0;
  generation_.fetch_add(1, std::memory_order_release);
  work_.notify_all();
  while (next_ < n_tasks_) {
    const unsigned task = next_++;
    lock.unlock();
    call(body, task, 0);
    lock.lock();
    ++ended_;
  }
  done_.wait(lock, [&] { return ended_ == n_tasks_; });
}

void ThreadPool::work(unsigned worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    while (next_ < n_tasks_) {
      const unsigned task = next_++;
      const Call call = call_;
      void* const body = body_;
      lock.unlock();
      call(body, task, worker);
      lock.lock();
      if (++ended_ == n_tasks_) done_.notify_one();
    }
    if (stop_) return;
    const std::uint64_t seen = generation_.load(std::memory_order_relaxed);
    lock.unlock();
    const auto end = std::chrono::steady_clock::now() + kSpin;
    while (generation_.load(std::memory_order_acquire) == seen &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::yield();
    }
    lock.lock();
    work_.wait(lock, [&] { return stop_ || next_ < n_tasks_; });
  }
}

}  // namespace cake::inline CAKE_ABI::reference
