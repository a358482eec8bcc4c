// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts of the shape of Llama-3.1-8B, on an engine that takes wide steps.
#pragma once

#include <cstdint>

#include "cake/testing/simulation_spec.hpp"

namespace cake::inline CAKE_ABI::testing {

/// `n` stored tokens, all chunks on one lane that carries out `reads` at once, and `s` new ones. What passes
/// cost and what the link is like are the caller's.
inline SimulationSpec large_spec(std::uint32_t n, std::uint32_t s, std::uint32_t step,
                                 std::uint32_t reads) {
  SimulationSpec spec;
  PrefillSpec& prefill = spec.prefill;
  prefill.n_tokens = n + s;
  prefill.chunk_tokens = 256;
  prefill.n_chunks = (prefill.n_tokens - 1) / prefill.chunk_tokens;
  prefill.end_chunk = n / prefill.chunk_tokens;
  prefill.n_layers = 32;
  prefill.max_step_tokens = step;
  prefill.head_bytes = 8192;
  prefill.layer_bytes = 256ull * 4096;
  prefill.foot_bytes = 4096;
  prefill.wide_gated_steps = true;
  spec.workers = prefill.reads_at_once = reads;
  spec.stored.assign(prefill.end_chunk, {prefill.read_bytes({0, prefill.n_layers}), 1});
  return spec;
}

}  // namespace cake::inline CAKE_ABI::testing
