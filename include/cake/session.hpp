// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run, driven step by step by an engine's own loop.
#pragma once

#include <cstdint>
#include <utility>

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

}  // namespace cake::inline CAKE_ABI
