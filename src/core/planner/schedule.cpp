// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/schedule.hpp"

#include <algorithm>

#include "cake/detail/admission.hpp"
#include "cake/detail/planner/snapshot.hpp"
#include "cake/detail/planner/tuning.hpp"

namespace cake::inline CAKE_ABI::detail {

ChunkLayers LaneQueue::next_begun(const RunView& view, LaneId lane) {
  for (; at < whole.size(); ++at) {
    const LayerRange all = next_layers(view, lane, whole[at], view.layers_needed(whole[at]));
    if (!all.empty()) return {whole[at], all};
  }
  return {};
}

namespace {

/// The first layer of the model that needs any of the layers `from` to `end` of an object.
std::uint32_t first_user(const PrefillSpec& spec, std::uint32_t from, std::uint32_t end) {
  if (spec.positions.empty()) return from;
  std::uint32_t layer = 0;
  while (layer < spec.n_layers && (spec.position(layer) < from || spec.position(layer) >= end)) {
    ++layer;
  }
  return layer;
}

}  // namespace

ChunkLayers LaneQueue::next_layered(const RunView& view, LaneId lane, double bytes) {
  ChunkLayers best;
  std::uint32_t best_user = 0;  // layer of the model
  const std::size_t first = at_layer;
  const std::size_t n = layered.size();
  for (std::size_t i = 0; i < n && (best.layers.empty() || i < kPlannerTuning.layered_window);
       ++i) {
    const std::size_t index = (first + i) % n;
    const std::uint32_t chunk = layered[index];
    const std::uint32_t layers = worthwhile_layers(view.spec(), view.layers_issued(chunk), bytes);
    const LayerRange some = next_layers(view, lane, chunk, layers);
    if (some.empty()) continue;
    const std::uint32_t user = first_user(view.spec(), some.begin, view.layers_needed(chunk));
    if (!best.layers.empty() && user >= best_user) continue;
    best = {chunk, some};
    best_user = user;
    at_layer = (index + 1) % n;
  }
  // With windows and states more may be needed later.
  if (best.layers.empty() && view.spec().reaches.empty()) drop_requested(view);
  return best;
}

void LaneQueue::drop_requested(const RunView& view) {
  const auto requested = [&](std::uint32_t chunk) {
    return view.unloadable(chunk) || view.layers_issued(chunk) >= view.layers_needed(chunk);
  };
  if (!std::all_of(layered.begin(), layered.end(), requested)) return;
  layered.clear();
  at_layer = 0;
}

void Schedule::reset(const PrefillSpec& spec) {
  candidate = {};
  forecast = {};
  assumptions = {};
  owner.assign(spec.end_chunk, kCompute);
  queues.resize(spec.n_lanes);
  for (LaneQueue& queue : queues) queue.clear();
  meet_token = 0;
  visits = 0;
}

}  // namespace cake::inline CAKE_ABI::detail
