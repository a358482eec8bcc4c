// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How a run stands at one moment, as far as a schedule depends on it: values only, so that a schedule
// can be searched while the run goes on. Requires external synchronization.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cake/detail/planner/candidate.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Units: seconds since the session began.
struct LaneSnapshot {
  double free_at = 0;  // a read of no bytes that is issued now would be resident then
  double seconds_per_byte = 0;
  double latency = 0;     // of one read, from the call to resident KV, without its bytes
  double most_bytes = 0;  // of a read that ends before the session gives it up
  double others_until =
      0;  // the lane carries what other sessions are given first; counted in free_at
};

/// A chunk that is neither resident nor claimed by a step.
struct ChunkLeft {
  std::uint32_t chunk = 0;
  std::uint8_t tiers = 0;   // bit set of those that can read what is left of it
  bool computable = false;  // nobody inserts into it
  bool begun = false;       // some of its layers have been requested
  bool hole = false;        // compute's in any case: windows and states below it are loaded for it
  std::uint8_t on = 0;      // bit set of the lanes that read some of it now
  std::uint16_t needs = 0;  // index of RunSnapshot::gate_needs, if there are any
  float bytes = 0;          // that have not been requested
  float all_bytes = 0;      // that a load has to bring
  double coming = 0;        // seconds: what has been requested will be resident then
  double rest_from = 0;     // before that its tables are not known, and nothing more of it is read
};

/// What a pass behind its loads waits for of a chunk of which the first `layers` of the object are loaded, where
/// objects do not hold their layers in the model's order, or not all are needed of each chunk.
struct GateNeeds {
  std::uint32_t layers = 0;
  float all_bytes = 0;       // of these layers
  std::vector<float> bytes;  // [n_layers] of them before the pass computes that layer of the model
};

/// What a schedule rests on beside the RunView.
struct PlanBasis {
  const ComputeCostEstimator& compute;
  double step_tokens = 1;      // average size of a compute pass
  LaneMask without = 0;        // lanes that are not to be used
  double slowdown = 1;         // passes take this many times what `compute` says
  bool without_gated = false;  // as if the gated step that runs were void
};

/// Units: seconds since the session began, tokens, bytes.
struct RunSnapshot {
  double now = 0;
  double compute_free_at = 0;  // all steps that were handed out have ended
  std::uint32_t front = 0;     // first token that is neither resident nor claimed by a step
  double step_tokens = 1;
  ComputeCost cost;
  std::uint64_t cost_version = 0;
  double slowdown = 1;  // `cost` is so many times what was measured or said

  std::uint32_t n_tokens = 0;
  std::uint32_t chunk_tokens = 0;
  std::uint32_t end_chunk = 0;
  std::uint32_t prefix_end = 0;
  std::uint32_t n_layers = 1;
  std::uint64_t head_bytes = 0;
  std::uint64_t layer_bytes = 0;
  bool partial = false;            // layers have windows or states
  std::uint32_t context_from = 0;  // as RunView says
  std::uint32_t begin_from = 0;    // where compute of the front begins, at or below it,
  double begin_at = 0;             // seconds: and when what it lacks there is loaded
  /// When each lane has read its share of that.
  std::array<double, kMaxTiers> begin_loads{};
  std::uint32_t lost_chunks = 0;

  double suffix_begin = 0;
  double suffix_s = 0;                // what the passes over the suffix cost,
  double first_pass_s = 0;            // the gated one behind loads that come layer by layer,
  double split_suffix_s = 0;          // and all of them then
  bool overlap_suffix = false;        // as the function says
  std::vector<GateNeeds> gate_needs;  // empty: all layers are needed, in the model's order

  std::uint32_t n_lanes = 0;
  LaneMask up = 0;  // lanes that are neither down nor left out
  std::array<LaneSnapshot, kMaxTiers> lanes{};
  double slice_bytes = 0;  // a slice of a chunk should have this many on every lane

  std::vector<ChunkLeft> chunks;        // in the order of tokens
  std::vector<std::uint8_t> tier_sets;  // that occur among them, small ones first
};

/// Whether the suffix pass may start behind loads that come layer by layer: the engine takes a gated step now.
inline bool overlap_suffix(const RunView& view) {
  return view.may_gate() && view.spec().n_layers > 1;
}

/// Fills `out`, whose memory is used again.
void take_snapshot(const RunView& view, const PlanBasis& basis, Time now, RunSnapshot& out);

/// Bytes of a slice that is worth the latency of its lane, of which reads at once hide a part: the
/// latency of each passes while the others are on the link. 0 reads: not known.
double worthwhile_slice_bytes(const LinkEstimate& lane, std::uint32_t reads_at_once);
/// Layers of a slice that begins with layer `from`: the fewest that have so many bytes, and at least one.
std::uint32_t worthwhile_layers(const PrefillSpec& spec, std::uint32_t from, double bytes);

}  // namespace cake::inline CAKE_ABI::detail
