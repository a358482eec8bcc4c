// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake is measured against: compute only, load only, a split fixed beforehand, and the
// two-ended schedule as it was published. Pure state machines; one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "cake/board.hpp"
#include "cake/concepts.hpp"
#include "cake/scheduler/load_order.hpp"

namespace cake {

/// Where baselines look for work: computes what lies before `split`, holes and the suffix; loads
/// the rest from the back.
class SplitScheduler {
 public:
  void begin(const PrefillPlan& plan) { cursor_.begin(plan); }

 protected:
  Step next_step(const Board& board, std::uint32_t budget, std::uint32_t split_chunk) const {
    const PrefillPlan& plan = board.plan();
    const std::uint32_t front = board.front();
    const std::uint32_t limit =
        front + std::min({budget, plan.max_step_tokens, plan.n_tokens - front});
    std::uint32_t end = front;
    while (end < limit) {
      const std::uint32_t chunk = plan.chunk_of(end);
      if (chunk >= plan.end_chunk) {
        end = limit;
      } else if (chunk < split_chunk ? free_for_compute(board, chunk, end > front)
                                     : only_compute(board, chunk)) {
        end = std::min(limit, plan.chunk_range(chunk).end);
      } else {
        break;
      }
    }
    Step step;
    step.kind = end > front ? Step::Kind::compute : Step::Kind::wait;
    step.tokens = {front, end};
    return step;
  }
  std::optional<Load> next_load(const Board& board, LaneId lane, Time now, std::uint32_t split) {
    const auto chunk = cursor_.next(board, lane, split);
    if (!chunk || *chunk < split) return std::nullopt;
    return Load{board.plan().whole(*chunk), load_deadline(board, lane, *chunk, now)};
  }
  static Time load_deadline(const Board& board, LaneId lane, std::uint32_t chunk, Time now) {
    const double size = static_cast<double>(board.plan().stored[chunk].size);
    const double expected = seconds(board.lane(lane).ready_at(size, now) - now);
    return read_deadline(now, std::chrono::seconds(5), 8 * expected,
                         board.lane(lane).rate().measured);
  }

 private:
  static bool only_compute(const Board& board, std::uint32_t chunk) {
    return board.state(chunk) == ChunkState::hole || board.state(chunk) == ChunkState::computing;
  }
  static bool free_for_compute(const Board& board, std::uint32_t chunk, bool behind) {
    const ChunkState state = board.state(chunk);
    return state == ChunkState::open || state == ChunkState::hole ||
           (state == ChunkState::computing && !behind);
  }
  LoadCursor cursor_;
};

/// Recomputes everything.
class ComputeOnlyScheduler : public SplitScheduler {
 public:
  Step next_step(const Board& board, std::uint32_t budget, Time) const {
    return SplitScheduler::next_step(board, budget, board.plan().end_chunk);
  }
  std::optional<Load> next_load(const Board&, LaneId, Time) { return std::nullopt; }
};

/// Loads all that is stored; computes holes, and the suffix after the last load.
class LoadOnlyScheduler : public SplitScheduler {
 public:
  Step next_step(const Board& board, std::uint32_t budget, Time) const {
    return SplitScheduler::next_step(board, budget, 0);
  }
  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    return SplitScheduler::next_load(board, lane, now, 0);
  }
};

/// Computes the first `fraction` of the stored prefix and loads the rest, whatever the rates turn
/// out to be.
class FixedSplitScheduler : public SplitScheduler {
 public:
  explicit FixedSplitScheduler(double fraction = 0.5) : fraction_(std::clamp(fraction, 0.0, 1.0)) {}
  Step next_step(const Board& board, std::uint32_t budget, Time) const {
    return SplitScheduler::next_step(board, budget, split(board));
  }
  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    return SplitScheduler::next_load(board, lane, now, split(board));
  }

 private:
  std::uint32_t split(const Board& board) const {
    return static_cast<std::uint32_t>(fraction_ * board.plan().end_chunk);
  }
  double fraction_;
};

/// The published schedule: compute takes full steps from the front, loads come from the back, until
/// they meet; then the suffix. No model, no guard, nothing taken over.
///
/// Source:  algorithm 1 of "Compute Or Load KV Cache? Why Not Both?", arXiv 2410.03065
class PublishedScheduler : public SplitScheduler {
 public:
  Step next_step(const Board& board, std::uint32_t budget, Time) const {
    // A step does not run into the suffix: that begins when both ends are done.
    const PrefillPlan& plan = board.plan();
    if (board.front() < plan.prefix_end()) {
      budget = std::min(budget, plan.prefix_end() - board.front());
    }
    return SplitScheduler::next_step(board, budget, plan.end_chunk);
  }
  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    return SplitScheduler::next_load(board, lane, now, 0);
  }
};

static_assert(Scheduler<ComputeOnlyScheduler> && Scheduler<LoadOnlyScheduler> &&
              Scheduler<FixedSplitScheduler> && Scheduler<PublishedScheduler>);

}  // namespace cake
