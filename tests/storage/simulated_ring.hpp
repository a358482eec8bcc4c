// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A ring whose reads are calls of PosixCalls::read_at by threads, so that tests make them fail, end
// early and hang. It needs no io_uring.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include "src/storage/posix/calls.hpp"

namespace cake::inline CAKE_ABI::sample {

class SimulatedRing final : public detail::Ring {
 public:
  SimulatedRing(detail::PosixCalls& calls, unsigned entries) : calls_(calls), entries_(entries) {}
  ~SimulatedRing() override {
    for (auto& thread : threads_) thread.join();
  }

  /// What submit() returns instead of handing something over; 0: it hands over.
  std::function<int()> on_submit;
  /// Changes the result of a read.
  std::function<int(int result)> on_result;

  bool prepare_read(int file, void* out, std::size_t size, std::uint64_t offset,
                    std::uint64_t tag) override {
    if (prepared_.size() >= entries_) return false;
    prepared_.push_back({file, out, size, static_cast<off_t>(offset), tag});
    return true;
  }
  int submit() override {
    if (const int result = on_submit ? on_submit() : 0; result != 0) return result;
    for (const Read& read : prepared_) {
      threads_.emplace_back([this, read] { run(read); });
    }
    prepared_.clear();
    return 0;
  }
  unsigned unsubmitted() const override { return static_cast<unsigned>(prepared_.size()); }
  bool peek(detail::RingCompletion& over) override {
    const std::lock_guard lock(mutex_);
    if (over_.empty()) return false;
    over = over_.front();
    over_.pop_front();
    return true;
  }
  void wait(std::chrono::milliseconds most) override {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most, [&] { return woken_ || !over_.empty(); });
    woken_ = false;
  }
  void wake() noexcept override {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  }

 private:
  struct Read {
    int file;
    void* out;
    std::size_t size;
    off_t offset;
    std::uint64_t tag;
  };
  void run(const Read& read) {
    const ssize_t n = calls_.read_at(read.file, read.out, read.size, read.offset);
    int result = n < 0 ? -errno : static_cast<int>(n);
    if (on_result) result = on_result(result);
    const std::lock_guard lock(mutex_);
    over_.push_back({read.tag, result});
    changed_.notify_all();
  }

  detail::PosixCalls& calls_;
  unsigned entries_;
  std::deque<Read> prepared_;
  std::list<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<detail::RingCompletion> over_;
  bool woken_ = false;
};

}  // namespace cake::inline CAKE_ABI::sample
