// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// In which order the baselines load stored chunks. Pure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "cake/detail/planner/tuning.hpp"
#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Walks the stored segments between holes: upwards from the one that holds `first`, each from its
/// back, then what lies below. Without holes that is: from the last chunk to the first. Amortised
/// constant time per chunk.
class LoadCursor {
 public:
  void begin(const PrefillSpec& spec) {
    *this = LoadCursor();
    end_ = spec.end_chunk;
  }

  /// The next open chunk that `lane` can read; it stays the next one until its state changes.
  std::optional<std::uint32_t> next(const RunView& view, LaneId lane, std::uint32_t first) {
    if (!started_) start(view, first);
    while (!done_) {
      const std::uint32_t low = std::max(low_, view.front_chunk());
      // Chunks of other lanes only are passed over, and left to them.
      for (std::uint32_t at = position_; at-- > low;) {
        if (view.state(at) != ChunkState::open) {
          if (at + 1 == position_) position_ = at;
          continue;
        }
        if (view.on_lane(at, lane)) return at;
      }
      if (position_ > low) {  // what is left of this segment belongs to other lanes
        return look_ahead(view, lane);
      }
      next_segment(view);
    }
    return std::nullopt;
  }

 private:
  void start(const RunView& view, std::uint32_t first) {
    started_ = true;
    first_low_ = low_ = std::min(first, end_);
    high_ = view.next_hole(low_);
    position_ = high_;
  }
  void next_segment(const RunView& view) {
    if (below_) {
      done_ = true;
      return;
    }
    low_ = view.next_stored(high_);
    if (low_ >= end_) {  // nothing above: what lies below the first segment comes last
      below_ = true;
      low_ = 0;
      position_ = first_low_;
      return;
    }
    high_ = std::max(low_ + 1, std::min(end_, view.next_hole(low_)));
    position_ = high_;
  }
  /// A chunk of a later segment, for a lane that has nothing to do in this one.
  std::optional<std::uint32_t> look_ahead(const RunView& view, LaneId lane) const {
    if (below_) return std::nullopt;
    const std::uint32_t stop = std::min(end_, high_ + kLoadTuning.look_ahead_chunks);
    for (std::uint32_t c = high_; c < stop; ++c) {
      if (view.state(c) == ChunkState::open && view.on_lane(c, lane)) return c;
    }
    return std::nullopt;
  }

  std::uint32_t end_ = 0;
  std::uint32_t first_low_ = 0;
  std::uint32_t low_ = 0;  // the segment is [low_, high_)
  std::uint32_t high_ = 0;
  std::uint32_t position_ = 0;  // chunks [position_, high_) have been taken
  bool started_ = false;
  bool below_ = false;
  bool done_ = false;
};

}  // namespace cake::inline CAKE_ABI::detail
