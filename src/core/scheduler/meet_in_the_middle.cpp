// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/meet_in_the_middle.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "cake/detail/admission.hpp"
#include "cake/detail/planner/search.hpp"
#include "cake/detail/planner/tuning.hpp"

namespace cake::inline CAKE_ABI {

namespace {

using detail::ChunkLayers;
using detail::kCompute;
using detail::kPlannerTuning;
using detail::LaneMask;

Step compute(std::uint32_t begin, std::uint32_t end) {
  Step step;
  step.kind = Step::Kind::compute;
  step.tokens = {begin, end};
  return step;
}

Step wait_until(Time until) {
  Step step;
  step.kind = Step::Kind::wait;
  step.until = until;
  return step;
}

/// Nobody does anything: whatever has to be decided is decided now.
bool stuck(const RunView& view) {
  if (!view.running().empty()) return false;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    if (!view.lane(l).in_flight().empty()) return false;
  }
  return view.inserting_chunks() == 0;
}

/// The lane has nothing to do although chunks that it could read are open.
bool idle_lane(const RunView& view, LaneId lane) {
  for (const OpenBytes& set : view.open_bytes()) {
    if ((set.tiers >> lane & 1) != 0 && set.bytes != 0) return true;
  }
  return false;
}

/// The chunk is to be loaded, and no lane is at it.
bool nobody_reads(const RunView& view, std::uint32_t chunk) {
  const ChunkState state = view.state(chunk);
  if (state != ChunkState::loading) return state == ChunkState::open;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    for (const LinkEstimator::Flight& flight : view.lane(l).in_flight()) {
      if (flight.chunk == chunk) return false;
    }
  }
  return true;
}

/// The lane reads something that is still to be loaded; a read of what compute has taken over goes on, for nobody.
bool reads_for_us(const RunView& view, LaneId lane) {
  const auto& flights = view.lane(lane).in_flight();
  return std::any_of(flights.begin(), flights.end(), [&](const LinkEstimator::Flight& flight) {
    return view.state(flight.chunk) == ChunkState::loading;
  });
}

/// Bytes of a slice that is worth its latency on this lane.
double slice_bytes(const RunView& view, LaneId lane) {
  return detail::worthwhile_slice_bytes(view.lane(lane).rate(), view.spec().reads_at_once);
}

}  // namespace

MeetInTheMiddleScheduler::MeetInTheMiddleScheduler(const MeetOptions& options)
    : options_(options), compute_(options.cost, options.smallest_step) {}
MeetInTheMiddleScheduler::MeetInTheMiddleScheduler(const MeetInTheMiddleScheduler&) = default;
MeetInTheMiddleScheduler::MeetInTheMiddleScheduler(MeetInTheMiddleScheduler&&) noexcept = default;
MeetInTheMiddleScheduler& MeetInTheMiddleScheduler::operator=(const MeetInTheMiddleScheduler&) =
    default;
MeetInTheMiddleScheduler& MeetInTheMiddleScheduler::operator=(MeetInTheMiddleScheduler&&) noexcept =
    default;
MeetInTheMiddleScheduler::~MeetInTheMiddleScheduler() = default;

void MeetInTheMiddleScheduler::begin(const PrefillSpec& spec) {
  schedule_.reset(spec);
  if (spec.smallest_step > options_.smallest_step && !compute_.measured()) {
    compute_ = ComputeCostEstimator(options_.cost, spec.smallest_step);  // the engine knows better
  }
  planned_ = false;
  step_tokens_ = std::min(spec.max_step_tokens, spec.n_tokens);
  learned_ = 0;
  tried_ = 0;
  not_starting_ = 0;
  waits_since_ = kNever;
  asked_ = kNever;
  tested_ = 0;
  voids_ = 0;
}

/// Things are as the schedule assumes, or it was searched a moment ago.
inline bool MeetInTheMiddleScheduler::holds(const RunView& view, Time now, bool idle) const {
  if (!planned_) return false;
  if (now < next_search_) return true;
  const double share = idle ? kPlannerTuning.replan_share_idle : kPlannerTuning.replan_share;
  return !detail::drift(schedule_.assumptions, view, basis(view, now), now, share);
}

std::uint32_t MeetInTheMiddleScheduler::predicted_meet(const RunView& view, Time now) {
  refresh(view, now, false);
  return schedule_.meet_token;
}

// ---- steps ----

/// Bounds the budget; returns the last token that the step may reach.
std::uint32_t MeetInTheMiddleScheduler::begin_step(const RunView& view, std::uint32_t& budget) {
  learn(view);
  const PrefillSpec& spec = view.spec();
  budget = std::min({budget, spec.max_step_tokens, spec.n_tokens});
  return view.front() + std::min(budget, spec.n_tokens - view.front());
}

Step MeetInTheMiddleScheduler::next_step(const RunView& view, std::uint32_t budget, Time now) {
  const std::uint32_t limit = begin_step(view, budget);
  const PrefillSpec& spec = view.spec();
  const std::uint32_t front = view.front();
  if (front >= spec.prefix_end()) return compute(front, limit);
  if (planned_ && other_front(view)) planned_ = false;
  step_tokens_ += (budget - step_tokens_) / kPlannerTuning.step_average;
  std::uint32_t end = end_of_step(view, limit, now);
  const bool idle = view.running().empty();
  if (cost_is_guess(view)) {
    if (!idle) return wait(now);  // that one will show what passes cost
    if (asked_ == kNever) asked_ = now;
    if (const Time known = lanes_known_at(view); known > now) return wait_until(known);
    end = test_step(view, end, limit);
  } else {
    const bool in_doubt = end == front && idle && compute_.in_doubt();
    if (in_doubt) {
      if (view.state(view.front_chunk()) == ChunkState::inserting) return wait(now);
      end = test_step(view, front, limit);
    }
    end = std::min(end, front + most_tested());
  }
  if (end > front) return ungated(view, budget, end, now);
  if (tested_ != 0 && !idle) return wait(now);  // that one shows what passes cost
  if (view.may_gate() && schedule_.forecast.slice_layers != 0 && suffix_may_follow(view)) {
    const std::uint32_t suffix = spec.prefix_end();
    const std::uint32_t most = spec.gated_step_tokens(suffix, budget);
    Step step = compute(suffix, suffix + std::min(most, spec.n_tokens - suffix));
    step.gated = true;
    return step;
  }
  return wait(now);
}

std::optional<Step> MeetInTheMiddleScheduler::step_at_once(const RunView& view,
                                                           std::uint32_t budget, Time now) {
  const std::uint32_t limit = begin_step(view, budget);
  const std::uint32_t front = view.front();
  if (front >= view.spec().prefix_end()) return compute(front, limit);
  if (!planned_ || other_front(view) || cost_is_guess(view)) return std::nullopt;
  const double before = step_tokens_;
  step_tokens_ += (budget - step_tokens_) / kPlannerTuning.step_average;
  if (holds(view, now, false)) {
    const std::uint32_t end = std::min(reach(view, limit), front + most_tested());
    if (end > front) return ungated(view, budget, end, now);
  }
  step_tokens_ = before;
  return std::nullopt;
}

/// Compute goes on at the front, up to `end`.
Step MeetInTheMiddleScheduler::ungated(const RunView& view, std::uint32_t budget, std::uint32_t end,
                                       Time now) {
  waits_since_ = kNever;
  if (const Time ask = when_needed(view, end); ask > now) return wait_until(ask);
  const std::uint32_t front = view.front();
  if (view.context_from() == front) return compute(front, shorten(view, end));
  planned_ = false;  // other chunks are left from now on
  const std::uint32_t begin = snapshot_.begin_from;
  return compute(begin, std::min(end, begin + budget));
}

/// Layers have windows or states, and compute could not begin at the front, or not where it can now, when
/// the schedule was searched.
bool MeetInTheMiddleScheduler::other_front(const RunView& view) const {
  if (!snapshot_.partial) return false;
  const std::uint32_t front = view.front();
  const std::uint32_t from = view.context_from();
  if (from != front && (front != snapshot_.front || from != snapshot_.context_from)) return true;
  return front == snapshot_.front && !snapshot_.chunks.empty() &&
         !snapshot_.chunks.front().computable &&
         view.state(view.front_chunk()) == ChunkState::loading;
}

/// Where the next step ends by a schedule that still holds; the front when compute has nothing to do.
std::uint32_t MeetInTheMiddleScheduler::end_of_step(const RunView& view, std::uint32_t limit,
                                                    Time now) {
  const std::uint32_t front = view.front();
  refresh(view, now, false);
  std::uint32_t end = reach(view, limit);
  if (end != front || !nobody_reads(view, view.front_chunk())) return end;
  if (stuck(view)) planned_ = false;
  refresh(view, now, true);  // compute has nothing to do, and a lane is behind
  end = reach(view, limit);
  return end == front && loads_do_not_begin(view, now) ? reach(view, limit) : end;
}

/// End of the run of tokens behind the front that are compute's.
std::uint32_t MeetInTheMiddleScheduler::reach(const RunView& view, std::uint32_t limit) const {
  const PrefillSpec& spec = view.spec();
  std::uint32_t end = view.front();
  while (end < limit) {
    const std::uint32_t chunk = spec.chunk_of(end);
    if (chunk >= spec.end_chunk) return limit;
    if (!detail::may_compute_chunk(view, chunk, end)) break;
    const ChunkState state = view.state(chunk);
    const bool loadable = state == ChunkState::open || state == ChunkState::loading;
    if (loadable && schedule_.owner[chunk] != kCompute) break;
    end = std::min(limit, spec.chunk_range(chunk).end);
  }
  return end;
}

/// The last stretch before the loads goes in two halves where passes are cheap to start: rates are
/// known better after the first.
std::uint32_t MeetInTheMiddleScheduler::shorten(const RunView& view, std::uint32_t end) const {
  const PrefillSpec& spec = view.spec();
  const std::uint32_t front = view.front();
  const std::uint32_t chunks = end > front ? (end - front) / spec.chunk_tokens : 0;
  if (end != schedule_.meet_token || chunks < 2) return end;
  const ComputeCost& cost = schedule_.assumptions.cost;
  if (cost.overhead > kPlannerTuning.halve_overhead_share * cost.pass(front, end)) return end;
  return spec.chunk_range((front + (end - front) / 2) / spec.chunk_tokens).end;
}

/// A step whose tokens may still be loaded is not enqueued behind another one before that one is
/// nearly done: what lands meanwhile decides how far it should go.
Time MeetInTheMiddleScheduler::when_needed(const RunView& view, std::uint32_t end) const {
  const PrefillSpec& spec = view.spec();
  if (view.running().empty() || view.running().back().gated) return Time{0};
  const std::uint32_t front = view.front();
  const std::uint32_t meet = schedule_.meet_token;
  if (meet == spec.prefix_end() || (end < meet && meet - end >= (end - front) / 2)) {
    return Time{0};  // needed in any case
  }
  const ChunkState last = view.state((std::min(end, spec.prefix_end()) - 1) / spec.chunk_tokens);
  if (last != ChunkState::open && last != ChunkState::loading) return Time{0};
  const RunningStep& ahead = view.running().back();
  const double takes = compute_.current().pass(ahead.tokens.begin, ahead.tokens.end);
  return ahead.begins +
         from_seconds(takes - std::max(kPlannerTuning.enqueue_ahead_s,
                                       takes / kPlannerTuning.enqueue_ahead_divisor));
}

// ---- guesses ----

detail::PlanBasis MeetInTheMiddleScheduler::basis(const RunView& view, Time now) const {
  return {compute_, step_tokens_, not_starting_, slowdown(view, now)};
}

/// How many times what is known of passes they are taken to cost: more than once while a step should have ended.
double MeetInTheMiddleScheduler::slowdown(const RunView& view, Time now) const {
  if (view.running().empty() || view.running().front().gated) return 1;
  const RunningStep& step = view.running().front();
  const double expected = compute_.current().pass(step.tokens.begin, step.tokens.end);
  const double taken = to_seconds(now - step.begins);
  return taken > kPlannerTuning.overdue * expected ? taken / expected : 1;
}

/// Nobody has measured a pass of this model: what it costs may be far from what was said.
bool MeetInTheMiddleScheduler::cost_is_guess(const RunView& view) const {
  return options_.learn && !options_.cost_is_measured && !compute_.measured() &&
         view.finished().sequence == 0;
}

/// Until when the first step waits for lanes of which nothing is known either: their first read shows what all
/// may take.
Time MeetInTheMiddleScheduler::lanes_known_at(const RunView& view) const {
  bool reads = false;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    if (view.lane(l).rate().measured != 0) return Time{0};
    reads = reads || !view.lane(l).in_flight().empty() || idle_lane(view, l);
  }
  if (!reads) return Time{0};
  const Time all =
      from_seconds(compute_.current().passes(view.front(), view.spec().n_tokens, step_tokens_));
  return asked_ +
         std::min(kPlannerTuning.first_landing_wait, all / kPlannerTuning.first_landing_divisor);
}

/// The first step of a model is a short one, which measures its passes, also where the schedule has nothing for compute; the
/// next one begins when that has ended.
std::uint32_t MeetInTheMiddleScheduler::test_step(const RunView& view, std::uint32_t end,
                                                  std::uint32_t limit) const {
  const std::uint32_t front = view.front();
  const std::uint32_t test = test_end(view, limit);
  if (end > front) {
    const ComputeCost cost = compute_.current();
    const bool saves = cost.pass(front, test) < kPlannerTuning.test_share * cost.pass(front, end);
    return saves ? test : end;
  }
  if (snapshot_.partial || test == front) return front;
  return worth_testing(view, test) ? test : front;
}

/// Tokens of the longest step in the first run of a model: a pass tells little of much longer ones.
std::uint32_t MeetInTheMiddleScheduler::most_tested() const {
  constexpr std::uint32_t kAny = std::uint32_t{1} << 30;
  return tested_ == 0
             ? kAny
             : std::min(tested_, kAny / kPlannerTuning.next_test) * kPlannerTuning.next_test;
}

/// Where such a step ends.
std::uint32_t MeetInTheMiddleScheduler::test_end(const RunView& view, std::uint32_t limit) const {
  const PrefillSpec& spec = view.spec();
  const std::uint32_t tokens = std::max(kPlannerTuning.test_tokens, options_.smallest_step);
  const std::uint32_t last = spec.chunk_of(std::min(view.front() + tokens, spec.prefix_end()) - 1);
  return detail::compute_end(view, std::min(limit, spec.chunk_range(last).end));
}

/// If the guess is right, the test ends before the loads do and costs nothing. Where it would end later it costs what the
/// guess is too low by, and where it is not made loads may be waited for that compute could have spared. A read that is late
/// changes nothing: threads of a busy machine are.
bool MeetInTheMiddleScheduler::worth_testing(const RunView& view, std::uint32_t end) const {
  double loads = 0;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    const LinkEstimator& lane = view.lane(l);
    loads += static_cast<double>(lane.bytes_in_flight()) / lane.rate().bytes_per_second;
  }
  for (const OpenBytes& set : view.open_bytes()) {
    double rate = 1;  // bytes per second, of all lanes that can read them
    for (LaneId l = 0; l < view.n_lanes(); ++l) {
      if ((set.tiers >> l & 1) != 0) rate += view.lane(l).rate().bytes_per_second;
    }
    loads += static_cast<double>(set.bytes) / rate;
  }
  return loads > compute_.current().pass(view.front(), end);
}

/// Until the scheduler is asked again: the sooner the nearer the forecast end is, and less and less
/// often after it; soon after loads that do not begin should be given up.
Step MeetInTheMiddleScheduler::wait(Time now) const {
  const Time left = from_seconds(std::abs(schedule_.forecast.finish - to_seconds(now)));
  Time until = now + std::max(kPlannerTuning.shortest_wait, left / kPlannerTuning.wait_divisor);
  if (waits_since_ != kNever && waits_until_ > now) {
    until = std::min(until, now + kPlannerTuning.not_begun_polls * (waits_until_ - now));
  }
  return wait_until(until);
}

/// Compute waits for lanes that do not begin what they should read, for want of memory or of threads:
/// when that has taken twice as long as all loads should have, the schedule goes on without them
/// until they do.
bool MeetInTheMiddleScheduler::loads_do_not_begin(const RunView& view, Time now) {
  const std::uint32_t loaded = view.loaded_chunks() + view.inserting_chunks();
  if (waits_since_ == kNever || waits_loaded_ != loaded) {
    waits_since_ = now;
    waits_loaded_ = loaded;
    const Time loads = from_seconds(schedule_.forecast.loads_done) - now;
    waits_until_ = now + kPlannerTuning.not_begun_factor *
                             std::clamp(loads, kPlannerTuning.shortest_wait, kLongestRead);
    return false;
  }
  if (now < waits_until_) return false;
  not_starting_ = 0;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    not_starting_ |= LaneMask{view.lane(l).in_flight().empty()} << l;
  }
  waits_since_ = kNever;
  if (not_starting_ == 0) return false;
  planned_ = false;
  refresh(view, now, true);
  return true;
}

/// All that lies below the suffix is resident, or its first layer is and the others follow, by lanes whose
/// rates are no guesses. Earlier the pass could not begin, and while it waits nothing can be taken over.
bool MeetInTheMiddleScheduler::suffix_may_follow(const RunView& view) {
  for (; ready_ < view.spec().end_chunk; ++ready_) {
    const ChunkState state = view.state(ready_);
    if (state == ChunkState::resident) continue;
    if (state != ChunkState::loading && state != ChunkState::inserting) return false;
    if (view.unloadable(ready_) || !view.layer_resident(ready_, 0)) return false;
    if (schedule_.owner[ready_] == kCompute) return false;
  }
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    const LinkEstimator& link = view.lane(l);
    const bool brings = reads_for_us(view, l) || !schedule_.queues[l].empty();
    if (brings && link.rate().measured == 0) return false;
  }
  return view.lost_chunks() == schedule_.assumptions.lost_chunks;
}

// ---- gates ----

/// When all that a gated step waits for will be there, if lanes go on as they do. Unit: seconds.
double MeetInTheMiddleScheduler::loads_end(const RunView& view, Time now) const {
  const PrefillSpec& spec = view.spec();
  std::array<double, kMaxTiers> bytes{};
  for (std::uint32_t c = view.front_chunk(); c < spec.end_chunk; ++c) {
    const std::uint8_t owner = schedule_.owner[c];
    const std::uint32_t issued = view.layers_issued(c);
    const std::uint32_t needed = view.layers_needed(c);
    if (owner >= view.n_lanes() || issued >= needed) continue;
    bytes[owner] += static_cast<double>(spec.read_bytes({issued, needed}));
  }
  Time end = now;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    const LinkEstimator& lane = view.lane(l);
    if (bytes[l] > 0) end = std::max(end, lane.ready_at(bytes[l], now));
    if (!lane.in_flight().empty()) end = std::max(end, lane.drained_at(now));
  }
  return to_seconds(end);
}

Time MeetInTheMiddleScheduler::gate_until(const RunView& view, Time now) {
  if (voids_ >= kPlannerTuning.most_voids) return kNever;
  const double at = to_seconds(now);
  const double last_layer = snapshot_.first_pass_s / view.spec().n_layers;
  const double stay = loads_end(view, now) + last_layer - at;
  const Time again =
      now + std::max(kPlannerTuning.replan_pause, from_seconds(stay / kPlannerTuning.gate_looks));
  if (at + stay < schedule_.forecast.finish) return again;
  detail::PlanBasis as_if = basis(view, now);
  as_if.without_gated = true;
  detail::take_snapshot(view, as_if, now, snapshot_);
  detail::Schedule instead;
  detail::search(snapshot_, assignment_, instead);
  if (instead.forecast.finish - at > kPlannerTuning.void_gate_share * stay) return again;
  ++voids_;
  planned_ = false;
  return now;
}

// ---- loads ----

inline ChunkLayers MeetInTheMiddleScheduler::next_layers(const RunView& view, LaneId lane) {
  detail::LaneQueue& queue = schedule_.queues[lane];
  const ChunkLayers whole = queue.next_whole(view, lane);
  if (!whole.layers.empty() || queue.layered.empty()) return whole;
  return queue.next_layered(view, lane, slice_bytes(view, lane));
}

std::optional<LoadRequest> MeetInTheMiddleScheduler::next_load(const RunView& view, LaneId lane,
                                                               Time now) {
  if (view.open_chunks() == 0 && schedule_.queues[lane].empty()) return std::nullopt;
  if (!holds(view, now, false)) search(view, now);
  ChunkLayers next = next_layers(view, lane);
  if (next.layers.empty()) next = idle_layers(view, lane, now);
  if (next.layers.empty()) return std::nullopt;
  const auto bytes = static_cast<double>(view.spec().read_bytes(next.layers));
  const LinkEstimator& link = view.lane(lane);
  const Time takes = link.ready_at(bytes, now) - now;
  if (takes - link.insert_of(bytes) > view.spec().read_timeout && !link.in_flight().empty()) {
    return std::nullopt;  // when those that it would wait for have ended
  }
  const double expected = to_seconds(takes);
  // A gated step may wait for what follows a first slice, and that has measured the lane.
  const std::uint32_t measured =
      next.layers.begin != 0 ? LinkEstimate::kSure : link.rate().measured;
  const Slice slice{next.chunk, view.spec().object_range(next.chunk), next.layers};
  return LoadRequest{slice, read_deadline(now, options_.deadline_floor,
                                          options_.deadline_factor * expected, measured)};
}

/// What the lane reads where the schedule has nothing for it.
ChunkLayers MeetInTheMiddleScheduler::idle_layers(const RunView& view, LaneId lane, Time now) {
  if (idle_lane(view, lane)) {
    refresh(view, now, true);
    const ChunkLayers next = next_layers(view, lane);
    if (!next.layers.empty()) return next;
  }
  if (cost_is_guess(view) && view.lane(lane).rate().measured != 0) {
    const ChunkLayers next = ahead(view, lane);
    if (!next.layers.empty()) return next;
  }
  return trial(view, lane);
}

/// While nobody has measured a pass, a lane goes on with what the guess gives to compute, from the back: passes
/// may be far dearer, and then it would have lost the time until one has ended.
ChunkLayers MeetInTheMiddleScheduler::ahead(const RunView& view, LaneId lane) const {
  const PrefillSpec& spec = view.spec();
  const std::uint32_t test = test_end(view, spec.prefix_end());
  const double dear =
      kPlannerTuning.dearer_than_guessed * compute_.current().pass(0, spec.chunk_tokens);
  const double takes = view.lane(lane).seconds_per_byte(Time{0}) *
                       static_cast<double>(spec.read_bytes({0, spec.n_layers}));
  if (takes > dear) return {};
  for (std::uint32_t c = spec.end_chunk; c-- > view.front_chunk();) {
    if (spec.chunk_range(c).begin < test) break;
    if (view.state(c) != ChunkState::open || schedule_.owner[c] != kCompute) continue;
    const LayerRange all = detail::next_layers(view, lane, c, spec.n_layers);
    if (!all.empty()) return {c, all};
  }
  return {};
}

/// A lane that was never measured, or not for as many prompts as its rate rests on reads, may be better than
/// thought: when nothing is to be read on it, it gets one read of what compute has anyway. The last of it, and
/// nothing that the next step takes or whose loss would make a pass more.
ChunkLayers MeetInTheMiddleScheduler::trial(const RunView& view, LaneId lane) {
  const LinkEstimator& link = view.lane(lane);
  const LinkEstimate& rate = link.rate();
  if ((tried_ >> lane & 1) != 0 || link.measured() || !link.in_flight().empty() ||
      rate.unused < rate.measured) {
    return {};
  }
  const PrefillSpec& spec = view.spec();
  const bool guess = cost_is_guess(view);
  const double next = guess ? test_end(view, spec.prefix_end()) : view.front() + step_tokens_;
  if (spec.prefix_end() <= next) return {};
  tried_ |= 1u << lane;
  const std::uint32_t layers =
      spec.may_gate ? detail::worthwhile_layers(spec, 0, slice_bytes(view, lane)) : spec.n_layers;
  for (std::uint32_t c = spec.end_chunk; c-- > view.front_chunk();) {
    const TokenRange tokens = spec.chunk_range(c);
    if (tokens.begin < next) break;
    const double passes = std::ceil((tokens.begin - view.front()) / step_tokens_) +
                          std::ceil((spec.n_tokens - tokens.end) / step_tokens_);
    if (!guess && passes > std::ceil((spec.n_tokens - view.front()) / step_tokens_)) continue;
    if (schedule_.owner[c] != kCompute) continue;
    const LayerRange first = detail::next_layers(view, lane, c, layers);
    if (!first.empty()) return {c, first};
  }
  return {};
}

// ---- the schedule ----

void MeetInTheMiddleScheduler::learn(const RunView& view) {
  while (learned_ < view.finished().sequence) {
    const FinishedStep* const step = view.finished(++learned_);
    if (step != nullptr) learn(view, *step);
  }
}

void MeetInTheMiddleScheduler::learn(const RunView& view, const FinishedStep& step) {
  if (tested_ != 0 || (!compute_.measured() && !options_.cost_is_measured))
    tested_ = std::max(tested_, step.tokens.size());
  if (!options_.learn) return;
  if (step.gated) {
    learn_gated(view, step);
  } else {
    compute_.observe(step.tokens, to_seconds(step.busy));
  }
}

/// A pass may have waited in its gates, so that it takes no longer than it was busy. Less than expected is news: where
/// compute looks too dear for any other step, nothing else would tell. A wide step is taken for the first of its passes.
void MeetInTheMiddleScheduler::learn_gated(const RunView& view, const FinishedStep& last) {
  const double begin = last.tokens.begin;
  const double end = last.tokens.end;
  const double step = view.spec().max_step_tokens;
  const ComputeCost cost = compute_.current();
  const double expected = cost.passes(begin, end, step);
  const double busy = to_seconds(last.busy);
  if (busy > kPlannerTuning.gated_news * expected) return;
  TokenRange first = last.tokens;
  first.end = std::min(first.end, first.begin + view.spec().max_step_tokens);
  compute_.observe(first, busy * cost.pass(first.begin, first.end) / expected);
}

/// Searches for the best schedule again when things are no longer as the last one assumed.
void MeetInTheMiddleScheduler::refresh(const RunView& view, Time now, bool idle) {
  if (!holds(view, now, idle)) search(view, now);
}

void MeetInTheMiddleScheduler::search(const RunView& view, Time now) {
  if (planned_ && !view.running().empty() && view.running().back().gated) return;
  for (LaneId l = 0; not_starting_ != 0 && l < view.n_lanes(); ++l) {
    if (!view.lane(l).in_flight().empty()) not_starting_ &= ~(1u << l);
  }
  detail::take_snapshot(view, basis(view, now), now, snapshot_);
  detail::search(snapshot_, assignment_, schedule_);
  planned_ = true;
  const auto spent = static_cast<Time::rep>(schedule_.visits) * kPlannerTuning.visit_cost;
  next_search_ =
      now + std::max(kPlannerTuning.replan_pause, kPlannerTuning.replan_cost_factor * spent);
  ready_ = view.front_chunk();
}

}  // namespace cake::inline CAKE_ABI
