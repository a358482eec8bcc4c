// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The default scheduler: compute from the front, load from the back, meet at run time. On top of
// the published schedule it knows what a pass and a read cost (and learns it while it runs), so
// that no step is started that the loads would overtake, no load is asked for that compute would
// reach first, a late load is taken over, and the last loads come layer by layer with the suffix
// pass right behind them. Pure state machine; one thread at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "cake/board.hpp"
#include "cake/concepts.hpp"
#include "cake/scheduler/cost_model.hpp"
#include "cake/scheduler/load_order.hpp"
#include "cake/scheduler/outlook.hpp"

namespace cake {

struct MeetOptions {
  ComputeCost cost;  // prior; learned from there
  bool learn = true;
  double deadline_factor =
      8;  // a read may take this many times what it should, and the floor on top
  Time deadline_floor = std::chrono::milliseconds(500);
};

class MeetInTheMiddleScheduler {
 public:
  explicit MeetInTheMiddleScheduler(const MeetOptions& options = {})
      : options_(options), model_(options.cost) {}

  void begin(const PrefillPlan& plan) {
    cursor_.begin(plan);
    seen_ = 0;
    wedge_.clear();
    wedge_layers_ = 0;
  }

  const MeetOptions& options() const { return options_; }
  /// Learned so far; kept from prompt to prompt.
  ComputeCost compute_cost() const { return model_.current(); }

  /// Token where the two ends will meet, as things look now.
  std::uint32_t predicted_meet(const Board& board, Time now) const {
    const Outlook o = look(board, board.plan().max_step_tokens, now, board.plan().may_gate);
    const PrefillPlan& plan = board.plan();
    if (o.compute_all()) return plan.prefix_end();
    const auto tokens = static_cast<std::uint32_t>(o.meet());
    return std::min(plan.prefix_end(),
                    (tokens + plan.chunk_tokens / 2) / plan.chunk_tokens * plan.chunk_tokens);
  }

  Step next_step(const Board& board, std::uint32_t budget, Time now) {
    learn(board);
    const PrefillPlan& plan = board.plan();
    const std::uint32_t front = board.front();
    const std::uint32_t limit =
        std::min(plan.n_tokens, front + std::min(budget, plan.max_step_tokens));
    if (front >= plan.prefix_end()) return compute(front, limit);
    const Outlook o = look(board, std::min(budget, plan.max_step_tokens), now, board.may_gate());
    if (o.compute_all()) {
      if (const std::uint32_t end = reach(board, limit, true); end > front)
        return compute(front, end);
      return wait(now, o);
    }
    const std::uint32_t end = reach(board, limit, false);
    if (end > front) {
      const std::uint32_t best = best_end(board, o, end);
      // Nothing is left to load: the suffix follows in the same pass.
      if (best == plan.prefix_end()) return compute(front, limit);
      if (best > front) return compute(front, best);
    } else if (board.state(board.front_chunk()) == ChunkState::loading && o.better_taken_over()) {
      return compute(front, std::min(limit, plan.chunk_range(board.front_chunk()).end));
    }
    // A gated pass that starts sooner than this only waits longer, and while it waits nothing can
    // be taken over.
    const double start = o.loads() - 1.05 * o.hideable();
    if (board.may_gate() && o.compute_free() >= start) {
      // Nothing below the next hole, or below the suffix, is worth computing: start there, behind
      // the loads.
      const std::uint32_t hole = board.next_hole(board.front_chunk());
      const std::uint32_t begin =
          hole < plan.end_chunk ? plan.chunk_range(hole).begin : plan.prefix_end();
      const std::uint32_t size = std::min(budget, plan.max_step_tokens);
      std::uint32_t stop = plan.n_tokens;
      if (hole < plan.end_chunk) {
        for (stop = plan.chunk_range(hole).end;
             stop < begin + size && stop < plan.prefix_end() &&
             board.state(stop / plan.chunk_tokens) == ChunkState::hole;) {
          stop += plan.chunk_tokens;
        }
      }
      if (begin > front && coming(board, board.front_chunk(), begin / plan.chunk_tokens)) {
        Step step = compute(begin, std::min(stop, begin + size));
        step.gated = true;
        return step;
      }
    }
    Step step = wait(now, o);
    if (board.may_gate() && start > seconds(now))
      step.until = std::min(step.until, from_seconds(start));
    return step;
  }

  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    const PrefillPlan& plan = board.plan();
    if (const auto slice = next_in_wedge(board, lane); slice && slice->layers.begin > 0) {
      if (left_to_others(board, lane, *slice, 1, now)) return std::nullopt;
      return order(board, lane, *slice, now);
    }
    if (board.open_chunks() == 0) return std::nullopt;
    const Outlook o = look(board, plan.max_step_tokens, now, plan.may_gate);
    if (o.compute_all()) return std::nullopt;
    const auto meet = o.stop_chunk();
    auto chunk = cursor_.next(board, lane, meet);
    if (!chunk) return std::nullopt;
    enter_wedge(board, o, lane, *chunk, meet);
    Slice slice = next_in_wedge(board, lane).value_or(plan.whole(*chunk));
    if (left_to_others(board, lane, slice, 1 - o.computed_share(), now)) {
      chunk = cursor_.next(board, lane, meet, true);
      if (!chunk) return std::nullopt;
      slice = plan.whole(*chunk);
    }
    const auto size = static_cast<double>(plan.read_bytes({0, plan.n_layers}));
    const double lands = seconds(board.lane(lane).ready_at(size, now));
    const double reached =
        o.compute_free() +
        model_.current().passes(board.front(), slice.tokens.end, plan.max_step_tokens);
    // Compute would be there first, and is not going to stop before.
    if (lands >= reached && (slice.chunk < meet || lands > o.end())) return std::nullopt;
    return order(board, lane, slice, now);
  }

 private:
  /// A slow lane leaves a chunk to others that will be done with `share` of what is open before it
  /// would have landed, behind what only this lane can carry.
  bool left_to_others(const Board& board, LaneId lane, const Slice& slice, double share,
                      Time now) const {
    const std::uint32_t others = board.plan().stored[slice.chunk].tiers & ~(1u << lane);
    if (others == 0) return false;
    const LoadForecast forecast(board, now);
    const auto bytes = static_cast<double>(board.plan().read_bytes(slice.layers));
    return forecast.by_lane_alone(lane, bytes) > forecast.by_lanes(others, share);
  }

  Load order(const Board& board, LaneId lane, const Slice& slice, Time now) const {
    const auto bytes = static_cast<double>(board.plan().read_bytes(slice.layers));
    const double expected = seconds(board.lane(lane).ready_at(bytes, now) - now);
    return {slice,
            now + options_.deadline_floor + from_seconds(options_.deadline_factor * expected)};
  }

  static Step compute(std::uint32_t begin, std::uint32_t end) {
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {begin, end};
    return step;
  }

  static Step wait(Time now, const Outlook& o) {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = now + std::max(Time(20'000), from_seconds((o.loads() - seconds(now)) / 4));
    return step;
  }

  void learn(const Board& board) {
    const FinishedStep& last = board.finished();
    if (last.sequence == seen_) return;
    seen_ = last.sequence;
    if (options_.learn && !last.gated) model_.observe(last.tokens, seconds(last.busy));
  }

  Outlook look(const Board& board, std::uint32_t step, Time now, bool gated) const {
    return Outlook(board, model_.current(), step, gated, !wedge_.empty(), now);
  }

  /// End of the run of tokens behind the front that compute could take now. `over`: also from lanes
  /// that still read.
  static std::uint32_t reach(const Board& board, std::uint32_t limit, bool over) {
    const PrefillPlan& plan = board.plan();
    std::uint32_t end = board.front();
    while (end < limit) {
      const std::uint32_t chunk = end / plan.chunk_tokens;
      if (chunk >= plan.end_chunk) return over ? limit : end;
      const ChunkState state = board.state(chunk);
      const bool own = state == ChunkState::computing && end == board.front();
      if (state != ChunkState::open && state != ChunkState::hole && !own &&
          !(over && state == ChunkState::loading)) {
        break;
      }
      end = std::min(limit, plan.chunk_range(chunk).end);
    }
    return end;
  }

  /// Where the next step should end, at most `end`: at the front itself when waiting for the loads
  /// is better.
  std::uint32_t best_end(const Board& board, const Outlook& o, std::uint32_t end) const {
    const PrefillPlan& plan = board.plan();
    const std::uint32_t front = board.front();
    const ChunkState state = board.state(board.front_chunk());
    std::uint32_t must = front;  // holes and begun chunks right at the front come from nowhere else
    if (state == ChunkState::computing)
      must = std::min(end, plan.chunk_range(board.front_chunk()).end);
    while (must < end && board.state(must / plan.chunk_tokens) == ChunkState::hole) {
      must = std::min(end, plan.chunk_range(must / plan.chunk_tokens).end);
    }
    // Once the last loads come layer by layer, the ends meet where those begin.
    if (!wedge_.empty())
      must = std::clamp(plan.chunk_range(wedge_.back()).begin, must, std::max(must, end));
    std::uint32_t best = std::max(must, std::min(o.stop(), end));
    // The last stretch goes in two halves where passes are cheap to start: rates are known better
    // after the first.
    const std::uint32_t chunks = (best - front) / plan.chunk_tokens;
    if (chunks >= 2 && best > must &&
        model_.current().overhead < 0.005 * model_.current().pass(front, best)) {
      const std::uint32_t half =
          plan.chunk_range((front + (best - front) / 2) / plan.chunk_tokens).end;
      best = std::max(must, std::min(best, half));
    }
    return best;
  }

  /// Whether all of these chunks are there or on their way: a gate must not wait for what nobody
  /// will ask for.
  bool coming(const Board& board, std::uint32_t begin, std::uint32_t end) const {
    for (std::uint32_t c = begin; c < end; ++c) {
      const ChunkState state = board.state(c);
      if (state == ChunkState::hole || state == ChunkState::computing) return false;
      if (state == ChunkState::open && std::find(wedge_.begin(), wedge_.end(), c) == wedge_.end())
        return false;
    }
    return true;
  }

  /// When what is left to load is no more than the suffix pass can hide, its chunks are loaded
  /// layer by layer.
  void enter_wedge(const Board& board, const Outlook& o, LaneId lane, std::uint32_t chunk,
                   std::uint32_t meet) {
    const PrefillPlan& plan = board.plan();
    if (!plan.may_gate || plan.n_layers < 2 || !wedge_.empty() ||
        board.next_hole(board.front_chunk()) < plan.end_chunk) {
      return;
    }
    const double hidden = o.hideable() / board.lane(lane).seconds_per_byte(Time{0});
    const double one = static_cast<double>(plan.read_bytes({0, plan.n_layers}));
    const double left = board.open_chunks() * one * (1 - o.computed_share());
    if (left > hidden + one / 2 || hidden < one / 2) return;
    for (std::uint32_t c = chunk + 1; c-- > std::max(meet, board.front_chunk());) {
      if (board.state(c) == ChunkState::open) wedge_.push_back(c);
    }
    // A slice should be worth its latency.
    const LaneRate& rate = board.lane(lane).rate();
    const double worth = 2 * seconds(rate.latency + rate.insert) * rate.bytes_per_second;
    wedge_layers_ = static_cast<std::uint32_t>(std::clamp(
        std::ceil(worth / static_cast<double>(plan.layer_bytes)), 1.0, double(plan.n_layers)));
  }

  /// The lowest layers that have not been asked for, over all chunks of the wedge.
  std::optional<Slice> next_in_wedge(const Board& board, LaneId lane) const {
    std::optional<Slice> next;
    const PrefillPlan& plan = board.plan();
    for (const std::uint32_t c : wedge_) {
      const std::uint32_t issued = board.layers_issued(c);
      const ChunkState state = board.state(c);
      const bool ready = issued == 0
                             ? state == ChunkState::open
                             : issued < plan.n_layers && board.parsed(c) &&
                                   (state == ChunkState::loading || state == ChunkState::inserting);
      if (!ready || !board.on_lane(c, lane)) continue;
      if (next && issued >= next->layers.begin) continue;
      next =
          Slice{c, plan.chunk_range(c), {issued, std::min(plan.n_layers, issued + wedge_layers_)}};
    }
    return next;
  }

  MeetOptions options_;
  CostModel model_;
  LoadCursor cursor_;
  std::uint64_t seen_ = 0;
  std::vector<std::uint32_t> wedge_;  // chunks that are loaded layer by layer, the last one first
  std::uint32_t wedge_layers_ = 0;    // layers of one slice
};

static_assert(Scheduler<MeetInTheMiddleScheduler>);

}  // namespace cake
