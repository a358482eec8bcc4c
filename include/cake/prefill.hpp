// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A whole prefill, for an engine without a loop of its own.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/engine.hpp"
#include "cake/report.hpp"
#include "cake/scheduler.hpp"
#include "cake/session.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

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
