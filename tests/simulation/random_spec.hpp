// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Random simulated runs, each a pure function of its seed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>

#include "cake/detail/lookup.hpp"
#include "cake/testing/simulation.hpp"
#include "random.hpp"

namespace cake::inline CAKE_ABI::testing {

/// A prompt of up to 40 chunks, now and then of some hundreds, on a device and links of random
/// speed, around the crossover of both.
inline SimulationSpec steady_spec(Random& r) {
  SimulationSpec spec;
  PrefillSpec& prefill = spec.prefill;
  prefill.chunk_tokens = 16u << r.below(6);
  const std::uint32_t chunks = r.chance(0.02) ? r.between(41, 500) : r.between(1, 40);
  prefill.max_step_tokens = std::max(prefill.chunk_tokens, 128u << r.below(5));
  const std::uint32_t suffix =
      r.chance(0.2) ? 3 * prefill.max_step_tokens : 3 * prefill.chunk_tokens;
  prefill.n_tokens = chunks * prefill.chunk_tokens + r.between(1, suffix);
  prefill.n_chunks = (prefill.n_tokens - 1) / prefill.chunk_tokens;
  prefill.end_chunk =
      r.chance(0.7) ? std::min(chunks, prefill.n_chunks) : r.below(prefill.n_chunks + 1);
  prefill.n_layers = r.between(1, 40);
  prefill.n_lanes = r.between(1, 3);
  prefill.may_gate = r.chance(0.5);
  prefill.head_bytes = 8192;
  prefill.foot_bytes = 4096;
  prefill.layer_bytes = 4096ull * prefill.chunk_tokens;
  spec.cost.per_token = r.scale(1e-5, 1e-3);
  spec.cost.overhead = spec.cost.per_token * r.scale(0.1, 60);
  spec.cost.per_position = spec.cost.per_token / r.scale(2e3, 2e5);
  // Links around the rate at which loading all takes as long as computing all.
  const double all_bytes = static_cast<double>(prefill.read_bytes({0, prefill.n_layers})) * chunks;
  const double crossover =
      all_bytes / spec.cost.passes(0, prefill.n_tokens, prefill.max_step_tokens);
  for (std::uint32_t l = 0; l < prefill.n_lanes; ++l) {
    SimulatedLink link;
    link.trace = {{Time{0}, crossover * r.scale(0.05, 20) / prefill.n_lanes}};
    link.latency = from_seconds(r.scale(1e-6, 0.5) * spec.cost.per_token * prefill.chunk_tokens);
    spec.priors.push_back({link.trace[0].second, link.latency, Time{0}});
    spec.links.push_back(std::move(link));
  }
  const double stored = r.chance(0.5) ? 1.0 : r.unit();
  for (std::uint32_t c = 0; c < prefill.end_chunk; ++c) {
    StoredChunk chunk;
    if (c + 1 == prefill.end_chunk || r.chance(stored)) {
      chunk.size = prefill.read_bytes({0, prefill.n_layers});
      chunk.tiers =
          r.chance(0.6) ? (1u << prefill.n_lanes) - 1 : 1u + r.below((1u << prefill.n_lanes) - 1);
    }
    spec.stored.push_back(chunk);
  }
  return spec;
}

/// All that may go wrong on top: traces that change, wrong priors, faults, cancellation, few
/// workers, little staging, an engine with other work to do.
inline SimulationSpec wild_spec(std::uint64_t seed) {
  Random r(seed);
  SimulationSpec spec = steady_spec(r);
  PrefillSpec& prefill = spec.prefill;
  const double total = spec.cost.passes(0, prefill.n_tokens, prefill.max_step_tokens);
  if (r.chance(0.2)) prefill.resident_tokens = r.below(prefill.n_tokens);
  for (SimulatedLink& link : spec.links) {
    const std::uint32_t changes = r.chance(0.5) ? r.below(6) : 0;
    for (std::uint32_t i = 0; i < changes; ++i) {
      const Time at = link.trace.back().first + from_seconds(total * r.scale(0.01, 0.5));
      link.trace.emplace_back(at, r.chance(0.1) ? 0 : link.trace[0].second * r.scale(0.1, 4));
    }
    if (link.trace.back().second == 0)
      link.trace.emplace_back(link.trace.back().first + from_seconds(total), 1e9);
  }
  for (LinkEstimate& prior : spec.priors) {
    if (r.chance(0.5)) prior.bytes_per_second *= r.scale(0.05, 20);
    if (r.chance(0.3)) prior.latency = Time{0};
  }
  if (r.chance(0.4)) {
    const double p = r.scale(0.01, 0.6);
    spec.faults.assign(prefill.end_chunk, SimulatedFault::none);
    for (SimulatedFault& fault : spec.faults) {
      if (r.chance(p)) fault = static_cast<SimulatedFault>(1 + r.below(4));
    }
  }
  spec.insert = r.chance(0.3) ? Time{0} : from_seconds(total * r.scale(1e-5, 0.1));
  spec.workers = r.between(1, 5);
  spec.workers_block = r.chance(0.5);
  if (r.chance(0.3))
    spec.staging_bytes = prefill.read_bytes({0, prefill.n_layers}) * r.between(1, 3);
  if (r.chance(0.1)) spec.cancel_at = from_seconds(total * r.unit());
  spec.steps_in_flight = r.between(1, 2);
  if (r.chance(0.4)) {
    const std::uint64_t engine = r.next();
    const std::uint32_t most = prefill.max_step_tokens;
    spec.budget = [engine, most](std::uint32_t n) -> std::pair<std::uint32_t, std::uint32_t> {
      Random own(engine + n);
      if (own.chance(0.1)) return {0, 0};
      const std::uint32_t budget = own.between(1, most);
      return {budget, own.chance(0.1) ? own.between(1, budget) : ~0u};
    };
    spec.may_gate = [engine](std::uint32_t n) { return Random(engine * 3 + n).chance(0.7); };
  }
  // A fault may begin behind the first layers, while earlier slices of the chunk are inserted.
  if (r.chance(0.5)) spec.sound_layers = r.below(prefill.n_layers);
  return spec;
}

/// The engine takes wide steps, of any length that its seed says, and lanes say how many reads they
/// carry out at once.
inline SimulationSpec widened(SimulationSpec spec, std::uint64_t seed) {
  Random r(seed ^ 0x31de);
  spec.prefill.reads_at_once = spec.workers;
  spec.prefill.wide_gated_steps = true;
  spec.prefill.may_gate = true;
  if (r.chance(0.3)) {
    spec.prefill.max_overlap_tokens = r.between(1, 4 * spec.prefill.max_step_tokens);
  }
  return spec;
}

/// Planes of any number and width, layers without KV of their own, windows, states.
inline KvLayout random_layout(Random& r, std::uint32_t n_layers, std::uint32_t chunk_tokens) {
  KvLayout layout;
  layout.n_layers = n_layers;
  const std::uint32_t n_kinds = r.between(1, 4);
  for (std::uint32_t k = 0; k < n_kinds; ++k) {
    KvLayerKind kind;
    const std::uint32_t n_planes = r.chance(0.1) && k != 0 ? 0 : r.between(1, 3);
    for (std::uint32_t i = 0; i < n_planes; ++i) {
      kind.planes.push_back({r.between(1, 4), 16u << r.below(6)});
    }
    if (r.chance(0.4)) {
      kind.window = r.chance(0.5) ? r.between(2, 2 * chunk_tokens) : chunk_tokens * r.between(1, 6);
    } else if (r.chance(0.4)) {
      kind.state = true;
      for (KvPlane& plane : kind.planes) plane.row_bytes *= r.between(1, 4 * chunk_tokens);
    }
    layout.kinds.push_back(std::move(kind));
  }
  for (std::uint32_t l = 0; l < n_layers; ++l) {
    layout.kind_of.push_back(static_cast<std::uint16_t>(l == 0 ? 0 : r.below(n_kinds)));
  }
  return layout;
}

/// Gives a run a random layout. Objects may lack windows or states.
inline void give_layout(std::uint64_t seed, SimulationSpec& spec) {
  PrefillSpec& prefill = spec.prefill;
  Random r(seed ^ 0x1a70u);
  const auto before = static_cast<double>(prefill.read_bytes({0, prefill.n_layers}));
  const bool few = spec.staging_bytes != ~0ull;
  const std::uint64_t staged = spec.staging_bytes / prefill.read_bytes({0, prefill.n_layers});
  const KvLayout layout = random_layout(r, prefill.n_layers, prefill.chunk_tokens);
  spec.geometry = ChunkGeometry(layout, prefill.chunk_tokens);
  detail::describe_layout(spec.geometry, prefill);
  const std::uint64_t whole = prefill.read_bytes({0, prefill.n_layers});
  if (few) spec.staging_bytes = staged * whole;
  const double scale = static_cast<double>(whole) / before;  // links stay around the crossover
  for (SimulatedLink& link : spec.links) {
    for (auto& [at, rate] : link.trace) rate *= scale;
  }
  for (LinkEstimate& prior : spec.priors) prior.bytes_per_second *= scale;
  const std::vector<std::uint32_t>& held = spec.geometry.held_counts();
  const double lacking = r.chance(0.5) ? 0 : r.unit();
  for (StoredChunk& chunk : spec.stored) {
    if (!chunk.stored()) continue;
    const bool lacks = r.chance(lacking);
    chunk.layers = lacks ? held[r.below(static_cast<std::uint32_t>(held.size()))] : held.back();
    chunk.size = spec.geometry.object_bytes(chunk.layers);
  }
}

/// The run of this seed with a random layout.
inline SimulationSpec mixed_spec(std::uint64_t seed) {
  SimulationSpec spec = wild_spec(seed);
  give_layout(seed, spec);
  return spec;
}

/// With steady links, right priors and threads for all reads, and a random layout.
inline SimulationSpec steady_mixed_spec(std::uint64_t seed) {
  Random r(seed);
  SimulationSpec spec = steady_spec(r);
  spec.workers = 8;
  spec.steps_in_flight = 1 + static_cast<std::uint32_t>(seed % 2);
  give_layout(seed, spec);
  return spec;
}

}  // namespace cake::inline CAKE_ABI::testing
