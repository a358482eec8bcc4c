// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run, driven step by step by an engine's own loop: a clock and a lock around
// SessionCore, and the way from landed bytes to verified KV. The engine's members belong to one
// thread; the lanes' side has threads of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/concepts.hpp"
#include "cake/lanes.hpp"
#include "cake/lookup.hpp"
#include "cake/session_core.hpp"
#include "cake/verify.hpp"

namespace cake {

/// Whether insert must run on the thread that drives the session.
template <class M>
constexpr bool inserts_on_caller() {
  if constexpr (requires { M::insert_on_caller; }) {
    return M::insert_on_caller;
  } else {
    return false;
  }
}

/// See the file's head. An engine's loop:
///
///     session.begin({.tokens = prompt});
///     for (cake::Step step; (step = session.next(512)).kind != cake::Step::Kind::finished;) {
///       if (step.kind == cake::Step::Kind::wait) { session.wait(step.until); continue; }
///       session.done(step, step.tokens.size(), engine.prefill(prompt, step.tokens,
///       session.gate(step)));
///     }
///     cake::PrefillReport report = session.finish();
///
/// Needs:   memory and lanes outlive it; pages for the whole prompt are allocated before begin()
/// Errors:  the constructor throws Exception(invalid_argument) when the lanes read into device
///          memory and the engine does not insert from there
/// Thread:  one at a time
template <KvMemory M, StorageBackend S, Scheduler Sch>
class PrefillSession {
 public:
  PrefillSession(M& memory, IoLanes<S>& lanes, Sch scheduler = Sch(),
                 const SessionOptions& options = {})
      : memory_(memory), lanes_(lanes), scheduler_(std::move(scheduler)), options_(options) {
    if (!inserts_from_device<M>() && lanes.device() != nullptr) {
      throw Exception(
          {Errc::invalid_argument, 0,
           "the lanes read into device memory, which this engine does not insert from"});
    }
  }
  ~PrefillSession() {
    if (state_) (void)finish();
  }
  PrefillSession(const PrefillSession&) = delete;
  PrefillSession& operator=(const PrefillSession&) = delete;

  /// Looks the prompt up and starts the lanes.
  ///
  /// Errors:  throws Exception(invalid_argument) as look_up() does, or when a run has begun already
  void begin(const PrefillRequest& request) {
    if (state_)
      throw Exception({Errc::invalid_argument, 0, "begin() before finish() of the last prompt"});
    auto state = std::make_shared<State>(memory_, lanes_, scheduler_, options_);
    state->begin(request);
    state_ = std::move(state);
    lanes_.attach(state_);
    woken_ = state_->now();
    stop_.emplace(request.stop, Cancel{state_.get()});
  }

  /// What compute does next, at most `budget` tokens of it.
  Step next(std::uint32_t budget, bool may_gate = true) {
    std::uint32_t down = 0;
    for (LaneId l = 0; l < lanes_.size(); ++l) down |= std::uint32_t{lanes_.down(l)} << l;
    state_->insert_pending();
    Step step;
    {
      std::lock_guard lock(state_->mutex);
      for (LaneId l = 0; l < lanes_.size(); ++l)
        state_->core.set_lane_down(l, (down >> l & 1) != 0);
      step = state_->core.next_step(budget, may_gate, state_->now());
      seen_ = state_->core.version();
    }
    // What a step claims gives the lanes nothing new to do; that compute waits for them may.
    if (step.kind == Step::Kind::wait) lanes_.wake();
    return step;
  }

  /// For a backend that takes a LayerGate; open at once when the step is not gated.
  LayerGate gate(const Step& step) {
    return step.gated ? LayerGate(*state_, step.id) : LayerGate();
  }

  /// A step has ended after `tokens` of its tokens (fewer than asked only for the newest step).
  /// superseded: its gate was void; any other error ends the run.
  void done(const Step& step, std::uint32_t tokens, const Status& status) {
    const Time now = state_->now();
    {
      std::lock_guard lock(state_->mutex);
      if (!status && status.code() != Errc::superseded && state_->error.empty()) {
        state_->error = status.error().message();
      }
      state_->core.done(step.id, tokens, status.code(), now);
    }
    // A whole step tells the lanes little; after tiny ones not each is worth a wake-up.
    if (status && tokens == step.tokens.size() && now < woken_ + kWakePause) return;
    woken_ = now;
    lanes_.wake();
  }

  /// Blocks until something changed since next(), at most until `until`.
  void wait(Time until) {
    std::unique_lock lock(state_->mutex);
    while (state_->core.version() == seen_ && state_->pending.empty()) {
      const Time now = state_->now();
      const Time end = std::min(until, state_->core.next_deadline());
      if (now >= end) break;
      state_->pause(lock, end - now);
    }
    lock.unlock();
    state_->insert_pending();
  }

  /// Time since begin().
  Time now() const { return state_->now(); }
  /// What was learned, for the next prompt.
  const Sch& scheduler() const { return scheduler_; }

  /// Ends the run, done or not: waits for inserts in progress, and for nothing else.
  PrefillReport finish() {
    stop_.reset();
    {
      std::unique_lock lock(state_->mutex);
      state_->core.close();
      state_->changed.notify_all();
      while (state_->core.inserting() != 0) {
        if (!state_->pending.empty()) {
          lock.unlock();
          state_->insert_pending();
          lock.lock();
        } else {
          state_->changed.wait(lock);
        }
      }
    }
    lanes_.detach(*state_);
    const std::shared_ptr<State> state = std::move(state_);
    for (LaneId l = 0; l < lanes_.size(); ++l) lanes_.learn(l, state->measured(l));
    std::lock_guard lock(state->mutex);
    scheduler_ = state->core.scheduler();
    PrefillReport report = state->core.report(state->now());
    report.planning = state->planning;
    report.lookup = state->lookup.status;
    report.load_error = state->load_error;
    if (!report.status && !state->error.empty()) {
      report.status = Error{report.status.error().code, 0, state->error};
    }
    return report;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Time kWakePause = std::chrono::microseconds(20);

  /// Shared with the lanes: a read may come back when the session is long gone.
  struct State final : LaneClient, GateSource {
    State(M& memory_in, IoLanes<S>& lanes_in, const Sch& scheduler, const SessionOptions& options)
        : memory(memory_in), lanes(lanes_in), core(scheduler, options) {}

    void begin(const PrefillRequest& request) {
      tokens.assign(request.tokens.begin(), request.tokens.end());
      layout = memory.layout();
      fingerprint = memory.fingerprint();
      tenant = tenant_tag(request.salt);
      root = root_key(fingerprint, layout, request.chunk_tokens, request.salt);
      lookup = look_up(request, root, layout, lanes.storage(), lanes.size());
      core.begin(lookup.plan, lookup.stored, lanes.rates());
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

    LaneRate measured(LaneId lane) {
      std::lock_guard lock(mutex);
      return core.board().lane(lane).rate();
    }

    ChunkIdentity identity(std::uint32_t chunk) const {
      const TokenRange range = lookup.plan.chunk_range(chunk);
      return {lookup.keys[chunk],
              chunk == 0 ? root : lookup.keys[chunk - 1],
              fingerprint,
              tenant,
              range.begin,
              Tokens(tokens).subspan(range.begin, range.size()),
              layout};
    }

    // ---- lanes' side ----

    std::optional<LaneRead> next_read(LaneId lane, std::uint64_t max_bytes) override {
      std::lock_guard lock(mutex);
      const auto order = core.next_load(lane, max_bytes, now());
      if (!order) return std::nullopt;
      const PrefillPlan& plan = lookup.plan;
      const LayerRange layers = order->slice.layers;
      const std::uint64_t offset =
          layers.begin == 0 ? 0 : plan.head_bytes + layers.begin * plan.layer_bytes;
      orders.emplace(order->id, *order);
      return LaneRead{order->id, lookup.keys[order->slice.chunk], offset, order->bytes};
    }

    bool wanted(std::uint64_t read) override {
      std::lock_guard lock(mutex);
      core.expire(now());
      return core.wanted(read);
    }

    void failed(const LaneRead& read, const Error& why) override {
      // What is there is of no use to anybody: gone, so that the next save can put it right, and
      // gone before the run can end.
      if (why.code == Errc::corrupt || why.code == Errc::mismatch) discard(read.key);
      {
        std::lock_guard lock(mutex);
        core.failed(read.id, why.code, now());
        orders.erase(read.id);
        if (load_error) load_error = why;
      }
      announce();
    }

    void discard(const ChunkKey& key) {
      try {
        (void)lanes.storage().erase(key);
      } catch (const std::exception&) {  // it stays, and will be computed again
      }
    }

    void landed(const LaneRead& read, MutableBytes bytes) override {
      Slice slice;
      std::shared_ptr<const ChunkTables> tables;
      {
        std::lock_guard lock(mutex);
        slice = orders.at(read.id).slice;
        const auto known = parsed.find(slice.chunk);
        if (slice.layers.begin > 0 && known != parsed.end()) tables = known->second;
      }
      const Result<KvView> view =
          verify_landed(bytes, slice.layers, lookup.stored[slice.chunk].size, identity(slice.chunk),
                        lanes.device(), tables);
      if (!view)
        return failed(read, blame(lanes.storage(), read.key, read.offset, bytes, view.error()));
      {
        std::lock_guard lock(mutex);
        if (slice.layers.end < layout.n_layers) parsed[slice.chunk] = tables;
        if (!core.begin_insert(read.id, now())) {
          orders.erase(read.id);
          return;
        }
        if constexpr (inserts_on_caller<M>()) pending.push_back({read.id, slice, *view});
      }
      announce();  // the link has room for another read
      if constexpr (inserts_on_caller<M>()) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return orders.find(read.id) == orders.end(); });
        return;
      }
      finish_insert(read.id, insert(slice, *view));
    }

    Status insert(const Slice& slice, const KvView& view) {
      try {
        return cake::wait(memory.insert(slice, view));
      } catch (const std::exception& e) {
        return Error{Errc::device, 0, std::string("insert: ") + e.what()};
      } catch (...) {
        return Error{Errc::device, 0, "insert: unknown exception"};
      }
    }

    void finish_insert(std::uint64_t id, const Status& status) {
      {
        std::lock_guard lock(mutex);
        core.inserted(id, status.has_value(), now());
        orders.erase(id);
        if (load_error) load_error = status;
      }
      announce();
    }

    void announce() {
      changed.notify_all();
      lanes.wake();
    }

    // ---- the engine's side ----

    /// Runs the inserts that wait for the engine's own thread.
    void insert_pending() {
      if constexpr (inserts_on_caller<M>()) {
        for (;;) {
          std::unique_lock lock(mutex);
          if (pending.empty()) return;
          const Pending next = pending.front();
          pending.pop_front();
          lock.unlock();
          finish_insert(next.id, insert(next.slice, next.view));
        }
      }
    }

    bool wait_layer(std::uint64_t step, std::uint32_t layer) override {
      for (;;) {
        insert_pending();
        std::unique_lock lock(mutex);
        core.expire(now());
        const GateState gate = core.gate(step, layer);
        if (gate != GateState::shut) return gate == GateState::open;
        const std::uint64_t seen = core.version();
        lock.unlock();
        lanes.wake();
        lock.lock();
        if (core.version() == seen && pending.empty()) {
          pause(lock, std::max(Time(1), std::min<Time>(core.next_deadline() - now(),
                                                       std::chrono::milliseconds(50))));
        }
      }
    }

    struct Pending {
      std::uint64_t id = 0;
      Slice slice;
      KvView view;
    };
    M& memory;
    IoLanes<S>& lanes;
    const Clock::time_point start = Clock::now();
    std::vector<TokenId> tokens;
    KvLayout layout;
    ModelFingerprint fingerprint;
    std::array<std::byte, 16> tenant{};
    ChunkKey root;
    PrefillLookup lookup;
    Time planning{0};
    std::mutex mutex;  // guards all below
    std::condition_variable changed;
    SessionCore<Sch> core;
    std::unordered_map<std::uint64_t, LoadOrder> orders;  // by read
    std::unordered_map<std::uint32_t, std::shared_ptr<const ChunkTables>>
        parsed;  // of chunks that come in slices
    std::deque<Pending> pending;
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
  std::uint64_t seen_ = 0;
  Time woken_{0};  // the lanes, by done()
};

}  // namespace cake
