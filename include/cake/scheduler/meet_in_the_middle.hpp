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
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "cake/board.hpp"
#include "cake/concepts.hpp"
#include "cake/scheduler/cost_model.hpp"
#include "cake/scheduler/load_order.hpp"

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
    if (o.compute_all) return plan.prefix_end();
    const auto tokens = static_cast<std::uint32_t>(o.meet);
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
    if (o.compute_all) {
      if (const std::uint32_t end = reach(board, limit, true); end > front)
        return compute(front, end);
      return wait(now, o);
    }
    const std::uint32_t end = reach(board, limit, false);
    if (end > front) {
      const std::uint32_t best = best_end(board, o, end, now);
      if (best > front) return compute(front, best);
    } else if (board.state(board.front_chunk()) == ChunkState::loading &&
               take_over(board, o, now)) {
      return compute(front, std::min(limit, plan.chunk_range(board.front_chunk()).end));
    }
    if (board.may_gate()) {
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
      if (begin > front && loadable(board, board.front_chunk(), begin / plan.chunk_tokens)) {
        Step step = compute(begin, std::min(stop, begin + size));
        step.gated = true;
        return step;
      }
    }
    return wait(now, o);
  }

  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    const PrefillPlan& plan = board.plan();
    if (const auto slice = next_in_wedge(board, lane)) {
      return Load{*slice, deadline(board, lane, plan.read_bytes(slice->layers), now)};
    }
    if (board.open_chunks() == 0) return std::nullopt;
    const Outlook o = look(board, plan.max_step_tokens, now, plan.may_gate);
    if (o.compute_all) return std::nullopt;
    const auto meet = static_cast<std::uint32_t>(o.meet) / plan.chunk_tokens;
    const auto chunk = cursor_.next(board, lane, meet);
    if (!chunk) return std::nullopt;
    const std::uint64_t size = plan.read_bytes({0, plan.n_layers});
    const double lands = seconds(board.lane(lane).ready_at(static_cast<double>(size), now));
    const TokenRange tokens = plan.chunk_range(*chunk);
    const double reached =
        o.compute_free + o.cost.passes(board.front(), tokens.end, plan.max_step_tokens);
    if (lands >= reached) return std::nullopt;  // compute would be there first
    if (board.n_lanes() > 1) {
      // A slow lane leaves the last chunks to those that will be done before it.
      const std::uint32_t others = plan.stored[*chunk].tiers & ~(1u << lane);
      if (others != 0 && lands > loads_end(board, 1 - o.computed_share, now, 1u << lane)) {
        return std::nullopt;
      }
    }
    if (enter_wedge(board, o, lane, *chunk, meet)) {
      if (const auto slice = next_in_wedge(board, lane)) {
        return Load{*slice, deadline(board, lane, plan.read_bytes(slice->layers), now)};
      }
    }
    return Load{plan.whole(*chunk), deadline(board, lane, size, now)};
  }

 private:
  /// What a decision rests on. Units: seconds since the session began, tokens.
  struct Outlook {
    ComputeCost cost;
    double compute_free = 0;  // when the steps that are running will be done
    double holes = 0;         // cost of the holes that nobody has claimed
    double suffix = 0;        // cost of the suffix,
    double first = 0;         // and of the first pass over it
    double per_layer = 0;     // share of one layer in that pass; 0: not gated
    double loads = 0;         // when all loads will be resident if compute takes no more
    double open_bytes = 0;
    double chunk_bytes = 0;
    double meet = 0;            // token up to which compute should go
    double computed_share = 0;  // share of the open bytes that compute takes by then
    bool gated = false;
    bool compute_all = false;  // nothing is loaded yet, and computing all of it is quickest
    double step = 0;

    /// End of the whole run when compute is done with the front at `computed` and the last load
    /// lands at `loaded`.
    double finish(double computed, double loaded) const {
      computed += holes;
      if (gated) return std::max(computed + first, loaded + per_layer) + suffix - first;
      return std::max(computed, loaded) + suffix;
    }
  };

  static Step compute(std::uint32_t begin, std::uint32_t end) {
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {begin, end};
    return step;
  }

  static Step wait(Time now, const Outlook& o) {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = now + std::max(Time(20'000), from_seconds((o.loads - seconds(now)) / 4));
    return step;
  }

  void learn(const Board& board) {
    const FinishedStep& last = board.finished();
    if (last.sequence == seen_) return;
    seen_ = last.sequence;
    if (options_.learn && !last.gated) model_.observe(last.tokens, seconds(last.busy));
  }

  Outlook look(const Board& board, std::uint32_t step, Time now, bool gated) const {
    const PrefillPlan& plan = board.plan();
    Outlook o;
    o.cost = model_.current();
    o.step = std::max<std::uint32_t>(1, step);
    o.compute_free = seconds(now);
    double free = 0;
    for (const RunningStep& running : board.running()) {
      free = std::max(free, seconds(running.issued)) +
             o.cost.pass(running.tokens.begin, running.tokens.end);
    }
    o.compute_free = std::max(o.compute_free, free);
    o.holes = board.holes() * o.cost.overhead +
              static_cast<double>(board.hole_tokens()) * o.cost.per_token +
              board.hole_positions() * o.cost.per_position;
    const double begin = std::max(plan.prefix_end(), board.suffix_front());
    const double end = plan.n_tokens;
    o.suffix = o.cost.passes(begin, end, o.step);
    o.first = o.cost.pass(begin, std::min(end, begin + o.step));
    o.gated = gated;
    o.per_layer = o.first / plan.n_layers;
    o.chunk_bytes = static_cast<double>(plan.read_bytes({0, plan.n_layers}));
    for (const OpenBytes& set : board.open_bytes()) o.open_bytes += static_cast<double>(set.bytes);
    o.loads = loads_end(board, 1, now);
    meet(board, o, now);
    return o;
  }

  double loads_after(const Board& board, const Outlook& o, double chunks, Time now) const {
    if (o.open_bytes <= 0) return o.loads;
    return loads_end(board, std::max(0.0, 1 - chunks * o.chunk_bytes / o.open_bytes), now);
  }

  /// Finds the token where the falling end of the loads crosses the rising end of compute.
  void meet(const Board& board, Outlook& o, Time now) const {
    const PrefillPlan& plan = board.plan();
    const double front = board.front();
    const auto rising = [&](double tokens) {
      return o.compute_free + o.cost.passes(front, front + tokens, o.step) + o.holes +
             (o.gated ? o.first : 0);
    };
    const auto falling = [&](double tokens) {
      return loads_after(board, o, tokens / plan.chunk_tokens, now) + (o.gated ? o.per_layer : 0);
    };
    double low = 0;
    double high = std::min<double>(plan.prefix_end() - std::min(board.front(), plan.prefix_end()),
                                   o.open_bytes / o.chunk_bytes * plan.chunk_tokens);
    if (rising(high) <= falling(high)) {
      low = high;
    } else {
      // Two chunks are near enough: what is left of the choice is made chunk by chunk.
      while (high - low > plan.chunk_tokens / 4.0) {
        const double middle = (low + high) / 2;
        (rising(middle) < falling(middle) ? low : high) = middle;
      }
    }
    o.meet = front + low;
    o.computed_share = o.open_bytes > 0
                           ? std::min(1.0, low / plan.chunk_tokens * o.chunk_bytes / o.open_bytes)
                           : 0;
    if (board.loaded_chunks() == 0 && board.inserting_chunks() == 0) {
      const double all = o.compute_free + o.cost.passes(front, plan.n_tokens, o.step);
      const double mixed = std::min(o.finish(o.compute_free + o.cost.passes(front, o.meet, o.step),
                                             falling(low) - (o.gated ? o.per_layer : 0)),
                                    o.finish(o.compute_free, o.loads));
      o.compute_all = all <= mixed;
    }
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
  std::uint32_t best_end(const Board& board, const Outlook& o, std::uint32_t end, Time now) const {
    const PrefillPlan& plan = board.plan();
    const std::uint32_t front = board.front();
    const ChunkState state = board.state(board.front_chunk());
    std::uint32_t must = front;  // holes and begun chunks right at the front come from nowhere else
    if (state == ChunkState::computing)
      must = std::min(end, plan.chunk_range(board.front_chunk()).end);
    while (must < end && board.state(must / plan.chunk_tokens) == ChunkState::hole) {
      must = std::min(end, plan.chunk_range(must / plan.chunk_tokens).end);
    }
    if (o.meet >= end) return end;
    const auto value = [&](std::uint32_t to) {
      double open = 0;
      double holes = 0;
      for (std::uint32_t c = board.front_chunk();
           c < plan.end_chunk && plan.chunk_range(c).begin < to; ++c) {
        if (board.state(c) == ChunkState::open) ++open;
        if (board.state(c) == ChunkState::hole) {
          const TokenRange t = plan.chunk_range(c);
          holes += o.cost.pass(t.begin, t.end);
        }
      }
      const double computed = o.compute_free + o.cost.passes(front, to, o.step) - holes;
      return o.finish(computed, loads_after(board, o, open, now));
    };
    // The crossing lies between two chunks: try the one before and the one behind it.
    std::uint32_t below =
        std::max(must, static_cast<std::uint32_t>(o.meet) / plan.chunk_tokens * plan.chunk_tokens);
    below = std::clamp(below, front, end);
    const std::uint32_t above = std::min(end, plan.chunk_range(below / plan.chunk_tokens).end);
    std::uint32_t best = value(above) < value(below) ? above : below;
    if (best == below && below > must && below > front) {
      const std::uint32_t before = std::max(must, below - plan.chunk_tokens);
      if (before >= front && value(before) < value(best)) best = before;
    }
    best = std::max(best, must);
    // The last stretch goes in two halves where passes are cheap to start: rates are known better
    // after the first.
    const std::uint32_t chunks = (best - front) / plan.chunk_tokens;
    if (chunks >= 2 && best > must && o.cost.overhead < 0.005 * o.cost.pass(front, best)) {
      const std::uint32_t half =
          plan.chunk_range((front + (best - front) / 2) / plan.chunk_tokens).end;
      best = std::max(must, std::min(best, half));
    }
    return best;
  }

  /// The chunk at the front is still being read: would computing it end sooner?
  bool take_over(const Board& board, const Outlook& o, Time now) const {
    const PrefillPlan& plan = board.plan();
    const std::uint32_t chunk = board.front_chunk();
    double others = seconds(now);
    for (LaneId l = 0; l < board.n_lanes(); ++l) {
      for (const LaneModel::Flight& flight : board.lane(l).in_flight()) {
        if (flight.chunk != chunk) {
          others = std::max(others, seconds(board.lane(l).resident_at(flight, now)));
        }
      }
    }
    const double cost = o.cost.pass(board.front(), plan.chunk_range(chunk).end);
    const double taken = o.finish(o.compute_free + cost, others);
    return taken + 0.01 * cost < o.finish(o.compute_free, o.loads);
  }

  static bool loadable(const Board& board, std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t c = begin; c < end; ++c) {
      const ChunkState state = board.state(c);
      if (state == ChunkState::hole || state == ChunkState::computing) return false;
    }
    return true;
  }

  Time deadline(const Board& board, LaneId lane, std::uint64_t bytes, Time now) const {
    const double expected =
        seconds(board.lane(lane).ready_at(static_cast<double>(bytes), now) - now);
    return now + options_.deadline_floor + from_seconds(options_.deadline_factor * expected);
  }

  /// When what is left to load is no more than the suffix pass can hide, its chunks are loaded
  /// layer by layer.
  bool enter_wedge(const Board& board, const Outlook& o, LaneId lane, std::uint32_t chunk,
                   std::uint32_t meet) {
    const PrefillPlan& plan = board.plan();
    if (!plan.may_gate || plan.n_layers < 2 || !wedge_.empty() ||
        board.next_hole(board.front_chunk()) < plan.end_chunk) {
      return false;
    }
    const double hidden = (o.first - o.per_layer) / board.lane(lane).seconds_per_byte(Time{0});
    const double left = o.open_bytes * (1 - o.computed_share);
    if (left > hidden + o.chunk_bytes / 2 || hidden < o.chunk_bytes / 2) return false;
    for (std::uint32_t c = chunk + 1; c-- > std::max(meet, board.front_chunk());) {
      if (board.state(c) == ChunkState::open) wedge_.push_back(c);
    }
    // A slice should be worth its latency.
    const LaneRate& rate = board.lane(lane).rate();
    const double worth = 2 * seconds(rate.latency + rate.insert) * rate.bytes_per_second;
    wedge_layers_ = static_cast<std::uint32_t>(std::clamp(
        std::ceil(worth / static_cast<double>(plan.layer_bytes)), 1.0, double(plan.n_layers)));
    return !wedge_.empty();
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
