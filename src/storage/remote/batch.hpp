// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Requests to a server that somebody waits for together.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "cake/detail/process.hpp"
#include "cake/export.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Whoever carries out requests, and is told that some were canceled.
class RemoteDriver {
 public:
  virtual ~RemoteDriver() = default;
  virtual void wake() noexcept = 0;
};

/// Thread:  Safe for concurrent use
class CAKE_API RemoteBatch {
 public:
  explicit RemoteBatch(std::size_t requests) : left_(requests), done_(requests == 0) {}
  /// One that failed before there was a request.
  explicit RemoteBatch(Error why) : done_(true), status_(std::move(why)) {}

  /// Whose requests these are: cancel() tells them.
  void belongs_to(std::vector<std::weak_ptr<RemoteDriver>> drivers) {
    drivers_ = std::move(drivers);
  }
  /// One request is over. `ends_all`: so are the others, soon.
  void ended(const Status& status, bool ends_all) noexcept;
  /// The requests that are not over end soon.
  void cancel() noexcept;
  bool canceled() const { return canceled_.load(std::memory_order_acquire); }
  /// Why the others end, where a request ended all of them.
  Status reason();

  bool ready();
  bool wait_for(std::chrono::nanoseconds span);
  /// The first failure.
  Status wait();

  const ForkGuard made_here;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t left_ = 0;
  bool done_ = false;
  Status status_;
  std::atomic<bool> canceled_{false};
  std::vector<std::weak_ptr<RemoteDriver>> drivers_;
};

}  // namespace cake::inline CAKE_ABI::detail
