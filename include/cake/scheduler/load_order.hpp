// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// In which order stored chunks are loaded, and when all of them will have landed. Shared by the
// schedulers; pure.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>

#include "cake/board.hpp"

namespace cake {

/// Walks the stored segments between holes: upwards from the one that holds `first`, each from its
/// back, then what lies below. Without holes that is: from the last chunk to the first. Amortised
/// constant time per chunk.
class LoadCursor {
 public:
  void begin(const PrefillPlan& plan) {
    *this = LoadCursor();
    end_ = plan.end_chunk;
  }

  /// The next open chunk that `lane` can read; it stays the next one until its state changes.
  /// `alone`: only among chunks that no other lane can read.
  std::optional<std::uint32_t> next(const Board& board, LaneId lane, std::uint32_t first,
                                    bool alone = false) {
    if (!started_) start(board, first);
    while (!done_) {
      const std::uint32_t low = std::max(low_, board.front_chunk());
      // Chunks of other lanes only are passed over, and left to them.
      for (std::uint32_t at = position_; at-- > low;) {
        if (board.state(at) != ChunkState::open) {
          if (at + 1 == position_) position_ = at;
          continue;
        }
        if (fits(board, at, lane, alone)) return at;
      }
      if (position_ > low) {  // what is left of this segment belongs to other lanes
        return look_ahead(board, lane, alone);
      }
      next_segment(board);
    }
    return std::nullopt;
  }

 private:
  static bool fits(const Board& board, std::uint32_t chunk, LaneId lane, bool alone) {
    return alone ? board.plan().stored[chunk].tiers == 1u << lane : board.on_lane(chunk, lane);
  }
  void start(const Board& board, std::uint32_t first) {
    started_ = true;
    first_low_ = low_ = std::min(first, end_);
    high_ = board.next_hole(low_);
    position_ = high_;
  }
  void next_segment(const Board& board) {
    if (below_) {
      done_ = true;
      return;
    }
    low_ = board.next_stored(high_);
    if (low_ >= end_) {  // nothing above: what lies below the first segment comes last
      below_ = true;
      low_ = 0;
      position_ = first_low_;
      return;
    }
    high_ = std::max(low_ + 1, std::min(end_, board.next_hole(low_)));
    position_ = high_;
  }
  /// A chunk of a later segment, for a lane that has nothing to do in this one.
  std::optional<std::uint32_t> look_ahead(const Board& board, LaneId lane, bool alone) const {
    if (below_) return std::nullopt;
    const std::uint32_t stop = std::min(end_, high_ + 64);
    for (std::uint32_t c = high_; c < stop; ++c) {
      if (board.state(c) == ChunkState::open && fits(board, c, lane, alone)) return c;
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

/// When loads will be resident, as the lanes stand at one moment. Seconds since the session began.
class LoadForecast {
 public:
  LoadForecast(const Board& board, Time now)
      : board_(board),
        n_(board.n_lanes()),
        now_(seconds(now)),
        chunk_bytes_(static_cast<double>(board.plan().read_bytes({0, board.plan().n_layers}))) {
    drained_ = now_;
    for (std::uint32_t l = 0; l < n_; ++l) {
      const LaneModel& lane = board.lane(l);
      if (!lane.in_flight().empty()) drained_ = std::max(drained_, seconds(lane.drained_at(now)));
      base_[l] = seconds(lane.ready_at(0, now));
      pace_[l] = lane.seconds_per_byte(now);
      if (lane.down()) down_ |= 1u << l;
    }
    for (const OpenBytes& set : board.open_bytes()) {
      if (set.bytes == 0) continue;
      open_bytes_ += static_cast<double>(set.bytes);
      open_lanes_ |= set.tiers;
    }
  }

  double open_bytes() const { return open_bytes_; }
  double chunk_bytes() const { return chunk_bytes_; }
  /// What is on the lanes now.
  double drained() const { return drained_; }

  /// What is on the lanes, and `share` (0..1) of what has not been asked for.
  double all(double share) const { return std::max(drained_, open(share)); }

  /// `share` of what has not been asked for. Every set of tiers must carry what only its lanes can
  /// carry; inside a set the lanes finish together.
  double open(double share) const {
    double end = now_;
    if (open_bytes_ <= 0 || share <= 0) return end;
    for (const OpenBytes& set : board_.open_bytes()) {
      if (set.bytes == 0) continue;
      double bytes = 0;
      for (const OpenBytes& other : board_.open_bytes()) {
        if ((other.tiers & ~set.tiers) == 0) bytes += static_cast<double>(other.bytes);
      }
      end = std::max(end, fill(set.tiers, bytes * share, static_cast<double>(set.bytes)));
    }
    if (board_.open_bytes().size() > 1) {
      end = std::max(end, fill(open_lanes_, open_bytes_ * share, 0));
    }
    return end;
  }

  /// Seconds per byte of all lanes together.
  double pace() const {
    double rate = 0;
    for (std::uint32_t l = 0; l < n_; ++l) {
      if ((open_lanes_ & ~down_) >> l & 1) rate += 1 / pace_[l];
    }
    return rate > 0 ? 1 / rate : 0;
  }
  /// What `share` of the open bytes would take on `lanes` alone, without what is on the lanes
  /// already.
  double by_lanes(std::uint32_t lanes, double share) const {
    double bytes = 0;
    for (const OpenBytes& set : board_.open_bytes()) {
      if ((set.tiers & lanes) != 0) bytes += static_cast<double>(set.bytes);
    }
    return fill(lanes, bytes * share, bytes);
  }
  /// When `lane` would be done with what only it can carry and `bytes` more.
  double by_lane_alone(LaneId lane, double bytes) const {
    for (const OpenBytes& set : board_.open_bytes()) {
      if (set.tiers == 1u << lane) bytes += static_cast<double>(set.bytes);
    }
    return base_[lane] + bytes * pace_[lane];
  }

  /// `bytes` of open chunks that are asked for next.
  double next(double bytes) const { return bytes > 0 ? fill(open_lanes_, bytes, bytes) : now_; }

 private:
  double fill(std::uint32_t lanes, double bytes, double whole) const {
    lanes &= ~down_;
    if (const double chunks = std::ceil(bytes / chunk_bytes_ - 0.01); n_ > 1 && chunks <= 24) {
      return deal(lanes, chunks, std::min(whole, chunk_bytes_));
    }
    // However many lanes there are, a chunk comes over one of them.
    double one = 1e9;
    for (std::uint32_t l = 0; l < n_; ++l) {
      if ((lanes >> l & 1) != 0) {
        one = std::min(one, base_[l] + std::min(whole, chunk_bytes_) * pace_[l]);
      }
    }
    for (;;) {
      double rate = 0;
      double sum = bytes;
      std::uint32_t late = 0;
      double last = -1;
      for (std::uint32_t l = 0; l < n_; ++l) {
        if ((lanes >> l & 1) == 0) continue;
        rate += 1 / pace_[l];
        sum += base_[l] / pace_[l];
        if (base_[l] > last) last = base_[late = l];
      }
      if (rate == 0) return 1e9;  // nobody can carry it
      const double level = sum / rate;
      if (level >= last) return std::max(level, one);
      lanes &= ~(1u << late);  // this lane is busy beyond that time anyway
    }
  }

  /// A few chunks, one by one, each to the lane that will be done with it first.
  double deal(std::uint32_t lanes, double chunks, double bytes) const {
    std::array<double, kMaxTiers> free = base_;
    double end = 0;
    for (int i = 0; i < chunks; ++i) {
      std::uint32_t best = kMaxTiers;
      for (std::uint32_t l = 0; l < n_; ++l) {
        if ((lanes >> l & 1) == 0) continue;
        if (best == kMaxTiers || free[l] + bytes * pace_[l] < free[best] + bytes * pace_[best])
          best = l;
      }
      if (best == kMaxTiers) return 1e9;
      free[best] += bytes * pace_[best];
      end = std::max(end, free[best]);
    }
    return end;
  }

  const Board& board_;
  std::uint32_t n_;
  double now_;
  double chunk_bytes_;
  double drained_ = 0;
  double open_bytes_ = 0;
  std::uint32_t open_lanes_ = 0;
  std::uint32_t down_ = 0;
  std::array<double, kMaxTiers> base_{};  // [lane] when it is free
  std::array<double, kMaxTiers> pace_{};  // [lane] seconds per byte
};

}  // namespace cake
