// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run, driven step by step by an engine's own loop: a clock and a lock around
// SessionCore, and the way from landed bytes to verified KV. The engine's members belong to one
// thread; the lanes' side has threads of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/landing.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/session_core.hpp"
#include "cake/engine.hpp"
#include "cake/io_lanes.hpp"
#include "cake/save.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

/// See the file's head. An engine's loop:
///
///     session.begin({.tokens = prompt});
///     for (cake::Step step; (step = session.next(512)).kind != cake::Step::Kind::finished;) {
///       if (step.kind == cake::Step::Kind::wait) { session.wait(step.until); continue; }
///       session.done(step, step.tokens.size(),
///                    engine.prefill(prompt, step.tokens, session.gate(step)));
///     }
///     cake::PrefillReport report = session.finish();
///     if (report.status) session.save(prompt);
///
/// An engine whose prefill() takes no gate leaves the gate out, and is given no gated steps.
///
/// Needs:   memory and lanes outlive it; pages for the whole prompt are allocated before begin()
/// Errors:  the constructor throws Exception(invalid_argument) when the lanes read into device
///          memory and the engine does not insert from there. Every member throws
///          Exception(invalid_argument) when it is called outside begin() and finish()
/// Thread:  one at a time
template <KvMemory M, StorageBackend S, Scheduler Sch>
class PrefillSession {
 public:
  PrefillSession(M& memory, IoLanes<S>& lanes, Sch scheduler = Sch(),
                 const SessionOptions& options = {})
      : memory_(memory), lanes_(lanes), scheduler_(std::move(scheduler)), options_(options) {
    if (!detail::inserts_from_device<M>() && lanes.device() != nullptr) {
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
    try {
      (void)finish();
    } catch (...) {  // no memory for the report
    }
  }
  PrefillSession(const PrefillSession&) = delete;
  PrefillSession& operator=(const PrefillSession&) = delete;

  /// Looks the prompt up and starts the lanes.
  ///
  /// Errors:  throws Exception: invalid_argument as look_up() does, or when a run has begun
  /// already;
  ///          unsupported in a child process after fork(); else what layout() or fingerprint() of
  ///          the engine threw. No run has then begun
  void begin(const PrefillRequest& request) {
    if (state_)
      throw Exception({Errc::invalid_argument, 0, "begin() before finish() of the last prompt"});
    lanes_.usable().value();
    std::shared_ptr<State> state;
    try {
      state = std::make_shared<State>(memory_, lanes_, scheduler_, options_);
      state->begin(request);
      last_.tokens = state->tokens;
      last_.extra = request.extra;
      last_.fingerprint = state->fingerprint;
      last_.chunk_tokens = request.chunk_tokens;
      lanes_.attach(state);
    } catch (...) {
      throw Exception(detail::caught(Errc::device, "begin"));
    }
    last_.ran = true;
    last_.complete = false;
    state_ = std::move(state);
    woken_ = state_->now();
    stop_.emplace(request.stop, Cancel{state_.get()});
  }

  /// What compute does next, at most `budget` tokens of it. With a budget of 0 the answer is a wait
  /// that is over at once.
  Step next(std::uint32_t budget, bool may_gate = true) {
    State& state = running("next");
    state.driver = std::this_thread::get_id();
    std::uint32_t down = 0;
    for (LaneId l = 0; l < lanes_.size(); ++l) {
      down |= std::uint32_t{lanes_.down(l, state.smallest_read)} << l;
    }
    state.insert_pending();
    Step step;
    {
      std::lock_guard lock(state.mutex);
      for (LaneId l = 0; l < lanes_.size(); ++l) state.core.set_lane_down(l, (down >> l & 1) != 0);
      step = state.core.next_step(budget, may_gate, state.now());
      seen_ = state.core.version();
    }
    // What a step claims gives the lanes nothing new to do; that compute waits for them may.
    if (step.kind == Step::Kind::wait) lanes_.wake();
    return step;
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
    State& state = running("done");
    const Time now = state.now();
    {
      std::lock_guard lock(state.mutex);
      if (!status && status.code() != Errc::superseded && state.error.empty()) {
        state.error = status.error().message();
      }
      state.core.done(step.id, tokens, status.code(), now);
    }
    // A whole step tells the lanes little; after tiny ones not each is worth a wake-up.
    if (status && tokens == step.tokens.size() && now < woken_ + kWakePause) return;
    woken_ = now;
    lanes_.wake();
  }

  /// Blocks until something changed since next(), at most until `until`; while steps are in flight
  /// for at most 20 ms, since the caller alone knows when they end. Runs the inserts that the
  /// driving thread has to make.
  void wait(Time until) {
    State& state = running("wait");
    state.driver = std::this_thread::get_id();
    std::unique_lock lock(state.mutex);
    if (!state.core.view().running().empty()) until = std::min(until, state.now() + kStepPoll);
    while (state.core.version() == seen_ && state.pending.empty()) {
      const Time now = state.now();
      const Time end = std::min(until, state.core.next_deadline());
      if (now >= end) break;
      state.pause(lock, end - now);
    }
    lock.unlock();
    state.insert_pending();
  }

  /// Time since begin().
  Time now() const { return running("now").now(); }
  /// What was learned, for the next prompt.
  const Sch& scheduler() const { return scheduler_; }

  /// Ends the run, done or not: waits for inserts in progress, and for nothing else.
  PrefillReport finish() {
    State& running_state = running("finish");
    running_state.driver = std::this_thread::get_id();
    stop_.reset();
    running_state.close();
    lanes_.detach(running_state);
    const std::shared_ptr<State> state = std::move(state_);
    const std::vector<LinkEstimator> models = state->link_estimators();
    for (LaneId l = 0; l < lanes_.size(); ++l) lanes_.learn(l, models[l], state->now());
    std::lock_guard lock(state->mutex);
    PrefillReport report = state->core.report(state->now());
    last_.complete = report.status.has_value();
    report.planning = state->planning;
    report.lookup = state->lookup.status;
    if (!state->load_error) report.load_error = state->load_error;
    if (!report.status && !state->error.empty()) {
      report.status = Error{report.status.error().code, 0, state->error};
    }
    scheduler_ = state->core.scheduler();
    return report;
  }

  /// Stores every full chunk of the last prompt, or of tokens that begin with it, that is not
  /// stored yet. Not while a run is going on, and not after one that failed.
  ///
  /// Errors:  in the report: invalid_argument when the engine cannot hold the KV of these tokens as
  ///          far as the session knows (SaveOptions::assume_resident lifts that), or when no load
  ///          could ever bring a chunk back through the staging memory; else as cake::save()
  SaveReport save(Tokens tokens, SaveOptions options = {}) {
    if (options.chunk_tokens == 0) options.chunk_tokens = last_.ran ? last_.chunk_tokens : 256;
    SaveReport report;
    report.status = detail::guarded(Errc::device, "save", [&]() -> Status {
      if (state_) {
        return Error{Errc::invalid_argument, 0, "save() before finish() of the prompt"};
      }
      if (auto status = fits_staging(memory_.layout(), options.chunk_tokens); !status)
        return status;
      if (options.assume_resident) return {};
      return detail::may_save(last_, tokens, options.extra, memory_.fingerprint());
    });
    if (!report.status) {
      report.failed = static_cast<std::uint32_t>(tokens.size() / options.chunk_tokens);
      return report;
    }
    return cake::save(memory_, lanes_.storage(), tokens, options);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Time kWakePause = std::chrono::microseconds(20);
  static constexpr Time kStepPoll = std::chrono::milliseconds(20);

  struct State;

  State& running(const char* member) const {
    if (!state_) {
      throw Exception({Errc::invalid_argument, 0,
                       std::string(member) + "() without begin(), or after finish()"});
    }
    return *state_;
  }

  /// Whether at least one layer of a chunk can be read at a time.
  Status fits_staging(const KvLayout& layout, std::uint32_t chunk_tokens) const {
    if (!ChunkGeometry::fits(layout, chunk_tokens)) return {};  // refused elsewhere, by name
    const ChunkGeometry geometry(layout, chunk_tokens);
    const std::uint64_t ends =
        geometry.object_bytes() - (geometry.payload_end() - geometry.head_bytes());
    const std::uint64_t least = ends + geometry.largest_layer();
    if (least <= lanes_.staging_bytes()) return {};
    return Error{Errc::out_of_memory, 0,
                 "one layer of a chunk takes " + std::to_string(least) +
                     " bytes of staging memory and there are " +
                     std::to_string(lanes_.staging_bytes()) +
                     ", so no chunk can be loaded; raise LaneOptions::staging_bytes or lower "
                     "chunk_tokens"};
  }

  /// Shared with the lanes and with gates: a read may come back when the session is long gone.
  struct State final : detail::LaneClient, GateSource {
    State(M& memory_in, IoLanes<S>& lanes_in, const Sch& scheduler,
          const SessionOptions& options_in)
        : memory(memory_in),
          lanes(lanes_in),
          options(detail::bounded(options_in)),
          core(scheduler, options_in) {}

    void begin(const PrefillRequest& request) {
      tokens = std::make_shared<const std::vector<TokenId>>(request.tokens.begin(),
                                                            request.tokens.end());
      PrefillRequest mine = request;
      if (!mine.may_gate) mine.may_gate = PrefillsGated<M>;
      if (PrefillsWhole<M> && !PrefillsGated<M>) mine.may_gate = false;
      const KvLayout layout = memory.layout();
      fingerprint = memory.fingerprint();
      tenant = tenant_tag(request.salt);
      root = root_key(fingerprint, layout, request.chunk_tokens, request.salt);
      lookup = detail::plan_request(mine, root, ChunkGeometry(layout, request.chunk_tokens),
                                    lanes.size());
      const PrefillSpec& spec = lookup.spec;
      const std::uint64_t ends = spec.head_bytes + spec.foot_bytes;
      const std::uint64_t staging = lanes.staging_bytes();
      if (!lookup.keys.empty() && !request.stop.stop_requested()) {
        if (staging < ends + lookup.geometry.largest_layer()) {
          load_error = Error{Errc::out_of_memory, 0,
                             "a chunk of " + std::to_string(lookup.object_bytes) +
                                 " bytes cannot be loaded, not even layer by layer, through " +
                                 std::to_string(staging) +
                                 " bytes of staging memory; raise LaneOptions::staging_bytes or "
                                 "lower chunk_tokens"};
        } else {
          Status problem;
          lookup.take(lanes.lookup(lookup.keys, lookup.object_bytes, options.lookup_timeout,
                                   request.stop, problem));
          if (lookup.status) lookup.status = problem;
        }
      }
      core.begin(spec, lookup.stored, lanes.rates());
      const std::uint64_t layers =
          (staging - std::min(staging, ends)) / lookup.geometry.largest_layer();
      core.set_read_layers(static_cast<std::uint32_t>(std::min<std::uint64_t>(layers, ~0u)));
      smallest_read = std::min(spec.read_bytes({0, spec.n_layers}), staging);
      planning = now();
    }

    Time now() const { return std::chrono::duration_cast<Time>(Clock::now() - start); }

    void pause(std::unique_lock<std::mutex>& lock, Time span) {
      if (span > std::chrono::hours(1)) {
        changed.wait(lock);
      } else {
        changed.wait_for(lock, span);
      }
    }

    std::vector<LinkEstimator> link_estimators() {
      std::lock_guard lock(mutex);
      std::vector<LinkEstimator> models;
      for (LaneId l = 0; l < core.view().n_lanes(); ++l) models.push_back(core.view().lane(l));
      return models;
    }

    ChunkIdentity identity(std::uint32_t chunk) const {
      const TokenRange range = lookup.spec.object_range(chunk);
      return {lookup.keys[chunk], chunk == 0 ? root : lookup.keys[chunk - 1],
              fingerprint,        tenant,
              range.begin,        Tokens(*tokens).subspan(range.begin, range.size()),
              lookup.geometry};
    }

    // ---- lanes' side ----

    std::optional<detail::LaneRead> next_read(LaneId lane, std::uint64_t max_bytes,
                                              bool& short_of_room) override {
      std::lock_guard lock(mutex);
      if constexpr (detail::inserts_on_caller<M>()) {
        // An engine that does not come to insert keeps no more than half of the staging memory.
        if (!pending.empty() && 2 * pending_bytes >= lanes.staging_bytes()) return std::nullopt;
      }
      const auto ticket = core.next_load(lane, max_bytes, now(), &short_of_room);
      if (!ticket) return std::nullopt;
      const LayerRange layers = ticket->slice.layers;
      const PrefillSpec& spec = lookup.spec;
      const std::uint64_t offset = spec.read_offset(layers);
      return detail::LaneRead{ticket->id, lane, lookup.keys[ticket->slice.chunk], offset,
                              ticket->bytes};
    }

    bool wanted(std::uint64_t read) noexcept override {
      std::lock_guard lock(mutex);
      core.expire(now());
      return core.wanted(read);
    }

    void returned(const detail::LaneRead& read) noexcept override {
      std::lock_guard lock(mutex);
      core.returned(read.id, now());
    }

    void failed(const detail::LaneRead& read, const Error& why) noexcept override {
      // What is there is of no use to anybody: gone, so that the next save can put it right, and
      // gone before the run can end. Once nobody waits for the read, a save may have done so.
      if ((why.code == Errc::corrupt || why.code == Errc::mismatch) && wanted(read.id)) {
        lanes.discard(read.lane, read.key);
      }
      {
        std::lock_guard lock(mutex);
        if (core.failed(read.id, why.code, now()) && core.first_failure() == read.id) {
          load_error = detail::error_of(why.code, why.native, why.context);
        }
      }
      announce();
    }

    bool keeps_bytes() const noexcept override { return detail::inserts_on_caller<M>(); }

    void landed(const detail::LaneRead& read, MutableBytes bytes) noexcept override {
      const Result<Taken> taken =
          detail::guarded(Errc::io, "a chunk that was read", [&] { return take(read, bytes); });
      if (!taken) failed(read, taken.error());
      if (!taken || !taken->inserts) return release(read.id);
      announce();  // the link has room for another read
      if constexpr (!detail::inserts_on_caller<M>())
        finish_insert(read.id, insert(taken->slice, taken->view));
    }

    /// The lane's buffer is not needed any more.
    void release(std::uint64_t read) noexcept {
      if (detail::inserts_on_caller<M>()) lanes.give_back(*this, read);
    }

    struct Taken {
      Slice slice;
      KvView view;
      bool inserts = false;  // false: the claim was lost meanwhile
    };

    /// Verifies what a read brought. It is then to be inserted, by the lane or by the driving
    /// thread.
    Result<Taken> take(const detail::LaneRead& read, MutableBytes bytes) {
      Taken taken;
      std::shared_ptr<const ChunkTables> tables;
      {
        std::lock_guard lock(mutex);
        const detail::ReadEntry* entry = core.find(read.id);
        if (entry == nullptr) return taken;
        taken.slice = entry->slice;
        const auto known = parsed.find(entry->slice.chunk);
        if (entry->slice.layers.begin > 0 && known != parsed.end()) tables = known->second;
      }
      const LayerRange layers = taken.slice.layers;
      const Result<KvView> view = detail::verify_landed(
          bytes, layers, lookup.object_bytes, identity(taken.slice.chunk), lanes.device(), tables);
      if (!view) {
        return detail::classify_failure(lanes.storage(), read.key, read.offset, bytes,
                                        view.error());
      }
      taken.view = *view;
      std::lock_guard lock(mutex);
      if (layers.end < lookup.spec.n_layers) parsed[taken.slice.chunk] = tables;
      if constexpr (detail::inserts_on_caller<M>()) pending.reserve(pending.size() + 1);
      taken.inserts = core.begin_insert(read.id, now());  // nothing from here on needs memory
      if constexpr (detail::inserts_on_caller<M>()) {
        if (taken.inserts) {
          pending.push_back({read.id, taken.slice, taken.view, bytes.size()});
          pending_bytes += bytes.size();
        }
      }
      return taken;
    }

    Status insert(const Slice& slice, const KvView& view) noexcept {
      return detail::guarded(Errc::device, "insert",
                             [&] { return cake::await_completion(memory.insert(slice, view)); });
    }

    void finish_insert(std::uint64_t id, const Status& status) noexcept {
      {
        std::lock_guard lock(mutex);
        core.inserted(id, status.has_value(), now());
        if (!status && core.first_failure() == id) {
          const Error& why = status.error();
          load_error = detail::error_of(why.code, why.native, why.context);
        }
      }
      announce();
    }

    void announce() noexcept {
      changed.notify_all();
      lanes.wake();
    }

    // ---- the engine's side ----

    /// Runs the inserts that wait for the driving thread.
    void insert_pending() noexcept {
      if constexpr (detail::inserts_on_caller<M>()) {
        for (;;) {
          std::unique_lock lock(mutex);
          if (pending.empty()) return;
          const Pending next = pending.front();
          pending.erase(pending.begin());
          pending_bytes -= next.bytes;
          lock.unlock();
          finish_insert(next.id, insert(next.slice, next.view));
          release(next.id);
        }
      }
    }

    /// An engine whose context belongs to the driving thread may wait here on another one: then the
    /// inserts are left to the driving thread's next() and wait().
    bool wait_layer(std::uint64_t step, std::uint32_t layer) override {
      std::unique_lock lock(mutex);
      ++in_gate;
      bool open = false;
      for (;;) {
        if (driver.load() == std::this_thread::get_id() && !pending.empty()) {
          lock.unlock();
          insert_pending();
          lock.lock();
        }
        core.expire(now());
        const detail::GateAnswer gate = core.gate(step, layer);
        open = gate == detail::GateAnswer::open;
        if (gate != detail::GateAnswer::shut || closed) break;
        const std::uint64_t seen = core.version();
        lock.unlock();
        lanes.wake();
        lock.lock();
        if (core.version() == seen && !closed) {
          pause(lock, std::max(Time(1), std::min<Time>(core.next_deadline() - now(),
                                                       std::chrono::milliseconds(50))));
        }
      }
      open = open && !closed;
      if (--in_gate == 0 && closed) changed.notify_all();
      return open;
    }

    /// Ends the run: drops reads, waits for inserts in progress and for whoever is in a gate.
    void close() {
      std::unique_lock lock(mutex);
      core.close();
      closed = true;
      changed.notify_all();
      while (core.inserting() != 0 || in_gate != 0) {
        if (!pending.empty()) {
          lock.unlock();
          insert_pending();
          lock.lock();
        } else {
          changed.wait(lock);
        }
      }
    }

    struct Pending {
      std::uint64_t id = 0;
      Slice slice;
      KvView view;
      std::uint64_t bytes = 0;
    };
    M& memory;
    IoLanes<S>& lanes;
    const SessionOptions options;
    const Clock::time_point start = Clock::now();
    std::shared_ptr<const std::vector<TokenId>> tokens;  // of the prompt
    ModelFingerprint fingerprint;
    std::array<std::byte, 16> tenant{};
    ChunkKey root;
    detail::PrefillLookup lookup;
    std::uint64_t smallest_read = 0;  // bytes
    Time planning{0};
    std::atomic<std::thread::id> driver{std::this_thread::get_id()};
    std::mutex mutex;  // guards all below
    std::condition_variable changed;
    detail::SessionCore<Sch> core;
    std::unordered_map<std::uint32_t, std::shared_ptr<const ChunkTables>>
        parsed;                    // of chunks that come in slices
    std::vector<Pending> pending;  // oldest first
    std::uint64_t pending_bytes = 0;
    std::uint32_t in_gate = 0;  // threads
    bool closed = false;
    std::string error;
    Status load_error;
  };

  struct Cancel {
    State* state;
    void operator()() const {
      {
        std::lock_guard lock(state->mutex);
        state->core.cancel();
      }
      state->announce();
    }
  };

  M& memory_;
  IoLanes<S>& lanes_;
  Sch scheduler_;
  SessionOptions options_;
  std::shared_ptr<State> state_;
  std::optional<std::stop_callback<Cancel>> stop_;
  detail::LastPrompt last_;
  std::uint64_t seen_ = 0;
  Time woken_{0};  // the lanes, by done()
};

}  // namespace cake::inline CAKE_ABI
