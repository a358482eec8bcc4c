// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prefill of a chaotic engine, by a loop of its own or by a Loader, and what must be true of it
// afterwards whatever happened.
#pragma once

#include <chrono>
#include <concepts>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include "cake/loader.hpp"
#include "chaos/schedulers.hpp"
#include "chaos/world.hpp"

namespace cake::inline CAKE_ABI::chaos {

/// What is chosen for one prefill before it begins.
struct PrefillSpec {
  PrefillSpec(const World& world, std::uint64_t seed_in) : seed(seed_in), random(seed_in) {
    prompt = random.below(static_cast<std::uint32_t>(world.prompts.size()));
    const auto n = static_cast<std::uint32_t>(world.prompts[prompt].tokens.size());
    if (random.chance(0.3)) resident = random.below(n);
    session.max_step_tokens = random.chance(0.2) ? ~0u : random.between(1, 300);
    engine = {.layout = world.layout,
              .chunk_tokens = world.chunk_tokens,
              .seed = seed,
              .step_us = random.chance(0.5) ? 0u : 3000u,
              .insert_us = random.chance(0.5) ? 0u : 1500u,
              .bad_insert = random.chance(0.2) ? 0.1 : 0.0,
              .bad_pass = random.chance(0.1) ? 0.1 : 0.0};
    session.idle_timeout = std::chrono::milliseconds(random.below(20));
    session.read_timeout = std::chrono::milliseconds(random.between(10, 100));
    session.lookup_timeout = std::chrono::milliseconds(random.between(5, 80));
    leaves = random.chance(0.1);
    if (random.chance(0.2)) stops_after_us = random.below(8000);
  }
  std::uint64_t seed;
  Random random;
  std::uint32_t prompt = 0;
  std::uint32_t resident = 0;
  EngineSpec engine;
  SessionOptions session;
  bool leaves = false;  // the session goes away in the middle
  std::optional<std::uint32_t> stops_after_us;
};

/// Asks for the end some time later.
class Stopper {
 public:
  explicit Stopper(std::optional<std::uint32_t> after_us) {
    if (!after_us) return;
    if (*after_us < 500) {
      (void)source_.request_stop();
    } else {
      thread_ = std::jthread([this, after_us] {
        nap(*after_us);
        (void)source_.request_stop();
      });
    }
  }
  std::stop_token token() const { return source_.get_token(); }
  bool asked() const { return source_.stop_requested(); }

 private:
  std::stop_source source_;
  std::jthread thread_;
};

/// A prefill that is over, and the engine that it left.
template <class E>
class Outcome {
 public:
  Outcome(const World& world, const PrefillSpec& spec, E& engine, const Stopper& stopper)
      : world_(world), spec_(spec), engine_(engine), stopper_(stopper) {}

  void judge(const PrefillReport& report) const {
    count(report);
    const Errc code = report.status.code();
    require(code != Errc::invalid_argument, "an engine that keeps the rules is told it did not");
    if (code == Errc::canceled) {
      require(stopper_.asked(), "canceled by nobody");
      ++totals.canceled;
    } else if (code != Errc::ok) {
      require(spec_.engine.bad_pass > 0, "failed although no pass did");
      ++totals.failed;
    } else {
      compare(report);
    }
  }

  void judge(const PrefillReport& report, const SaveReport& saved) const {
    const World::Prompt& prompt = world_.prompts[spec_.prompt];
    const auto chunks = static_cast<std::uint32_t>(prompt.tokens.size()) / world_.chunk_tokens;
    require(saved.written + saved.present + saved.failed == chunks, "a save lost count");
    totals.saved += saved.written;
    if (report.status) return;
    require(!saved.status && saved.failed == chunks, "KV of a prefill that failed was saved");
    ++totals.refused_saves;
  }

 private:
  static void count(const PrefillReport& report) {
    for (const StepReport& step : report.steps) {
      totals.gated += step.gated ? 1 : 0;
      totals.voided += step.voided ? 1 : 0;
    }
    totals.failed_loads += report.failed_loads;
    totals.reads_superseded += report.reads_superseded;
    totals.faults += report.scheduler_faults;
    totals.lookups_lost += report.lookup ? 0 : 1;
  }

  void compare(const PrefillReport& report) const {
    const World::Prompt& prompt = world_.prompts[spec_.prompt];
    ++totals.good;
    totals.loaded += report.tokens_loaded;
    totals.computed += report.tokens_computed;
    const std::uint32_t meet = report.meet_token;
    totals.met += report.tokens_loaded > 0 && meet > 0 && meet < report.spec.prefix_end() ? 1 : 0;
    require(report.tokens_resident + report.tokens_computed + report.tokens_loaded ==
                prompt.tokens.size(),
            "a good prefill left tokens out, or did some twice");
    const auto& kv = engine_.toy.kv();
    if (kv == prompt.kv) return;
    std::size_t at = 0;
    while (kv[at] == prompt.kv[at]) ++at;
    for (const StepReport& s : report.steps) {
      std::fprintf(stderr, "  step [%u, %u)%s%s\n", s.tokens.begin, s.tokens.end,
                   s.gated ? " gated" : "", s.voided ? " void" : "");
    }
    for (const LoadReport& l : report.loads) {
      std::fprintf(stderr, "  load of chunk %u, layers [%u, %u): %s\n", l.slice.chunk,
                   l.slice.layers.begin, l.slice.layers.end,
                   std::string(to_string(l.outcome)).c_str());
    }
    broken("wrong KV with status ok from token " +
           std::to_string(at / world_.layout.bytes_per_token()) + " of prefill " +
           std::to_string(spec_.seed));
  }

  const World& world_;
  const PrefillSpec& spec_;
  E& engine_;
  const Stopper& stopper_;
};

template <class E>
void fill_resident(const World& world, const PrefillSpec& spec, E& engine) {
  const World::Prompt& prompt = world.prompts[spec.prompt];
  if (spec.resident == 0) return;
  require(engine.toy.prefill(prompt.tokens, {0, spec.resident}).has_value(), "resident tokens");
}

/// A loop like an engine's own, with budgets from 0, steps cut short, passes in flight.
template <class E, class S>
class OwnLoop {
 public:
  using Session = PrefillSession<E, S, AnyScheduler>;

  OwnLoop(const World& world, IoLanes<S>& lanes, std::uint64_t seed, Seat& seat)
      : world_(world),
        spec_(world, seed),
        seat_(seat),
        stopper_(spec_.stops_after_us),
        tokens_(world.prompts[spec_.prompt].tokens),
        engine_(static_cast<std::uint32_t>(tokens_.size()), spec_.engine) {
    fill_resident(world, spec_, engine_);
    const AnyScheduler scheduler(seed);
    seat_.seed = seed;
    seat_.scheduler = scheduler.kind();
    seat_.stage = "begin";
    session_ = std::make_unique<Session>(
        engine_, lanes, ChunkOptions{.chunk_tokens = world.chunk_tokens}, scheduler, spec_.session);
    session_->begin(tokens_, {.resident = spec_.resident, .stop = stopper_.token()});
  }

  void run() {
    const bool finished = drive();
    ++totals.prefills;
    if (!finished && spec_.random.chance(0.5)) return drop();
    while (!running_.empty()) settle();
    seat_.stage = "finish";
    const PrefillReport report = session_->finish();
    engine_.closed = true;
    if (!finished) {
      ++totals.dropped;
      return;
    }
    const Outcome<E> outcome(world_, spec_, engine_, stopper_);
    outcome.judge(report);
    if (spec_.random.chance(0.5)) return;
    seat_.stage = "save";
    outcome.judge(report, session_->save(tokens_));
  }

 private:
  using Prefilled = decltype([](E& e, Tokens t, TokenRange r) {
    if constexpr (PrefillsGated<E>) {
      return e.prefill(t, r, LayerGate());
    } else {
      return e.prefill(t, r);
    }
  }(std::declval<E&>(), Tokens(), TokenRange()));
  struct Running {
    Step step;
    Prefilled pass;
  };

  /// False: it left in the middle.
  bool drive() {
    Random& random = spec_.random;
    const std::uint32_t last_turn = random.below(8);
    for (std::uint32_t turn = 0;; ++turn) {
      if (spec_.leaves && turn == last_turn) return false;
      ++seat_.steps;
      seat_.stage = "next";
      const std::uint32_t budget = random.chance(0.1)   ? 0
                                   : random.chance(0.1) ? ~0u
                                                        : random.between(1, 300);
      const Step step = session_->next(budget, random.chance(0.8));
      if (step.kind == Step::Kind::finished && running_.empty()) return true;
      if (step.kind == Step::Kind::compute) {
        require(step.tokens.size() <= budget, "a step of more tokens than the budget");
        start(step);
      } else {
        wait(step);
      }
    }
  }

  void start(const Step& step) {
    seat_.stage = "prefill";
    TokenRange range = step.tokens;
    if (std::same_as<Prefilled, Status> && spec_.random.chance(0.1)) {
      range.end -= range.size() / 2;  // the engine does less than it was asked for
    }
    try {
      running_.push_back({step, prefill(step, range)});
    } catch (...) {
      return session_->done(step, 0, Error{Errc::device, 0, "chaos: prefill"});
    }
    if constexpr (std::same_as<Prefilled, Status>) {
      const Status status = running_.front().pass;
      running_.clear();
      session_->done(step, range.size(), status);
    }
  }
  Prefilled prefill(const Step& step, TokenRange range) {
    if constexpr (PrefillsGated<E>) {
      return engine_.prefill(tokens_, range, session_->gate(step));
    } else {
      return engine_.prefill(tokens_, range);
    }
  }

  /// Waits for a change, or for the oldest pass, which may wait for inserts on this thread.
  void wait(const Step& step) {
    seat_.stage = "wait";
    if (running_.empty() ||
        !cake::completed_within(running_.front().pass, std::chrono::microseconds(200))) {
      session_->wait(running_.empty() ? step.until : Time{0});
    } else {
      settle();
    }
  }
  void settle() {
    seat_.stage = "settle";
    while (!cake::completed_within(running_.front().pass, std::chrono::microseconds(200))) {
      session_->wait(Time{0});
    }
    Running oldest = std::move(running_.front());
    running_.pop_front();
    Status status;
    try {
      status = cake::await_completion(std::move(oldest.pass));
    } catch (...) {
      status = Error{Errc::device, 0, "chaos: pass"};
    }
    session_->done(oldest.step, oldest.step.tokens.size(), status);
  }

  /// The session ends first, the passes later: their gates are void then.
  void drop() {
    seat_.stage = "drop";
    ++totals.dropped;
    session_.reset();
    engine_.closed = true;
    for (Running& r : running_) {
      try {
        (void)cake::await_completion(std::move(r.pass));
      } catch (...) {  // a pass that fails, for nobody
      }
    }
  }

  const World& world_;
  PrefillSpec spec_;
  Seat& seat_;
  Stopper stopper_;
  const std::vector<TokenId>& tokens_;
  E engine_;
  std::unique_ptr<Session> session_;
  std::deque<Running> running_;
};

/// Some prefills by a Loader with lanes of its own.
template <class E, class S>
void load(const World& world, S& storage, const LaneOptions& lanes, std::uint64_t seed,
          Seat& seat) {
  PrefillSpec first(world, seed);
  const AnyScheduler scheduler(seed);
  seat.seed = seed;
  seat.scheduler = scheduler.kind();
  const auto& tokens = world.prompts[first.prompt].tokens;
  E engine(static_cast<std::uint32_t>(tokens.size()), first.engine);
  first.session.gated_steps = first.random.chance(0.8);
  Loader<E, S, AnyScheduler> loader(
      engine, storage,
      {.chunks = {.chunk_tokens = world.chunk_tokens}, .lanes = lanes, .session = first.session},
      scheduler);
  for (std::uint64_t i = 0; i < 3; ++i) {
    PrefillSpec spec = first;
    spec.stops_after_us = PrefillSpec(world, seed + 100 + i).stops_after_us;
    const Stopper stopper(spec.stops_after_us);
    engine.toy.clear();
    fill_resident(world, spec, engine);
    engine.closed = false;
    ++seat.steps;
    try {
      seat.stage = "Loader::prefill";
      const PrefillReport report =
          loader.prefill(tokens, {.resident = spec.resident, .stop = stopper.token()});
      engine.closed = true;
      ++totals.prefills;
      const Outcome<E> outcome(world, spec, engine, stopper);
      outcome.judge(report);
      seat.stage = "Loader::save";
      outcome.judge(report, loader.save(tokens));
    } catch (...) {
      broken("an exception left a Loader");
    }
  }
}

}  // namespace cake::inline CAKE_ABI::chaos
