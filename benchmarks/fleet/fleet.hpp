// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Many prompts in virtual time: devices that prefill several prompts each, every one with a RAM tier and
// lanes of its own, over one store that they share. A prompt is the SessionCore that runs behind real
// lanes, whom a lane reads for is decided by detail/lane_order.hpp as there, and a checker follows each
// prompt's KV. Equal inputs give equal results.
//
// What is left out: decoding, writes to the store (a prompt's chunks are in both tiers when it has ended),
// and the time of lookups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "benchmarks/fleet/workload.hpp"
#include "cake/detail/session_scheduler.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/testing/simulation_spec.hpp"
#include "cake/types.hpp"

namespace cake::benchmarks {

/// Lanes of each device: its RAM tier and the store.
inline constexpr LaneId kMemoryLane = 0;
inline constexpr LaneId kStoreLane = 1;
inline constexpr std::uint32_t kLanes = 2;

struct FleetSpec {
  /// Of every prompt: chunk_tokens, n_layers, sizes of objects, max_step_tokens. The rest is set for each.
  PrefillSpec prompt;
  ComputeCost cost;
  std::uint32_t devices = 1;
  SimulatedLink memory;  // from the RAM tier of one device
  SimulatedLink store;  // of the store, for all devices together: serial, in the order of the reads
  std::uint64_t memory_bytes = 0;  // of the RAM tier of one device; whole chunks count
  std::uint64_t staging_bytes = std::uint64_t{1} << 30;  // of one device
  std::uint32_t reads_at_once = 4;                       // of each lane
  std::uint32_t prompts_at_once = 4;                     // on one device; the others queue
  std::vector<std::uint64_t> stored;  // names of chunks that the store has before
};

struct FleetPolicy {
  std::string name;
  /// Of a prompt beside which the device has so many others.
  std::function<detail::AnyScheduler(std::size_t others)> scheduler;
  bool least_left = true;  // the order of lanes; else prompts are served as they came
  bool shortest_first =
      true;           // the device goes to the prompt with the fewest tokens to compute; else to
                      // the one that came first
  bool joins = true;  // a chunk that several prompts of a device want is read once
  bool prefetch = false;  // for prompts that queue, while the others want nothing of the store
};

struct FleetResult {
  std::vector<Time> ttft;          // [request] from its arrival
  std::uint64_t store_bytes = 0;   // read from the store,
  std::uint64_t memory_bytes = 0;  // and from RAM tiers
  std::uint64_t joined_bytes = 0;  // that prompts had of reads for others, and not counted above
  std::uint64_t prefetched_bytes = 0;  // of store_bytes, for prompts that queued
  std::uint64_t loaded_tokens = 0;     // of prompts
  std::uint64_t computed_tokens = 0;
  std::uint32_t failed_loads = 0;
  Time device_time{0};    // passes, of all devices
  Time gate_time{0};      // that devices waited within passes, for layers
  Time ended{0};          // the last first token
  std::string violation;  // of the rules of a run; empty: none
};

/// Needs:   `requests` by arrival, each with a device below spec.devices
FleetResult run_fleet(const FleetSpec& spec, const FleetPolicy& policy,
                      std::span<const Request> requests);

/// p of the values are at or below it; 0 < p <= 1.
///
/// Needs:   a value
Time percentile(std::vector<Time> values, double p);
/// Of no values: 0.
double mean_seconds(std::span<const Time> values);

}  // namespace cake::benchmarks
