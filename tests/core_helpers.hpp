// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Small plans and runs for the tests of the core.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cake/claims.hpp"

namespace cake::testing {

/// A plan of 16-token chunks: `stored` has one character per chunk, the bit set of its tiers, or
/// '0' where it is absent. `suffix` tokens follow.
struct Prompt {
  explicit Prompt(const std::string& tiers, std::uint32_t suffix = 8, std::uint32_t n_lanes = 1,
                  std::uint32_t n_layers = 4) {
    plan.chunk_tokens = 16;
    plan.n_chunks = plan.end_chunk = static_cast<std::uint32_t>(tiers.size());
    plan.n_tokens = plan.n_chunks * 16 + suffix;
    plan.n_layers = n_layers;
    plan.n_lanes = n_lanes;
    plan.max_step_tokens = 64;
    plan.head_bytes = 8192;
    plan.layer_bytes = 4096;
    plan.foot_bytes = 4096;
    for (const char c : tiers) {
      StoredChunk chunk;
      if (c != '0') chunk = {plan.read_bytes({0, n_layers}), static_cast<std::uint32_t>(c - '0')};
      stored.push_back(chunk);
    }
    priors.assign(n_lanes, LaneRate{1e6, Time{0}, Time{0}});
  }
  PrefillPlan plan;
  std::vector<StoredChunk> stored;
  std::vector<LaneRate> priors;
};

/// Claims that a test makes itself.
class OwnClaims : public Claims {
 public:
  explicit OwnClaims(const Prompt& prompt) { begin(prompt.plan, prompt.stored, prompt.priors); }
  void next_step_may_gate() { set_may_gate(true); }
  Step step(std::uint32_t begin, std::uint32_t end, bool gated = false, Time now = Time{0}) {
    Step s;
    s.kind = Step::Kind::compute;
    s.tokens = {begin, end};
    s.gated = gated;
    return claim(s, now);
  }
  LoadOrder load(std::uint32_t chunk, LayerRange layers = {0, 4}, LaneId lane = 0,
                 Time now = Time{0}, Time deadline = kNever) {
    return claim(Load{{chunk, board().plan().chunk_range(chunk), layers}, deadline}, lane, now);
  }
  /// The load lands and becomes resident.
  void land(const LoadOrder& order, Time now = Time{0}) {
    if (begin_insert(order.id, now)) inserted(order.id, true, now);
  }
};

inline Step step_of(std::uint32_t begin, std::uint32_t end, bool gated = false) {
  Step s;
  s.kind = Step::Kind::compute;
  s.tokens = {begin, end};
  s.gated = gated;
  return s;
}

}  // namespace cake::testing
