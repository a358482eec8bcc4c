// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Makes calls that may hang on threads of their own, so that the caller can stop waiting at a
// deadline.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Creates threads when they are needed, at most `kThreads`. A thread whose call hangs is abandoned
/// until the call returns.
///
/// Thread:  Safe for concurrent use
class DeadlineCalls {
 public:
  enum class Outcome : std::uint8_t {
    done,
    timeout,   // still running; whatever it writes must be its own
    canceled,  // likewise: the stop token asked to stop
    refused,   // not begun: as many calls hang as there may be threads, or no thread can be made
  };

  DeadlineCalls() = default;
  /// Waits for every call, abandoned ones included.
  ~DeadlineCalls() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  DeadlineCalls(const DeadlineCalls&) = delete;
  DeadlineCalls& operator=(const DeadlineCalls&) = delete;

  struct Job {
    std::function<void()> call;
    bool begun = false;
    bool done = false;
    bool abandoned = false;
  };
  using Ticket = std::shared_ptr<Job>;
  using Clock = std::chrono::steady_clock;

  /// Begins `call`, which must not throw, and must own what it touches. Null: refused.
  Ticket begin(std::function<void()> call) {
    auto job = std::make_shared<Job>();
    job->call = std::move(call);
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= idle_ && !add_thread() && hanging_ == threads_.size()) return nullptr;
    queue_.push_back(job);
    work_.notify_one();
    return job;
  }
  /// Waits for the end of a call until `deadline`; after that the call is abandoned.
  Outcome wait(const Ticket& job, Clock::time_point deadline, const std::stop_token& stop) {
    if (job == nullptr) return Outcome::refused;
    std::function<void()> unused;  // what it owns ends without the lock
    std::unique_lock lock(mutex_);
    if (ended_.wait_until(lock, stop, deadline, [&] { return job->done; })) return Outcome::done;
    job->abandoned = true;
    if (job->begun) {
      ++hanging_;
    } else {
      unused = std::move(job->call);
    }
    return stop.stop_requested() ? Outcome::canceled : Outcome::timeout;
  }
  /// Abandoned calls that have not ended.
  std::size_t hanging() const {
    const std::lock_guard lock(mutex_);
    return hanging_;
  }

 private:
  static constexpr std::size_t kThreads = 8;
  bool add_thread() {
    if (threads_.size() >= kThreads) return false;
    try {
      threads_.reserve(kThreads);
      threads_.emplace_back([this] { work(); });
      ++idle_;
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Ticket job = std::move(queue_.front());
      queue_.pop_front();
      if (job->abandoned) continue;
      job->begun = true;
      --idle_;
      lock.unlock();
      job->call();
      job->call = nullptr;
      lock.lock();
      ++idle_;
      job->done = true;
      if (job->abandoned) --hanging_;
      ended_.notify_all();
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable_any ended_;
  std::deque<Ticket> queue_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;     // threads that are in no call
  std::size_t hanging_ = 0;  // calls that nobody waits for any more
  bool stop_ = false;
};

}  // namespace cake::inline CAKE_ABI::detail
