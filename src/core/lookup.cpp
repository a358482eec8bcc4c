// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/lookup.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

namespace cake::inline CAKE_ABI::detail {

void PrefillLookup::take(Result<std::vector<StoredChunk>> answer) {
  if (!answer) {
    status = answer.error();
    return;
  }
  stored = std::move(*answer);
  stored.resize(keys.size());
  spec.end_chunk = 0;
  for (std::uint32_t c = 0; c < stored.size(); ++c) {
    StoredChunk& chunk = stored[c];
    chunk.tiers &= spec.n_lanes >= 32 ? ~0u : (1u << spec.n_lanes) - 1;
    chunk.layers = geometry.held_by(chunk.size);
    if (chunk.layers == 0) chunk = {};  // not an object of this layout
    if (chunk.stored()) spec.end_chunk = c + 1;
  }
  stored.resize(spec.end_chunk);
  if (!spec.reaches.empty()) leave_out_useless();
}

void PrefillLookup::leave_out_useless() {
  std::uint32_t above = spec.prefix_end();
  spec.stored = stored;
  for (std::uint32_t c = spec.end_chunk; c-- > 0;) {
    const TokenRange range = spec.chunk_range(c);
    if (range.begin < spec.resident_tokens) break;
    if (spec.layers_held(c) >= spec.layers_needed(spec.object_range(c).end, above)) continue;
    stored[c] = {};
    above = range.begin;
    if (c + 1 == spec.end_chunk) spec.end_chunk = c;
  }
  while (spec.end_chunk > 0 && !stored[spec.end_chunk - 1].stored()) --spec.end_chunk;
  stored.resize(spec.end_chunk);
  spec.stored = {};
}

void describe_layout(const ChunkGeometry& geometry, PrefillSpec& spec) {
  spec.n_layers = geometry.layout().n_layers;
  spec.head_bytes = geometry.head_bytes();
  const std::uint64_t payload = geometry.payload_end() - geometry.head_bytes();
  spec.layer_bytes = (payload + spec.n_layers - 1) / spec.n_layers;
  if (geometry.largest_layer() * spec.n_layers != payload) {
    spec.layer_begins = geometry.layer_begins();
  }
  spec.foot_bytes = geometry.object_bytes() - geometry.payload_end();
  spec.reaches = geometry.reaches();
  spec.positions = geometry.positions();
  // A step that ends without all of its layers would leave states between two tokens.
  spec.may_gate = spec.may_gate && !geometry.layout().has_states();
}

PrefillLookup plan_request(const PrefillRequest& request, const ChunkKey& root,
                           const ChunkGeometry& geometry, std::uint32_t n_lanes) {
  const auto check = [](bool good, const char* what) {
    if (!good) throw Exception({Errc::invalid_argument, 0, what});
  };
  check(!request.tokens.empty(), "prefill of an empty prompt");
  check(request.tokens.size() < 0xffff'0000u, "prefill: prompt of more than 2^32 tokens");
  check(request.resident < request.tokens.size(),
        "prefill: resident tokens must leave at least one to compute");
  check(request.max_step_tokens > 0, "prefill: max_step_tokens is 0");
  check(geometry.chunk_tokens() == request.chunks.chunk_tokens, "prefill: another chunk_tokens");
  PrefillLookup found;
  PrefillSpec& spec = found.spec;
  spec.n_tokens = static_cast<std::uint32_t>(request.tokens.size());
  spec.resident_tokens = request.resident;
  spec.chunk_tokens = request.chunks.chunk_tokens;
  // The last token of a prompt is always computed, so a chunk that ends with the prompt needs two;
  // a state that has seen the token already would see it twice.
  const bool one_less = spec.chunk_tokens == 1 || geometry.layout().has_states();
  spec.n_chunks = (spec.n_tokens - (one_less ? 1 : 0)) / spec.chunk_tokens;
  spec.n_lanes = n_lanes;
  spec.max_step_tokens = std::min(request.max_step_tokens, spec.n_tokens);
  spec.may_gate = request.may_gate;
  found.geometry = geometry;
  describe_layout(geometry, spec);
  found.keys =
      prefix_chain(root, request.tokens.first(std::size_t{spec.n_chunks} * spec.chunk_tokens),
                   spec.chunk_tokens, request.chunks.extra);
  return found;
}

Error no_room(const PrefillLookup& lookup, std::uint64_t staging) {
  return Error{Errc::out_of_memory, 0,
               "a chunk of " + std::to_string(lookup.geometry.object_bytes()) +
                   (lookup.spec.whole_chunks
                        ? " bytes cannot be loaded as a whole, which the engine asks for, through "
                        : " bytes cannot be loaded, not even layer by layer, through ") +
                   std::to_string(staging) +
                   " bytes of staging memory; raise LaneOptions::staging_bytes or lower "
                   "chunk_tokens"};
}

}  // namespace cake::inline CAKE_ABI::detail
