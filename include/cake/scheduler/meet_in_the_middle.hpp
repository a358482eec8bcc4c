// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The default scheduler: compute from the front, load from the back, meet at run time. On top of
// the published schedule it knows what a pass and a read cost (and learns it while it runs): it
// follows some dozens of schedules chunk by chunk, takes the best, and looks again when things turn
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

#include "cake/detail/planner/schedule_planner.hpp"
#include "cake/engine.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"

namespace cake::inline CAKE_ABI {

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

  void begin(const PrefillSpec& spec) {
    seen_ = 0;
    planned_ = false;
    tried_ = 0;
    idle_ = 0;
    waits_since_ = kNever;
    step_ = std::min(spec.max_step_tokens, spec.n_tokens);
    computes_.assign(spec.end_chunk, 1);
    queues_.resize(spec.n_lanes);
  }

  const MeetOptions& options() const { return options_; }
  /// Learned so far; kept from prompt to prompt.
  ComputeCost compute_cost() const { return model_.current(); }

  /// Token where the two ends will meet, as things look now.
  std::uint32_t predicted_meet(const RunView& view, Time now) {
    refresh(view, now, false);
    return meet_;
  }

  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    learn(view);
    const PrefillSpec& spec = view.spec();
    const std::uint32_t front = view.front();
    budget = std::min({budget, spec.max_step_tokens, spec.n_tokens});
    const std::uint32_t limit = front + std::min(budget, spec.n_tokens - front);
    if (front >= spec.prefix_end()) return compute(front, limit);
    step_ += (budget - step_) / 4;
    refresh(view, now, false);
    std::uint32_t end = reach(view, limit);
    if (end == front && view.state(view.front_chunk()) == ChunkState::open) {
      if (stuck(view)) planned_ = false;
      refresh(view, now, true);  // compute has nothing to do, and a lane is behind
      end = reach(view, limit);
      if (end == front && nobody_begins(view, now)) end = reach(view, limit);
    }
    if (end > front) {
      waits_since_ = kNever;
      if (const Time ask = when_needed(view, end); ask > now) return wait_until(ask);
      return compute(front, shorten(view, end));
    }
    if (view.may_gate() && schedule_.layers != 0 && may_follow(view)) {
      const std::uint32_t suffix = spec.prefix_end();
      Step step = compute(suffix, suffix + std::min(budget, spec.n_tokens - suffix));
      step.gated = true;
      return step;
    }
    return wait(now);
  }

  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    if (view.open_chunks() == 0 && queues_[lane].empty()) return std::nullopt;
    refresh(view, now, false);
    auto slice = next_slice(view, lane);
    if (slice.layers.empty() && idle_lane(view, lane)) {
      refresh(view, now, true);
      slice = next_slice(view, lane);
    }
    if (slice.layers.empty()) slice = trial(view, lane);
    if (slice.layers.empty()) return std::nullopt;
    const auto bytes = static_cast<double>(view.spec().read_bytes(slice.layers));
    const double expected = to_seconds(view.lane(lane).ready_at(bytes, now) - now);
    // A gated step may wait for what follows a first slice, and that has measured the lane.
    const std::uint32_t measured =
        slice.layers.begin != 0 ? LinkEstimate::kSure : view.lane(lane).rate().measured;
    return LoadRequest{slice, read_deadline(now, options_.deadline_floor,
                                            options_.deadline_factor * expected, measured)};
  }

 private:
  /// What one lane reads: whole chunks first, then the last ones layer by layer.
  struct LaneQueue {
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
    Slice next(const RunView& view, LaneId lane, std::uint32_t layers) {
      for (; at < whole.size(); ++at) {
        const LayerRange all = rest(view, lane, whole[at], view.spec().n_layers);
        if (!all.empty()) return {whole[at], view.spec().object_range(whole[at]), all};
      }
      // The lowest layers that have not been asked for, among the next few chunks.
      Slice best;
      const std::size_t first = at_layer;
      const std::size_t n = layered.size();
      for (std::size_t i = 0; i < n && (best.layers.empty() || i < 8); ++i) {
        const std::size_t index = (first + i) % n;
        const std::uint32_t chunk = layered[index];
        const LayerRange some = rest(view, lane, chunk, layers);
        if (some.empty()) continue;
        if (!best.layers.empty() && some.begin >= best.layers.begin) continue;
        best = {chunk, view.spec().object_range(chunk), some};
        at_layer = (index + 1) % n;
      }
      return best;
    }
    /// Layers of the chunk that may be read next; none: it is not to be read now.
    static LayerRange rest(const RunView& view, LaneId lane, std::uint32_t chunk,
                           std::uint32_t layers) {
      const PrefillSpec& spec = view.spec();
      const std::uint32_t issued = view.layers_issued(chunk);
      const ChunkState state = view.state(chunk);
      const bool ready =
          issued == 0 ? state == ChunkState::open
                      : issued < spec.n_layers && view.parsed(chunk) && !view.unloadable(chunk) &&
                            (state == ChunkState::loading || state == ChunkState::inserting);
      if (!ready || !view.on_lane(chunk, lane)) return {};
      return {issued, std::min(spec.n_layers, issued + layers)};
    }
  };

  Slice next_slice(const RunView& view, LaneId lane) {
    LaneQueue& orders = queues_[lane];
    return orders.next(view, lane, orders.layered.empty() ? 1 : slice_layers(view, lane));
  }

  /// A lane that was never measured, or not for some prompts, may be better than thought: when
  /// nothing is to be read on it, it gets one read of what compute has anyway. The last of it, and
  /// nothing that the next step takes or whose loss would make a pass more.
  Slice trial(const RunView& view, LaneId lane) {
    const LinkEstimator& model = view.lane(lane);
    const LinkEstimate& rate = model.rate();
    if ((tried_ >> lane & 1) != 0 || model.measured() || !model.in_flight().empty() ||
        rate.unused < std::min(kTrialAfter, rate.measured)) {
      return {};
    }
    const PrefillSpec& spec = view.spec();
    if (spec.prefix_end() <= view.front() + step_) return {};
    tried_ |= 1u << lane;
    const std::uint32_t layers = spec.may_gate ? slice_layers(view, lane) : spec.n_layers;
    for (std::uint32_t c = spec.end_chunk; c-- > view.front_chunk();) {
      const TokenRange tokens = spec.chunk_range(c);
      if (tokens.begin < view.front() + step_) break;
      const double passes = std::ceil((tokens.begin - view.front()) / step_) +
                            std::ceil((spec.n_tokens - tokens.end) / step_);
      if (computes_[c] == 0 || passes > std::ceil((spec.n_tokens - view.front()) / step_)) continue;
      const LayerRange first = LaneQueue::rest(view, lane, c, layers);
      if (!first.empty()) return {c, spec.object_range(c), first};
    }
    return {};
  }

  /// Compute waits for lanes that do not begin what is theirs, for want of memory or of threads:
  /// when that has taken twice as long as all loads should have, the schedule goes on without them
  /// until they do.
  bool nobody_begins(const RunView& view, Time now) {
    const std::uint32_t loaded = view.loaded_chunks() + view.inserting_chunks();
    if (waits_since_ == kNever || waits_loaded_ != loaded) {
      waits_since_ = now;
      waits_loaded_ = loaded;
      const Time loads = from_seconds(schedule_.loaded) - now;
      waits_until_ = now + 2 * std::clamp<Time>(loads, Time(20'000), kLongestRead);
      return false;
    }
    if (now < waits_until_) return false;
    idle_ = 0;
    for (LaneId l = 0; l < view.n_lanes(); ++l) {
      idle_ |= std::uint32_t{view.lane(l).in_flight().empty()} << l;
    }
    waits_since_ = kNever;
    if (idle_ == 0) return false;
    planned_ = false;
    refresh(view, now, true);
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
    const Time left = from_seconds(std::abs(schedule_.end - to_seconds(now)));
    return wait_until(now + std::max(Time(20'000), left / 4));
  }

  /// A step that the loads may yet make needless is not enqueued behind another one before that one
  /// is nearly done: what lands meanwhile tells how far it should go.
  Time when_needed(const RunView& view, std::uint32_t end) const {
    const PrefillSpec& spec = view.spec();
    if (view.running().empty() || view.running().back().gated) return Time{0};
    const std::uint32_t front = view.front();
    if (meet_ == spec.prefix_end() || (end < meet_ && meet_ - end >= (end - front) / 2)) {
      return Time{0};  // needed, come what may
    }
    const ChunkState last = view.state((std::min(end, spec.prefix_end()) - 1) / spec.chunk_tokens);
    if (last != ChunkState::open && last != ChunkState::loading) return Time{0};
    const RunningStep& ahead = view.running().back();
    const double takes = model_.current().pass(ahead.tokens.begin, ahead.tokens.end);
    return ahead.begins + from_seconds(takes - std::max(2e-4, takes / 8));
  }

  void learn(const RunView& view) {
    const FinishedStep& last = view.finished();
    if (last.sequence == seen_) return;
    seen_ = last.sequence;
    if (options_.learn && !last.gated) model_.observe(last.tokens, to_seconds(last.busy));
  }

  // ---- the schedule ---

  /// Looks for the best schedule again when things are no longer as they were. Planning may take one
  /// part in a hundred of the run.
  void refresh(const RunView& view, Time now, bool idle) {
    if (planned_ && (now < next_look_ || !drifted(view, now, idle ? 0.005 : 0.03))) {
      return;
    }
    if (planned_ && !view.running().empty() && view.running().back().gated) return;
    const PrefillSpec& spec = view.spec();
    for (LaneId l = 0; idle_ != 0 && l < view.n_lanes(); ++l) {
      if (!view.lane(l).in_flight().empty()) idle_ &= ~(1u << l);
    }
    planner_.look(view, model_.current(), step_, spec.may_gate, now, idle_);
    schedule_ = planner_.choose();
    planned_ = true;
    const Time spent = Time(static_cast<Time::rep>(planner_.visits()) * 10);
    next_look_ = now + std::max(Time(20'000), 100 * spent);
    cost_ = model_.current();
    cost_version_ = model_.version();
    planned_step_ = step_;
    lost_ = view.lost_chunks();
    ready_ = view.front_chunk();
    for (LaneQueue& orders : queues_) orders.clear();
    meet_ = spec.prefix_end();
    for (const detail::SchedulePlanner::Item& item : planner_.items()) {
      computes_[item.chunk] = item.owner == detail::SchedulePlanner::kCompute;
      if (item.owner != detail::SchedulePlanner::kCompute)
        meet_ = std::min(meet_, spec.chunk_range(item.chunk).begin);
    }
    planner_.in_load_order([&](const detail::SchedulePlanner::Item& item) {
      LaneQueue& orders = queues_[item.owner];
      const bool layered =
          item.begun || (schedule_.layers != 0 && planner_.begins(item) >= schedule_.layered_from);
      (layered ? orders.layered : orders.whole).push_back(item.chunk);
    });
  }

  /// Nobody does anything: whatever has to be decided is decided now.
  static bool stuck(const RunView& view) {
    if (!view.running().empty()) return false;
    for (LaneId l = 0; l < view.n_lanes(); ++l) {
      if (!view.lane(l).in_flight().empty()) return false;
    }
    return view.inserting_chunks() == 0;
  }

  /// By more than `share`; chunks that failed and lanes that went down count always.
  bool drifted(const RunView& view, Time now, double share) const {
    if (view.lost_chunks() != lost_ || far(step_, planned_step_, 0.25)) return true;
    const double left = std::max(0.0, schedule_.end - to_seconds(now));
    for (LaneId l = 0; l < view.n_lanes(); ++l) {
      const LinkEstimator& lane = view.lane(l);
      const bool out =
          lane.down() || (idle_ != 0 && (idle_ >> l & 1) != 0 && lane.in_flight().empty());
      if (out != ((schedule_.up >> l & 1) == 0)) return true;
      if (far(lane.seconds_per_byte(now), planner_.pace(l), share)) return true;
      const double latency = to_seconds(lane.rate().latency + lane.rate().insert);
      if (std::abs(latency - planner_.latency(l)) > share * left) return true;
    }
    if (model_.version() == cost_version_) return false;
    const std::uint32_t front = view.front();
    const ComputeCost cost = model_.current();
    const double to = front + step_;
    return far(cost.pass(front, to), cost_.pass(front, to), share);
  }
  static bool far(double a, double b, double share) { return std::abs(a - b) > share * b; }

  /// Lane has nothing to do although chunks that it could read are open.
  static bool idle_lane(const RunView& view, LaneId lane) {
    for (const OpenBytes& set : view.open_bytes()) {
      if ((set.tiers >> lane & 1) != 0 && set.bytes != 0) return true;
    }
    return false;
  }

  /// End of the run of tokens behind the front that are compute's.
  std::uint32_t reach(const RunView& view, std::uint32_t limit) const {
    const PrefillSpec& spec = view.spec();
    std::uint32_t end = view.front();
    while (end < limit) {
      const std::uint32_t chunk = spec.chunk_of(end);
      if (chunk >= spec.end_chunk) return limit;
      const ChunkState state = view.state(chunk);
      const bool own = state == ChunkState::computing && end == view.front();
      const bool planned =
          computes_[chunk] != 0 && (state == ChunkState::open || state == ChunkState::loading);
      if (!own && !planned && state != ChunkState::hole) break;
      end = std::min(limit, spec.chunk_range(chunk).end);
    }
    return end;
  }

  /// The last stretch before the loads goes in two halves where passes are cheap to start: rates
  /// are known better after the first.
  std::uint32_t shorten(const RunView& view, std::uint32_t end) const {
    const PrefillSpec& spec = view.spec();
    const std::uint32_t front = view.front();
    const std::uint32_t chunks = end > front ? (end - front) / spec.chunk_tokens : 0;
    if (end != meet_ || chunks < 2 || cost_.overhead > 0.005 * cost_.pass(front, end)) return end;
    return spec.chunk_range((front + (end - front) / 2) / spec.chunk_tokens).end;
  }

  /// All that lies below the suffix is there, or its first layer is and the others follow. Earlier
  /// the pass could not begin, and while it waits nothing can be taken over.
  bool may_follow(const RunView& view) {
    for (; ready_ < view.spec().end_chunk; ++ready_) {
      const ChunkState state = view.state(ready_);
      if (state == ChunkState::resident) continue;
      if (state != ChunkState::loading && state != ChunkState::inserting) return false;
      if (view.unloadable(ready_) || !view.layer_resident(ready_, 0)) return false;
    }
    return view.lost_chunks() == lost_;
  }

  /// Layers of one slice, so that it is worth its latency on this lane.
  std::uint32_t slice_layers(const RunView& view, LaneId lane) const {
    const PrefillSpec& spec = view.spec();
    const LinkEstimate& rate = view.lane(lane).rate();
    const double bytes = detail::SchedulePlanner::slice_bytes(rate);
    return static_cast<std::uint32_t>(
        std::clamp(std::ceil(bytes / std::max(1.0, static_cast<double>(spec.layer_bytes))), 1.0,
                   static_cast<double>(spec.n_layers)));
  }

  static constexpr std::uint32_t kTrialAfter = 3;  // prompts without a read of a lane that is known

  MeetOptions options_;
  ComputeCostEstimator model_;
  detail::SchedulePlanner planner_;
  detail::Schedule schedule_;
  bool planned_ = false;
  Time next_look_{0};
  double step_ = 1;  // what the engine takes in one pass, on average
  double planned_step_ = 1;
  ComputeCost cost_;  // that the schedule was made with
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
  std::vector<std::uint8_t> computes_;  // [end_chunk] the schedule gives it to compute
  std::vector<LaneQueue> queues_;       // [lane]
};

static_assert(Scheduler<MeetInTheMiddleScheduler>);

}  // namespace cake::inline CAKE_ABI
