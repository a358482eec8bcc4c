// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a search returns: who gets which chunk, what each lane reads in which order, when that should end, and
// what it was assumed from. A value. Requires external synchronization.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cake/detail/planner/candidate.hpp"
#include "cake/detail/planner/forecast.hpp"
#include "cake/detail/planner/tuning.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Layers of one chunk. Small enough to be returned in registers, which Slice is not.
struct ChunkLayers {
  std::uint32_t chunk = 0;
  LayerRange layers;
};

/// What one lane reads: whole chunks first, then the last ones layer by layer.
struct LaneQueue {
  std::vector<std::uint32_t> whole;
  std::vector<std::uint32_t> layered;
  std::size_t at = 0;        // next one of `whole`
  std::size_t at_layer = 0;  // next one of `layered`, over and over

  bool empty() const { return at == whole.size() && layered.empty(); }
  void clear() {
    whole.clear();
    layered.clear();
    at = at_layer = 0;
  }
  /// What this lane may read next of the whole chunks. No layers: nothing can be read now.
  ChunkLayers next_whole(const RunView& view, LaneId lane) {
    for (; at < whole.size(); ++at) {
      const std::uint32_t chunk = whole[at];
      const std::uint32_t needed = view.layers_needed(chunk);
      if (view.state(chunk) == ChunkState::open) return {chunk, {0, needed}};
      if (view.layers_issued(chunk) < needed) return next_begun(view, lane);
    }
    return {};
  }
  /// The same of the others: of the next few chunks the one whose rest the model needs first, and of that as many
  /// layers as worthwhile_layers() says for `bytes`.
  ChunkLayers next_layered(const RunView& view, LaneId lane, double bytes);

 private:
  /// The same as next_whole(), where the next chunk is not open any more, and not all of it was requested.
  ChunkLayers next_begun(const RunView& view, LaneId lane);
  /// Forgets the layered chunks when no layer of any can be asked for any more.
  void drop_requested(const RunView& view);
};

struct Schedule {
  /// Units: seconds, tokens.
  struct Assumptions {
    struct Lane {
      double seconds_per_byte = 0;
      double latency = 0;
      double others_until = 0;  // LinkEstimator::others_until()
    };
    ComputeCost cost;
    std::uint64_t cost_version = 0;
    double slowdown = 1;
    double step_tokens = 1;
    std::uint32_t lost_chunks = 0;  // whose load had failed by then
    LaneMask up = 0;
    bool overlap_suffix = false;
    std::array<Lane, kMaxTiers> lanes{};
    double finish = 1e9;  // of the run, as forecast
  };

  Candidate candidate;
  Forecast forecast;
  std::vector<std::uint8_t> owner;  // [end_chunk] a lane, kCompute or kNobody
  std::vector<LaneQueue> queues;    // [n_lanes]
  std::uint32_t meet_token = 0;     // no lane reads below it
  Assumptions assumptions;
  std::uint64_t visits = 0;  // chunks that forecasts of the search followed: what it cost

  /// Compute has all chunks, and no lane has anything to read.
  void reset(const PrefillSpec& spec);
};

inline bool differ(double a, double b, double share) { return std::abs(a - b) > share * b; }

/// Whether things are no longer as a schedule assumed, by more than `share`. A chunk that was lost and a lane
/// that went down or came up always count.
inline bool drift(const Schedule::Assumptions& assumed, const RunView& view, const PlanBasis& basis,
                  Time now, double share) {
  if (view.lost_chunks() != assumed.lost_chunks || overlap_suffix(view) != assumed.overlap_suffix ||
      differ(basis.step_tokens, assumed.step_tokens, kPlannerTuning.replan_step_share)) {
    return true;
  }
  const double left = std::max(0.0, assumed.finish - to_seconds(now));
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    const LinkEstimator& lane = view.lane(l);
    const bool out = lane.down() || ((basis.without >> l & 1) != 0 && lane.in_flight().empty());
    if (out != ((assumed.up >> l & 1) == 0)) return true;
    const double rate = lane.rate().bytes_per_second;
    if (differ(lane.slowdown(now), assumed.lanes[l].seconds_per_byte * rate, share)) return true;
    const double latency = to_seconds(lane.rate().latency + lane.rate().insert);
    if (std::abs(latency - assumed.lanes[l].latency) > share * left) return true;
    const double until = std::max(to_seconds(lane.others_until()), to_seconds(now));
    const double assumed_until = std::max(assumed.lanes[l].others_until, to_seconds(now));
    if (std::abs(until - assumed_until) > share * left) return true;
  }
  if (basis.compute.version() == assumed.cost_version && basis.slowdown == assumed.slowdown) {
    return false;
  }
  const std::uint32_t front = view.front();
  const double to = front + basis.step_tokens;
  return differ(basis.slowdown * basis.compute.current().pass(front, to),
                assumed.cost.pass(front, to), share);
}

}  // namespace cake::inline CAKE_ABI::detail
