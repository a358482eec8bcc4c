// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The parameters of a simulated run: cost of the device, bandwidth trace of each link, stored
// chunks, faults, behaviour of the engine. Values only; simulation.hpp runs them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/detail/session_core.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/session_options.hpp"

namespace cake::inline CAKE_ABI {

/// A serial link. `trace` says from when on it carries how many bytes per second; the first entry
/// starts at 0.
struct SimulatedLink {
  std::vector<std::pair<Time, double>> trace = {{Time{0}, 1e9}};
  Time latency{0};

  /// When `bytes`, put on the idle link at `start`, have passed it.
  Time passed(Time start, double bytes) const {
    Time at = start;
    for (std::size_t i = 0;; ++i) {
      if (i + 1 < trace.size() && trace[i + 1].first <= at) continue;
      const double rate = trace[i].second;
      const bool last = i + 1 == trace.size();
      const Time needed = rate > 0 ? from_seconds(bytes / rate) : kNever;
      if (last) return needed > kNever - at ? kNever : at + needed;
      const Time room = trace[i + 1].first - at;
      if (needed <= room) return at + needed;
      bytes -= rate * to_seconds(room);
      at = trace[i + 1].first;
    }
  }
};

enum class SimulatedFault : std::uint8_t { none, read_error, corrupt, hang, insert_error };

struct SimulationSpec {
  PrefillSpec prefill;
  ChunkGeometry geometry;              // what the spans of `prefill` show, where there are some
  std::vector<StoredChunk> stored;     // [spec.end_chunk]
  std::vector<SimulatedFault> faults;  // [spec.end_chunk], or empty
  std::uint32_t sound_layers = 0;      // reads that end at or below this layer have no fault
  ComputeCost cost;                    // what the device really takes
  /// How much of the device the prompt has from when on: seconds of work that are done in a second.
  SimulatedLink device{{{Time{0}, 1.0}}};
  std::vector<SimulatedLink> links;  // [spec.n_lanes]
  std::vector<LinkEstimate> priors;  // [spec.n_lanes]
  Time insert{0};                    // of one slice
  SimulatedLink inserts{
      {{Time{0}, 1e18}}};      // which inserts take turns on, and what each takes then
  std::uint32_t workers = 4;   // of each lane
  bool workers_block = false;  // a worker stays with its read to the end (else it abandons it)
  std::uint64_t staging_bytes = ~0ull;
  Time cancel_at = kNever;
  std::uint32_t steps_in_flight = 1;
  /// The engine's own wish for its n-th step: most tokens, and how many of them it then really
  /// does; 0 budget: a pause.
  std::function<std::pair<std::uint32_t, std::uint32_t>(std::uint32_t n)> budget;
  std::function<bool(std::uint32_t n)> may_gate;
  SessionOptions session;
  bool has_gates = true;  // the engine honours a gate; one that cannot is never to be given a gated
                          // step (may_gate is false for it)
  bool faulty_scheduler = false;  // it may break rules and delay: the session must cope

  /// What a step takes on the device while nothing holds it up: a wide one as many passes as it has
  /// micro-batches, one n-th of all of them in each of n layers.
  double pass_seconds(TokenRange tokens, bool gated) const {
    if (!gated || !prefill.wide_gated_steps) return cost.pass(tokens.begin, tokens.end);
    return cost.passes(tokens.begin, tokens.end, prefill.max_step_tokens);
  }
};

struct SimulationResult {
  PrefillReport report;
  std::string violation;  // empty: every rule was kept
  std::uint64_t events = 0;
  Time longest_deadline{0};         // of a read, from its issue
  std::vector<LinkEstimate> rates;  // [n_lanes] what the next prompt starts from
  Time idle{0};                     // while neither compute nor any lane had anything to do
  std::uint32_t late_landings = 0;  // reads that came back after their claim was lost
  std::uint32_t dead_lanes = 0;     // lanes whose workers were all stuck, each time anew
  std::uint32_t lost_inserts = 0;   // inserts whose chunk was lost while they ran
  std::uint32_t lost_loads = 0;  // loaded chunks that were computed for want of a window or state
};

}  // namespace cake::inline CAKE_ABI
