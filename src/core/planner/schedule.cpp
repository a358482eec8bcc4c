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

ChunkLayers LaneQueue::next_layered(const RunView& view, LaneId lane, double bytes) {
  ChunkLayers best;
  const std::size_t first = at_layer;
  const std::size_t n = layered.size();
  for (std::size_t i = 0; i < n && (best.layers.empty() || i < kPlannerTuning.layered_window);
       ++i) {
    const std::size_t index = (first + i) % n;
    const std::uint32_t chunk = layered[index];
    const std::uint32_t layers = worthwhile_layers(view.spec(), view.layers_issued(chunk), bytes);
    const LayerRange some = next_layers(view, lane, chunk, layers);
    if (some.empty()) continue;
    if (!best.layers.empty() && some.begin >= best.layers.begin) continue;
    best = {chunk, some};
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
