// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How requests that belong together are handed to the drivers of a store.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "attempts.hpp"
#include "batch.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Begins them all, the first one by the driver number `first`, and the others by turns.
///
/// Errors:  throws std::bad_alloc, before any of them was begun
template <class Exchange, class Driver, class Request>
std::shared_ptr<RemoteBatch> begin_requests(const std::vector<std::shared_ptr<Driver>>& drivers,
                                            std::size_t first, std::vector<Request> requests,
                                            RemoteClock::time_point deadline,
                                            std::vector<std::shared_ptr<Exchange>>* exchanges) {
  auto batch = std::make_shared<RemoteBatch>(requests.size());
  batch->belongs_to({drivers.begin(), drivers.end()});
  std::vector<typename Driver::Exchanges> of_driver(drivers.size());
  if (exchanges != nullptr) exchanges->reserve(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    auto exchange = std::make_shared<Exchange>(std::move(requests[i]), batch, deadline);
    if (exchanges != nullptr) exchanges->push_back(exchange);
    of_driver[(first + i) % drivers.size()].push_back(std::move(exchange));
  }
  // From here on nothing fails: all of them are told of.
  for (std::size_t d = 0; d < drivers.size(); ++d) {
    if (!of_driver[d].empty()) drivers[d]->submit(of_driver[d]);
  }
  return batch;
}

}  // namespace cake::inline CAKE_ABI::detail
