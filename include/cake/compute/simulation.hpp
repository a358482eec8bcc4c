// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A whole run in virtual time: a device that computes, links that carry, workers, staging memory
// and faults, around the same SessionCore that runs behind real lanes. No thread, no sleep; equal
// inputs give equal runs. It also watches: every layer of every chunk has at most one writer at a
// time, is right when it is read, and no staging memory gets lost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "cake/compute/simulated.hpp"

namespace cake {

template <Scheduler S>
class Simulation {
 public:
  Simulation(const SimulationSpec& spec, S scheduler)
      : spec_(spec), core_(std::move(scheduler), spec.session) {}

  SimulationResult run() {
    const PrefillPlan& plan = spec_.plan;
    chunks_.assign(plan.end_chunk, {});
    for (Chunk& c : chunks_) c.layers.assign(plan.n_layers, Kv::none);
    lanes_.assign(plan.n_lanes, {});
    free_staging_ = spec_.staging_bytes;
    core_.begin(plan, spec_.stored, spec_.priors);
    at(spec_.cancel_at, [this] { core_.cancel(); });
    turn();
    // After the run is over late reads still come back: nothing may be lost.
    while (result_.violation.empty()) {
      if (++result_.events > 2'000'000) return fail("the run does not end"), std::move(result_);
      const Time wake = closed_ ? kNever : wake_;
      if (!events_.empty() && events_.top().time <= wake) {
        const Event event = events_.top();
        events_.pop();
        now_ = event.time;
        event.act();
      } else if (wake != kNever) {
        now_ = std::max(now_, wake);
      } else {
        break;
      }
      turn();
    }
    if (result_.violation.empty()) check_end();
    if (!closed_) result_.report = core_.report(now_);
    return std::move(result_);
  }
  const SessionCore<S>& core() const { return core_; }

 private:
  enum class Kv : std::uint8_t { none, right };
  struct Chunk {
    std::vector<Kv> layers;            // [n_layers]
    std::uint64_t compute = 0;         // step that writes it now
    std::uint32_t inserts = 0;         // loads that write it now
    bool computed_from_start = false;  // compute has claimed it: no load may write it any more
    std::uint32_t whole = 0;           // how often it became whole
  };
  struct LaneState {
    Time link_free{0};
    std::uint32_t busy = 0;
    std::uint32_t stuck = 0;  // workers that wait for a read nobody wants
  };
  struct Event {
    Time time;
    std::uint64_t order;
    std::function<void()> act;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  struct Pass {  // a step on the device
    Step step;
    std::uint32_t tokens = 0;  // that the engine really does
    std::uint32_t layer = 0;   // gated: the next one
    bool waiting = false;
  };

  void at(Time time, std::function<void()> act) {
    if (time != kNever) events_.push({std::max(time, now_), ++order_, std::move(act)});
  }
  void fail(const std::string& what) {
    if (result_.violation.empty()) {
      result_.violation = what + " at " + std::to_string(now_.count()) + " ns";
    }
  }

  /// Everybody who could act now does.
  void turn() {
    if (closed_) return;
    core_.expire(now_);
    wake_ = paused_until_ > now_ ? paused_until_ : kNever;
    for (int round = 0; round < 64; ++round) {
      bool moved = pump_lanes();
      moved = engine() || moved;
      if (!moved) break;
    }
    poke_gate();
    if (core_.over()) return close();
    wake_ = std::min(wake_, core_.next_deadline());
  }

  void close() {
    if (core_.inserting() != 0 || (core_.status() != Errc::ok && !passes_.empty())) return;
    core_.close();
    closed_ = true;
    result_.report = core_.report(now_);
    if (core_.status() == Errc::ok) check_kv();
  }

  // ---- lanes
  // --------------------------------------------------------------------------------------------------

  bool pump_lanes() {
    bool moved = false;
    for (LaneId l = 0; l < lanes_.size(); ++l) {
      LaneState& lane = lanes_[l];
      const bool down = lane.busy >= spec_.workers && lane.stuck >= spec_.workers;
      core_.set_lane_down(l, down);
      while (lane.busy < spec_.workers) {
        const auto order = core_.next_load(l, free_staging_, now_);
        if (!order) break;
        moved = true;
        start_read(*order);
      }
    }
    return moved;
  }

  void start_read(const LoadOrder& order) {
    LaneState& lane = lanes_[order.lane];
    const PrefillPlan& plan = spec_.plan;
    if (order.slice.chunk >= plan.end_chunk || !plan.stored.empty())
      return fail("a load of no chunk");
    if (!spec_.stored[order.slice.chunk].stored()) return fail("a load of a chunk that is absent");
    if (order.bytes > free_staging_) return fail("a load without staging memory");
    free_staging_ -= order.bytes;
    ++lane.busy;
    const SimulatedFault fault = fault_of(order.slice.chunk);
    const SimulatedLink& link = spec_.links[order.lane];
    Time done = kNever;
    if (fault != SimulatedFault::hang) {
      lane.link_free =
          link.passed(std::max(lane.link_free, now_), static_cast<double>(order.bytes));
      done = lane.link_free == kNever ? kNever : lane.link_free + link.latency;
    }
    // A hung read comes back long after everybody has stopped waiting for it.
    if (done == kNever) done = now_ + std::chrono::hours(1);
    at(done, [this, order] { read_done(order); });
    if (order.deadline != kNever) at(order.deadline, [this, order] { abandon(order); });
  }

  /// The worker looks up from its read: if nobody wants it any more, it leaves it (or is stuck with
  /// it).
  void abandon(const LoadOrder& order) {
    if (ended_.count(order.id) != 0 || abandoned_.count(order.id) != 0) return;
    core_.expire(now_);
    if (core_.wanted(order.id) && !closed_) return;
    abandoned_[order.id] = true;
    if (spec_.workers_block) {
      ++lanes_[order.lane].stuck;
    } else {
      --lanes_[order.lane].busy;
    }
  }

  void read_done(const LoadOrder& order) {
    LaneState& lane = lanes_[order.lane];
    ended_[order.id] = true;
    const bool abandoned = abandoned_.count(order.id) != 0;
    if (abandoned && spec_.workers_block) --lane.stuck;
    const SimulatedFault fault = fault_of(order.slice.chunk);
    const bool bad = fault == SimulatedFault::read_error || fault == SimulatedFault::corrupt ||
                     fault == SimulatedFault::hang;
    if (bad || closed_) {
      core_.failed(order.id, fault == SimulatedFault::corrupt ? Errc::corrupt : Errc::io, now_);
    } else if (core_.begin_insert(order.id, now_)) {
      begin_write(order);
      at(now_ + spec_.insert, [this, order] { end_write(order); });
      return;
    }
    free_staging_ += order.bytes;
    if (!abandoned || spec_.workers_block) --lane.busy;
  }

  void begin_write(const LoadOrder& order) {
    Chunk& c = chunks_[order.slice.chunk];
    if (c.compute != 0) fail("an insert into a chunk that compute writes");
    if (c.computed_from_start) fail("an insert after compute took the chunk over");
    for (std::uint32_t l = order.slice.layers.begin; l < order.slice.layers.end; ++l) {
      if (c.layers[l] == Kv::right) fail("a layer is loaded twice");
    }
    ++c.inserts;
  }

  void end_write(const LoadOrder& order) {
    Chunk& c = chunks_[order.slice.chunk];
    if (c.compute != 0) fail("compute took a chunk over that was being inserted");
    const bool ok = fault_of(order.slice.chunk) != SimulatedFault::insert_error;
    if (ok) {
      for (std::uint32_t l = order.slice.layers.begin; l < order.slice.layers.end; ++l) {
        c.layers[l] = Kv::right;
      }
      if (whole(c)) ++c.whole;
    }
    --c.inserts;
    core_.inserted(order.id, ok, now_);
    free_staging_ += order.bytes;
    if (abandoned_.count(order.id) == 0 || spec_.workers_block) --lanes_[order.lane].busy;
  }

  // ---- compute
  // ------------------------------------------------------------------------------------------------

  bool engine() {
    if (passes_.size() >= spec_.steps_in_flight || now_ < paused_until_ || core_.over())
      return false;
    if (!passes_.empty() && passes_.back().step.gated)
      return false;  // its host thread is in the gate
    std::pair<std::uint32_t, std::uint32_t> wish{spec_.plan.max_step_tokens, ~0u};
    if (spec_.budget) wish = spec_.budget(turns_);
    if (wish.first == 0) {  // the engine does something else for a while
      ++turns_;
      paused_until_ = now_ + std::chrono::microseconds(300);
      wake_ = std::min(wake_, paused_until_);
      return false;
    }
    const bool may_gate = spec_.plan.may_gate && (!spec_.may_gate || spec_.may_gate(turns_));
    const Step step = core_.next_step(wish.first, may_gate, now_);
    if (step.kind != Step::Kind::compute) {
      if (step.kind == Step::Kind::wait) wake_ = std::min(wake_, step.until);
      return false;
    }
    ++turns_;
    claim_kv(step);
    Pass pass{step, std::min(step.tokens.size(), std::max(1u, wish.second)), 0, false};
    // Only the newest step may do less than asked, and with two in flight it may not stay the
    // newest.
    if (spec_.steps_in_flight > 1) pass.tokens = step.tokens.size();
    passes_.push_back(pass);
    if (passes_.size() == 1) start_pass();
    return true;
  }

  void claim_kv(const Step& step) {
    const PrefillPlan& plan = spec_.plan;
    for (std::uint32_t c = step.tokens.begin / plan.chunk_tokens;
         c < plan.end_chunk && plan.chunk_range(c).begin < step.tokens.end; ++c) {
      if (chunks_[c].inserts != 0) fail("compute claimed a chunk that is being inserted");
      if (whole(chunks_[c])) fail("compute claimed a chunk that is whole");
      chunks_[c].compute = step.id;
      chunks_[c].computed_from_start = true;
    }
  }

  void start_pass() {
    Pass& pass = passes_.front();
    if (pass.step.gated) {
      pass.waiting = true;
      return poke_gate();
    }
    for (std::uint32_t l = 0; l < spec_.plan.n_layers; ++l) check_below(pass.step, l);
    at(now_ + duration(pass), [this] { end_pass(); });
  }

  void poke_gate() {
    if (passes_.empty() || !passes_.front().waiting) return;
    core_.expire(now_);
    Pass& pass = passes_.front();
    const GateState gate = core_.gate(pass.step.id, pass.layer);
    if (gate == GateState::shut) return;
    pass.waiting = false;
    if (gate == GateState::voided) {
      pass.tokens = 0;
      end_pass();
      return;
    }
    check_below(pass.step, pass.layer);
    at(now_ + duration(pass) / spec_.plan.n_layers, [this] {
      Pass& running = passes_.front();
      if (++running.layer == spec_.plan.n_layers) return end_pass();
      running.waiting = true;
      poke_gate();
    });
  }

  Time duration(const Pass& pass) const {
    const double begin = pass.step.tokens.begin;
    return from_seconds(spec_.cost.pass(begin, begin + pass.tokens));
  }

  void check_below(const Step& step, std::uint32_t layer) {
    const std::uint32_t end =
        std::min(step.tokens.begin / spec_.plan.chunk_tokens, spec_.plan.end_chunk);
    for (std::uint32_t c = spec_.plan.resident_tokens / spec_.plan.chunk_tokens; c < end; ++c) {
      if (chunks_[c].layers[layer] != Kv::right) return fail("a step read KV that is not there");
    }
  }

  void end_pass() {
    const Pass pass = passes_.front();
    passes_.erase(passes_.begin());
    const PrefillPlan& plan = spec_.plan;
    const bool voided = pass.tokens == 0;
    const std::uint32_t end = pass.step.tokens.begin + pass.tokens;
    for (std::uint32_t c = 0; c < plan.end_chunk; ++c) {
      if (chunks_[c].compute != pass.step.id) continue;
      chunks_[c].compute = 0;
      if (!voided && plan.chunk_range(c).end <= end) {
        std::fill(chunks_[c].layers.begin(), chunks_[c].layers.end(), Kv::right);
        ++chunks_[c].whole;
      } else if (plan.chunk_range(c).begin >= end || voided) {
        chunks_[c].computed_from_start = began_before(c, pass.step) || taken(c);
      }
    }
    core_.done(pass.step.id, pass.tokens, voided ? Errc::superseded : Errc::ok, now_);
    if (!passes_.empty()) start_pass();
  }

  /// A chunk given back is anybody's again, unless an earlier step did its first tokens or its load
  /// was dropped.
  bool began_before(std::uint32_t c, const Step& step) const {
    return spec_.plan.chunk_range(c).begin < step.tokens.begin;
  }
  bool taken(std::uint32_t c) const { return core_.board().layers_issued(c) != 0; }

  // ---- checks
  // -------------------------------------------------------------------------------------------------

  static bool whole(const Chunk& c) {
    return std::all_of(c.layers.begin(), c.layers.end(), [](Kv kv) { return kv == Kv::right; });
  }
  SimulatedFault fault_of(std::uint32_t chunk) const {
    return spec_.faults.empty() ? SimulatedFault::none : spec_.faults[chunk];
  }
  void check_kv() {
    for (std::uint32_t c = spec_.plan.resident_tokens / spec_.plan.chunk_tokens;
         c < spec_.plan.end_chunk; ++c) {
      if (!whole(chunks_[c])) return fail("a chunk is missing at the end");
      if (chunks_[c].whole != 1) return fail("a chunk became whole more than once");
    }
  }
  void check_end() {
    if (!closed_) fail("the run hangs");
    if (free_staging_ != spec_.staging_bytes) fail("staging memory was lost");
    for (const LaneState& lane : lanes_) {
      if (lane.busy != 0 || lane.stuck != 0) fail("a worker was lost");
    }
    if (core_.status() != Errc::ok && core_.status() != Errc::canceled) fail("the run failed");
    if (core_.status() == Errc::canceled && spec_.cancel_at == kNever) fail("canceled by nobody");
    if (result_.report.scheduler_faults != 0) fail("the scheduler broke a rule");
  }

  SimulationSpec spec_;
  SessionCore<S> core_;
  SimulationResult result_;
  std::priority_queue<Event> events_;
  std::vector<Chunk> chunks_;
  std::vector<LaneState> lanes_;
  std::vector<Pass> passes_;
  std::map<std::uint64_t, bool> ended_;
  std::map<std::uint64_t, bool> abandoned_;
  std::uint64_t free_staging_ = 0;
  std::uint64_t order_ = 0;
  std::uint32_t turns_ = 0;
  Time now_{0};
  Time paused_until_{0};
  Time wake_ = kNever;  // when somebody wants to be asked again; set anew in every turn
  bool closed_ = false;
};

template <Scheduler S>
SimulationResult simulate(const SimulationSpec& spec, S scheduler = S{}) {
  return Simulation<S>(spec, std::move(scheduler)).run();
}

}  // namespace cake
