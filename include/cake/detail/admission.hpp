// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a scheduler may ask for: which step, and which read. Pure; one thread at a time.
#pragma once

#include <cstdint>

#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Compute may take this chunk in a step that begins at token `begin`: it is open, a hole, still being
/// read (a take-over), or begun and the step goes on with the rest of it.
inline bool may_compute(const RunView& view, std::uint32_t chunk, std::uint32_t begin) {
  const ChunkState state = view.state(chunk);
  if (state == ChunkState::inserting || state == ChunkState::resident) return false;
  return state != ChunkState::computing ||
         (begin == view.front() && begin > view.spec().chunk_range(chunk).begin);
}

/// Compute may take open chunks, holes, chunks that are still being read (a take-over), and the
/// rest of a chunk that it began. It begins at the front, or behind it at a gated step (where the
/// engine takes one now) below which all is resident or can be loaded.
inline bool may_compute(const RunView& view, const Step& step) {
  const PrefillSpec& spec = view.spec();
  if (step.tokens.empty() || step.tokens.end > spec.n_tokens) return false;
  if (step.tokens.begin != view.front()) {
    if (!step.gated || !view.may_gate() || step.tokens.begin < view.front()) return false;
    if (step.tokens.begin % spec.chunk_tokens != 0 && step.tokens.begin < spec.prefix_end()) {
      return false;
    }
    if (step.tokens.begin > spec.prefix_end() && step.tokens.begin != view.suffix_front()) {
      return false;
    }
    const std::uint32_t end = spec.chunk_of(step.tokens.begin);
    for (std::uint32_t c = view.front_chunk(); c < end; ++c) {
      const ChunkState state = view.state(c);
      if (state == ChunkState::hole || state == ChunkState::computing) return false;
    }
  }
  for (std::uint32_t c = spec.chunk_of(step.tokens.begin);
       c < spec.end_chunk && spec.chunk_range(c).begin < step.tokens.end; ++c) {
    if (!may_compute(view, c, step.tokens.begin)) return false;
  }
  return true;
}

/// Slices of a chunk are read in the order of its layers, the second one not before the tables are
/// known, and none once one of them has failed. Whether `lane` may read the next one of this chunk, which
/// begins at layers_issued().
inline bool may_load(const RunView& view, std::uint32_t chunk, LaneId lane) {
  const std::uint32_t issued = view.layers_issued(chunk);
  const ChunkState state = view.state(chunk);
  if (issued == 0) {
    return state == ChunkState::open && !view.unloadable(chunk) && view.on_lane(chunk, lane);
  }
  return (state == ChunkState::loading || state == ChunkState::inserting) &&
         issued < view.spec().n_layers && view.parsed(chunk) && !view.unloadable(chunk) &&
         view.on_lane(chunk, lane);
}

/// The same for a read that a scheduler wants: one of the next layers.
inline bool may_load(const RunView& view, const LoadRequest& load, LaneId lane) {
  const Slice& s = load.slice;
  return s.chunk < view.spec().end_chunk && !s.layers.empty() &&
         s.layers.end <= view.spec().n_layers && s.layers.begin == view.layers_issued(s.chunk) &&
         may_load(view, s.chunk, lane);
}

}  // namespace cake::inline CAKE_ABI::detail
