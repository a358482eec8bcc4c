// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Small prompts, exhaustively: every pattern of holes, and every order in which reads, inserts and
// steps can end. Drives SessionCore event by event, with the checker of the simulation watching.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cake/detail/session_core.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/kv_invariants.hpp"
#include "catch.hpp"

namespace {

using namespace cake;

/// What may happen beside reads that succeed at once and steps that end.
struct Turns {
  bool inserts = false;    // an insert takes time of its own
  bool failures = false;   // a read or an insert may fail
  bool deadlines = false;  // no read may come before its deadline
};

struct Flight {
  detail::ReadTicket order;
  bool inserting = false;
};

struct Pass {
  Step step;
  std::uint32_t layer = 0;  // gated: the next one
  bool began = false;
};

/// A run at one moment; a copy goes on by itself.
template <class S>
class Moment {
 public:
  Moment(const PrefillSpec& spec, const std::vector<StoredChunk>& stored, S scheduler)
      : core_(detail::AnyScheduler(std::move(scheduler))) {
    const double bytes = static_cast<double>(spec.read_bytes({0, spec.n_layers}));
    LinkEstimate prior{bytes / 1e-3, Time{0}, Time{0}};  // a chunk in a millisecond
    prior.measured = LinkEstimate::kSure;
    const std::vector<LinkEstimate> priors(spec.n_lanes, prior);
    checker_.begin(spec);
    core_.begin(spec, stored, priors);
    go_on();
  }

  struct Event {
    enum Kind : std::uint8_t { lands, fails, inserted, insert_fails, step_ends, deadline } kind;
    std::size_t flight = 0;
  };

  /// All that can happen next; nothing when the run is over.
  std::vector<Event> events(const Turns& turns) const {
    std::vector<Event> events;
    if (ended()) return events;
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      const bool inserting = flights_[i].inserting;
      events.push_back({inserting ? Event::inserted : Event::lands, i});
      if (turns.failures) events.push_back({inserting ? Event::insert_fails : Event::fails, i});
    }
    if (!passes_.empty() && passed(passes_.front())) events.push_back({Event::step_ends});
    const bool waits = std::any_of(flights_.begin(), flights_.end(), [this](const Flight& f) {
      return !f.inserting && core_.wanted(f.order.id);
    });
    if (turns.deadlines && waits) events.push_back({Event::deadline});
    return events;
  }

  void happen(const Event& event, const Turns& turns) {
    now_ += std::chrono::milliseconds(1);
    switch (event.kind) {
      case Event::lands:
        land(event.flight, turns);
        break;
      case Event::fails:
        fail(event.flight);
        break;
      case Event::inserted:
        end_insert(event.flight, true);
        break;
      case Event::insert_fails:
        end_insert(event.flight, false);
        break;
      case Event::step_ends:
        end_step();
        break;
      case Event::deadline:
        now_ = std::max(now_, core_.next_deadline());
        expire();
        break;
    }
    go_on();
  }

  /// Nothing else can happen: time passes until somebody does something.
  bool wait() {
    if (wake_ == kNever) return false;
    now_ = std::max(now_ + Time(1), wake_);
    go_on();
    return true;
  }

  bool ended() const { return core_.over() && core_.inserting() == 0; }

  std::string check_end() {
    while (!flights_.empty()) {  // what comes back now comes too late
      if (core_.begin_insert(flights_.back().order.id, now_))
        checker_.fail("an insert after the end");
      flights_.pop_back();
    }
    if (core_.status() != Errc::ok) checker_.fail("the run failed");
    core_.close();
    const PrefillReport report = core_.report(now_);
    checker_.check(report, true);
    checker_.prompt_ends();
    if (report.scheduler_faults != 0) checker_.fail("the scheduler broke a rule");
    return checker_.violation();
  }
  const std::string& violation() const { return checker_.violation(); }

 private:
  static constexpr std::uint32_t kReads = 2;  // of a lane at once
  static constexpr std::uint32_t kBudget = 32;

  void expire() {
    core_.expire(now_);
    for (const Flight& f : flights_) {
      if (!f.inserting && !core_.wanted(f.order.id)) checker_.read_failed(f.order.slice);
    }
  }

  /// Everybody who could act now does.
  void go_on() {
    expire();
    for (int round = 0; round < 100; ++round) {
      wake_ = kNever;
      bool moved = pump_lanes();
      moved = pump_steps() || moved;
      moved = pass_gates() || moved;
      if (!moved) break;
      if (round == 99) checker_.fail("somebody acts for ever");
    }
    wake_ = std::min(wake_, core_.next_deadline());
  }
  bool pump_lanes() {
    bool moved = false;
    for (LaneId lane = 0; lane < core_.view().n_lanes(); ++lane) {
      while (std::count_if(flights_.begin(), flights_.end(),
                           [lane](const Flight& f) { return f.order.lane == lane; }) < kReads) {
        const auto ticket = core_.next_load(lane, ~0ull, now_);
        if (!ticket) break;
        checker_.read_begins(ticket->slice);
        flights_.push_back({*ticket});
        moved = true;
      }
    }
    return moved;
  }
  bool pump_steps() {
    if (!passes_.empty() || core_.over()) return false;
    const Step step = core_.next_step(kBudget, core_.view().spec().may_gate, now_);
    if (step.kind == Step::Kind::wait) wake_ = std::min(wake_, step.until);
    if (step.kind != Step::Kind::compute) return false;
    checker_.step_begins(step);
    passes_.push_back({step});
    return true;
  }
  bool pass_gates() {
    if (passes_.empty() || passed(passes_.front())) return false;
    Pass& pass = passes_.front();
    while (!passed(pass)) {
      const detail::GateAnswer gate = core_.gate(pass.step.id, pass.layer, Time{0});
      if (gate == detail::GateAnswer::shut) return false;
      if (gate == detail::GateAnswer::voided) {
        checker_.step_ends(pass.step, 0);
        core_.done(pass.step.id, 0, Errc::superseded, now_);
        passes_.clear();
        return true;
      }
      checker_.step_reads(pass.step, pass.layer++);
    }
    return true;
  }
  bool passed(const Pass& pass) const { return pass.layer == core_.view().spec().n_layers; }

  void land(std::size_t i, const Turns& turns) {
    const detail::ReadTicket ticket = flights_[i].order;
    if (!core_.begin_insert(ticket.id, now_)) return drop(i);
    checker_.insert_begins(ticket.slice);
    flights_[i].inserting = true;
    if (!turns.inserts) end_insert(i, true);
  }
  void fail(std::size_t i) {
    checker_.read_failed(flights_[i].order.slice);
    core_.failed(flights_[i].order.id, Errc::io, now_);
    drop(i);
  }
  void end_insert(std::size_t i, bool ok) {
    checker_.insert_ends(flights_[i].order.slice, ok);
    core_.inserted(flights_[i].order.id, ok, now_);
    drop(i);
  }
  void drop(std::size_t i) { flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(i)); }
  void end_step() {
    const Step step = passes_.front().step;
    passes_.clear();
    checker_.step_ends(step, step.tokens.size());
    core_.done(step.id, step.tokens.size(), Errc::ok, now_);
  }

  detail::SessionCore core_;
  KvInvariantChecker checker_;
  std::vector<Flight> flights_;
  std::vector<Pass> passes_;  // at most one
  Time now_{0};
  Time wake_ = kNever;
};

/// Follows every order of events from here on.
template <class S>
class Search {
 public:
  explicit Search(const Turns& turns) : turns_(turns) {}
  /// The first rule that was broken; empty when there is none.
  std::string follow(Moment<S> moment) {
    for (int idle = 0;; ++idle) {
      if (!moment.violation().empty()) return moment.violation();
      if (moment.ended()) {
        ++runs_;
        return moment.check_end();
      }
      const auto events = moment.events(turns_);
      for (const auto& event : events) {
        Moment<S> next = moment;
        next.happen(event, turns_);
        if (std::string broken = follow(std::move(next)); !broken.empty()) return broken;
      }
      if (!events.empty()) return {};
      if (idle == 10'000 || !moment.wait()) return "the run hangs";
    }
  }
  std::uint64_t runs() const { return runs_; }

 private:
  Turns turns_;
  std::uint64_t runs_ = 0;
};

PrefillSpec plan_of(std::uint32_t chunks, std::uint32_t layers, bool may_gate,
                    std::uint32_t lanes = 1) {
  PrefillSpec spec;
  spec.chunk_tokens = 16;
  spec.n_chunks = spec.end_chunk = chunks;
  spec.n_tokens = 16 * chunks + 8;
  spec.n_layers = layers;
  spec.n_lanes = lanes;
  spec.max_step_tokens = 32;
  spec.may_gate = may_gate;
  spec.head_bytes = 4096;
  spec.layer_bytes = 1 << 20;
  spec.foot_bytes = 4096;
  return spec;
}

/// Every pattern of holes in `chunks` chunks; returns how many runs there were.
template <class S>
std::uint64_t follow_all(const PrefillSpec& spec, const Turns& turns, const S& scheduler) {
  std::uint64_t runs = 0;
  for (std::uint32_t holes = 0; holes < 1u << spec.end_chunk; ++holes) {
    std::vector<StoredChunk> stored(spec.end_chunk);
    for (std::uint32_t c = 0; c < spec.end_chunk; ++c) {
      if ((holes >> c & 1) == 0)
        stored[c] = {spec.read_bytes({0, spec.n_layers}), (1u << spec.n_lanes) - 1};
    }
    Search<S> search(turns);
    const std::string broken = search.follow(Moment<S>(spec, stored, scheduler));
    if (!broken.empty()) FAIL(spec.end_chunk << " chunks, holes " << holes << ": " << broken);
    runs += search.runs();
  }
  return runs;
}

MeetInTheMiddleScheduler meet(double per_token) {
  MeetOptions options;
  options.cost = {1e-5, per_token, 0};
  return MeetInTheMiddleScheduler(options);
}

/// With the default scheduler for devices around the crossover, and with the baselines.
std::uint64_t follow_schedulers(const PrefillSpec& spec, const Turns& turns) {
  std::uint64_t runs = 0;
  for (const double chunk_s : {2e-4, 1e-3, 4e-3}) {
    runs += follow_all(spec, turns, meet(chunk_s / spec.chunk_tokens));
  }
  runs += follow_all(spec, turns, LoadOnlyScheduler{});
  runs += follow_all(spec, turns, FixedSplitScheduler{0.5});
  runs += follow_all(spec, turns, PublishedScheduler{});
  return runs + follow_all(spec, turns, ComputeOnlyScheduler{});
}

}  // namespace

TEST_CASE("up to six chunks are right for every pattern of holes and every order of events") {
  std::uint64_t runs = 0;
  for (std::uint32_t chunks = 0; chunks <= 6; ++chunks) {
    for (const std::uint32_t lanes : {1u, 2u}) {
      runs += follow_schedulers(plan_of(chunks, 1, false, lanes), {});
    }
  }
  CHECK(runs > 20'000);
}

TEST_CASE("up to six chunks are right in whatever order inserts end, up to four whatever fails") {
  std::uint64_t runs = 0;
  for (std::uint32_t chunks = 1; chunks <= 6; ++chunks) {
    runs += follow_schedulers(plan_of(chunks, 1, false), {.inserts = true});
    if (chunks > 4) continue;
    const Turns all{.inserts = true, .failures = true, .deadlines = true};
    runs += follow_schedulers(plan_of(chunks, 1, false), all);
  }
  CHECK(runs > 100'000);
}

TEST_CASE("a gated step behind up to three chunks is right in every order of their layers") {
  std::uint64_t runs = 0;
  for (std::uint32_t chunks = 1; chunks <= 3; ++chunks) {
    for (const std::uint32_t layers : {2u, 3u}) {
      PrefillSpec spec = plan_of(chunks, layers, true);
      spec.n_tokens += 24;  // a suffix that is worth hiding
      runs += follow_all(spec, {.inserts = true}, meet(1e-3));
      if (chunks > 2) continue;
      const Turns all{.inserts = true, .failures = true, .deadlines = true};
      runs += follow_all(spec, all, meet(1e-3));
    }
  }
  CHECK(runs > 1000);
}
