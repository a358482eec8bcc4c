// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Small plans and runs for the tests of the core.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cake/detail/lookup.hpp"
#include "cake/detail/prefill_state.hpp"

namespace cake::inline CAKE_ABI::testing {

/// A plan of 16-token chunks: `stored` has one character per chunk, the bit set of its tiers, or
/// '0' where it is absent. `suffix` tokens follow.
struct Prompt {
  explicit Prompt(const std::string& tiers, std::uint32_t suffix = 8, std::uint32_t n_lanes = 1,
                  std::uint32_t n_layers = 4) {
    spec.chunk_tokens = 16;
    spec.n_chunks = spec.end_chunk = static_cast<std::uint32_t>(tiers.size());
    spec.n_tokens = spec.n_chunks * 16 + suffix;
    spec.n_layers = n_layers;
    spec.n_lanes = n_lanes;
    spec.max_step_tokens = 64;
    spec.head_bytes = 8192;
    spec.layer_bytes = 4096;
    spec.foot_bytes = 4096;
    for (const char c : tiers) {
      StoredChunk chunk;
      if (c != '0') chunk = {spec.read_bytes({0, n_layers}), static_cast<std::uint32_t>(c - '0')};
      stored.push_back(chunk);
    }
    priors.assign(n_lanes, LinkEstimate{1e6, Time{0}, Time{0}});
  }
  PrefillSpec spec;
  std::vector<StoredChunk> stored;
  std::vector<LinkEstimate> priors;
};

/// Ten chunks whose two layers need no more than the last 48 tokens: chunks 7 to 9 are to be there for the suffix.
struct Windowed {
  Windowed() : geometry(KvLayout{2, {{{{1, 64}}, 48}}}, 16), prompt(std::string(10, '1'), 8, 1, 2) {
    detail::describe_layout(geometry, prompt.spec);
    prompt.stored.assign(10, {geometry.object_bytes(), 1, 2});
  }
  ChunkGeometry geometry;
  Prompt prompt;
};

/// A run's state that a test drives itself.
class OwnState : public detail::PrefillState {
 public:
  explicit OwnState(const Prompt& prompt) { begin(prompt.spec, prompt.stored, prompt.priors); }
  void next_step_may_gate(bool may = true) { set_may_gate(may); }
  Step step(std::uint32_t begin, std::uint32_t end, bool gated = false, Time now = Time{0}) {
    Step s;
    s.kind = Step::Kind::compute;
    s.tokens = {begin, end};
    s.gated = gated;
    return claim(s, now);
  }
  detail::ReadTicket load(std::uint32_t chunk, LayerRange layers = {0, 4}, LaneId lane = 0,
                          Time now = Time{0}, Time deadline = kNever) {
    return claim(LoadRequest{{chunk, view().spec().chunk_range(chunk), layers}, deadline}, lane,
                 now);
  }
  /// The load lands and becomes resident.
  void land(const detail::ReadTicket& ticket, Time now = Time{0}) {
    if (begin_insert(ticket.id, now)) inserted(ticket.id, true, now);
  }
};

inline Step step_of(std::uint32_t begin, std::uint32_t end, bool gated = false) {
  Step s;
  s.kind = Step::Kind::compute;
  s.tokens = {begin, end};
  s.gated = gated;
  return s;
}

}  // namespace cake::inline CAKE_ABI::testing
