// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Turns a prompt into its spec: the keys of its chunks, which of them are stored, and the size of
// their objects.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A prompt and all that its run is told.
struct PrefillRequest {
  Tokens tokens = {};
  std::uint32_t resident = 0;
  ChunkOptions chunks = {};
  std::uint32_t max_step_tokens = 512;
  bool may_gate = true;
};

/// Bytes of staging memory that the smallest load of a chunk takes: one layer with what lies before
/// and behind, or all of it.
template <KvMemory M>
std::uint64_t smallest_load(const ChunkGeometry& geometry) {
  if (engine_traits<M>::abilities.whole_chunks) return geometry.object_bytes();
  return geometry.object_bytes() - (geometry.payload_end() - geometry.head_bytes()) +
         geometry.largest_layer();
}

/// The spec of a request: keys, what is stored of them, and the geometry of their objects.
struct PrefillLookup {
  PrefillSpec spec;
  std::vector<ChunkKey> keys;       // of full chunks
  std::vector<StoredChunk> stored;  // [spec.end_chunk]
  ChunkGeometry geometry;
  Status status;  // error of the lookup, if it failed

  /// Takes the store's answer. After an error, or an answer of the wrong length, nothing counts as
  /// stored.
  void take(Result<std::vector<StoredChunk>> answer) {
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

 private:
  /// Chunks count as absent whose objects lack a window or a state that is needed: of the last ones,
  /// so that the hit ends where a step finds all that it needs, and of those below a hole.
  void leave_out_useless() {
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
};

/// What a spec says of the objects. The spans belong to the geometry.
inline void describe_layout(const ChunkGeometry& geometry, PrefillSpec& spec) {
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

/// Hashes the prompt's chunks. Does not ask the store.
///
/// Errors:  throws Exception(invalid_argument) for an empty prompt, chunk or step size, and as
///          prefix_chain()
inline PrefillLookup plan_request(const PrefillRequest& request, const ChunkKey& root,
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

/// As plan_request(), and asks the store for all chunks in one call, on this thread.
template <StorageBackend S>
PrefillLookup look_up(const PrefillRequest& request, const ChunkKey& root, const KvLayout& layout,
                      S& storage, std::uint32_t n_lanes) {
  PrefillLookup found =
      plan_request(request, root, ChunkGeometry(layout, request.chunks.chunk_tokens), n_lanes);
  if (!found.keys.empty()) {
    found.take(detail::guarded(Errc::io, "lookup", [&] { return storage.lookup(found.keys); }));
  }
  return found;
}

}  // namespace cake::inline CAKE_ABI::detail
