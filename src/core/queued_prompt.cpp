// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/core/queued_prompt.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>

namespace cake::inline CAKE_ABI::detail {

QueuedPrompt look_up(SessionEngine& engine, LaneHost& lanes, Tokens tokens,
                     const ChunkOptions& chunks, const PrefillOptions& prompt,
                     const SessionOptions& options) {
  QueuedPrompt found;
  const KvLayout layout = engine.layout();
  found.fingerprint = engine.fingerprint();
  const ChunkKey root =
      root_key(found.fingerprint, layout, chunks.chunk_tokens, chunks.salt, chunks.cipher());
  const PrefillRequest request{.tokens = tokens,
                               .resident = prompt.resident,
                               .chunks = chunks,
                               .max_step_tokens = options.max_step_tokens,
                               .may_gate = false};
  PrefillLookup& lookup = found.lookup;
  lookup = plan_request(request, root, ChunkGeometry(layout, chunks.chunk_tokens, chunks.cipher()),
                        lanes.lane_count());
  if (lookup.keys.empty() || prompt.stop.stop_requested()) return found;
  Status problem;
  lookup.take(
      lanes.lookup(lookup.keys, lookup.geometry, options.lookup_timeout, prompt.stop, problem));
  if (lookup.status) lookup.status = problem;
  return found;
}

std::optional<LaneId> fastest_lane(const StoredChunk& chunk) {
  if (!chunk.stored()) return std::nullopt;
  return static_cast<LaneId>(std::countr_zero(chunk.tiers));
}

PromptNeeds needs_of(const QueuedPrompt& prompt, const LaneHost& lanes,
                     const Calibration& calibration) {
  PromptNeeds needs;
  const PrefillSpec& spec = prompt.lookup.spec;
  needs.tokens = spec.n_tokens - spec.resident_tokens;
  needs.resident_tokens = spec.resident_tokens;
  needs.max_step_tokens = spec.max_step_tokens;
  needs.lookup = prompt.lookup.status;
  for (std::uint32_t c = 0; c < spec.end_chunk; ++c) {
    const StoredChunk& chunk = prompt.lookup.stored[c];
    const TokenRange range = spec.chunk_range(c);
    const auto lane = fastest_lane(chunk);
    if (!lane || range.begin < spec.resident_tokens) continue;
    needs.stored_tokens += range.size();
    needs.bytes[*lane] += chunk.size;
    needs.read_bytes = std::max(needs.read_bytes, chunk.size);
  }
  needs.read_bytes = std::min(needs.read_bytes, lanes.staging_budget());
  if (const auto compute = calibration.compute(prompt.fingerprint)) needs.cost = compute->current();
  return needs;
}

}  // namespace cake::inline CAKE_ABI::detail
