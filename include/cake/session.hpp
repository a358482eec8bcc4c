// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run, driven step by step by an engine's own loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/process.hpp"
#include "cake/detail/session_state.hpp"
#include "cake/engine.hpp"
#include "cake/io_lanes.hpp"
#include "cake/save.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session_options.hpp"
#include "cake/storage_backend.hpp"

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
        lanes_(lanes),
        chunks_(std::move(chunks)),
        scheduler_(std::move(scheduler)),
        options_(options) {
    if (!engine_traits<M>::abilities.inserts_from_device && lanes.device() != nullptr) {
      throw Exception(
          {Errc::invalid_argument, 0,
           "the lanes read into device memory, which this engine does not insert from"});
    }
  }
  ~PrefillSession() {
    if (!state_) return;
    if (!lanes_.usable()) {
      stop_.reset();
      detail::abandon(std::move(state_));
      return;
    }
    end();
  }
  PrefillSession(const PrefillSession&) = delete;
  PrefillSession& operator=(const PrefillSession&) = delete;

  /// Looks the prompt up and starts the lanes. `tokens` is the whole prompt, which is copied.
  ///
  /// Errors:  throws Exception: invalid_argument as look_up() does, or when a run has begun
  /// already;
  ///          unsupported in a child process after fork(); else what layout() or fingerprint() of
  ///          the engine threw. No run has then begun
  void begin(Tokens tokens, const PrefillOptions& prompt = {}) {
    if (state_)
      throw Exception({Errc::invalid_argument, 0, "begin() before finish() of the last prompt"});
    lanes_.usable().value();
    std::shared_ptr<State> state;
    detail::LastPrompt last;
    try {
      state =
          std::make_shared<State>(memory_, lanes_.storage(), lanes_.host(), scheduler_, options_);
      last = {.tokens = nullptr,
              .chunks = prompt.chunks.value_or(chunks_),
              .fingerprint = {},
              .ran = true};
      state->begin(tokens, last.chunks, prompt);
      last.tokens = state->tokens();
      last.fingerprint = state->fingerprint();
      lanes_.host().attach(state);
    } catch (...) {
      throw Exception(detail::caught(Errc::device, "begin"));
    }
    last_ = std::move(last);
    state_ = std::move(state);
    stop_.emplace(prompt.stop, Cancel{state_.get()});
  }

  /// What compute does next, at most `budget` tokens of it. With a budget of 0 the answer is a wait
  /// that is over at once.
  Step next(std::uint32_t budget, bool may_gate = true) {
    return running("next").next(budget, may_gate);
  }

  /// For a backend that takes a LayerGate; open at once when the step is not gated. It may outlive
  /// the session: then it is void.
  LayerGate gate(const Step& step) {
    (void)running("gate");
    return step.gated ? LayerGate(state_, step.id) : LayerGate();
  }

  /// A step has ended after `tokens` of its tokens (fewer than asked only for the newest step).
  /// superseded: its gate was void; any other error ends the run.
  void done(const Step& step, std::uint32_t tokens, const Status& status) {
    running("done").done(step, tokens, status);
  }

  /// Blocks until something changed since next(), at most until `until`; while steps are in flight
  /// for at most 20 ms, since the caller alone knows when they end. Runs the inserts that the
  /// driving thread has to make.
  void wait(Time until) { running("wait").wait(until); }

  /// Time since begin().
  Time now() const { return running("now").now(); }

  /// Ends the run, done or not: waits for inserts in progress, and for nothing else.
  PrefillReport finish() {
    State& state = running("finish");
    stop_.reset();
    state.close();
    PrefillReport report;
    report.status = detail::error_of(Errc::out_of_memory, 0, "report");
    for (int i = 0; i < kReportTries; ++i) {
      try {
        report = state.report();
        break;
      } catch (const std::bad_alloc&) {  // others may give some back
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    last_.complete = report.status.has_value();
    end();
    return report;
  }

  /// Stores every full chunk of the last prompt, or of tokens that begin with it, that is not
  /// stored yet. Not while a run is going on, and not after one that failed.
  ///
  /// Errors:  in the report: invalid_argument when the engine cannot hold the KV of these tokens as
  ///          far as the session knows (SaveOptions::assume_resident lifts that), or when no load
  ///          could ever bring a chunk back through the staging memory; else as cake::save()
  SaveReport save(Tokens tokens, const SaveOptions& options = {}) {
    const ChunkOptions& chunks = options.chunks ? *options.chunks
                                 : last_.ran    ? last_.chunks
                                                : chunks_;
    const Status allowed = detail::guarded(Errc::device, "save", [&]() -> Status {
      if (state_) {
        return Error{Errc::invalid_argument, 0, "save() before finish() of the prompt"};
      }
      if (auto status = detail::fits_staging<M>(memory_.layout(), chunks.chunk_tokens,
                                                lanes_.staging_bytes());
          !status) {
        return status;
      }
      if (options.assume_resident) return {};
      return detail::may_save(last_, tokens, chunks.extra, memory_.fingerprint());
    });
    if (!allowed) return detail::save_refused(allowed.error(), tokens, chunks);
    return cake::save(memory_, lanes_.storage(), tokens, chunks, options.stop);
  }

  M& memory() { return memory_; }
  const ChunkOptions& chunks() const { return chunks_; }
  const SessionOptions& options() const { return options_; }

 private:
  static constexpr int kReportTries = 100;
  using State = detail::SessionState<M, S, Sch>;

  State& running(const char* member) const {
    if (!state_) {
      throw Exception({Errc::invalid_argument, 0,
                       std::string(member) + "() without begin(), or after finish()"});
    }
    return *state_;
  }

  /// Lets go of the run, whose report nobody asks for any more.
  void end() noexcept {
    stop_.reset();
    state_->close();
    lanes_.host().detach(*state_);
    try {
      state_->teach();
    } catch (...) {  // no memory: what it has learned is lost
    }
    state_.reset();
  }

  struct Cancel {
    State* state;
    void operator()() const { state->cancel(); }
  };

  M& memory_;
  IoLanes<S>& lanes_;
  ChunkOptions chunks_;
  Sch scheduler_;
  SessionOptions options_;
  std::shared_ptr<State> state_;
  std::optional<std::stop_callback<Cancel>> stop_;
  detail::LastPrompt last_;
};

}  // namespace cake::inline CAKE_ABI
