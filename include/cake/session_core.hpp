// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run without I/O, thread or clock: the claims, and a scheduler that is asked what to
// claim next. The same code runs behind real lanes and in virtual time. One thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/claims.hpp"

namespace cake {

template <Scheduler S>
class SessionCore : public Claims {
 public:
  explicit SessionCore(S scheduler = S(), const SessionOptions& options = {})
      : Claims(options), scheduler_(std::move(scheduler)) {}

  /// `stored` holds plan.end_chunk entries; priors one per lane.
  void begin(const PrefillPlan& plan, std::vector<StoredChunk> stored,
             std::span<const LaneRate> priors) {
    Claims::begin(plan, std::move(stored), priors);
    declined_.assign(priors.size(), 0);
    idle_since_ = kNever;
    impatient_ = false;
    scheduler_.begin(board_.plan());
    if constexpr (requires { scheduler_.predicted_meet(board_, Time{0}); }) {
      predicted_meet_ = scheduler_.predicted_meet(board_, Time{0});
    }
  }

  const S& scheduler() const { return scheduler_; }

  /// What compute does next; `budget` is the most tokens of the step, `may_gate` whether it may
  /// start before the KV below it is whole.
  Step next_step(std::uint32_t budget, bool may_gate, Time now) {
    expire(now);
    if (over()) return {};
    budget = std::min(budget, board_.plan().max_step_tokens);
    if (board_.front() >= board_.plan().n_tokens || board_.running().size() >= 2 || budget == 0 ||
        newest_gate_shut()) {
      return wait_until(kNever, now);
    }
    set_may_gate(may_gate);
    Step step = scheduler_.next_step(board_, budget, now);
    if (step.kind == Step::Kind::compute) {
      step.tokens.end = std::min(step.tokens.end, step.tokens.begin + budget);
      if (may_claim(board_, step)) {
        idle_since_ = kNever;
        return claim(step, now);
      }
      ++scheduler_faults_;
    }
    return fall_back(budget, step.kind == Step::Kind::wait ? step.until : now, now);
  }

  /// The next read for a lane that has room for `max_bytes`; none: ask again when something
  /// changed.
  std::optional<LoadOrder> next_load(LaneId lane, std::uint64_t max_bytes, Time now) {
    if (over() || lane >= board_.n_lanes() || board_.lane(lane).down() || !has_room(lane)) {
      return std::nullopt;
    }
    const std::optional<Load> load = scheduler_.next_load(board_, lane, now);
    if (!load || !may_load(board_, *load, lane)) {
      if (load) ++scheduler_faults_;
      declined_[lane] = version_;
      return std::nullopt;
    }
    if (board_.plan().read_bytes(load->slice.layers) > max_bytes) return std::nullopt;
    impatient_ = false;
    return claim(*load, lane, now);
  }

  PrefillReport report(Time now) const {
    PrefillReport r = Claims::report(now);
    r.predicted_meet_token = predicted_meet_;
    r.scheduler_faults = scheduler_faults_;
    if constexpr (requires { scheduler_.compute_cost(); }) {
      r.rates.per_token = scheduler_.compute_cost().per_token;
      r.rates.per_position = scheduler_.compute_cost().per_position;
    }
    r.set_bound();
    return r;
  }

 private:
  Step wait_until(Time until, Time now) const {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = std::max(std::min(until, next_deadline()), now + Time(1));
    return step;
  }

  /// Enough reads in flight to reach the rate that was seen, and enough bytes to cover the latency
  /// twice, with one read more than the one on the link.
  bool has_room(LaneId lane) const {
    const LaneModel& model = board_.lane(lane);
    if (model.in_flight().size() < model.rate().depth) return true;
    const double window = 2 * model.rate().bytes_per_second * seconds(model.rate().latency) +
                          1.5 * static_cast<double>(model.in_flight().back().bytes);
    return static_cast<double>(model.bytes_in_flight()) < window;
  }

  /// The scheduler waits, or gave an order that breaks a rule. When nobody else is at work, compute
  /// goes on with the front by itself, so that no scheduler can hang a run.
  Step fall_back(std::uint32_t budget, Time until, Time now) {
    if (!board_.running().empty() || loads_live()) {
      idle_since_ = kNever;
      return wait_until(until, now);
    }
    bool declined = true;
    for (LaneId l = 0; l < board_.n_lanes(); ++l) {
      declined = declined && (board_.lane(l).down() || declined_[l] == version_);
    }
    if (idle_since_ == kNever) idle_since_ = now;
    if (!declined && !impatient_ && now < idle_since_ + options_.patience) {
      return wait_until(std::min(until, idle_since_ + options_.patience), now);
    }
    impatient_ = true;
    const PrefillPlan& plan = board_.plan();
    Step step;
    step.kind = Step::Kind::compute;
    const std::uint32_t size = std::min(budget, plan.max_step_tokens);
    step.tokens = {board_.front(), std::min(plan.n_tokens, board_.front() + size)};
    for (std::uint32_t c = board_.front_chunk() + 1; c < plan.end_chunk; ++c) {
      if (plan.chunk_range(c).begin >= step.tokens.end) break;
      if (board_.state(c) == ChunkState::resident) step.tokens.end = plan.chunk_range(c).begin;
    }
    idle_since_ = kNever;
    return claim(step, now);
  }

  S scheduler_;
  std::vector<std::uint64_t> declined_;  // [lane] version at which the lane was last refused work
  std::uint32_t scheduler_faults_ = 0;
  std::uint32_t predicted_meet_ = 0;
  Time idle_since_ = kNever;
  bool impatient_ = false;  // waited in vain already, and no load has been claimed since
};

}  // namespace cake
