// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The drivers of a store, and how requests that belong together are handed to them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "attempts.hpp"
#include "batch.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Requests as `like` for all of `out`, from `offset` of the object on, at most `step` bytes each.
template <class Request>
std::vector<Request> read_requests(const Request& like, std::uint64_t offset, MutableBytes out,
                                   std::size_t step) {
  std::vector<Request> requests;
  requests.reserve((out.size() + step - 1) / step);
  for (std::size_t at = 0; at < out.size(); at += step) {
    Request& request = requests.emplace_back(like);
    request.offset = offset + at;
    request.out = out.subspan(at, std::min(step, out.size() - at));
  }
  return requests;
}

/// Errors:  of all: throw std::bad_alloc, before any request was begun
/// Thread:  Safe for concurrent use, but for add()
template <class Exchange, class Driver, class Request>
class RemoteDrivers {
 public:
  using Exchanges = std::vector<std::shared_ptr<Exchange>>;

  RemoteDrivers() = default;
  RemoteDrivers(const RemoteDrivers&) = delete;
  RemoteDrivers& operator=(const RemoteDrivers&) = delete;
  /// Ends all requests as canceled. A read that is being canceled may be the last one to know a driver.
  ~RemoteDrivers() {
    for (const auto& driver : drivers_) driver->stop();
  }

  void add(std::shared_ptr<Driver> driver) { drivers_.push_back(std::move(driver)); }

  /// Begins them all, by the drivers in turn.
  std::shared_ptr<RemoteBatch> begin(std::vector<Request> requests,
                                     RemoteClock::time_point deadline,
                                     Exchanges* exchanges = nullptr) {
    auto batch = std::make_shared<RemoteBatch>(requests.size());
    batch->belongs_to({drivers_.begin(), drivers_.end()});
    std::vector<typename Driver::Exchanges> of_driver(drivers_.size());
    if (exchanges != nullptr) exchanges->reserve(requests.size());
    const std::size_t first = next_.fetch_add(requests.size(), std::memory_order_relaxed);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      auto exchange = std::make_shared<Exchange>(std::move(requests[i]), batch, deadline);
      if (exchanges != nullptr) exchanges->push_back(exchange);
      of_driver[(first + i) % drivers_.size()].push_back(std::move(exchange));
    }
    // From here on nothing fails: all of them are told of.
    for (std::size_t d = 0; d < drivers_.size(); ++d) {
      if (!of_driver[d].empty()) drivers_[d]->submit(of_driver[d]);
    }
    return batch;
  }
  /// Waits for all; good answers or not, they are over.
  Exchanges ask_all(std::vector<Request> requests, RemoteClock::time_point deadline) {
    Exchanges exchanges;
    static_cast<void>(begin(std::move(requests), deadline, &exchanges)->wait());
    return exchanges;
  }
  /// Waits for one.
  std::shared_ptr<Exchange> ask(Request request, RemoteClock::time_point deadline) {
    std::vector<Request> one;
    one.push_back(std::move(request));
    return ask_all(std::move(one), deadline).front();
  }

 private:
  std::vector<std::shared_ptr<Driver>> drivers_;
  std::atomic<std::size_t> next_{0};
};

}  // namespace cake::inline CAKE_ABI::detail
