// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run, driven step by step by an engine's own loop, or as a whole by prefill().
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/detail/session_run.hpp"
#include "cake/detail/session_scheduler.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/io_lanes.hpp"
#include "cake/queued.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/save.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session_options.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// See the file's head. An engine's loop:
///
///     cake::PrefillSession session(engine, lanes, chunks);
///     session.begin(prompt);
///     for (cake::Step step; (step = session.next(512)).kind != cake::Step::Kind::finished;) {
///       if (step.kind == cake::Step::Kind::wait) { session.wait(step.until); continue; }
///       session.done(step, step.tokens.size(),
///                    engine.prefill(prompt, step.tokens, session.gate(step)));
///     }
///     cake::PrefillReport report = session.finish();
///     if (report.status) session.save(prompt);
///
/// An engine whose prefill() takes no gate leaves the gate out, and is given no gated steps.
/// cake::prefill(session, prompt) is this loop for an engine without one of its own.
///
/// Needs:   memory and lanes outlive it; pages for the whole prompt are allocated before begin()
/// Errors:  the constructor throws Exception(invalid_argument) when the lanes read into device
///          memory and the engine does not insert from there. Every member throws
///          Exception(invalid_argument) when it is called outside begin() and finish(). Where memory
///          is missing, next() says wait, and finish() leaves out what the report has no room for
/// Thread:  one at a time
template <KvMemory M, StorageBackend S, Scheduler Sch = MeetInTheMiddleScheduler>
class PrefillSession {
 public:
  PrefillSession(M& memory, IoLanes<S>& lanes, ChunkOptions chunks = {}, Sch scheduler = Sch(),
                 const SessionOptions& options = {})
      : memory_(memory),
        engine_(memory),
        scheduler_(std::move(scheduler)),
        run_(engine_, lanes.core(), scheduler_, std::move(chunks), options) {}
  PrefillSession(const PrefillSession&) = delete;
  PrefillSession& operator=(const PrefillSession&) = delete;

  /// Looks the prompt up and starts the lanes. `tokens` is the whole prompt, which is copied.
  ///
  /// Errors:  throws Exception: invalid_argument for an empty prompt, chunk or step size, for extra
  ///          keys that prefix_chain() refuses, or when a run has begun already; unsupported in a
  ///          child process after fork(); else what layout() or fingerprint() of the engine threw.
  ///          No run has then begun
  void begin(Tokens tokens, const PrefillOptions& prompt = {}) { run_.begin(tokens, prompt); }

  /// What compute does next, at most `budget` tokens of it, or more in a gated step of an engine
  /// with EngineAbilities::wide_gated_steps. With a budget of 0 the answer is a wait that is over at
  /// once. Without `may_gate` no step is gated.
  Step next(std::uint32_t budget, bool may_gate = true) { return run_.next(budget, may_gate); }

  /// For a backend that takes a LayerGate; open at once when the step is not gated. It may outlive
  /// the session: then it is void.
  LayerGate gate(const Step& step) { return run_.gate(step); }

  /// A step has ended after `tokens` of its tokens (fewer than asked only for the newest step).
  /// superseded: its gate was void; any other error ends the run.
  void done(const Step& step, std::uint32_t tokens, const Status& status) {
    run_.done(step, tokens, status);
  }

  /// Blocks until something changed since next(), at most until `until`; while steps are in flight
  /// for at most 20 ms, since the caller alone knows when they end. Runs the inserts that the
  /// driving thread has to make.
  void wait(Time until) { run_.wait(until); }

  /// Time since begin().
  Time now() const { return run_.now(); }

  /// Ends the run, done or not: waits for inserts in progress, and for nothing else.
  PrefillReport finish() { return run_.finish(); }

  /// What a prompt that waits would need, for admit(): hashes it and asks the store. Also while a run is
  /// going on, of another prompt of the same model.
  ///
  /// Errors:  of the lookup in the answer; else throws Exception as begin()
  PromptNeeds needs(Tokens tokens, const PrefillOptions& prompt = {}) const {
    return run_.needs(tokens, prompt);
  }

  /// Brings the chunks of a prompt that waits from slower tiers into the fastest one, the last chunks first,
  /// with what running prompts leave of the lanes: no read of it begins while one of them still wants
  /// something of a lane. Needs a store that promotes. Also while a run is going on.
  ///
  /// Errors:  in the report; else throws Exception as begin()
  PrefetchTicket prefetch(Tokens tokens, const PrefetchOptions& options = {}) const {
    return run_.prefetch(tokens, options);
  }

  /// Stores every full chunk of the last prompt, or of tokens that begin with it, that is not
  /// stored yet. Not while a run is going on, and not after one that failed.
  ///
  /// Errors:  in the report: invalid_argument when the engine cannot hold the KV of these tokens as
  ///          far as the session knows (SaveOptions::assume_resident lifts that), or when no load
  ///          could ever bring a chunk back through the staging memory; else as cake::save()
  SaveReport save(Tokens tokens, const SaveOptions& options = {}) {
    return run_.save(tokens, options);
  }

  M& memory() { return memory_; }
  const ChunkOptions& chunks() const { return run_.chunks(); }
  const SessionOptions& options() const { return run_.options(); }

 private:
  M& memory_;
  detail::SessionEngineOf<M> engine_;
  detail::AnyScheduler scheduler_;
  detail::SessionRun run_;
};

// ---- a whole prefill, for an engine without a loop of its own ----

namespace detail {

/// The steps of one prompt. Passes are enqueued one behind the other, as far as the session has two
/// in flight.
template <ComputeBackend C, StorageBackend S, Scheduler Sch>
class PrefillLoop {
  using Traits = engine_traits<C>;
  using Pass = decltype(Traits::prefill(std::declval<C&>(), Tokens(), TokenRange(), LayerGate()));

 public:
  PrefillLoop(PrefillSession<C, S, Sch>& session, Tokens tokens)
      : compute_(session.memory()), session_(session), tokens_(tokens) {}

  /// Returns when no pass is under way any more.
  ///
  /// Errors:  what was thrown outside the engine's steps
  Status run() {
    Status failure;
    std::vector<Running> running;  // steps that the device has not finished, oldest first
    try {
      running.reserve(2);  // as many as a session has in flight
      run_steps(running);
    } catch (...) {
      failure = caught(Errc::device, "prefill");
    }
    while (!running.empty()) finish_oldest(running);
    return failure;
  }

 private:
  struct Running {
    Step step;
    Pass pass;
  };

  void run_steps(std::vector<Running>& running) {
    for (;;) {
      const Step step = session_.next(session_.options().max_step_tokens);
      if (step.kind == Step::Kind::compute) {
        start(step, running);
      } else if (!running.empty()) {
        // The scheduler may want to see more of the loads before it says what comes behind this
        // one.
        if (ready_by(running.front(), step.until)) finish_oldest(running);
      } else if (step.kind == Step::Kind::finished) {
        return;
      } else {
        session_.wait(step.until);
      }
    }
  }

  void start(const Step& step, std::vector<Running>& running) {
    if constexpr (std::same_as<Pass, Status>) {
      const Status status = guarded(Errc::device, "prefill", [&] {
        return Traits::prefill(compute_, tokens_, step.tokens, session_.gate(step));
      });
      session_.done(step, step.tokens.size(), status);
    } else {
      try {
        running.push_back(
            {step, Traits::prefill(compute_, tokens_, step.tokens, session_.gate(step))});
      } catch (...) {
        session_.done(step, 0, caught(Errc::device, "prefill"));
      }
    }
  }

  /// Whether the pass ends within that time. One whose completion throws is taken to have ended.
  bool ready_within(Running& running, Time span) {
    return value_or([&] { return completed_within(running.pass, span); }, true);
  }

  /// Whether the pass ends until then, or is to be waited for as long as it takes. It may need the
  /// inserts of an engine that makes them on this thread.
  bool ready_by(Running& running, Time until) {
    const Time left = until - session_.now();
    if constexpr (Traits::abilities.insert_on_caller) {
      while (!ready_within(running, std::min<Time>(left, std::chrono::microseconds(200)))) {
        session_.wait(Time{0});
        if (session_.now() >= until) return false;
      }
      return true;
    } else {
      return left > std::chrono::hours(1) || ready_within(running, left);
    }
  }

  /// Waits for the oldest step.
  void finish_oldest(std::vector<Running>& running) {
    (void)ready_by(running.front(), kNever);
    Running oldest = std::move(running.front());
    running.erase(running.begin());
    const Status status =
        guarded(Errc::device, "prefill", [&] { return await_completion(std::move(oldest.pass)); });
    session_.done(oldest.step, status ? oldest.step.tokens.size() : 0, status);
  }

  C& compute_;
  PrefillSession<C, S, Sch>& session_;
  Tokens tokens_;
};

}  // namespace detail

/// Makes the KV of the whole prompt resident, and the logits of its last token: the session's loop
/// from begin() to finish(). No pass and no insert of it is under way when it returns, however it
/// ends.
///
/// Errors:  in the report's status: canceled, or what a prefill of the engine returned or threw. No
///          I/O error is one: what cannot be loaded is computed. Throws
///          Exception(invalid_argument) as PrefillSession::begin() does
/// Thread:  as the session
template <ComputeBackend C, StorageBackend S, Scheduler Sch>
PrefillReport prefill(PrefillSession<C, S, Sch>& session, Tokens tokens,
                      const PrefillOptions& options = {}) {
  try {
    session.begin(tokens, options);
  } catch (const Exception& e) {
    if (e.error().code == Errc::invalid_argument) throw;
    PrefillReport report;
    report.status = e.error();
    return report;
  }
  const Status failure = detail::PrefillLoop<C, S, Sch>(session, tokens).run();
  PrefillReport report = session.finish();
  if (!failure) report.status = failure;
  return report;
}

}  // namespace cake::inline CAKE_ABI
