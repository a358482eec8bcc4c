// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Calls that may hang, made on threads of their own, so that the caller waits no longer than it
// wants to.
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

namespace cake::detail {

/// Threads are made when they are needed, at most `kThreads`; one that hangs is left to itself.
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
  /// Waits for every call, also those that nobody waits for any more.
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

  /// Runs `call` and waits for its end for at most `timeout`; a sixteenth of that while an earlier
  /// call hangs. `call` must not throw, and must own what it touches.
  Outcome run(std::function<void()> call, std::chrono::nanoseconds timeout,
              const std::stop_token& stop) {
    const auto job = std::make_shared<Job>();
    job->call = std::move(call);
    std::unique_lock lock(mutex_);
    if (queue_.size() >= idle_ && !add_thread() && hanging_ == threads_.size()) {
      return Outcome::refused;
    }
    queue_.push_back(job);
    if (hanging_ > 0) timeout /= 16;
    work_.notify_one();
    if (ended_.wait_for(lock, stop, timeout, [&] { return job->done; })) return Outcome::done;
    job->abandoned = true;
    hanging_ += job->begun ? 1 : 0;
    return stop.stop_requested() ? Outcome::canceled : Outcome::timeout;
  }

 private:
  static constexpr std::size_t kThreads = 8;
  struct Job {
    std::function<void()> call;
    bool begun = false;
    bool done = false;
    bool abandoned = false;
  };

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
      const std::shared_ptr<Job> job = std::move(queue_.front());
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

  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable_any ended_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;     // threads that are in no call
  std::size_t hanging_ = 0;  // calls that nobody waits for any more
  bool stop_ = false;
};

}  // namespace cake::detail
