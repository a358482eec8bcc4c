// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "benchmarks/fleet/fleet.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "benchmarks/fleet/device.hpp"

namespace cake::benchmarks {

FleetResult run_fleet(const FleetSpec& spec, const FleetPolicy& policy,
                      std::span<const Request> requests) {
  FleetWorld world(spec, policy, requests.size());
  std::deque<Device> devices;
  for (std::uint32_t d = 0; d < spec.devices; ++d) devices.emplace_back(world);
  for (std::size_t next = 0; world.result.violation.empty();) {
    const Time arrival = next < requests.size() ? requests[next].arrival : kNever;
    const Time event = world.events.next();
    if (arrival == kNever && event == kNever) break;
    world.now = std::min(arrival, event);
    if (event < arrival) {
      world.events.take()();
    } else {
      const Request& request = requests[next];
      devices[request.device].arrive(next++, request);
    }
  }
  for (const Device& device : devices) {
    if (!device.idle()) world.fail("a prompt hangs");
  }
  return std::move(world.result);
}

Time percentile(std::vector<Time> values, double p) {
  const auto rank = static_cast<std::size_t>(std::ceil(p * static_cast<double>(values.size())));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

double mean_seconds(std::span<const Time> values) {
  double sum = 0;
  for (const Time value : values) sum += to_seconds(value);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace cake::benchmarks
