// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a scheduler may ask for: which step, and which read. Pure; one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Compute may take open chunks, holes, chunks that are still being read (a take-over), and the
/// rest of a chunk that it began, from `begin` on.
inline bool may_compute_chunk(const RunView& view, std::uint32_t chunk, std::uint32_t begin) {
  switch (view.state(chunk)) {
    case ChunkState::open:
    case ChunkState::loading:
    case ChunkState::hole:
      return true;
    case ChunkState::computing:
      return begin == view.front() && begin > view.spec().chunk_range(chunk).begin;
    case ChunkState::inserting:
    case ChunkState::resident:
      return false;
  }
  return false;
}

/// How far a step from the front may reach, at most to `limit`.
inline std::uint32_t compute_end(const RunView& view, std::uint32_t limit) {
  const PrefillSpec& spec = view.spec();
  for (std::uint32_t c = view.front_chunk(); c < spec.end_chunk; ++c) {
    const std::uint32_t begin = std::max(view.front(), spec.chunk_range(c).begin);
    if (begin >= limit) break;
    if (!may_compute_chunk(view, c, begin)) return begin;
  }
  return limit;
}

/// Whether all that a step needs of the chunks below, when it begins with this one, is loaded for
/// other steps anyway.
inline bool loads_bring_context(const RunView& view, std::uint32_t chunk) {
  const PrefillSpec& spec = view.spec();
  const std::uint32_t widest = spec.widest_window();
  for (std::uint32_t c = chunk; c-- > 0;) {
    const std::uint32_t end = spec.object_range(c).end;
    const std::uint32_t begin = chunk * spec.chunk_tokens;
    if (begin - end >= widest) break;
    if (view.layers_needed(c) < spec.layers_needed(end, begin)) return false;
  }
  return true;
}

/// A step begins at the front, where all is there that it needs, or behind it at a gated step (where the engine takes one now) below
/// which all is resident or can be loaded.
inline bool may_compute(const RunView& view, const Step& step) {
  const PrefillSpec& spec = view.spec();
  if (step.tokens.empty() || step.tokens.end > spec.n_tokens) return false;
  if (step.tokens.begin == view.front() && view.context_from() != view.front()) return false;
  if (step.tokens.begin != view.front()) {
    if (!step.gated || !view.may_gate() || step.tokens.begin < view.front()) return false;
    if (step.tokens.begin % spec.chunk_tokens != 0 && step.tokens.begin < spec.prefix_end()) {
      return false;
    }
    if (step.tokens.begin > spec.prefix_end() && step.tokens.begin != view.suffix_front()) {
      return false;
    }
    const std::uint32_t end = spec.chunk_of(step.tokens.begin);
    if (end < spec.end_chunk && !loads_bring_context(view, end)) return false;
    for (std::uint32_t c = view.front_chunk(); c < end; ++c) {
      const ChunkState state = view.state(c);
      if (state == ChunkState::hole || state == ChunkState::computing) return false;
    }
  }
  for (std::uint32_t c = spec.chunk_of(step.tokens.begin);
       c < spec.end_chunk && spec.chunk_range(c).begin < step.tokens.end; ++c) {
    if (!may_compute_chunk(view, c, step.tokens.begin)) return false;
  }
  return true;
}

/// The first layers of a chunk, at most `most`, that this lane may read now; none: it may read
/// nothing of it. Slices of a chunk are read in the order of its layers, the second one not before
/// the tables are known, and none once one of them has failed.
inline LayerRange next_layers(const RunView& view, LaneId lane, std::uint32_t chunk,
                              std::uint32_t most) {
  const std::uint32_t needed = view.layers_needed(chunk);
  const std::uint32_t issued = view.layers_issued(chunk);
  if (issued >= needed || view.unloadable(chunk) || !view.on_lane(chunk, lane)) return {};
  const ChunkState state = view.state(chunk);
  const bool ready = issued == 0 ? state == ChunkState::open
                                 : view.parsed(chunk) && (state == ChunkState::loading ||
                                                          state == ChunkState::inserting);
  if (!ready) return {};
  return {issued, issued + std::min(most, needed - issued)};
}

/// Whether a lane may read exactly this slice now.
inline bool may_load(const RunView& view, const LoadRequest& load, LaneId lane) {
  const Slice& s = load.slice;
  if (s.chunk >= view.spec().end_chunk || s.layers.empty()) return false;
  return next_layers(view, lane, s.chunk, s.layers.size()) == s.layers;
}

}  // namespace cake::inline CAKE_ABI::detail
