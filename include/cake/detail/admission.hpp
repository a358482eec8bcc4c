// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a scheduler may ask for: which step, and which read. Pure; one thread at a time.
#pragma once

#include <cstdint>

#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI::detail {

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
    const ChunkState state = view.state(c);
    const bool partial = state == ChunkState::computing && step.tokens.begin == view.front() &&
                         step.tokens.begin > spec.chunk_range(c).begin;
    if (state == ChunkState::inserting || state == ChunkState::resident ||
        (state == ChunkState::computing && !partial)) {
      return false;
    }
  }
  return true;
}

/// Slices of a chunk are read in the order of its layers, the second one not before the tables are
/// known, and none once one of them has failed.
inline bool may_load(const RunView& view, const LoadRequest& load, LaneId lane) {
  const Slice& s = load.slice;
  if (s.chunk >= view.spec().end_chunk || s.layers.empty() || s.layers.end > view.spec().n_layers ||
      !view.on_lane(s.chunk, lane)) {
    return false;
  }
  if (s.layers.begin != view.layers_issued(s.chunk) || view.unloadable(s.chunk)) return false;
  const ChunkState state = view.state(s.chunk);
  if (s.layers.begin == 0) return state == ChunkState::open;
  return view.parsed(s.chunk) && (state == ChunkState::loading || state == ChunkState::inserting);
}

}  // namespace cake::inline CAKE_ABI::detail
