// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Snapshots of small prompts for the tests of the planner.
#pragma once

#include <string>
#include <vector>

#include "cake/detail/lookup.hpp"
#include "cake/detail/planner/snapshot.hpp"
#include "core_helpers.hpp"

namespace cake::inline CAKE_ABI::testing {

inline constexpr ComputeCost kCost{0, 1e-3, 0};  // 16 ms for a chunk

/// One chunk takes `chunk_s` seconds on each lane.
inline Prompt prompt_of(const std::string& tiers, const std::vector<double>& chunk_s,
                        std::uint32_t suffix = 8) {
  Prompt prompt(tiers, suffix, static_cast<std::uint32_t>(chunk_s.size()));
  const auto bytes = static_cast<double>(prompt.spec.read_bytes({0, 4}));
  for (std::size_t l = 0; l < chunk_s.size(); ++l) {
    prompt.priors[l] = {bytes / chunk_s[l], Time{0}, Time{0}};
  }
  return prompt;
}

/// Two chunks of four layers. Layers 0 and 2 have windows, which reach into the second chunk alone and lie in objects
/// behind all of 1 and 3.
struct WindowedPrompt {
  const KvLayerKind window{{{1, 64}}, 16};
  const ChunkGeometry geometry{KvLayout{4, {window, {{{1, 64}}}}, {0, 1, 0, 1}}, 16};
  Prompt prompt{"11", 40};

  WindowedPrompt() {
    detail::describe_layout(geometry, prompt.spec);  // which refers to the geometry
    prompt.stored.assign(2, {geometry.object_bytes(), 1, 4});
  }
  WindowedPrompt(const WindowedPrompt&) = delete;
  WindowedPrompt& operator=(const WindowedPrompt&) = delete;
};

/// With passes of at most 64 tokens.
inline detail::RunSnapshot snapshot_of(const RunView& view, const ComputeCost& cost = kCost,
                                       Time now = Time{0}, detail::LaneMask without = 0) {
  const ComputeCostEstimator compute(cost);
  detail::RunSnapshot run;
  detail::take_snapshot(view, {compute, 64, without}, now, run);
  return run;
}
inline detail::RunSnapshot snapshot_of(Prompt prompt, bool gated = false,
                                       const ComputeCost& cost = kCost) {
  prompt.spec.may_gate = gated;
  return snapshot_of(OwnState(prompt).view(), cost);
}

}  // namespace cake::inline CAKE_ABI::testing
