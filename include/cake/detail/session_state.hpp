// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The inside of PrefillSession: a clock and locks around SessionCore, and the way from landed bytes
// to verified KV. Shared with the lanes and with gates: a read may come back when the session is
// long gone.
//
// Locks, in the order in which they are taken: `turn` (who may ask the scheduler), `mutex` (the
// state), the lanes' mutex and that of `wanted_reads`. A lane's thread never waits for `turn`.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/landing.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/session_core.hpp"
#include "cake/detail/wanted_reads.hpp"
#include "cake/engine.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

template <KvMemory M, StorageBackend S, Scheduler Sch>
class SessionState final : public LaneClient, public GateSource {
 public:
  SessionState(M& memory, S& storage, LaneHost& lanes, const Sch& scheduler,
               const SessionOptions& options)
      : memory_(memory),
        storage_(storage),
        lanes_(lanes),
        options_(bounded(options)),
        core_(scheduler, options) {}

  // ---- the driving thread's side ----

  /// Looks the prompt up. No lane is attached yet.
  void begin(Tokens tokens, const ChunkOptions& chunks, const PrefillOptions& prompt) {
    tokens_ = std::make_shared<const std::vector<TokenId>>(tokens.begin(), tokens.end());
    const KvLayout layout = memory_.layout();
    fingerprint_ = memory_.fingerprint();
    tenant_ = tenant_tag(chunks.salt);
    root_ = root_key(fingerprint_, layout, chunks.chunk_tokens, chunks.salt);
    lookup_ = plan_request({.tokens = tokens,
                            .resident = prompt.resident,
                            .chunks = chunks,
                            .max_step_tokens = options_.max_step_tokens,
                            .may_gate = engine_traits<M>::gates() && options_.gated_steps},
                           root_, ChunkGeometry(layout, chunks.chunk_tokens), lanes_.lane_count());
    PrefillSpec& spec = lookup_.spec;
    spec.whole_chunks = engine_traits<M>::abilities.whole_chunks;
    spec.smallest_step = engine_traits<M>::abilities.smallest_step;
    spec.max_overlap_tokens = engine_traits<M>::abilities.max_overlap_tokens;
    const std::uint64_t ends = spec.head_bytes + spec.foot_bytes;
    const std::uint64_t staging = lanes_.staging_budget();
    if (!lookup_.keys.empty() && !prompt.stop.stop_requested()) {
      if (staging < smallest_load<M>(lookup_.geometry)) {
        load_error_ = no_room(lookup_, staging);
      } else {
        Status problem;
        lookup_.take(lanes_.lookup(lookup_.keys, lookup_.geometry, options_.lookup_timeout,
                                   prompt.stop, problem));
        if (lookup_.status) lookup_.status = problem;
      }
    }
    core_.calibrate(lanes_.calibration().compute(fingerprint_));
    core_.begin(spec, lookup_.stored, lanes_.rates());
    const std::uint64_t layers =
        (staging - std::min(staging, ends)) / lookup_.geometry.largest_layer();
    core_.set_read_layers(static_cast<std::uint32_t>(std::min<std::uint64_t>(layers, ~0u)));
    largest_read_ = std::min(spec.read_bytes({0, spec.n_layers}), staging);
    planning_ = now();
    woken_ = planning_;  // they are when they get the session
  }

  Time now() const { return std::chrono::duration_cast<Time>(Clock::now() - start_); }
  const std::shared_ptr<const std::vector<TokenId>>& tokens() const { return tokens_; }
  const ModelFingerprint& fingerprint() const { return fingerprint_; }
  /// The calling thread is the one that makes the inserts of an engine that wants that.
  void drive() { driver_ = std::this_thread::get_id(); }

  Step next(std::uint32_t budget, bool may_gate) {
    drive();
    std::uint32_t down = 0;
    for (LaneId l = 0; l < lanes_.lane_count(); ++l) {
      down |= std::uint32_t{lanes_.down(l, largest_read_)} << l;
    }
    insert_pending();
    Step step;
    {
      const Turn turn(*this);
      step = ask_for_step(budget, may_gate, down);
    }
    // A step that computes gives the lanes no new work; a step that waits for them may.
    if (step.kind == Step::Kind::wait) lanes_.wake(*this);
    return step;
  }

  void done(const Step& step, std::uint32_t tokens, const Status& status) {
    const Time ended = now();
    {
      const Change change(*this);
      if (!status && status.code() != Errc::superseded && error_) {
        const Error& why = status.error();
        error_ = error_of(why.code, why.native, why.context);
      }
      core_.done(step.id, tokens, status.code(), ended);
    }
    // A whole step tells the lanes little; after tiny ones not each is worth a wake-up.
    if (status && tokens == step.tokens.size() && ended < woken_ + kWakePause) return;
    woken_ = ended;
    lanes_.wake(*this);
  }

  void wait(Time until) {
    drive();
    std::unique_lock lock(mutex_);
    if (!core_.view().running().empty()) until = std::min(until, now() + kStepPoll);
    while (core_.version() == seen_ && pending_.empty() && !core_.idle()) {
      const Time at = now();
      const Time end = std::min(until, core_.next_deadline());
      if (at >= end) break;
      pause(lock, end - at);
    }
    lock.unlock();
    insert_pending();
  }

  void cancel() noexcept {
    {
      const Change change(*this);
      core_.cancel();
    }
    announce();
  }

  /// Ends the run: drops reads, waits for inserts in progress and for whoever is in a gate or asks
  /// the scheduler.
  void close() noexcept {
    drive();
    {
      const Change change(*this);
      core_.close();
      closed_ = true;
      changed_.notify_all();
    }
    std::unique_lock lock(mutex_);
    while (core_.inserting() != 0 || in_gate_ != 0) {
      if (!pending_.empty()) {
        lock.unlock();
        insert_pending();
        lock.lock();
      } else {
        changed_.wait(lock);
      }
    }
    lock.unlock();
    const Turn turn(*this);
  }

  // After close():

  PrefillReport report() {
    std::lock_guard lock(mutex_);
    PrefillReport report = core_.report(now());
    report.planning = planning_;
    report.lookup = lookup_.status;
    if (!load_error_) report.load_error = load_error_;
    if (!report.status && !error_) {
      report.status = Error{report.status.error().code, 0, error_.error().message()};
    }
    return report;
  }
  void teach() {
    std::lock_guard lock(mutex_);
    Calibration& calibration = lanes_.calibration();
    for (LaneId l = 0; l < lanes_.lane_count(); ++l) {
      calibration.learn(l, core_.view().lane(l), now());
    }
    if (const ComputeCostEstimator* compute = core_.measured_compute()) {
      calibration.learn(fingerprint_, *compute);
    }
  }

  // ---- the lanes' side ----

  std::uint64_t largest_read() const noexcept override { return largest_read_; }

  std::optional<ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                      bool& short_of_room) override {
    const Turn turn(*this, std::try_to_lock);
    if (!turn.taken()) return std::nullopt;  // whoever has it wakes the lanes when he is done
    for (int i = 0; i < kAskAgain; ++i) {
      typename SessionCore<Sch>::LoadQuestion question;
      {
        const Change change(*this);
        if constexpr (engine_traits<M>::abilities.insert_on_caller) {
          // An engine that does not come to insert keeps no more than half of the staging memory.
          const bool full = 2 * pending_bytes_ >= lanes_.staging_budget();
          if (!pending_.empty() && full) return std::nullopt;
        }
        wanted_reads_.reserve(core_.reads().size() + 1);
        question = core_.begin_load(lane, now());
      }
      const auto answer = core_.ask(question);  // without the lock, which others need
      const Change change(*this);
      auto ticket = core_.end_load(question, answer, max_bytes, now(), short_of_room);
      if (ticket) {
        ticket->key = lookup_.keys[ticket->slice.chunk];
        return ticket;
      }
      if (core_.idle()) changed_.notify_all();  // compute goes on by itself
      if (short_of_room || !question.ask || question.version == core_.version()) break;
    }
    return std::nullopt;
  }

  bool wanted(std::uint64_t read) noexcept override { return wanted_reads_.contains(read, now()); }

  void returned(const ReadTicket& read) noexcept override {
    const Change change(*this);
    core_.returned(read.id, now());
  }

  void failed(const ReadTicket& read, const Error& why) noexcept override {
    // What is there is of no use to anybody: gone, so that the next save can put it right, and
    // gone before the run can end. Once nobody waits for the read, a save may have done so.
    if ((why.code == Errc::corrupt || why.code == Errc::mismatch) && wanted(read.id)) {
      lanes_.discard(read.lane, read.key);
    }
    {
      const Change change(*this);
      if (core_.failed(read.id, why.code, now()) && core_.first_failure() == read.id) {
        load_error_ = error_of(why.code, why.native, why.context);
      }
    }
    announce();
  }

  bool keeps_bytes() const noexcept override {
    return engine_traits<M>::abilities.insert_on_caller;
  }

  void landed(const ReadTicket& read, const Landed& landed) noexcept override {
    const Result<Taken> taken =
        guarded(Errc::io, "a chunk that was read", [&] { return take(read, landed); });
    if (!taken) failed(read, taken.error());
    if (!taken || !taken->inserts) return release(read.id);
    if constexpr (engine_traits<M>::abilities.insert_on_caller) {
      announce();  // the driving thread has to insert it
    } else {
      lanes_.wake(*this);  // the link has room for another read; for compute nothing is new yet
      finish_insert(read.id, insert(read.slice, taken->view));
    }
  }

  // ---- the engine's side ----

  /// An engine whose context belongs to the driving thread may wait here on another one: then the
  /// inserts are left to the driving thread's next() and wait().
  bool wait_layer(std::uint64_t step, std::uint32_t layer) override {
    std::unique_lock lock(mutex_);
    ++in_gate_;
    bool open = false;
    for (;;) {
      if (driver_.load() == std::this_thread::get_id() && !pending_.empty()) {
        lock.unlock();
        insert_pending();
        lock.lock();
      }
      core_.expire(now());
      publish();
      const GateAnswer gate = core_.gate(step, layer);
      open = gate == GateAnswer::open;
      if (gate != GateAnswer::shut || closed_) break;
      const std::uint64_t seen = core_.version();
      lock.unlock();
      lanes_.wake(*this);
      lock.lock();
      if (core_.version() == seen && !closed_) {
        pause(lock, std::max(Time(1), std::min<Time>(core_.next_deadline() - now(), kGatePoll)));
      }
    }
    open = open && !closed_;
    if (--in_gate_ == 0 && closed_) changed_.notify_all();
    return open;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Time kWakePause = std::chrono::microseconds(100);
  static constexpr Time kStepPoll = std::chrono::milliseconds(20);
  static constexpr int kTurnTries = 100;
  static constexpr int kAskAgain = 8;  // when things change faster than the scheduler answers
  static constexpr Time kGatePoll = std::chrono::milliseconds(50);

  /// The right to ask the scheduler. A lane's thread that found it taken is woken at its end.
  class Turn {
   public:
    explicit Turn(SessionState& session)
        : session_(session), lock_(session.turn_, std::defer_lock) {
      if (!try_for_a_while()) lock_.lock();
    }
    Turn(SessionState& session, std::try_to_lock_t)
        : session_(session), lock_(session.turn_, std::defer_lock) {
      if (try_for_a_while()) return;
      session_.lane_missed_turn_ = true;
      (void)lock_.try_lock();  // it may have ended before it could see that
    }
    ~Turn() {
      if (!lock_.owns_lock()) return;
      lock_.unlock();
      if (session_.lane_missed_turn_.exchange(false)) session_.lanes_.wake(session_);
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    bool taken() const { return lock_.owns_lock(); }

   private:
    /// A few microseconds: most answers take less than a thread takes to fall asleep and wake.
    bool try_for_a_while() {
      for (int i = 0; i < kTurnTries; ++i) {
        if (lock_.try_lock()) return true;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
      }
      return false;
    }

    SessionState& session_;
    std::unique_lock<std::mutex> lock_;
  };

  /// The state may change while one of these lives.
  class Change {
   public:
    explicit Change(SessionState& session) : session_(session), lock_(session.mutex_) {}
    ~Change() { session_.publish(); }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    SessionState& session_;
    std::lock_guard<std::mutex> lock_;
  };

  struct Taken {
    KvView view;
    bool inserts = false;  // false: the claim was lost meanwhile
  };
  /// Waits for the driving thread to insert it.
  struct Pending {
    ReadTicket read;
    KvView view;
  };

  /// Without the lock while the scheduler thinks: reads land meanwhile.
  Step ask_for_step(std::uint32_t budget, bool may_gate, std::uint32_t down) {
    for (;;) {
      typename SessionCore<Sch>::StepQuestion question;
      {
        const Change change(*this);
        for (LaneId l = 0; l < lanes_.lane_count(); ++l) {
          core_.set_lane_down(l, (down >> l & 1) != 0);
        }
        question = core_.begin_step(budget, may_gate, now());
        seen_ = question.version;
      }
      if (question.answer) return *question.answer;
      const auto answer = core_.ask(question);
      const Change change(*this);
      if (const auto step = core_.end_step(question, answer, now())) return *step;
    }
  }

  void publish() {
    if (published_ == core_.version()) return;
    published_ = core_.version();
    if (core_.reads().empty() && !reads_published_) return;
    reads_published_ = !core_.reads().empty();
    wanted_reads_.publish(core_.reads());
  }

  void pause(std::unique_lock<std::mutex>& lock, Time span) {
    if (span > std::chrono::hours(1)) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, span);
    }
  }

  void announce() noexcept {
    changed_.notify_all();
    lanes_.wake(*this);
  }

  ChunkIdentity identity(std::uint32_t chunk) const {
    const TokenRange range = lookup_.spec.object_range(chunk);
    return {lookup_.keys[chunk], chunk == 0 ? root_ : lookup_.keys[chunk - 1],
            fingerprint_,        tenant_,
            range.begin,         Tokens(*tokens_).subspan(range.begin, range.size()),
            lookup_.geometry};
  }

  /// Verifies what a read brought. It is then to be inserted, by the lane or by the driving thread.
  Result<Taken> take(const ReadTicket& read, const Landed& landed) {
    Taken taken;
    const std::uint32_t chunk = read.slice.chunk;
    const LayerRange layers = read.slice.layers;
    std::shared_ptr<const ChunkTables> tables;
    {
      std::lock_guard lock(mutex_);
      if (core_.find(read.id) == nullptr) return taken;
      const auto known = parsed_.find(chunk);
      if (layers.begin > 0 && known != parsed_.end()) tables = known->second;
    }
    const Result<KvView> view =
        verify_landed(landed.bytes, layers, lookup_.stored[chunk].size, identity(chunk),
                      lanes_.landing_device(), tables, landed.seal);
    if (!view) return classify_failure(storage_, read.key, read.offset, landed.bytes, view.error());
    taken.view = *view;
    const Change change(*this);
    if (layers.end < lookup_.spec.n_layers) parsed_[chunk] = tables;
    if constexpr (engine_traits<M>::abilities.insert_on_caller)
      pending_.reserve(pending_.size() + 1);
    constexpr bool at_once = !engine_traits<M>::abilities.insert_on_caller;
    // Nothing from here on needs memory.
    taken.inserts = core_.begin_insert(read.id, now(), landed.lent && at_once);
    if constexpr (engine_traits<M>::abilities.insert_on_caller) {
      if (taken.inserts) {
        pending_.push_back({read, taken.view});
        pending_bytes_ += read.bytes;
      }
    }
    return taken;
  }

  /// One call for each run of the model's layers; the slice counts positions.
  Status insert(const Slice& slice, const KvView& view) noexcept {
    const KvRuns& runs = lookup_.geometry.runs();
    const std::uint32_t end = slice.layers.end;
    for (std::uint32_t at = slice.layers.begin; at < end;) {
      const std::uint32_t first = runs.layer_at(at++);
      LayerRange layers{first, first + 1};
      for (; at < end && runs.layer_at(at) == layers.end; ++at) ++layers.end;
      const Status status = guarded(Errc::device, "insert", [&] {
        return cake::await_completion(memory_.insert({slice.chunk, slice.tokens, layers}, view));
      });
      if (!status) return status;
    }
    return {};
  }

  void finish_insert(std::uint64_t id, const Status& status) noexcept {
    {
      const Change change(*this);
      core_.inserted(id, status.has_value(), now());
      if (!status && core_.first_failure() == id) {
        const Error& why = status.error();
        load_error_ = error_of(why.code, why.native, why.context);
      }
    }
    announce();
  }

  /// Runs the inserts that wait for the driving thread.
  void insert_pending() noexcept {
    if constexpr (engine_traits<M>::abilities.insert_on_caller) {
      for (;;) {
        std::unique_lock lock(mutex_);
        if (pending_.empty()) return;
        const Pending next = pending_.front();
        pending_.erase(pending_.begin());
        pending_bytes_ -= next.read.bytes;
        lock.unlock();
        finish_insert(next.read.id, insert(next.read.slice, next.view));
        release(next.read.id);
      }
    }
  }

  /// The lane's buffer is not needed any more.
  void release(std::uint64_t read) noexcept {
    if (engine_traits<M>::abilities.insert_on_caller) lanes_.give_back(*this, read);
  }

  M& memory_;
  S& storage_;
  LaneHost& lanes_;
  const SessionOptions options_;
  const Clock::time_point start_ = Clock::now();
  std::shared_ptr<const std::vector<TokenId>> tokens_;  // of the prompt
  ModelFingerprint fingerprint_;
  std::array<std::byte, 16> tenant_{};
  ChunkKey root_;
  PrefillLookup lookup_;
  std::uint64_t largest_read_ = 0;  // bytes
  Time planning_{0};
  std::uint64_t seen_ = 0;  // version, by next()
  Time woken_{0};           // the lanes, by done()
  std::atomic<std::thread::id> driver_{std::this_thread::get_id()};
  std::mutex turn_;
  std::atomic<bool> lane_missed_turn_{false};
  WantedReads wanted_reads_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  SessionCore<Sch> core_;
  std::uint64_t published_ = 0;   // version
  bool reads_published_ = false;  // some
  std::unordered_map<std::uint32_t, std::shared_ptr<const ChunkTables>>
      parsed_;                    // of chunks that come in slices
  std::vector<Pending> pending_;  // oldest first
  std::uint64_t pending_bytes_ = 0;
  std::uint32_t in_gate_ = 0;  // threads
  bool closed_ = false;
  Status error_;       // of compute
  Status load_error_;  // the first one
};

}  // namespace cake::inline CAKE_ABI::detail
