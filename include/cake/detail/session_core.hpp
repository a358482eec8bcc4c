// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run without I/O, thread or clock: its state, and a scheduler that is asked what to
// claim next. The same code runs behind real lanes and in virtual time. One thread at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/prefill_state.hpp"
#include "cake/detail/session_scheduler.hpp"
#include "cake/export.hpp"
#include "cake/report.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/session_options.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Asks the scheduler, and admits to the state what keeps the rules.
class CAKE_API SessionCore {
 public:
  explicit SessionCore(AnyScheduler scheduler, const SessionOptions& options = {})
      : state_(options), scheduler_(std::move(scheduler)) {}

  /// `stored` holds spec.end_chunk entries; priors one per lane.
  void begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
             std::span<const LinkEstimate> priors);

  /// Most layers that one read may take; a load of more is carried out in several.
  void set_read_layers(std::uint32_t layers) { read_layers_ = std::max(1u, layers); }

  const AnyScheduler& scheduler() const { return scheduler_; }
  /// What other sessions have measured, for a scheduler that wants to know. Before begin().
  void calibrate(const std::optional<ComputeCostEstimator>& compute);
  /// The run is over: the scheduler may look at the last step.
  void ended() { scheduler_->ended(view()); }
  /// What the scheduler has measured beside that; null: it measures nothing.
  const ComputeCostEstimator* measured_compute() const { return scheduler_->measured_compute(); }

  // ---- as PrefillState ----

  RunView view() const { return state_.view(); }
  Errc status() const { return state_.status(); }
  bool complete() const { return state_.complete(); }
  bool over() const { return state_.over(); }
  std::uint64_t version() const { return state_.version(); }
  std::uint32_t inserting() const { return state_.inserting(); }
  GateAnswer gate(std::uint64_t id, std::uint32_t layer, Time now) {
    return state_.gate(id, layer, now);
  }
  /// The newest step waits in its gate: whether the scheduler would rather have it void. True: it is.
  bool reconsider_gate(Time now);
  /// When it is to be asked that.
  Time gate_until() const { return scheduler_->reconsiders_gates() ? gate_until_ : kNever; }
  void done(std::uint64_t id, std::uint32_t tokens, Errc code, Time now) {
    state_.done(id, tokens, code, now);
  }
  bool begin_insert(std::uint64_t id, Time now, bool lent = false) {
    return state_.begin_insert(id, now, lent);
  }
  void inserted(std::uint64_t id, bool ok, Time now) { state_.inserted(id, ok, now); }
  void held_up(std::uint64_t id) { state_.held_up(id); }
  void begun(std::uint64_t id, Time now) { state_.begun(id, now); }
  bool begin_part(std::uint64_t id) { return state_.begin_part(id); }
  void end_part(std::uint32_t chunk) { state_.end_part(chunk); }
  bool failed(std::uint64_t id, Errc code, Time now) { return state_.failed(id, code, now); }
  bool wanted(std::uint64_t id) const { return state_.wanted(id); }
  const ReadEntry* find(std::uint64_t id) const { return state_.find(id); }
  std::span<const ReadEntry> reads() const { return state_.reads(); }
  std::uint64_t first_failure() const { return state_.first_failure(); }
  void set_lane_down(LaneId lane, bool down) { state_.set_lane_down(lane, down); }
  void set_lane_ahead(LaneId lane, std::uint64_t bytes, Time now) {
    state_.set_lane_ahead(lane, bytes, now);
  }
  void set_carried_for_others(LaneId lane, std::uint64_t bytes) {
    state_.set_carried_for_others(lane, bytes);
  }
  /// Bytes that the lane may still have to bring: those that nobody has asked for, but for what compute
  /// has first by the forecast that was made when the run began.
  std::uint64_t left_to_load(LaneId lane) const;
  void expire(Time now) { state_.expire(now, lanes_declined()); }
  Time next_deadline() const { return state_.next_deadline(); }
  void cancel() { state_.end(Errc::canceled); }
  void close() { state_.close(); }

  /// No lane that is up has anything to read, as things are.
  bool lanes_declined() const;
  /// Nobody is at work, and no lane has anything to read: next_step() goes on with the front.
  bool idle() const;

  // ---- what is done next ----

  // Each question is put in three parts: begin_...() says what the scheduler is to be asked, ask()
  // asks it, and end_...() admits its answer. ask() reads a copy of the state, so that the state may
  // change meanwhile; only one question is asked at a time.

  struct StepQuestion {
    std::optional<Step> answer;  // without the scheduler
    std::uint32_t budget = 0;
    std::uint64_t version = 0;  // of the state that the scheduler sees
    Time now{0};
  };
  struct LoadQuestion {
    bool ask = false;                 // the scheduler is to be asked
    std::optional<LoadRequest> load;  // what is left of a load that was cut
    LaneId lane = 0;
    std::uint64_t version = 0;
    Time now{0};
  };
  struct GateQuestion {
    bool ask = false;
    std::uint64_t version = 0;
    Time now{0};
  };
  /// None: it threw, or is not asked any more.
  using StepAnswer = std::optional<Step>;
  using LoadAnswer = std::optional<LoadRequest>;

  /// What compute does next; `budget` is the most tokens of the step, of a gated one as
  /// PrefillSpec::gated_step_tokens() says; `may_gate` whether it may start before the KV below it
  /// is whole.
  Step next_step(std::uint32_t budget, bool may_gate, Time now);

  /// Has the answer already where the scheduler gives it at once.
  StepQuestion begin_step(std::uint32_t budget, bool may_gate, Time now);
  /// None: the state has changed so that the answer does not hold any more. Begin again.
  std::optional<Step> end_step(const StepQuestion& question, const StepAnswer& answer, Time now);

  /// The next read for a lane that has room for `max_bytes`; none: ask again when something
  /// changed. `short_of_room`: there would be one for more bytes.
  std::optional<ReadTicket> next_load(LaneId lane, std::uint64_t max_bytes, Time now,
                                      bool* short_of_room = nullptr);

  LoadQuestion begin_load(LaneId lane, Time now);
  /// None, and the version is another one than that of the question: ask again at once.
  std::optional<ReadTicket> end_load(const LoadQuestion& question, const LoadAnswer& answer,
                                     std::uint64_t max_bytes, Time now, bool& short_of_room);

  /// The session is to have this slice, which its lane reads for another one. None: it does not want
  /// exactly that now, or its compute is at that chunk. The scheduler is not asked.
  std::optional<ReadTicket> join(const Slice& slice, LaneId lane, Time now);

  GateQuestion begin_gate(Time now);
  /// True: the step is void.
  bool end_gate(const GateQuestion& question, Time until, Time now);

  StepAnswer ask(const StepQuestion& question);
  LoadAnswer ask(const LoadQuestion& question);
  /// Until when the gate is to wait.
  Time ask(const GateQuestion& question);

  /// As PrefillState::returned(); a scheduler does not ask for it again, so that is done here.
  void returned(std::uint64_t id, Time now);

  PrefillReport report(Time now) const;

 private:
  /// The tokens of a step as the engine wants them: no more than it takes behind a gate, and no
  /// fewer than cost the same, as far as only compute can fill them.
  TokenRange suited(const Step& step, std::uint32_t budget) const;

  /// None: the scheduler has to think about it.
  StepAnswer ask_at_once(const StepQuestion& question);

  static constexpr std::uint32_t kRestReserve = 64;
  static constexpr int kStaleAnswers = 8;
  static constexpr Time kLateFloor = std::chrono::milliseconds(500);
  static constexpr double kLateFactor = 8;
  static constexpr Time kMemoryWait = std::chrono::seconds(1);
  static constexpr Time kMemoryPause = std::chrono::milliseconds(1);

  /// Layers of a chunk that a load asked for and that did not fit into one read, or that found no
  /// memory.
  struct Rest {
    LaneId lane = 0;
    std::uint32_t chunk = 0;
    std::uint32_t end_layer = 0;
    Time deadline = kNever;
  };

  /// The next part of a load that was cut. While there is one that cannot be read yet, none.
  std::optional<LoadRequest> next_rest(LaneId lane, Time now);

  /// Of a read that no scheduler has set one for.
  Time late_deadline(const LoadRequest& load, LaneId lane, Time now) const;

  /// A scheduler may ask for whole chunks, whatever is needed of them.
  void leave_out_unneeded(Slice& slice) const;

  /// Layers that turned out to be needed are read without asking the scheduler, which may have done
  /// with their chunks: by the lane that brings them soonest, once per chunk.
  void take_grown(Time now);
  /// Behind all that the lanes are still to read without being asked. None: each would take longer
  /// than a read may, so that compute is to have the chunk. Where no lane is up: any.
  std::optional<LaneId> soonest_lane(std::uint32_t chunk, Time now) const;
  /// The session would not give up the read first, if the lane began with it now.
  bool ends_in_time(std::uint64_t bytes, const LinkEstimator& link, Time now) const;
  /// The read would be given up because of those in flight before it: it is for later.
  bool waits_too_long(const Slice& slice, LaneId lane, Time now) const;
  std::uint64_t unissued(std::uint32_t chunk, std::uint32_t end_layer) const;
  /// Whether the step begins where the front lacks what it needs of the chunks below: that is loaded
  /// first, or computed, and the step's chunks are compute's.
  bool take_front(TokenRange tokens);

  /// The lane may be asked for: it is up and has room for one more read.
  bool may_ask(LaneId lane) const;
  /// What the scheduler sees is the state as it is now. False: there is no memory for that.
  bool update();
  /// The scheduler is asked again, unless things change faster than it answers.
  std::optional<Step> again(Time now);

  /// Where there is no memory for the step, it is asked for again soon. The run ends when that has
  /// not helped for a second.
  Step claim(const Step& step, Time now);
  Step no_memory(Time now);

  Step wait_until(Time until, Time now) const;

  /// Bytes in flight cover the latency of a lane so many times, and the newest read so many times.
  static constexpr double kWindowLatencies = 2;
  static constexpr double kWindowReads = 1.5;

  /// Enough reads in flight to reach the rate that was seen, and enough bytes to cover the latency,
  /// with one read more than the one on the link.
  bool has_room(LaneId lane) const;

  /// A lane that may still bring something carries reads of other prompts first: until then, and no
  /// longer than one read may take, it is no matter that nothing is offered to this one.
  Time others_until() const;
  /// The scheduler waits, or gave an order that breaks a rule. When nobody else is at work, compute
  /// goes on with the front by itself, so that no scheduler can hang a run.
  Step fall_back(std::uint32_t budget, Time until, Time now);

  PrefillState state_;
  AnyScheduler scheduler_;
  RunTables seen_;  // by the scheduler
  std::uint64_t seen_version_ = 0;
  int stale_ = 0;                        // answers in a row
  std::vector<std::uint64_t> declined_;  // [lane] version at which the lane was last refused work
  std::uint32_t scheduler_faults_ = 0;
  std::uint32_t ask_faults_ = 0;  // by ask()
  std::vector<Rest> rest_;
  std::uint32_t read_layers_ = ~0u;
  bool scheduler_failed_ = false;
  std::uint32_t predicted_meet_ = 0;
  Time gate_until_{0};  // the scheduler is asked about the gate again then
  Time idle_since_ = kNever;
  Time no_memory_since_ = kNever;  // for a step
  bool idle_timed_out_ = false;    // once already, and no read has been claimed since
};

}  // namespace cake::inline CAKE_ABI::detail
