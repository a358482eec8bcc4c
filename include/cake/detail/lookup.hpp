// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Turns a prompt into its spec: the keys of its chunks, which of them are stored, and the size of
// their objects.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/export.hpp"
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
inline std::uint64_t smallest_load(const ChunkGeometry& geometry, bool whole_chunks) {
  if (whole_chunks) return geometry.object_bytes();
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
  CAKE_API void take(Result<std::vector<StoredChunk>> answer);

 private:
  /// Chunks count as absent whose objects lack a window or a state that is needed: of the last ones,
  /// so that the hit ends where a step finds all that it needs, and of those below a hole.
  void leave_out_useless();
};

/// What a spec says of the objects. The spans belong to the geometry.
CAKE_API void describe_layout(const ChunkGeometry& geometry, PrefillSpec& spec);

/// Hashes the prompt's chunks. Does not ask the store.
///
/// Errors:  throws Exception(invalid_argument) for an empty prompt, chunk or step size, and as
///          prefix_chain()
CAKE_API PrefillLookup plan_request(const PrefillRequest& request, const ChunkKey& root,
                                    const ChunkGeometry& geometry, std::uint32_t n_lanes);

/// No chunk of the prompt can be loaded through so many bytes of staging memory.
CAKE_API Error no_room(const PrefillLookup& lookup, std::uint64_t staging);

}  // namespace cake::inline CAKE_ABI::detail
