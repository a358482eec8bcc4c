// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The default scheduler: compute from the front, load from the back, meet at run time. On top of
// the published schedule it knows what a pass and a read cost (and learns it while it runs): it
// follows some dozens of courses chunk by chunk, takes the best, and looks again when things turn
// out otherwise. So no step is started that the loads would overtake, no load is asked for that
// compute would reach first, a late load is taken over, and the last loads come layer by layer with
// the suffix pass right behind them. Pure state machine; one thread at a time.
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
#include "cake/scheduler/outlook.hpp"

namespace cake {

struct MeetOptions {
  ComputeCost cost;  // prior; learned from there
  bool learn = true;
  /// On a lane that was measured a read may take this many times what it should, and the floor on
  /// top; before, up to 64 floors (read_deadline()).
  double deadline_factor = 8;
  Time deadline_floor = std::chrono::milliseconds(500);
  /// Passes of fewer tokens take as long as one of so many, as far as is known beforehand; learned
  /// from there.
  std::uint32_t smallest_step = 1;
};

class MeetInTheMiddleScheduler {
 public:
  explicit MeetInTheMiddleScheduler(const MeetOptions& options = {})
      : options_(options), model_(options.cost, options.smallest_step) {}

  void begin(const PrefillPlan& plan) {
    seen_ = 0;
    planned_ = false;
    tried_ = 0;
    idle_ = 0;
    waits_since_ = kNever;
    step_ = std::min(plan.max_step_tokens, plan.n_tokens);
    computes_.assign(plan.end_chunk, 1);
    orders_.resize(plan.n_lanes);
  }

  const MeetOptions& options() const { return options_; }
  /// Learned so far; kept from prompt to prompt.
  ComputeCost compute_cost() const { return model_.current(); }

  /// Token where the two ends will meet, as things look now.
  std::uint32_t predicted_meet(const Board& board, Time now) {
    refresh(board, now, false);
    return meet_;
  }

  Step next_step(const Board& board, std::uint32_t budget, Time now) {
    learn(board);
    const PrefillPlan& plan = board.plan();
    const std::uint32_t front = board.front();
    budget = std::min({budget, plan.max_step_tokens, plan.n_tokens});
    const std::uint32_t limit = front + std::min(budget, plan.n_tokens - front);
    if (front >= plan.prefix_end()) return compute(front, limit);
    step_ += (budget - step_) / 4;
    refresh(board, now, false);
    std::uint32_t end = reach(board, limit);
    if (end == front && board.state(board.front_chunk()) == ChunkState::open) {
      if (stuck(board)) planned_ = false;
      refresh(board, now, true);  // compute has nothing to do, and a lane is behind
      end = reach(board, limit);
      if (end == front && nobody_begins(board, now)) end = reach(board, limit);
    }
    if (end > front) {
      waits_since_ = kNever;
      if (const Time ask = when_needed(board, end); ask > now) return wait_until(ask);
      return compute(front, shorten(board, end));
    }
    if (board.may_gate() && course_.layers != 0 && may_follow(board)) {
      const std::uint32_t suffix = plan.prefix_end();
      Step step = compute(suffix, suffix + std::min(budget, plan.n_tokens - suffix));
      step.gated = true;
      return step;
    }
    return wait(now);
  }

  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    if (board.open_chunks() == 0 && orders_[lane].empty()) return std::nullopt;
    refresh(board, now, false);
    auto slice = next_slice(board, lane);
    if (slice.layers.empty() && idle_lane(board, lane)) {
      refresh(board, now, true);
      slice = next_slice(board, lane);
    }
    if (slice.layers.empty()) slice = trial(board, lane);
    if (slice.layers.empty()) return std::nullopt;
    const auto bytes = static_cast<double>(board.plan().read_bytes(slice.layers));
    const double expected = seconds(board.lane(lane).ready_at(bytes, now) - now);
    // A gated step may wait for what follows a first slice, and that has measured the lane.
    const std::uint32_t measured =
        slice.layers.begin != 0 ? LaneRate::kSure : board.lane(lane).rate().measured;
    return Load{slice, read_deadline(now, options_.deadline_floor,
                                     options_.deadline_factor * expected, measured)};
  }

 private:
  /// What one lane reads: whole chunks first, then the last ones layer by layer.
  struct Orders {
    std::vector<std::uint32_t> whole;
    std::vector<std::uint32_t> layered;
    std::size_t at = 0;        // next one of `whole`
    std::size_t at_layer = 0;  // next one of `layered`, over and over

    bool empty() const { return at == whole.size() && layered.empty(); }
    void clear() {
      whole.clear();
      layered.clear();
      at = at_layer = 0;
    }
    /// No layers: nothing can be read now.
    Slice next(const Board& board, LaneId lane, std::uint32_t layers) {
      for (; at < whole.size(); ++at) {
        const LayerRange all = rest(board, lane, whole[at], board.plan().n_layers);
        if (!all.empty()) return {whole[at], board.plan().object_range(whole[at]), all};
      }
      // The lowest layers that have not been asked for, among the next few chunks.
      Slice best;
      const std::size_t first = at_layer;
      const std::size_t n = layered.size();
      for (std::size_t i = 0; i < n && (best.layers.empty() || i < 8); ++i) {
        const std::size_t index = (first + i) % n;
        const std::uint32_t chunk = layered[index];
        const LayerRange some = rest(board, lane, chunk, layers);
        if (some.empty()) continue;
        if (!best.layers.empty() && some.begin >= best.layers.begin) continue;
        best = {chunk, board.plan().object_range(chunk), some};
        at_layer = (index + 1) % n;
      }
      return best;
    }
    /// Layers of the chunk that may be read next; none: it is not to be read now.
    static LayerRange rest(const Board& board, LaneId lane, std::uint32_t chunk,
                           std::uint32_t layers) {
      const PrefillPlan& plan = board.plan();
      const std::uint32_t issued = board.layers_issued(chunk);
      const ChunkState state = board.state(chunk);
      const bool ready =
          issued == 0 ? state == ChunkState::open
                      : issued < plan.n_layers && board.parsed(chunk) && !board.doomed(chunk) &&
                            (state == ChunkState::loading || state == ChunkState::inserting);
      if (!ready || !board.on_lane(chunk, lane)) return {};
      return {issued, std::min(plan.n_layers, issued + layers)};
    }
  };

  Slice next_slice(const Board& board, LaneId lane) {
    Orders& orders = orders_[lane];
    return orders.next(board, lane, orders.layered.empty() ? 1 : slice_layers(board, lane));
  }

  /// A lane that was never measured, or not for some prompts, may be better than thought: when
  /// nothing is to be read on it, it gets one read of what compute has anyway. The last of it, and
  /// nothing that the next step takes or whose loss would make a pass more.
  Slice trial(const Board& board, LaneId lane) {
    const LaneModel& model = board.lane(lane);
    const LaneRate& rate = model.rate();
    if ((tried_ >> lane & 1) != 0 || model.measured() || !model.in_flight().empty() ||
        rate.unused < std::min(kTrialAfter, rate.measured)) {
      return {};
    }
    const PrefillPlan& plan = board.plan();
    if (plan.prefix_end() <= board.front() + step_) return {};
    tried_ |= 1u << lane;
    const std::uint32_t layers = plan.may_gate ? slice_layers(board, lane) : plan.n_layers;
    for (std::uint32_t c = plan.end_chunk; c-- > board.front_chunk();) {
      const TokenRange tokens = plan.chunk_range(c);
      if (tokens.begin < board.front() + step_) break;
      const double passes = std::ceil((tokens.begin - board.front()) / step_) +
                            std::ceil((plan.n_tokens - tokens.end) / step_);
      if (computes_[c] == 0 || passes > std::ceil((plan.n_tokens - board.front()) / step_))
        continue;
      const LayerRange first = Orders::rest(board, lane, c, layers);
      if (!first.empty()) return {c, plan.object_range(c), first};
    }
    return {};
  }

  /// Compute waits for lanes that do not begin what is theirs, for want of memory or of threads:
  /// when that has taken twice as long as all loads should have, the course goes on without them
  /// until they do.
  bool nobody_begins(const Board& board, Time now) {
    const std::uint32_t loaded = board.loaded_chunks() + board.inserting_chunks();
    if (waits_since_ == kNever || waits_loaded_ != loaded) {
      waits_since_ = now;
      waits_loaded_ = loaded;
      const Time loads = from_seconds(course_.loaded) - now;
      waits_until_ = now + 2 * std::clamp<Time>(loads, Time(20'000), kLongestRead);
      return false;
    }
    if (now < waits_until_) return false;
    idle_ = 0;
    for (LaneId l = 0; l < board.n_lanes(); ++l) {
      idle_ |= std::uint32_t{board.lane(l).in_flight().empty()} << l;
    }
    waits_since_ = kNever;
    if (idle_ == 0) return false;
    planned_ = false;
    refresh(board, now, true);
    return true;
  }

  static Step compute(std::uint32_t begin, std::uint32_t end) {
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {begin, end};
    return step;
  }

  static Step wait_until(Time until) {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = until;
    return step;
  }
  /// Looks again soon, the sooner the nearer the end is, and less and less often after it.
  Step wait(Time now) const {
    const Time left = from_seconds(std::abs(course_.end - seconds(now)));
    return wait_until(now + std::max(Time(20'000), left / 4));
  }

  /// A step that the loads may yet make needless is not enqueued behind another one before that one
  /// is nearly done: what lands meanwhile tells how far it should go.
  Time when_needed(const Board& board, std::uint32_t end) const {
    const PrefillPlan& plan = board.plan();
    if (board.running().empty() || board.running().back().gated) return Time{0};
    const std::uint32_t front = board.front();
    if (meet_ == plan.prefix_end() || (end < meet_ && meet_ - end >= (end - front) / 2)) {
      return Time{0};  // needed, come what may
    }
    const ChunkState last = board.state((std::min(end, plan.prefix_end()) - 1) / plan.chunk_tokens);
    if (last != ChunkState::open && last != ChunkState::loading) return Time{0};
    const RunningStep& ahead = board.running().back();
    const double takes = model_.current().pass(ahead.tokens.begin, ahead.tokens.end);
    return ahead.begins + from_seconds(takes - std::max(2e-4, takes / 8));
  }

  void learn(const Board& board) {
    const FinishedStep& last = board.finished();
    if (last.sequence == seen_) return;
    seen_ = last.sequence;
    if (options_.learn && !last.gated) model_.observe(last.tokens, seconds(last.busy));
  }

  // ---- the course ---

  /// Looks for the best course again when things are no longer as they were. Planning may take one
  /// part in a hundred of the run.
  void refresh(const Board& board, Time now, bool idle) {
    if (planned_ && (now < next_look_ || !drifted(board, now, idle ? 0.005 : 0.03))) {
      return;
    }
    if (planned_ && !board.running().empty() && board.running().back().gated) return;
    const PrefillPlan& plan = board.plan();
    for (LaneId l = 0; idle_ != 0 && l < board.n_lanes(); ++l) {
      if (!board.lane(l).in_flight().empty()) idle_ &= ~(1u << l);
    }
    outlook_.look(board, model_.current(), step_, plan.may_gate, now, idle_);
    course_ = outlook_.choose();
    planned_ = true;
    const Time spent = Time(static_cast<Time::rep>(outlook_.visits()) * 10);
    next_look_ = now + std::max(Time(20'000), 100 * spent);
    cost_ = model_.current();
    cost_version_ = model_.version();
    planned_step_ = step_;
    lost_ = board.lost_chunks();
    ready_ = board.front_chunk();
    for (Orders& orders : orders_) orders.clear();
    meet_ = plan.prefix_end();
    for (const Outlook::Item& item : outlook_.items()) {
      computes_[item.chunk] = item.owner == Outlook::kCompute;
      if (item.owner != Outlook::kCompute)
        meet_ = std::min(meet_, plan.chunk_range(item.chunk).begin);
    }
    outlook_.in_load_order([&](const Outlook::Item& item) {
      Orders& orders = orders_[item.owner];
      const bool layered =
          item.begun || (course_.layers != 0 && outlook_.begins(item) >= course_.layered_from);
      (layered ? orders.layered : orders.whole).push_back(item.chunk);
    });
  }

  /// Nobody does anything: whatever has to be decided is decided now.
  static bool stuck(const Board& board) {
    if (!board.running().empty()) return false;
    for (LaneId l = 0; l < board.n_lanes(); ++l) {
      if (!board.lane(l).in_flight().empty()) return false;
    }
    return board.inserting_chunks() == 0;
  }

  /// By more than `share`; chunks that failed and lanes that went down count always.
  bool drifted(const Board& board, Time now, double share) const {
    if (board.lost_chunks() != lost_ || far(step_, planned_step_, 0.25)) return true;
    const double left = std::max(0.0, course_.end - seconds(now));
    for (LaneId l = 0; l < board.n_lanes(); ++l) {
      const LaneModel& lane = board.lane(l);
      const bool out =
          lane.down() || (idle_ != 0 && (idle_ >> l & 1) != 0 && lane.in_flight().empty());
      if (out != ((course_.up >> l & 1) == 0)) return true;
      if (far(lane.seconds_per_byte(now), outlook_.pace(l), share)) return true;
      const double latency = seconds(lane.rate().latency + lane.rate().insert);
      if (std::abs(latency - outlook_.latency(l)) > share * left) return true;
    }
    if (model_.version() == cost_version_) return false;
    const std::uint32_t front = board.front();
    const ComputeCost cost = model_.current();
    const double to = front + step_;
    return far(cost.pass(front, to), cost_.pass(front, to), share);
  }
  static bool far(double a, double b, double share) { return std::abs(a - b) > share * b; }

  /// Lane has nothing to do although chunks that it could read are open.
  static bool idle_lane(const Board& board, LaneId lane) {
    for (const OpenBytes& set : board.open_bytes()) {
      if ((set.tiers >> lane & 1) != 0 && set.bytes != 0) return true;
    }
    return false;
  }

  /// End of the run of tokens behind the front that are compute's.
  std::uint32_t reach(const Board& board, std::uint32_t limit) const {
    const PrefillPlan& plan = board.plan();
    std::uint32_t end = board.front();
    while (end < limit) {
      const std::uint32_t chunk = plan.chunk_of(end);
      if (chunk >= plan.end_chunk) return limit;
      const ChunkState state = board.state(chunk);
      const bool own = state == ChunkState::computing && end == board.front();
      const bool planned =
          computes_[chunk] != 0 && (state == ChunkState::open || state == ChunkState::loading);
      if (!own && !planned && state != ChunkState::hole) break;
      end = std::min(limit, plan.chunk_range(chunk).end);
    }
    return end;
  }

  /// The last stretch before the loads goes in two halves where passes are cheap to start: rates
  /// are known better after the first.
  std::uint32_t shorten(const Board& board, std::uint32_t end) const {
    const PrefillPlan& plan = board.plan();
    const std::uint32_t front = board.front();
    const std::uint32_t chunks = end > front ? (end - front) / plan.chunk_tokens : 0;
    if (end != meet_ || chunks < 2 || cost_.overhead > 0.005 * cost_.pass(front, end)) return end;
    return plan.chunk_range((front + (end - front) / 2) / plan.chunk_tokens).end;
  }

  /// All that lies below the suffix is there, or its first layer is and the others follow. Earlier
  /// the pass could not begin, and while it waits nothing can be taken over.
  bool may_follow(const Board& board) {
    for (; ready_ < board.plan().end_chunk; ++ready_) {
      const ChunkState state = board.state(ready_);
      if (state == ChunkState::resident) continue;
      if (state != ChunkState::loading && state != ChunkState::inserting) return false;
      if (board.doomed(ready_) || !board.layer_resident(ready_, 0)) return false;
    }
    return board.lost_chunks() == lost_;
  }

  /// Layers of one slice, so that it is worth its latency on this lane.
  std::uint32_t slice_layers(const Board& board, LaneId lane) const {
    const PrefillPlan& plan = board.plan();
    const LaneRate& rate = board.lane(lane).rate();
    const double bytes = Outlook::slice_bytes(rate);
    return static_cast<std::uint32_t>(
        std::clamp(std::ceil(bytes / std::max(1.0, static_cast<double>(plan.layer_bytes))), 1.0,
                   static_cast<double>(plan.n_layers)));
  }

  static constexpr std::uint32_t kTrialAfter = 3;  // prompts without a read of a lane that is known

  MeetOptions options_;
  CostModel model_;
  Outlook outlook_;
  Course course_;
  bool planned_ = false;
  Time next_look_{0};
  double step_ = 1;  // what the engine takes in one pass, on average
  double planned_step_ = 1;
  ComputeCost cost_;  // that the course was made with
  std::uint64_t cost_version_ = 0;
  std::uint32_t lost_ = 0;  // chunks whose load had failed by then
  std::uint32_t meet_ = 0;
  std::uint32_t ready_ = 0;  // chunks below it are there, or their first layers are
  std::uint64_t seen_ = 0;
  std::uint32_t tried_ = 0;    // bit set of lanes that had a trial in this run
  std::uint32_t idle_ = 0;     // bit set of lanes that do not begin what is theirs
  Time waits_since_ = kNever;  // compute waits for a load to begin
  Time waits_until_{0};
  std::uint32_t waits_loaded_ = 0;
  std::vector<std::uint8_t> computes_;  // [end_chunk] the course gives it to compute
  std::vector<Orders> orders_;          // [lane]
};

static_assert(Scheduler<MeetInTheMiddleScheduler>);

}  // namespace cake
