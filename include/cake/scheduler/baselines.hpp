// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake is measured against: compute only, load only, a split fixed beforehand, and the
// two-ended schedule as it was published. Pure state machines; one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "cake/detail/planner/load_cursor.hpp"
#include "cake/engine.hpp"
#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI {

/// Where baselines look for work: computes what lies before `split`, holes and the suffix; loads
/// the rest from the back.
class SplitScheduler {
 public:
  void begin(const PrefillSpec& spec) { cursor_.begin(spec); }

 protected:
  Step next_step(const RunView& view, std::uint32_t budget, std::uint32_t split_chunk) const {
    const PrefillSpec& spec = view.spec();
    const std::uint32_t front = view.front();
    const std::uint32_t limit =
        front + std::min({budget, spec.max_step_tokens, spec.n_tokens - front});
    std::uint32_t end = front;
    for (std::uint32_t chunk = spec.chunk_of(front); end < limit; ++chunk) {
      if (chunk >= spec.end_chunk) {
        end = limit;
      } else if (chunk < split_chunk ? free_for_compute(view, chunk, end > front)
                                     : only_compute(view, chunk)) {
        end = std::min(limit, spec.chunk_range(chunk).end);
      } else {
        break;
      }
    }
    Step step;
    step.kind = end > front ? Step::Kind::compute : Step::Kind::wait;
    step.tokens = {front, end};
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now,
                                       std::uint32_t split) {
    const auto chunk = cursor_.next(view, lane, split);
    if (!chunk || *chunk < split) return std::nullopt;
    return LoadRequest{view.whole(*chunk), load_deadline(view, lane, *chunk, now)};
  }
  static Time load_deadline(const RunView& view, LaneId lane, std::uint32_t chunk, Time now) {
    const double size = static_cast<double>(view.spec().stored[chunk].size);
    const Time expected = std::min(view.lane(lane).ready_at(size, now) - now, kLongestRead);
    return read_deadline(now, std::chrono::seconds(5), 8 * expected,
                         view.lane(lane).rate().measured);
  }

 private:
  static bool only_compute(const RunView& view, std::uint32_t chunk) {
    return view.state(chunk) == ChunkState::hole || view.state(chunk) == ChunkState::computing;
  }
  static bool free_for_compute(const RunView& view, std::uint32_t chunk, bool behind) {
    const ChunkState state = view.state(chunk);
    return state == ChunkState::open || state == ChunkState::hole ||
           (state == ChunkState::computing && !behind);
  }
  detail::LoadCursor cursor_;
};

/// Recomputes everything.
class ComputeOnlyScheduler : public SplitScheduler {
 public:
  Step next_step(const RunView& view, std::uint32_t budget, Time) const {
    Step step = SplitScheduler::next_step(view, budget, view.spec().end_chunk);
    const std::uint32_t from = view.context_from();  // no window or state is loaded either
    if (from < step.tokens.begin) {
      const std::uint32_t most = std::min(budget, view.spec().max_step_tokens);
      step.tokens = {from, std::min(step.tokens.end, from + most)};
    }
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView&, LaneId, Time) { return std::nullopt; }
};

/// Loads all that is stored; computes holes, and the suffix after the last load.
class LoadOnlyScheduler : public SplitScheduler {
 public:
  Step next_step(const RunView& view, std::uint32_t budget, Time) const {
    return SplitScheduler::next_step(view, budget, 0);
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    return SplitScheduler::next_load(view, lane, now, 0);
  }
};

/// Computes the first `fraction` of the stored prefix and loads the rest, whatever the rates turn
/// out to be.
class FixedSplitScheduler : public SplitScheduler {
 public:
  explicit FixedSplitScheduler(double fraction = 0.5) : fraction_(std::clamp(fraction, 0.0, 1.0)) {}
  Step next_step(const RunView& view, std::uint32_t budget, Time) const {
    return SplitScheduler::next_step(view, budget, split(view));
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    return SplitScheduler::next_load(view, lane, now, split(view));
  }

 private:
  std::uint32_t split(const RunView& view) const {
    return static_cast<std::uint32_t>(fraction_ * view.spec().end_chunk);
  }
  double fraction_;
};

/// The published schedule: compute takes full steps from the front, loads come from the back, until
/// they meet; then the suffix. No model, no guard, nothing taken over.
///
/// Source:  algorithm 1 of "Compute Or Load KV Cache? Why Not Both?", arXiv 2410.03065
class PublishedScheduler : public SplitScheduler {
 public:
  Step next_step(const RunView& view, std::uint32_t budget, Time) const {
    // A step does not run into the suffix: that begins when both ends are done.
    const PrefillSpec& spec = view.spec();
    if (view.front() < spec.prefix_end()) {
      budget = std::min(budget, spec.prefix_end() - view.front());
    }
    return SplitScheduler::next_step(view, budget, spec.end_chunk);
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    return SplitScheduler::next_load(view, lane, now, 0);
  }
};

static_assert(Scheduler<ComputeOnlyScheduler> && Scheduler<LoadOnlyScheduler> &&
              Scheduler<FixedSplitScheduler> && Scheduler<PublishedScheduler>);

}  // namespace cake::inline CAKE_ABI
