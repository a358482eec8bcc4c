// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run without I/O, thread or clock: its state, and a scheduler that is asked what to
// claim next. The same code runs behind real lanes and in virtual time. One thread at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/admission.hpp"
#include "cake/detail/prefill_state.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/session_options.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Asks the scheduler, and admits to the state what keeps the rules.
template <Scheduler S>
class SessionCore {
 public:
  explicit SessionCore(S scheduler = S(), const SessionOptions& options = {})
      : state_(options), scheduler_(std::move(scheduler)) {}

  /// `stored` holds spec.end_chunk entries; priors one per lane.
  void begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
             std::span<const LinkEstimate> priors) {
    state_.begin(spec, std::move(stored), priors);
    seen_ = state_.tables();
    seen_version_ = version();
    declined_.assign(priors.size(), 0);
    idle_since_ = kNever;
    idle_timed_out_ = false;
    rest_.clear();
    const bool all_may_grow = !spec.reaches.empty();
    rest_.reserve(spec.end_chunk < kRestReserve || all_may_grow ? spec.end_chunk : kRestReserve);
    try {
      scheduler_.begin(state_.spec());
      if constexpr (PredictsMeet<S>) {
        predicted_meet_ = scheduler_.predicted_meet(view(), Time{0});
      }
    } catch (...) {  // it knows nothing of this run: compute goes on without it
      ++scheduler_faults_;
      scheduler_failed_ = true;
    }
  }

  /// Most layers that one read may take; a load of more is carried out in several.
  void set_read_layers(std::uint32_t layers) { read_layers_ = std::max(1u, layers); }

  const S& scheduler() const { return scheduler_; }
  /// What other sessions have measured, for a scheduler that wants to know. Before begin().
  void calibrate(const std::optional<ComputeCostEstimator>& compute) {
    if constexpr (requires { scheduler_.calibrate(*compute); }) {
      if (compute) scheduler_.calibrate(*compute);
    }
  }
  /// What the scheduler has measured beside that; null: it measures nothing.
  const ComputeCostEstimator* measured_compute() const {
    if constexpr (requires {
                    {
                      scheduler_.measured_compute()
                      } -> std::convertible_to<const ComputeCostEstimator*>;
                  }) {
      return scheduler_.measured_compute();
    } else {
      return nullptr;
    }
  }

  // ---- as PrefillState ----

  RunView view() const { return state_.view(); }
  Errc status() const { return state_.status(); }
  bool complete() const { return state_.complete(); }
  bool over() const { return state_.over(); }
  std::uint64_t version() const { return state_.version(); }
  std::uint32_t inserting() const { return state_.inserting(); }
  GateAnswer gate(std::uint64_t id, std::uint32_t layer) { return state_.gate(id, layer); }
  void done(std::uint64_t id, std::uint32_t tokens, Errc code, Time now) {
    state_.done(id, tokens, code, now);
  }
  bool begin_insert(std::uint64_t id, Time now, bool lent = false) {
    return state_.begin_insert(id, now, lent);
  }
  void inserted(std::uint64_t id, bool ok, Time now) { state_.inserted(id, ok, now); }
  bool failed(std::uint64_t id, Errc code, Time now) { return state_.failed(id, code, now); }
  bool wanted(std::uint64_t id) const { return state_.wanted(id); }
  const ReadEntry* find(std::uint64_t id) const { return state_.find(id); }
  std::span<const ReadEntry> reads() const { return state_.reads(); }
  std::uint64_t first_failure() const { return state_.first_failure(); }
  void set_lane_down(LaneId lane, bool down) { state_.set_lane_down(lane, down); }
  void expire(Time now) { state_.expire(now); }
  Time next_deadline() const { return state_.next_deadline(); }
  void cancel() { state_.end(Errc::canceled); }
  void close() { state_.close(); }

  /// Nobody is at work, and no lane has anything to read: next_step() goes on with the front.
  bool idle() const {
    if (over() || !view().running().empty() || state_.loads_live()) return false;
    for (LaneId l = 0; l < view().n_lanes(); ++l) {
      if (!view().lane(l).down() && declined_[l] != version()) return false;
    }
    return true;
  }

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
  /// None: it threw, or is not asked any more.
  using StepAnswer = std::optional<Step>;
  using LoadAnswer = std::optional<LoadRequest>;

  /// What compute does next; `budget` is the most tokens of the step, `may_gate` whether it may
  /// start before the KV below it is whole.
  Step next_step(std::uint32_t budget, bool may_gate, Time now) {
    for (;;) {
      const StepQuestion question = begin_step(budget, may_gate, now);
      if (question.answer) return *question.answer;
      if (const auto step = end_step(question, ask(question), now)) return *step;
    }
  }

  StepQuestion begin_step(std::uint32_t budget, bool may_gate, Time now) {
    StepQuestion question;
    question.now = now;
    expire(now);
    question.version = version();
    question.answer.emplace();
    if (over()) return question;
    const RunView view = state_.view();
    const PrefillSpec& spec = view.spec();
    budget = std::min({budget, spec.max_step_tokens, spec.n_tokens});
    if (budget == 0) {  // over at once: the engine says when it has room for more
      question.answer->kind = Step::Kind::wait;
      question.answer->until = now;
      return question;
    }
    if (view.front() >= spec.n_tokens || view.running().size() >= 2 || state_.newest_gate_shut()) {
      question.answer = wait_until(kNever, now);
      return question;
    }
    state_.set_may_gate(may_gate);
    question.budget = budget;
    if (!update()) {
      question.answer = no_memory(now);
      return question;
    }
    question.answer.reset();
    return question;
  }
  /// None: the state has changed so that the answer does not hold any more. Begin again.
  std::optional<Step> end_step(const StepQuestion& question, const StepAnswer& answer, Time now) {
    if (over()) return Step{};
    const std::uint32_t budget = question.budget;
    Step step;
    step.kind = Step::Kind::wait;
    step.until = now;
    if (answer) step = *answer;
    if (step.kind == Step::Kind::compute) {
      const bool taken = take_front(step.tokens.begin);
      step.tokens = suited(step, budget);
      if (may_compute(state_.view(), step)) {
        idle_since_ = kNever;
        return claim(step, now);
      }
      if (taken) return again(now);
      if (question.version != version()) return again(now);
      ++scheduler_faults_;
    }
    return fall_back(budget, step.kind == Step::Kind::wait ? step.until : kNever, now);
  }

  /// The next read for a lane that has room for `max_bytes`; none: ask again when something
  /// changed. `short_of_room`: there would be one for more bytes.
  std::optional<ReadTicket> next_load(LaneId lane, std::uint64_t max_bytes, Time now,
                                      bool* short_of_room = nullptr) {
    bool is_short = false;
    const LoadQuestion question = begin_load(lane, now);
    const auto ticket = end_load(question, ask(question), max_bytes, now, is_short);
    if (short_of_room != nullptr) *short_of_room = is_short;
    return ticket;
  }

  LoadQuestion begin_load(LaneId lane, Time now) {
    LoadQuestion question;
    question.lane = lane;
    question.version = version();
    question.now = now;
    if (!may_ask(lane)) return question;
    question.load = next_rest(lane, now);
    if (question.load) {
      if (question.load->deadline == kNever)
        question.load->deadline = late_deadline(*question.load, lane, now);
      return question;
    }
    if (!update()) throw std::bad_alloc();
    question.ask = true;
    return question;
  }
  /// None, and the version is another one than that of the question: ask again at once.
  std::optional<ReadTicket> end_load(const LoadQuestion& question, const LoadAnswer& answer,
                                     std::uint64_t max_bytes, Time now, bool& short_of_room) {
    const LaneId lane = question.lane;
    if (!may_ask(lane) || (!question.ask && !question.load)) return std::nullopt;
    const bool rest = question.load.has_value();
    std::optional<LoadRequest> load = rest ? question.load : answer;
    if (load && state_.spec().whole_chunks) load->slice.layers.end = state_.spec().n_layers;
    if (load && !state_.spec().reaches.empty()) leave_out_unneeded(load->slice);
    if (!load || !may_load(state_.view(), *load, lane)) {
      if (load && question.version != version()) return std::nullopt;
      if (load) ++scheduler_faults_;
      declined_[lane] = question.version;
      return std::nullopt;
    }
    LayerRange& layers = load->slice.layers;
    const bool cut = layers.size() > read_layers_ && !state_.spec().whole_chunks;
    const std::uint32_t end = layers.end;
    if (cut) layers.end = layers.begin + read_layers_;
    // Layers that keep nothing are no read of their own.
    const PrefillSpec& spec = state_.spec();
    const std::uint32_t needed = view().layers_needed(load->slice.chunk);
    while (layers.end < needed && spec.read_bytes(layers) == 0) ++layers.end;
    if (spec.read_bytes(layers) > max_bytes) {
      short_of_room = true;
      return std::nullopt;
    }
    if (cut && !rest) rest_.push_back({lane, load->slice.chunk, end, load->deadline});
    idle_timed_out_ = false;
    return state_.claim(*load, lane, now);
  }

  StepAnswer ask(const StepQuestion& question) {
    if (scheduler_failed_) return std::nullopt;
    try {
      return scheduler_.next_step(RunView(seen_), question.budget, question.now);
    } catch (...) {  // it has broken a rule; the run goes on without its answer
      ++ask_faults_;
      return std::nullopt;
    }
  }
  LoadAnswer ask(const LoadQuestion& question) {
    if (!question.ask || scheduler_failed_) return std::nullopt;
    try {
      return scheduler_.next_load(RunView(seen_), question.lane, question.now);
    } catch (...) {
      ++ask_faults_;
      return std::nullopt;
    }
  }

  /// As PrefillState::returned(); a scheduler does not ask for it again, so that is done here.
  void returned(std::uint64_t id, Time now) {
    const ReadEntry* entry = find(id);
    if (entry == nullptr) return;
    const ReadTicket& ticket = entry->ticket;
    const Rest again{ticket.lane, ticket.slice.chunk, ticket.slice.layers.end, ticket.deadline};
    const bool wanted = entry->holds_claim();
    state_.returned(id, now);
    // Without room to note it, the chunk is compute's.
    if (wanted && rest_.size() < rest_.capacity()) rest_.push_back(again);
  }

  PrefillReport report(Time now) const {
    PrefillReport r = state_.report(now);
    r.predicted_meet_token = predicted_meet_;
    r.scheduler_faults = scheduler_faults_ + ask_faults_;
    if constexpr (TellsComputeCost<S>) {
      r.rates.per_token = scheduler_.compute_cost().per_token;
      r.rates.per_position = scheduler_.compute_cost().per_position;
    }
    r.set_bound();
    return r;
  }

 private:
  /// The tokens of a step as the engine wants them: no more than it takes behind a gate, and no
  /// fewer than cost the same, as far as only compute can fill them.
  TokenRange suited(const Step& step, std::uint32_t budget) const {
    const RunView view = state_.view();
    const PrefillSpec& spec = view.spec();
    TokenRange range = step.tokens;
    const bool behind_gate = step.gated && range.begin != view.front();
    const std::uint32_t most = behind_gate ? std::min(budget, spec.max_overlap_tokens) : budget;
    if (range.size() > most) range.end = range.begin + most;
    if (range.empty() || range.end > spec.n_tokens) return range;  // refused by its rule
    const std::uint32_t wanted =
        range.begin + std::min({most, spec.smallest_step, spec.n_tokens - range.begin});
    while (range.end < wanted) {
      const std::uint32_t chunk = spec.chunk_of(range.end);
      const bool suffix = chunk == spec.end_chunk;
      const std::uint32_t end = suffix ? spec.n_tokens : spec.chunk_range(chunk).end;
      const bool begun = !suffix && range.end > spec.chunk_range(chunk).begin;
      const bool free = suffix ? view.suffix_front() <= range.end
                               : begun || view.state(chunk) == ChunkState::hole;
      if (!free) break;
      range.end = std::min(wanted, end);
    }
    return range;
  }

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
  std::optional<LoadRequest> next_rest(LaneId lane, Time now) {
    const RunView view = state_.view();
    take_grown(now);
    for (auto rest = rest_.begin(); rest != rest_.end();) {
      const std::uint32_t issued = view.layers_issued(rest->chunk);
      const Slice slice{
          rest->chunk, view.spec().object_range(rest->chunk), {issued, rest->end_layer}};
      const ChunkState state = view.state(rest->chunk);
      if (issued >= rest->end_layer || view.unloadable(rest->chunk) ||
          state == ChunkState::computing || state == ChunkState::resident) {
        rest = rest_.erase(rest);  // all asked for, or compute's
      } else if (rest->lane == lane && may_load(view, {slice, rest->deadline}, lane)) {
        return LoadRequest{slice, rest->deadline};
      } else {
        ++rest;
      }
    }
    return std::nullopt;
  }

  /// Of a read that no scheduler has set one for.
  Time late_deadline(const LoadRequest& load, LaneId lane, Time now) const {
    if (state_.spec().reaches.empty()) return kNever;
    const RunView view = state_.view();
    const LinkEstimator& link = view.lane(lane);
    const auto bytes = static_cast<double>(state_.spec().read_bytes(load.slice.layers));
    const double expected = to_seconds(link.ready_at(bytes, now) - now);
    return read_deadline(now, kLateFloor, kLateFactor * expected, link.rate().measured);
  }

  /// A scheduler may ask for whole chunks, whatever is needed of them.
  void leave_out_unneeded(Slice& slice) const {
    const PrefillSpec& spec = state_.spec();
    if (slice.chunk >= spec.end_chunk || slice.layers.end > spec.n_layers) return;
    slice.layers.end = std::min(slice.layers.end, view().layers_needed(slice.chunk));
  }

  /// Layers that turned out to be needed are read without asking the scheduler, which may have done
  /// with their chunks: by the lane that brings them soonest, once per chunk.
  void take_grown(Time now) {
    const RunView view = state_.view();
    for (const std::uint32_t chunk : state_.grown()) {
      std::erase_if(rest_, [&](const Rest& r) { return r.chunk == chunk; });
      if (rest_.size() < rest_.capacity()) {
        rest_.push_back({soonest_lane(chunk, now), chunk, view.layers_needed(chunk), kNever});
      }
    }
    state_.forget_grown();
  }
  /// Behind all that the lanes are still to read without being asked. Where none is up: any.
  LaneId soonest_lane(std::uint32_t chunk, Time now) const {
    const RunView view = state_.view();
    LaneId best = 0;
    Time soonest = kNever;
    for (LaneId l = 0; l < view.n_lanes(); ++l) {
      if (!view.on_lane(chunk, l) || view.lane(l).down()) continue;
      std::uint64_t bytes = unissued(chunk, view.layers_needed(chunk));
      for (const Rest& rest : rest_) {
        if (rest.lane == l) bytes += unissued(rest.chunk, rest.end_layer);
      }
      const Time at = view.lane(l).ready_at(static_cast<double>(bytes), now);
      if (at >= soonest) continue;
      soonest = at;
      best = l;
    }
    return best;
  }
  std::uint64_t unissued(std::uint32_t chunk, std::uint32_t end_layer) const {
    const std::uint32_t issued = view().layers_issued(chunk);
    return issued < end_layer ? state_.spec().read_bytes({issued, end_layer}) : 0;
  }
  /// Whether the step begins where the front lacks what it needs of the chunks below: that is loaded
  /// first, or computed.
  bool take_front(std::uint32_t begin) {
    const RunView view = state_.view();
    const std::uint32_t front = view.front();
    if (view.context_from() == front || begin < view.context_from() || begin > front) return false;
    const ChunkState state = view.state(view.front_chunk());
    if (begin % view.spec().chunk_tokens != 0) return false;
    if (state != ChunkState::open && state != ChunkState::loading) return false;
    state_.take_front(begin);
    return true;
  }

  /// The lane may be asked for: it is up and has room for one more read.
  bool may_ask(LaneId lane) const {
    return !over() && lane < view().n_lanes() && !view().lane(lane).down() && has_room(lane);
  }
  /// What the scheduler sees is the state as it is now. False: there is no memory for that.
  bool update() {
    if (seen_version_ == version() && seen_.may_gate == view().may_gate()) return true;
    try {
      state_.update(seen_);
    } catch (const std::bad_alloc&) {
      return false;
    }
    seen_version_ = version();
    return true;
  }
  /// The scheduler is asked again, unless things change faster than it answers.
  std::optional<Step> again(Time now) {
    if (++stale_ < kStaleAnswers) return std::nullopt;
    stale_ = 0;
    return wait_until(now, now);
  }

  /// Where there is no memory for the step, it is asked for again soon. The run ends when that has
  /// not helped for a second.
  Step claim(const Step& step, Time now) {
    try {
      const Step claimed = state_.claim(step, now);
      no_memory_since_ = kNever;
      return claimed;
    } catch (const std::bad_alloc&) {
      return no_memory(now);
    }
  }
  Step no_memory(Time now) {
    if (no_memory_since_ == kNever) no_memory_since_ = now;
    if (now < no_memory_since_ + kMemoryWait) return wait_until(now + kMemoryPause, now);
    state_.end(Errc::out_of_memory);
    return {};
  }

  Step wait_until(Time until, Time now) const {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = std::max(std::min(until, next_deadline()), now + Time(1));
    return step;
  }

  /// Bytes in flight cover the latency of a lane so many times, and the newest read so many times.
  static constexpr double kWindowLatencies = 2;
  static constexpr double kWindowReads = 1.5;

  /// Enough reads in flight to reach the rate that was seen, and enough bytes to cover the latency,
  /// with one read more than the one on the link.
  bool has_room(LaneId lane) const {
    const RunView view = state_.view();
    const LinkEstimator& model = view.lane(lane);
    if (model.in_flight().empty() || model.in_flight().size() < model.rate().depth) return true;
    const LinkEstimate& rate = model.rate();
    const double window = kWindowLatencies * rate.bytes_per_second * to_seconds(rate.latency) +
                          kWindowReads * static_cast<double>(model.in_flight().back().bytes);
    return static_cast<double>(model.bytes_in_flight()) < window;
  }

  /// The scheduler waits, or gave an order that breaks a rule. When nobody else is at work, compute
  /// goes on with the front by itself, so that no scheduler can hang a run.
  Step fall_back(std::uint32_t budget, Time until, Time now) {
    const RunView view = state_.view();
    const Time idle_timeout = state_.options().idle_timeout;
    if (!view.running().empty() || state_.loads_live()) {
      idle_since_ = kNever;
      return wait_until(until, now);
    }
    if (idle_since_ == kNever) idle_since_ = now;
    if (!idle() && !idle_timed_out_ && now < idle_since_ + idle_timeout) {
      return wait_until(std::min(until, idle_since_ + idle_timeout), now);
    }
    idle_timed_out_ = true;
    if (take_front(view.front())) return wait_until(now, now);
    Step step;
    step.kind = Step::Kind::compute;
    const std::uint32_t left = view.spec().n_tokens - view.front();
    step.tokens = {view.front(), compute_end(view, view.front() + std::min(budget, left))};
    idle_since_ = kNever;
    return claim(step, now);
  }

  PrefillState state_;
  S scheduler_;
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
  Time idle_since_ = kNever;
  Time no_memory_since_ = kNever;  // for a step
  bool idle_timed_out_ = false;    // once already, and no read has been claimed since
};

}  // namespace cake::inline CAKE_ABI::detail
