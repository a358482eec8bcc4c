// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A whole run in virtual time: a device that computes, links that carry, workers, staging memory
// and faults, around the same SessionCore that runs behind real lanes. No thread, no sleep; equal
// inputs give equal runs. A checker verifies every claim, read and write; the harness itself checks
// that no staging memory, worker or time is lost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cake/testing/event_queue.hpp"
#include "cake/testing/kv_invariants.hpp"
#include "cake/testing/simulation_spec.hpp"

namespace cake::inline CAKE_ABI {

template <Scheduler S>
class Simulation {
 public:
  Simulation(const SimulationSpec& spec, S scheduler)
      : spec_(spec), core_(detail::AnyScheduler(std::move(scheduler)), spec.session) {}

  SimulationResult run() {
    const PrefillSpec& prefill = spec_.prefill;
    checker_.begin(prefill);
    lanes_.assign(prefill.n_lanes, {});
    free_staging_ = spec_.staging_bytes;
    core_.begin(prefill, spec_.stored, spec_.priors);
    at(spec_.cancel_at, [this] { core_.cancel(); });
    turn();
    // After the run is over late reads still come back: nothing may be lost.
    while (result_.violation.empty()) {
      if (++result_.events > 2'000'000) return fail("the run does not end"), std::move(result_);
      const Time wake = closed_ ? kNever : wake_;
      if (events_.next() != kNever && events_.next() <= wake) {
        pass_time(events_.next());
        events_.take()();
      } else if (wake != kNever) {
        pass_time(wake);
      } else {
        break;
      }
      turn();
      if (!checker_.violation().empty()) fail(checker_.violation());
    }
    result_.lost_loads = checker_.lost_loads();
    if (result_.violation.empty()) check_end();
    if (!closed_) result_.report = core_.report(now_);
    return std::move(result_);
  }
  const S& scheduler() const { return core_.scheduler().template as<S>(); }

 private:
  struct LaneState {
    Time link_free{0};
    std::uint32_t busy = 0;
    std::uint32_t stuck = 0;  // workers that wait for a read nobody wants
  };
  struct Pass {  // a step on the device
    Step step;
    std::uint32_t tokens = 0;  // that the engine really does
    std::uint32_t layer = 0;   // gated: the next one
    bool waiting = false;
  };

  void at(Time time, std::function<void()> act) {
    if (time != kNever) events_.put(std::max(time, now_), std::move(act));
  }
  void fail(const std::string& what) {
    if (result_.violation.empty()) {
      result_.violation = what + " at " + std::to_string(now_.count()) + " ns";
    }
  }

  /// Nobody may idle for long: neither compute, nor a lane with a read that may still succeed.
  void pass_time(Time to) {
    bool busy = closed_ || !passes_.empty() || paused_until_ > now_;
    for (const LaneState& lane : lanes_) busy = busy || lane.busy > lane.stuck;
    if (!busy && to > now_) {
      result_.idle += to - now_;
      const bool dead = std::all_of(lanes_.begin(), lanes_.end(), [this](const LaneState& lane) {
        return lane.stuck >= spec_.workers;
      });
      if (dead) idle_alone_ += to - now_;
    }
    now_ = std::max(now_, to);
  }

  /// Everybody who could act now does.
  void turn() {
    if (closed_) return;
    core_.expire(now_);
    wake_ = paused_until_ > now_ ? paused_until_ : kNever;
    for (int round = 0; round < 64; ++round) {
      bool moved = pump_lanes();
      moved = engine() || moved;
      const std::size_t passes = passes_.size();
      poke_gate();  // a void pass ends at once
      if (!moved && passes == passes_.size()) break;
    }
    if (core_.over()) return close();
    wake_ = std::min(wake_, core_.next_deadline());
  }

  void close() {
    if (core_.inserting() != 0 || (core_.status() != Errc::ok && !passes_.empty())) return;
    for (LaneId l = 0; l < lanes_.size(); ++l) {
      result_.rates.push_back(core_.view().lane(l).learned(spec_.priors[l], now_));
    }
    core_.ended();
    core_.close();
    closed_ = true;
    closed_at_ = now_;
    result_.report = core_.report(now_);
    checker_.check(result_.report, core_.status() == Errc::ok);
    if (core_.status() == Errc::ok) checker_.prompt_ends();
  }

  // ---- lanes ----

  bool pump_lanes() {
    bool moved = false;
    for (LaneId l = 0; l < lanes_.size(); ++l) {
      LaneState& lane = lanes_[l];
      const bool down = lane.busy >= spec_.workers && lane.stuck >= spec_.workers;
      result_.dead_lanes += down && !core_.view().lane(l).down();
      core_.set_lane_down(l, down);
      while (lane.busy < spec_.workers) {
        const auto ticket = core_.next_load(l, free_staging_, now_);
        if (!ticket) break;
        moved = true;
        start_read(*ticket);
      }
    }
    return moved;
  }

  void start_read(const detail::ReadTicket& ticket) {
    LaneState& lane = lanes_[ticket.lane];
    const PrefillSpec& prefill = spec_.prefill;
    if (ticket.slice.chunk >= prefill.end_chunk) return fail("a load of no chunk");
    if (!spec_.stored[ticket.slice.chunk].stored()) return fail("a load of a chunk that is absent");
    if (ticket.bytes > free_staging_) return fail("a load without staging memory");
    if (closed_) return fail("a load after the end");
    checker_.read_begins(ticket.slice);
    free_staging_ -= ticket.bytes;
    ++lane.busy;
    const SimulatedFault fault = fault_of(ticket.slice);
    const SimulatedLink& link = spec_.links[ticket.lane];
    Time done = kNever;
    if (fault != SimulatedFault::hang) {
      lane.link_free =
          link.passed(std::max(lane.link_free, now_), static_cast<double>(ticket.bytes));
      done = lane.link_free == kNever ? kNever : lane.link_free + link.latency;
    }
    // A hung read comes back long after everybody has stopped waiting for it.
    if (done == kNever) done = now_ + std::chrono::hours(1);
    at(done, [this, ticket] { read_done(ticket); });
    if (ticket.deadline == kNever) return fail("a read without a deadline");
    result_.longest_deadline = std::max(result_.longest_deadline, ticket.deadline - now_);
    at(ticket.deadline, [this, ticket] { abandon(ticket); });
  }

  /// The worker looks up from its read: if nobody wants it any more, it leaves it (or is stuck with
  /// it).
  void abandon(const detail::ReadTicket& ticket) {
    if (ended_.count(ticket.id) != 0 || abandoned_.count(ticket.id) != 0) return;
    core_.expire(now_);
    if (core_.wanted(ticket.id) && !closed_) {
      if (writing_.count(ticket.id) == 0) fail("a read is wanted beyond its deadline");
      return;
    }
    checker_.read_failed(ticket.slice);
    abandoned_[ticket.id] = true;
    if (spec_.workers_block) {
      ++lanes_[ticket.lane].stuck;
    } else {
      --lanes_[ticket.lane].busy;
    }
  }

  void read_done(const detail::ReadTicket& ticket) {
    LaneState& lane = lanes_[ticket.lane];
    ended_[ticket.id] = true;
    const bool abandoned = abandoned_.count(ticket.id) != 0;
    if (abandoned && spec_.workers_block) --lane.stuck;
    const SimulatedFault fault = fault_of(ticket.slice);
    const bool bad = fault == SimulatedFault::read_error || fault == SimulatedFault::corrupt ||
                     fault == SimulatedFault::hang;
    if (bad && !closed_) checker_.read_failed(ticket.slice);
    if (bad || closed_) {
      const Errc why = fault == SimulatedFault::corrupt ? Errc::corrupt : Errc::io;
      result_.late_landings += !core_.failed(ticket.id, why, now_) && !closed_;
    } else if (core_.begin_insert(ticket.id, now_)) {
      if (abandoned) fail("an insert of a read that nobody waited for");
      checker_.insert_begins(ticket.slice);
      writing_[ticket.id] = true;
      inserts_free_ =
          spec_.inserts.passed(std::max(inserts_free_, now_), static_cast<double>(ticket.bytes));
      at(inserts_free_ + spec_.inserts.latency + spec_.insert,
         [this, ticket] { end_write(ticket); });
      return;
    } else {
      ++result_.late_landings;
    }
    free_staging_ += ticket.bytes;
    if (!abandoned || spec_.workers_block) --lane.busy;
  }

  void end_write(const detail::ReadTicket& ticket) {
    const bool ok = fault_of(ticket.slice) != SimulatedFault::insert_error;
    checker_.insert_ends(ticket.slice, ok);
    result_.lost_inserts += core_.view().unloadable(ticket.slice.chunk);
    core_.inserted(ticket.id, ok, now_);
    free_staging_ += ticket.bytes;
    if (abandoned_.count(ticket.id) == 0 || spec_.workers_block) --lanes_[ticket.lane].busy;
  }

  // ---- compute ----

  bool engine() {
    if (passes_.size() >= spec_.steps_in_flight || now_ < paused_until_ || core_.over())
      return false;
    if (!passes_.empty() && passes_.back().step.gated)
      return false;  // its host thread is in the gate
    std::pair<std::uint32_t, std::uint32_t> wish{spec_.prefill.max_step_tokens, ~0u};
    if (spec_.budget) wish = spec_.budget(turns_);
    if (wish.first == 0) {  // the engine does something else for a while
      ++turns_;
      paused_until_ = now_ + std::chrono::microseconds(300);
      wake_ = std::min(wake_, paused_until_);
      return false;
    }
    const bool may_gate = spec_.prefill.may_gate && (!spec_.may_gate || spec_.may_gate(turns_));
    const std::uint64_t before = core_.version();
    const Step step = core_.next_step(wish.first, may_gate, now_);
    if (step.kind != Step::Kind::compute) {
      if (step.kind == Step::Kind::wait) wake_ = std::min(wake_, step.until);
      return core_.version() != before;  // there may be something to read now
    }
    ++turns_;
    if (closed_) fail("a step after the end");
    check_size(step, wish.first);
    checker_.step_begins(step);
    Pass pass{step, std::min(step.tokens.size(), std::max(1u, wish.second)), 0, false};
    // Only the newest step may do less than asked, and with two in flight it may not stay the
    // newest.
    if (spec_.steps_in_flight > 1) pass.tokens = step.tokens.size();
    passes_.push_back(pass);
    if (passes_.size() == 1) start_pass();
    return true;
  }

  void start_pass() {
    Pass& pass = passes_.front();
    if (pass.step.gated && spec_.has_gates) {
      pass.waiting = true;
      return poke_gate();
    }
    for (std::uint32_t l = 0; l < spec_.prefill.n_layers; ++l) checker_.step_reads(pass.step, l);
    at(computed(pass, 1), [this] { end_pass(); });
  }

  void poke_gate() {
    if (passes_.empty() || !passes_.front().waiting) return;
    core_.expire(now_);
    Pass& pass = passes_.front();
    const detail::GateAnswer gate = core_.gate(pass.step.id, pass.layer, now_);
    const bool shut = gate == detail::GateAnswer::shut;
    if (shut && !core_.reconsider_gate(now_)) {
      wake_ = std::min(wake_, std::max(core_.gate_until(), now_ + Time(1)));
      return;
    }
    pass.waiting = false;
    if (shut || gate == detail::GateAnswer::voided) {
      pass.tokens = 0;
      end_pass();
      return;
    }
    checker_.step_reads(pass.step, pass.layer);
    at(computed(pass, spec_.prefill.n_layers), [this] {
      Pass& running = passes_.front();
      if (++running.layer == spec_.prefill.n_layers) return end_pass();
      running.waiting = true;
      poke_gate();
    });
  }

  /// The engine has memory for the activations of so many tokens, or goes through each layer in
  /// micro-batches.
  void check_size(const Step& step, std::uint32_t budget) {
    const PrefillSpec& prefill = spec_.prefill;
    const std::uint32_t tokens = step.tokens.size();
    const bool wide = step.gated && prefill.wide_gated_steps;
    if (tokens > budget && !wide) fail("a step of more tokens than were asked for");
    if (step.gated && tokens > prefill.max_overlap_tokens) fail("a gated step that is too long");
    if (tokens > budget && step.tokens.begin < prefill.prefix_end()) {
      fail("a wide step that is not the last pass");
    }
  }

  /// When one of `parts` equal parts of a pass is computed, if it begins now.
  Time computed(const Pass& pass, std::uint32_t parts) const {
    const std::uint32_t begin = pass.step.tokens.begin;
    const Time work =
        from_seconds(spec_.pass_seconds({begin, begin + pass.tokens}, pass.step.gated)) / parts;
    return spec_.device.passed(now_, to_seconds(work));
  }

  void end_pass() {
    const Pass pass = passes_.front();
    passes_.erase(passes_.begin());
    checker_.step_ends(pass.step, pass.tokens);
    const Errc code = pass.tokens == 0 ? Errc::superseded : Errc::ok;
    core_.done(pass.step.id, pass.tokens, code, now_);
    if (!passes_.empty()) start_pass();
  }

  // ---- checks ----

  SimulatedFault fault_of(const Slice& slice) const {
    const bool sound = spec_.faults.empty() || slice.layers.end <= spec_.sound_layers;
    return sound ? SimulatedFault::none : spec_.faults[slice.chunk];
  }
  void check_end() {
    if (!closed_) fail("the run hangs");
    if (free_staging_ != spec_.staging_bytes) fail("staging memory was lost");
    for (const LaneState& lane : lanes_) {
      if (lane.busy != 0 || lane.stuck != 0) fail("a worker was lost");
    }
    if (closed_) {
      const PrefillReport late = core_.report(closed_at_);
      if (late.ttft != result_.report.ttft || late.failed_loads != result_.report.failed_loads ||
          late.steps != result_.report.steps || late.loads != result_.report.loads) {
        fail("a late landing changed the report");
      }
    }
    if (core_.status() != Errc::ok && core_.status() != Errc::canceled) fail("the run failed");
    if (core_.status() == Errc::canceled && spec_.cancel_at == kNever) fail("canceled by nobody");
    if (idle_alone_ > std::chrono::milliseconds(1)) fail("compute waited for lanes that are dead");
    if (spec_.faulty_scheduler) return;
    if (result_.report.scheduler_faults != 0) fail("the scheduler broke a rule");
    const Time most = 10 * spec_.session.idle_timeout + result_.report.ttft / 10;
    if (result_.idle > most) fail("nobody worked for too long");
  }

  SimulationSpec spec_;
  detail::SessionCore core_;
  SimulationResult result_;
  EventQueue events_;
  KvInvariantChecker checker_;
  std::vector<LaneState> lanes_;
  Time inserts_free_{0};
  std::vector<Pass> passes_;
  std::map<std::uint64_t, bool> ended_;
  std::map<std::uint64_t, bool> abandoned_;
  std::map<std::uint64_t, bool> writing_;  // also those that were
  std::uint64_t free_staging_ = 0;
  std::uint32_t turns_ = 0;
  Time now_{0};
  Time closed_at_{0};
  Time idle_alone_{0};  // idle while every lane was dead
  Time paused_until_{0};
  Time wake_ = kNever;  // when somebody wants to be asked again; set anew in every turn
  bool closed_ = false;
};

template <Scheduler S>
SimulationResult simulate(const SimulationSpec& spec, S scheduler = S{}) {
  return Simulation<S>(spec, std::move(scheduler)).run();
}

}  // namespace cake::inline CAKE_ABI
