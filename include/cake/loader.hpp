// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The loader: prefill() makes a prompt's KV resident as fast as computing and loading together can,
// save() stores it for the next time. A thin loop over PrefillSession; engines with a loop of their
// own use that instead.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/engine.hpp"
#include "cake/io_lanes.hpp"
#include "cake/save.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

struct LoaderOptions {
  std::uint32_t chunk_tokens =
      256;  // unit of identity and storage: the same for saving and loading
  std::uint32_t max_step_tokens = 512;  // most tokens of one compute pass
  bool gated_steps = true;  // start the suffix behind the last loads, where the backend can
  LaneOptions lanes = {};
  SessionOptions session = {};
};

struct PrefillOptions {
  std::uint32_t resident = 0;        // tokens whose KV the engine holds already
  std::string salt = {};             // of the tenant
  std::vector<ExtraKey> extra = {};  // what token ids do not say: images, soft prompts
  std::stop_token stop = {};
};

/// Composes an engine, a store and a scheduler. 10 lines:
///
///     Engine engine;
///     cake::PosixStorage storage({.directory = "/var/cache/kv"});
///     cake::Loader loader(engine, storage);
///     cake::PrefillReport report = loader.prefill(prompt);
///     if (!report.status) return fail(report.status.error().message());
///     puts(report.timeline().c_str());
///     loader.save(prompt);
///
/// Needs:   compute and storage outlive it
/// Thread:  one at a time; several loaders may share a store
template <ComputeBackend C, StorageBackend S, Scheduler Sch = MeetInTheMiddleScheduler>
class Loader {
 public:
  Loader(C& compute, S& storage, LoaderOptions options = {}, Sch scheduler = Sch())
      : compute_(compute),
        storage_(storage),
        options_(options),
        lanes_(storage, lane_options(compute, options_.lanes)),
        session_(compute, lanes_, std::move(scheduler), options_.session) {}

  /// Makes the KV of the whole prompt resident, and the logits of its last token. No pass and no
  /// insert of it is under way when it returns, however it ends.
  ///
  /// Errors:  in the report's status: canceled, or what a prefill of the engine returned or threw.
  /// No
  ///          I/O error is one: what cannot be loaded is computed. Throws
  ///          Exception(invalid_argument) as PrefillSession::begin() does
  PrefillReport prefill(Tokens tokens, const PrefillOptions& options = {}) {
    try {
      session_.begin({.tokens = tokens,
                      .resident = options.resident,
                      .salt = options.salt,
                      .extra = options.extra,
                      .chunk_tokens = options_.chunk_tokens,
                      .max_step_tokens = options_.max_step_tokens,
                      .may_gate = PrefillsGated<C> && options_.gated_steps,
                      .stop = options.stop});
    } catch (const Exception& e) {
      if (e.error().code == Errc::invalid_argument) throw;
      PrefillReport report;
      report.status = e.error();
      return report;
    }
    Status failure;
    std::vector<Running> running;  // steps that the device has not finished, oldest first
    try {
      running.reserve(2);  // as many as a session has in flight
      run(tokens, running);
    } catch (...) {
      failure = detail::caught(Errc::device, "prefill");
    }
    while (!running.empty()) finish_oldest(running);
    PrefillReport report = session_.finish();
    if (!failure) report.status = failure;
    return report;
  }

  /// Stores every full chunk of the tokens that is not stored yet. They are the last prompt's, its
  /// beginning, or go on with it; their KV must be resident in the engine. (A token that was
  /// sampled and not yet decoded has none.)
  ///
  /// Errors:  in the report, as PrefillSession::save(); none is thrown
  SaveReport save(Tokens tokens, SaveOptions options = {}) {
    if (options.chunk_tokens == 0) options.chunk_tokens = options_.chunk_tokens;
    return session_.save(tokens, std::move(options));
  }
  template <std::convertible_to<std::string> T>
  SaveReport save(Tokens tokens, const T& salt) {
    return save(tokens, SaveOptions{.salt = std::string(salt)});
  }

  IoLanes<S>& lanes() { return lanes_; }
  const LoaderOptions& options() const { return options_; }

 private:
  /// An engine may bring the memory that its inserts copy from fastest: staging_memory(). One that
  /// inserts from device memory gets the storage's.
  static LaneOptions lane_options(C& compute, LaneOptions options) {
    if constexpr (requires {
                    { compute.staging_memory() } -> std::convertible_to<StagingMemory*>;
                  }) {
      if (options.staging == nullptr) options.staging = compute.staging_memory();
    }
    options.device = options.device || detail::inserts_from_device<C>();
    return options;
  }
  static auto issue(C& compute, Tokens tokens, const Step& step, LayerGate gate) {
    if constexpr (PrefillsGated<C>) {
      return compute.prefill(tokens, step.tokens, gate);
    } else {
      return compute.prefill(tokens, step.tokens);
    }
  }
  using Pass = decltype(issue(std::declval<C&>(), Tokens(), Step(), LayerGate()));
  struct Running {
    Step step;
    Pass pass;
  };

  void run(Tokens tokens, std::vector<Running>& running) {
    for (;;) {
      const Step step = session_.next(options_.max_step_tokens);
      if (step.kind == Step::Kind::compute) {
        start(tokens, step, running);
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

  void start(Tokens tokens, const Step& step, std::vector<Running>& running) {
    if constexpr (std::same_as<Pass, Status>) {
      const Status status = detail::guarded(Errc::device, "prefill", [&] {
        return issue(compute_, tokens, step, session_.gate(step));
      });
      session_.done(step, step.tokens.size(), status);
    } else {
      try {
        running.push_back({step, issue(compute_, tokens, step, session_.gate(step))});
      } catch (...) {
        session_.done(step, 0, detail::caught(Errc::device, "prefill"));
      }
    }
  }

  /// Whether the pass ends within that time. One whose completion throws is taken to have ended.
  bool ready_within(Running& running, Time span) {
    return detail::value_or([&] { return completed_within(running.pass, span); }, true);
  }

  /// Whether the pass ends until then, or is to be waited for as long as it takes. It may need the
  /// inserts of an engine that makes them on this thread.
  bool ready_by(Running& running, Time until) {
    const Time left = until - session_.now();
    if constexpr (detail::inserts_on_caller<C>()) {
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
    const Status status = detail::guarded(Errc::device, "prefill",
                                          [&] { return await_completion(std::move(oldest.pass)); });
    session_.done(oldest.step, status ? oldest.step.tokens.size() : 0, status);
  }

  C& compute_;
  S& storage_;
  LoaderOptions options_;
  IoLanes<S> lanes_;
  PrefillSession<C, S, Sch> session_;
};

}  // namespace cake::inline CAKE_ABI
