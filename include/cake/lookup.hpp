// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// From a prompt to a plan: its chunks' keys, what is stored of them, and how large their objects
// are.
#pragma once

#include <cstdint>
#include <exception>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/concepts.hpp"
#include "cake/identity.hpp"
#include "cake/plan.hpp"

namespace cake {

/// Units: tokens.
struct PrefillRequest {
  Tokens tokens = {};                   // the whole prompt; copied
  std::uint32_t resident = 0;           // KV that the engine holds already, from position 0
  std::string salt = {};                // of the tenant: two salts share nothing
  std::uint32_t chunk_tokens = 256;     // as when it was saved
  std::uint32_t max_step_tokens = 512;  // most tokens of one compute pass
  bool may_gate = true;                 // the engine takes gated steps
  std::stop_token stop =
      {};  // asks for the end: next() then says finished, the report's status canceled
};

/// The plan of a request: keys, what is stored of them, and the geometry of their objects.
struct PrefillLookup {
  PrefillPlan plan;
  std::vector<ChunkKey> keys;       // of chunks that have at least one token behind them
  std::vector<StoredChunk> stored;  // [plan.end_chunk]
  Status status;                    // why nothing is known of the store, if so
};

/// Hashes the prompt's chunks and asks the store for all of them in one call. A store that fails
/// holds nothing.
///
/// Errors:  throws Exception(invalid_argument) for an empty prompt, chunk or step size
template <StorageBackend S>
PrefillLookup look_up(const PrefillRequest& request, const ChunkKey& root, const KvLayout& layout,
                      S& storage, std::uint32_t n_lanes) {
  const auto check = [](bool good, const char* what) {
    if (!good) throw Exception({Errc::invalid_argument, 0, what});
  };
  check(!request.tokens.empty(), "prefill of an empty prompt");
  check(request.tokens.size() < 0xffff'0000u, "prefill: prompt of more than 2^32 tokens");
  check(request.resident < request.tokens.size(),
        "prefill: resident tokens must leave at least one to compute");
  check(request.max_step_tokens > 0, "prefill: max_step_tokens is 0");
  check(ChunkGeometry::fits(layout, request.chunk_tokens),
        "prefill: layout or chunk_tokens out of range");
  PrefillLookup found;
  PrefillPlan& plan = found.plan;
  plan.n_tokens = static_cast<std::uint32_t>(request.tokens.size());
  plan.resident_tokens = request.resident;
  plan.chunk_tokens = request.chunk_tokens;
  plan.n_chunks = (plan.n_tokens - 1) / plan.chunk_tokens;
  plan.n_layers = layout.n_layers;
  plan.n_lanes = n_lanes;
  plan.max_step_tokens = request.max_step_tokens;
  plan.may_gate = request.may_gate;
  const ChunkGeometry geometry(layout, request.chunk_tokens);
  plan.head_bytes = geometry.head_bytes();
  plan.layer_bytes = 2 * geometry.run_stride();
  plan.foot_bytes = geometry.object_bytes() - geometry.payload_end();
  found.keys =
      prefix_chain(root, request.tokens.first(std::size_t{plan.n_chunks} * plan.chunk_tokens),
                   plan.chunk_tokens);
  if (found.keys.empty()) return found;
  Result<std::vector<StoredChunk>> stored = Error{Errc::io, 0, "lookup"};
  try {
    stored = storage.lookup(found.keys);
  } catch (const std::exception& e) {
    stored = Error{Errc::io, 0, std::string("lookup: ") + e.what()};
  }
  if (!stored) {
    found.status = stored.error();
    return found;
  }
  found.stored = std::move(*stored);
  found.stored.resize(found.keys.size());
  for (std::uint32_t c = 0; c < plan.n_chunks; ++c) {
    StoredChunk& chunk = found.stored[c];
    chunk.tiers &= n_lanes >= 32 ? ~0u : (1u << n_lanes) - 1;
    if (chunk.size != geometry.object_bytes()) chunk = {};  // not an object of this layout
    if (chunk.stored()) plan.end_chunk = c + 1;
  }
  found.stored.resize(plan.end_chunk);
  return found;
}

}  // namespace cake
