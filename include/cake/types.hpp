// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The nouns that everybody shares: tokens, chunks, layers, slices, steps, loads, and the plan of
// one prompt. Values only.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cake/kv_layout.hpp"

namespace cake {

using TokenId = std::int32_t;
using Tokens = std::span<const TokenId>;

/// Since the session began.
using Time = std::chrono::nanoseconds;
inline constexpr Time kNever = Time::max();

/// Half-open range of token positions.
struct TokenRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  constexpr std::uint32_t size() const { return end > begin ? end - begin : 0; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(TokenRange, TokenRange) = default;
};

/// Half-open range of layers.
struct LayerRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  constexpr std::uint32_t size() const { return end > begin ? end - begin : 0; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(LayerRange, LayerRange) = default;
};

/// Some layers of one chunk: the unit of loading. `tokens` are the positions of the whole chunk.
/// Where the chunk ends with the prompt that includes the last token, which is then computed again.
struct Slice {
  std::uint32_t chunk = 0;
  TokenRange tokens;
  LayerRange layers;
  friend constexpr bool operator==(const Slice&, const Slice&) = default;
};

/// What a store knows of one chunk. `size` is the bytes of the stored object (0: absent), `tiers`
/// the bit set of the tiers that hold it.
struct StoredChunk {
  std::uint64_t size = 0;
  std::uint32_t tiers = 0;
  constexpr bool stored() const { return size != 0 && tiers != 0; }
};

/// One I/O lane per storage tier; lane i reads tier i.
using LaneId = std::uint32_t;
inline constexpr std::uint32_t kMaxTiers = 8;

/// What compute does next.
struct Step {
  enum class Kind : std::uint8_t { compute, wait, finished };
  Kind kind = Kind::finished;
  TokenRange tokens;     // compute: positions of this pass
  bool gated = false;    // compute: KV below tokens.begin may still be on its way, layer by layer
  Time until = kNever;   // wait: ask again then, or when something changed
  std::uint64_t id = 0;  // compute: names the step in gate() and done()
};

/// One read that a scheduler wants: some layers of one chunk, and when to give up waiting for it.
struct LoadRequest {
  Slice slice;
  Time deadline = kNever;
};

/// One prompt's run, fixed when it begins. Scheduler::begin() sees it, and it outlives the run.
///
/// Units: positions and counts in tokens, sizes in bytes.
struct PrefillSpec {
  std::uint32_t n_tokens = 0;         // length of the prompt
  std::uint32_t resident_tokens = 0;  // KV that the engine already holds, from position 0
  std::uint32_t chunk_tokens = 256;
  std::uint32_t n_chunks = 0;   // full chunks
  std::uint32_t end_chunk = 0;  // one past the last stored chunk; chunks from here on are suffix
  std::uint32_t n_layers = 1;
  std::uint32_t n_lanes = 1;
  std::uint32_t max_step_tokens = 512;  // most tokens that one compute pass takes
  bool may_gate = true;                 // the backend takes gated steps
  std::span<const StoredChunk> stored;  // [end_chunk]; entry i belongs to chunk i
  std::uint64_t head_bytes = 0;         // of one stored object: before the first layer,
  std::uint64_t layer_bytes = 0;        // of each layer,
  std::uint64_t foot_bytes = 0;         // and after the last one

  /// First token behind the stored chunks; never the prompt's end, since its last token is always
  /// computed: its logits are wanted.
  constexpr std::uint32_t prefix_end() const {
    return std::min(end_chunk * chunk_tokens, n_tokens - 1);
  }
  /// Tokens that a load of this chunk saves compute. One fewer than the object holds where a chunk
  /// ends with the prompt.
  constexpr TokenRange chunk_range(std::uint32_t chunk) const {
    return {chunk * chunk_tokens, std::min((chunk + 1) * chunk_tokens, n_tokens - 1)};
  }
  /// Tokens whose KV the stored object holds.
  constexpr TokenRange object_range(std::uint32_t chunk) const {
    return {chunk * chunk_tokens, (chunk + 1) * chunk_tokens};
  }
  /// The chunk that this token belongs to; end_chunk for those of the suffix.
  constexpr std::uint32_t chunk_of(std::uint32_t token) const {
    return token >= prefix_end() ? end_chunk : token / chunk_tokens;
  }
  /// Bytes that a read of these layers of one chunk fetches.
  constexpr std::uint64_t read_bytes(LayerRange layers) const {
    return layers.size() * layer_bytes + (layers.begin == 0 ? head_bytes : 0) +
           (layers.end == n_layers ? foot_bytes : 0);
  }
  constexpr Slice whole(std::uint32_t chunk) const {
    return {chunk, object_range(chunk), {0, n_layers}};
  }
};

}  // namespace cake
