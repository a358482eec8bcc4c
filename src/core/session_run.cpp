// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/session_run.hpp"

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
#include "cake/detail/lane_client.hpp"
#include "cake/detail/process.hpp"
#include "src/core/last_prompt.hpp"
#include "src/core/prefetch.hpp"
#include "src/core/queued_prompt.hpp"
#include "src/core/session_state.hpp"

namespace cake::inline CAKE_ABI::detail {

struct SessionRun::Inside {
  struct Cancel {
    SessionState* state;
    void operator()() const { state->cancel(); }
  };
  static constexpr int kReportTries = 100;

  Inside(SessionEngine& engine_in, IoLanesCore& lanes_in, const AnyScheduler& scheduler_in,
         ChunkOptions chunks_in, const SessionOptions& options_in)
      : engine(engine_in),
        lanes(lanes_in),
        scheduler(scheduler_in),
        chunks(std::move(chunks_in)),
        options(options_in) {}

  LaneHost& host() const { return lanes.host(); }

  SessionState& running(const char* member) const {
    if (!state) {
      throw Exception({Errc::invalid_argument, 0,
                       std::string(member) + "() without begin(), or after finish()"});
    }
    return *state;
  }

  void begin(Tokens tokens, const PrefillOptions& prompt) {
    if (state)
      throw Exception({Errc::invalid_argument, 0, "begin() before finish() of the last prompt"});
    host().usable().value();
    std::shared_ptr<SessionState> begun;
    LastPrompt now_last;
    try {
      begun = std::make_shared<SessionState>(engine, host(), scheduler, options);
      now_last = {.tokens = nullptr,
                  .chunks = prompt.chunks.value_or(chunks),
                  .fingerprint = {},
                  .ran = true};
      begun->begin(tokens, now_last.chunks, prompt);
      now_last.tokens = begun->tokens();
      now_last.fingerprint = begun->fingerprint();
      host().attach(begun);
    } catch (...) {
      throw Exception(caught(Errc::device, "begin"));
    }
    last = std::move(now_last);
    state = std::move(begun);
    stop.emplace(prompt.stop, Cancel{state.get()});
  }

  /// The report, for which others may have to give memory back first.
  PrefillReport finish() {
    SessionState& ending = running("finish");
    stop.reset();
    ending.close();
    PrefillReport report;
    report.status = error_of(Errc::out_of_memory, 0, "report");
    for (int i = 0; i < kReportTries; ++i) {
      try {
        report = ending.report();
        break;
      } catch (const std::bad_alloc&) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    last.complete = report.status.has_value();
    end();
    return report;
  }

  /// Lets go of the run, whose report nobody asks for any more.
  void end() noexcept {
    stop.reset();
    state->close();
    host().detach(*state);
    try {
      state->teach();
    } catch (...) {  // no memory: what it has learned is lost
    }
    state.reset();
  }

  Status may_save(Tokens tokens, const SaveOptions& how, const ChunkOptions& as) {
    if (state) return Error{Errc::invalid_argument, 0, "save() before finish() of the prompt"};
    if (auto status = fits_staging(engine.layout(), as, engine.abilities.whole_chunks,
                                   host().staging_budget());
        !status) {
      return status;
    }
    if (how.assume_resident) return {};
    return detail::may_save(last, tokens, as.extra, engine.fingerprint());
  }

  SessionEngine& engine;
  IoLanesCore& lanes;
  const AnyScheduler& scheduler;
  ChunkOptions chunks;
  SessionOptions options;
  std::shared_ptr<SessionState> state;
  std::optional<std::stop_callback<Cancel>> stop;
  LastPrompt last;
};

SessionRun::SessionRun(SessionEngine& engine, IoLanesCore& lanes, const AnyScheduler& scheduler,
                       ChunkOptions chunks, const SessionOptions& options) {
  if (!engine.abilities.inserts_from_device && lanes.host().landing_device() != nullptr) {
    throw Exception({Errc::invalid_argument, 0,
                     "the lanes read into device memory, which this engine does not insert from"});
  }
  inside_ = std::make_unique<Inside>(engine, lanes, scheduler, std::move(chunks), options);
}

SessionRun::~SessionRun() {
  if (!inside_->state) return;
  if (!inside_->host().usable()) {
    inside_->stop.reset();
    abandon(std::move(inside_->state));
    return;
  }
  inside_->end();
}

void SessionRun::begin(Tokens tokens, const PrefillOptions& prompt) {
  inside_->begin(tokens, prompt);
}
Step SessionRun::next(std::uint32_t budget, bool may_gate) {
  return inside_->running("next").next(budget, may_gate);
}
LayerGate SessionRun::gate(const Step& step) {
  (void)inside_->running("gate");
  return step.gated ? LayerGate(inside_->state, step.id) : LayerGate();
}
void SessionRun::done(const Step& step, std::uint32_t tokens, const Status& status) {
  inside_->running("done").done(step, tokens, status);
}
void SessionRun::wait(Time until) { inside_->running("wait").wait(until); }
Time SessionRun::now() const { return inside_->running("now").now(); }
PrefillReport SessionRun::finish() { return inside_->finish(); }

SaveReport SessionRun::save(Tokens tokens, const SaveOptions& options) {
  const LastPrompt& last = inside_->last;
  const ChunkOptions& chunks = options.chunks ? *options.chunks
                               : last.ran     ? last.chunks
                                              : inside_->chunks;
  const Status allowed =
      guarded(Errc::device, "save", [&] { return inside_->may_save(tokens, options, chunks); });
  if (!allowed) return save_refused(allowed.error(), tokens, chunks);
  return save_chunks(inside_->engine, inside_->lanes.storage(), tokens, chunks, options.stop);
}

PromptNeeds SessionRun::needs(Tokens tokens, const PrefillOptions& prompt) const {
  LaneHost& host = inside_->host();
  host.usable().value();
  try {
    PromptNeeds needs =
        needs_of(look_up(inside_->engine, host, tokens, prompt.chunks.value_or(inside_->chunks),
                         prompt, inside_->options),
                 host, host.calibration());
    needs.ttft_target = prompt.ttft_target;
    return needs;
  } catch (...) {
    throw Exception(caught(Errc::device, "needs"));
  }
}

PrefetchTicket SessionRun::prefetch(Tokens tokens, const PrefetchOptions& options) const {
  LaneHost& host = inside_->host();
  host.usable().value();
  try {
    PrefillOptions prompt;
    prompt.stop = options.stop;
    QueuedPrompt queued =
        look_up(inside_->engine, host, tokens, options.chunks.value_or(inside_->chunks), prompt,
                inside_->options);
    LaneStorage& storage = inside_->lanes.storage();
    Prefetch::Tiers tiers;
    for (LaneId l = 0; l < host.lane_count(); ++l) {
      tiers.promote |= std::uint32_t{storage.promotes(l)} << l;
      tiers.lend |= std::uint32_t{storage.lends(l)} << l;
    }
    tiers.on_device = host.landing_device() != nullptr;
    return Prefetch::start(std::make_shared<Prefetch>(std::move(queued), host, options, tiers,
                                                      inside_->options.read_timeout),
                           options);
  } catch (...) {
    throw Exception(caught(Errc::device, "prefetch"));
  }
}

const ChunkOptions& SessionRun::chunks() const { return inside_->chunks; }
const SessionOptions& SessionRun::options() const { return inside_->options; }

}  // namespace cake::inline CAKE_ABI::detail
