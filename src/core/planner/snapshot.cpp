// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/snapshot.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "cake/detail/planner/tuning.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

void take_lanes(const RunView& view, const PlanBasis& basis, Time now, RunSnapshot& out) {
  out.n_lanes = view.n_lanes();
  out.up = 0;
  out.slice_bytes = 0;
  for (LaneId l = 0; l < out.n_lanes; ++l) {
    const LinkEstimator& lane = view.lane(l);
    const LinkEstimate& rate = lane.rate();
    out.lanes[l] = {to_seconds(lane.ready_at(0, now)), lane.seconds_per_byte(now),
                    to_seconds(rate.latency + rate.insert), 0, to_seconds(lane.others_until())};
    const double most = to_seconds(view.spec().read_timeout) - to_seconds(rate.latency);
    out.lanes[l].most_bytes = most / out.lanes[l].seconds_per_byte;
    if (lane.down() || (basis.without >> l & 1) != 0) continue;
    out.up |= 1u << l;
    out.slice_bytes =
        std::max(out.slice_bytes, worthwhile_slice_bytes(rate, view.spec().reads_at_once));
  }
}

/// Those of the lanes that end a read of so many bytes before the session gives it up.
std::uint8_t in_time(const RunSnapshot& run, LaneMask lanes, double bytes) {
  for (LaneId l = 0; l < run.n_lanes; ++l) {
    if (bytes > run.lanes[l].most_bytes) lanes &= ~(LaneMask{1} << l);
  }
  return static_cast<std::uint8_t>(lanes);
}

/// Whether the chunk is neither resident nor wholly claimed by a step.
bool is_left(const RunView& view, std::uint32_t chunk) {
  const ChunkState state = view.state(chunk);
  if (state == ChunkState::resident) return false;
  return state != ChunkState::computing ||
         (chunk == view.front_chunk() && view.front() % view.spec().chunk_tokens != 0);
}

/// `whole`: bytes of all layers.
ChunkLeft chunk_left(const RunView& view, std::uint32_t chunk, const RunSnapshot& run,
                     float whole) {
  const PrefillSpec& spec = view.spec();
  const ChunkState state = view.state(chunk);
  ChunkLeft left;
  left.chunk = chunk;
  left.computable = state != ChunkState::inserting;
  left.hole = view.unloadable(chunk) || state == ChunkState::computing;
  const std::uint32_t needed = view.layers_needed(chunk);
  left.all_bytes =
      needed == spec.n_layers ? whole : static_cast<float>(spec.read_bytes({0, needed}));
  if (state == ChunkState::open) {
    left.bytes = left.all_bytes;
    left.tiers = static_cast<std::uint8_t>(spec.stored[chunk].tiers);
  } else if (!view.unloadable(chunk) &&
             (state == ChunkState::loading || state == ChunkState::inserting)) {
    const std::uint32_t issued = view.layers_issued(chunk);
    if (issued < needed) {
      left.bytes = static_cast<float>(spec.read_bytes({issued, needed}));
      left.tiers = static_cast<std::uint8_t>(spec.stored[chunk].tiers);
    }
    left.coming = run.now;
    left.begun = true;
  }
  return left;
}

/// When what is being read will be resident.
void take_reads(const RunView& view, Time now, RunSnapshot& out) {
  for (LaneId l = 0; l < out.n_lanes; ++l) {
    for (const LinkEstimator::Flight& flight : view.lane(l).in_flight()) {
      const auto at =
          std::lower_bound(out.chunks.begin(), out.chunks.end(), flight.chunk,
                           [](const ChunkLeft& i, std::uint32_t c) { return i.chunk < c; });
      if (at == out.chunks.end() || at->chunk != flight.chunk) continue;
      at->on |= static_cast<std::uint8_t>(1u << l);
      at->coming = std::max(at->coming, to_seconds(view.lane(l).resident_at(flight, now)));
      if (!view.parsed(flight.chunk)) at->rest_from = at->coming;
    }
  }
}

/// The entry for chunks of which so many layers are loaded.
std::uint16_t gate_needs_of(const PrefillSpec& spec, std::uint32_t layers, RunSnapshot& out) {
  for (std::size_t i = 0; i < out.gate_needs.size(); ++i) {
    if (out.gate_needs[i].layers == layers) return static_cast<std::uint16_t>(i);
  }
  GateNeeds needs{layers, static_cast<float>(spec.read_bytes({0, layers})),
                  std::vector<float>(spec.n_layers)};
  std::uint32_t end = 0;  // past the last of them that the pass has waited for
  for (std::uint32_t layer = 0; layer < spec.n_layers; ++layer) {
    if (spec.position(layer) < layers) end = std::max(end, spec.position(layer) + 1);
    needs.bytes[layer] = end == 0 ? 0.0F : static_cast<float>(spec.read_bytes({0, end}));
  }
  out.gate_needs.push_back(std::move(needs));
  return static_cast<std::uint16_t>(out.gate_needs.size() - 1);
}

void take_chunks(const RunView& view, RunSnapshot& out) {
  out.chunks.clear();
  out.tier_sets.clear();
  out.gate_needs.clear();
  const bool gates = out.overlap_suffix && (out.partial || !view.spec().positions.empty());
  out.chunks.reserve(out.end_chunk - std::min(out.end_chunk, view.front_chunk()));
  const auto whole = static_cast<float>(view.spec().read_bytes({0, out.n_layers}));
  double least = 1e300;  // bytes of a read that every lane ends in time
  for (LaneId l = 0; l < out.n_lanes; ++l) least = std::min(least, out.lanes[l].most_bytes);
  std::uint8_t last = 0;  // most chunks lie in the same tiers as the one before
  for (std::uint32_t c = view.front_chunk(); c < out.end_chunk; ++c) {
    if (!is_left(view, c)) continue;
    ChunkLeft left = chunk_left(view, c, out, whole);
    if (left.bytes > least) left.tiers = in_time(out, left.tiers, left.bytes);
    if (gates) left.needs = gate_needs_of(view.spec(), view.layers_needed(c), out);
    out.chunks.push_back(left);
    if (left.tiers == 0 || left.tiers == last) continue;
    last = left.tiers;
    if (std::find(out.tier_sets.begin(), out.tier_sets.end(), last) == out.tier_sets.end()) {
      out.tier_sets.push_back(last);
    }
  }
  std::sort(out.tier_sets.begin(), out.tier_sets.end(), [](std::uint8_t a, std::uint8_t b) {
    const int x = std::popcount(a);
    const int y = std::popcount(b);
    return x != y ? x < y : a < b;
  });
}

/// What a gated step costs, whose micro-batches have as many tokens as the longest pass.
double gated_pass(const ComputeCost& cost, const PrefillSpec& spec, double begin, double end) {
  if (!spec.wide_gated_steps) return cost.pass(begin, end);
  return cost.passes(begin, end, spec.max_step_tokens);
}

double step_seconds(const ComputeCost& cost, const PrefillSpec& spec, const RunningStep& step) {
  return step.gated ? gated_pass(cost, spec, step.tokens.begin, step.tokens.end)
                    : cost.pass(step.tokens.begin, step.tokens.end);
}

void take_compute(const RunView& view, const PlanBasis& basis, RunSnapshot& out) {
  const PrefillSpec& spec = view.spec();
  out.compute_free_at = 0;
  std::uint32_t suffix = view.suffix_front();
  for (const RunningStep& running : view.running()) {
    if (running.gated && basis.without_gated) {
      suffix = std::min(suffix, running.tokens.begin);
      continue;
    }
    out.compute_free_at = std::max(out.compute_free_at, to_seconds(running.begins)) +
                          step_seconds(out.cost, spec, running);
  }
  out.compute_free_at = std::max(out.compute_free_at, out.now);
  out.suffix_begin = std::max(out.prefix_end, suffix);
  const double end = out.n_tokens;
  out.suffix_s = out.cost.passes(out.suffix_begin, end, out.step_tokens);
  const double most = spec.max_overlap_tokens;
  const double pass = spec.wide_gated_steps ? most : std::min(out.step_tokens, most);
  const double first = std::min(end, out.suffix_begin + pass);
  out.first_pass_s = gated_pass(out.cost, spec, out.suffix_begin, first);
  out.split_suffix_s = out.suffix_s;
  if (spec.wide_gated_steps || most < out.step_tokens) {
    out.split_suffix_s = out.first_pass_s + out.cost.passes(first, end, out.step_tokens);
  }
}

/// When all is loaded that a step needs of the chunks below when it begins with `chunk`, each by the
/// lane that brings it soonest. Some of it is not stored: 1e18. `free`: when each lane is done with it.
double context_at(const RunView& view, const RunSnapshot& run, std::uint32_t chunk,
                  std::array<double, kMaxTiers>& free) {
  const PrefillSpec& spec = view.spec();
  const std::uint32_t begin = chunk * spec.chunk_tokens;
  const std::uint32_t widest = spec.widest_window();
  for (LaneId l = 0; l < run.n_lanes; ++l) free[l] = run.lanes[l].free_at;
  double at = run.compute_free_at;
  for (std::uint32_t c = chunk; c-- > 0;) {
    const std::uint32_t end = spec.object_range(c).end;
    if (end <= run.context_from || begin - end >= widest) break;
    const std::uint32_t needed = spec.layers_needed(end, begin);
    if (needed <= view.layers_needed(c)) continue;
    if (needed > spec.layers_held(c) || view.unloadable(c)) return 1e18;
    const auto bytes = static_cast<double>(spec.read_bytes({view.layers_issued(c), needed}));
    double soonest = 1e18;
    LaneId lane = 0;
    for (LaneId l = 0; l < run.n_lanes; ++l) {
      const double done = free[l] + bytes * run.lanes[l].seconds_per_byte;
      if ((run.up >> l & 1) == 0 || !view.on_lane(c, l) || done >= soonest) continue;
      if (bytes > run.lanes[l].most_bytes) continue;
      soonest = done;
      lane = l;
    }
    if (soonest >= 1e18) return 1e18;
    free[lane] = soonest;
    at = std::max(at, soonest);
  }
  return at;
}

/// Where compute of the front begins soonest done: where its context is there, or nearer, behind
/// windows and states that are loaded for it.
void take_context(const RunView& view, RunSnapshot& out) {
  out.context_from = out.begin_from = view.context_from();
  out.begin_at = out.compute_free_at;
  for (LaneId l = 0; l < out.n_lanes; ++l) out.begin_loads[l] = out.lanes[l].free_at;
  if (!out.partial || out.context_from == out.front) return;
  double best = out.begin_at + out.cost.passes(out.begin_from, out.front, out.step_tokens);
  std::uint32_t tried = 0;
  for (std::uint32_t c = view.front_chunk(); tried < kPlannerTuning.most_contexts; --c, ++tried) {
    const std::uint32_t begin = c * out.chunk_tokens;
    const double takes = out.cost.passes(begin, out.front, out.step_tokens);
    if (begin <= out.context_from || out.compute_free_at + takes >= best) return;
    std::array<double, kMaxTiers> free{};
    const double at = context_at(view, out, c, free);
    if (at + takes >= best) continue;
    best = at + takes;
    out.begin_loads = free;
    out.begin_from = begin;
    out.begin_at = at;
  }
}

}  // namespace

double worthwhile_slice_bytes(const LinkEstimate& lane, std::uint32_t reads_at_once) {
  const double others = std::max(2u, reads_at_once) - 1;
  return kPlannerTuning.slice_latencies / others * to_seconds(lane.latency + lane.insert) *
         lane.bytes_per_second;
}

std::uint32_t worthwhile_layers(const PrefillSpec& spec, std::uint32_t from, double bytes) {
  if (from >= spec.n_layers) return 1;
  const auto left = static_cast<double>(spec.n_layers - from);
  if (spec.layer_begins.empty()) {
    const auto one = std::max(1.0, static_cast<double>(spec.layer_bytes));
    return static_cast<std::uint32_t>(std::clamp(std::ceil(bytes / one), 1.0, left));
  }
  const double end = static_cast<double>(spec.layer_begins[from]) + bytes;
  const auto first = spec.layer_begins.begin() + from + 1;
  const auto at =
      std::find_if(first, spec.layer_begins.begin() + spec.n_layers,
                   [&](std::uint64_t begin) { return static_cast<double>(begin) >= end; });
  return static_cast<std::uint32_t>(at - first) + 1;
}

void take_snapshot(const RunView& view, const PlanBasis& basis, Time now, RunSnapshot& out) {
  const PrefillSpec& spec = view.spec();
  out.now = to_seconds(now);
  out.front = view.front();
  out.step_tokens = std::max(1.0, basis.step_tokens);
  out.cost = basis.compute.current().slower(basis.slowdown);
  out.cost_version = basis.compute.version();
  out.slowdown = basis.slowdown;
  out.n_tokens = spec.n_tokens;
  out.chunk_tokens = spec.chunk_tokens;
  out.end_chunk = spec.end_chunk;
  out.prefix_end = spec.prefix_end();
  out.n_layers = spec.n_layers;
  out.head_bytes = spec.head_bytes;
  out.layer_bytes = spec.layer_bytes;
  out.partial = !spec.reaches.empty();
  out.lost_chunks = view.lost_chunks();
  out.overlap_suffix = overlap_suffix(view);
  take_compute(view, basis, out);
  take_lanes(view, basis, now, out);
  take_context(view, out);
  take_chunks(view, out);
  take_reads(view, now, out);
}

}  // namespace cake::inline CAKE_ABI::detail
