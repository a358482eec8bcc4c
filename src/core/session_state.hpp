// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The inside of a session's run: a clock and locks around SessionCore, and the way from landed bytes
// to verified KV. Shared with the lanes and with gates: a read may come back when the session is
// long gone.
//
// Locks, in the order in which they are taken: `turn` (who may ask the scheduler), `mutex` (the
// state), the lanes' mutex and that of `wanted_reads`. A lane's thread never waits for `turn`.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/plain_buffers.hpp"
#include "cake/detail/session_core.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/detail/session_scheduler.hpp"
#include "cake/detail/wanted_reads.hpp"
#include "cake/engine.hpp"
#include "cake/session_options.hpp"
#include "src/core/turn.hpp"

namespace cake::inline CAKE_ABI::detail {

class SessionState final : public LaneClient,
                           public GateSource,
                           public std::enable_shared_from_this<SessionState> {
 public:
  SessionState(SessionEngine& engine, LaneHost& lanes, AnyScheduler scheduler,
               const SessionOptions& options)
      : engine_(engine),
        can_(engine.abilities),
        lanes_(lanes),
        n_lanes_(lanes.lane_count()),
        options_(bounded(options)),
        plain_(lanes.staging_memory()),
        core_(std::move(scheduler), options) {}

  // ---- the driving thread's side ----

  /// Looks the prompt up. No lane is attached yet.
  void begin(Tokens tokens, const ChunkOptions& chunks, const PrefillOptions& prompt);

  Time now() const { return std::chrono::duration_cast<Time>(Clock::now() - start_); }
  const std::shared_ptr<const std::vector<TokenId>>& tokens() const { return tokens_; }
  const ModelFingerprint& fingerprint() const { return fingerprint_; }
  /// The calling thread is the one that makes the inserts of an engine that wants that.
  void drive() {
    const std::thread::id self = std::this_thread::get_id();
    if (driver_.load(std::memory_order_relaxed) != self) driver_ = self;
  }

  Step next(std::uint32_t budget, bool may_gate);
  void done(const Step& step, std::uint32_t tokens, const Status& status);
  void wait(Time until);
  void cancel() noexcept;

  /// Ends the run: drops reads, waits for inserts in progress and for whoever is in a gate or asks
  /// the scheduler.
  void close() noexcept;

  // After close():

  PrefillReport report();
  void teach();

  // ---- the lanes' side ----

  std::uint64_t largest_read() const noexcept override { return largest_read_; }

  std::optional<ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                      bool& short_of_room) override;
  bool wanted(std::uint64_t read) noexcept override { return wanted_reads_.contains(read, now()); }

  void held_up(const ReadTicket& read) noexcept override;
  void begun(const ReadTicket& read) noexcept override;
  void returned(const ReadTicket& read) noexcept override;
  void failed(const ReadTicket& read, const Error& why) noexcept override;
  bool keeps_bytes() const noexcept override { return can_.insert_on_caller; }

  std::shared_ptr<DigestingSink> sink(const ReadTicket& read, ConstBytes out) noexcept override;
  std::uint64_t part_bytes() const noexcept override { return part_bytes_; }
  std::shared_ptr<PartedRead> in_parts(const ReadTicket& read) noexcept override;
  bool landed(const ReadTicket& read, const Landed& landed) noexcept override;
  std::optional<ReadTicket> join(const ReadTicket& other) noexcept override;
  std::uint64_t left_to_load(LaneId lane) const noexcept override { return left_[lane].load(); }
  Time load_by() const noexcept override { return load_by_; }

  // ---- the engine's side ----

  /// An engine whose context belongs to the driving thread may wait here on another one: then the
  /// inserts are left to the driving thread's next() and wait().
  bool wait_layer(std::uint64_t step, std::uint32_t layer) override;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Time kLateness = std::chrono::milliseconds(2);  // of a thread that is not run
  static constexpr Time kWakePause = std::chrono::microseconds(100);
  static constexpr Time kStepPoll = std::chrono::milliseconds(20);
  static constexpr int kAskAgain = 8;  // when things change faster than the scheduler answers
  static constexpr Time kGatePoll = std::chrono::milliseconds(50);

  /// May ask the scheduler while it lives. A lane's thread that found another one alive is woken at
  /// the end of that.
  class Asking {
   public:
    explicit Asking(SessionState& session) : session_(session), taken_(true) {
      session_.turn_.take();
    }
    Asking(SessionState& session, std::try_to_lock_t)
        : session_(session), taken_(session.turn_.try_take()) {}
    ~Asking() {
      if (taken_ && session_.turn_.give()) session_.lanes_.wake(session_);
    }
    Asking(const Asking&) = delete;
    Asking& operator=(const Asking&) = delete;
    bool taken() const { return taken_; }

   private:
    SessionState& session_;
    const bool taken_;
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

  class Parted;  // session_parts.cpp

  struct Taken {
    KvView view;
    bool inserts = false;  // false: the claim was lost meanwhile
    bool whole = false;    // an object, in the lane's memory
    AlignedBuffer plain;   // where the view is of, if the object is encrypted
  };
  /// Waits for the driving thread to insert it.
  struct Pending {
    ReadTicket read;
    KvView view;
    bool whole = false;
    AlignedBuffer plain;
  };

  std::uint32_t lanes_down() const noexcept;
  void see_others();
  std::optional<ReadTicket> claimed(const ReadTicket& other) const;
  /// Without the lock while the scheduler thinks: reads land meanwhile.
  Step ask_for_step(std::uint32_t budget, bool may_gate, std::uint32_t down);
  /// Whether the step that waits in its gate is better void. As ask_for_step().
  void reconsider_gate();
  void publish();
  /// When all is to be loaded, so that the first token meets its target.
  Time loads_end_by(Time target) const;
  /// What the lane carries for other sessions, now and so far.
  void note_others(LaneId lane) {
    const std::uint64_t all =
        lanes_.carried(lane);  // first, so that it holds no more than carried()
    const std::uint64_t mine = carried_before_[lane] + carried(lane);
    core_.set_carried_for_others(lane, all - std::min(all, mine));
  }
  void pause(std::unique_lock<std::mutex>& lock, Time span);
  void announce() noexcept;
  ChunkIdentity identity(std::uint32_t chunk) const;

  /// Verifies what a read brought. It is then to be inserted, by the lane or by the driving thread.
  Result<Taken> take(const ReadTicket& read, const Landed& landed);

  /// What to report of bytes that failed verification with `why`. Bytes that the store reads
  /// differently on another path are a fault of the path; the object is whole.
  Error why_not(const ReadTicket& read, ConstBytes bytes, const Error& why);
  /// One call for each run of the model's layers; the slice counts positions.
  Status insert(const Slice& slice, const KvView& view) noexcept;
  void finish_insert(std::uint64_t id, const Status& status) noexcept;
  /// What an insert came to, with the lock.
  void note_inserted(std::uint64_t id, const Status& status);
  /// Most bytes of a part of any read.
  std::uint64_t largest_part() const;

  /// Runs the inserts that wait for the driving thread.
  void insert_pending() noexcept;

  /// The lane's buffer is not needed any more.
  void release(const ReadTicket& read, bool whole) noexcept;

  SessionEngine& engine_;  // not after close()
  const EngineAbilities can_;
  LaneHost& lanes_;
  const std::uint32_t n_lanes_;
  const SessionOptions options_;
  PlainBuffers plain_;
  std::shared_ptr<const TenantKeys> keys_;  // null: the objects are not encrypted
  const Clock::time_point start_ = Clock::now();
  std::shared_ptr<const std::vector<TokenId>> tokens_;  // of the prompt
  ModelFingerprint fingerprint_;
  std::array<std::byte, 16> tenant_{};
  ChunkKey root_;
  PrefillLookup lookup_;
  std::uint64_t largest_read_ = 0;  // bytes
  std::uint64_t part_bytes_ = 0;    // most of a part; 0: reads are not carried out in parts
  Time planning_{0};
  std::uint64_t seen_ = 0;     // version, by next()
  Time woken_{0};              // the lanes, by done()
  bool others_ahead_ = false;  // the lanes have carried something for other sessions first
  std::atomic<std::thread::id> driver_{std::this_thread::get_id()};
  Time load_by_ = kNever;                                     // steady_clock
  std::array<std::uint64_t, kMaxTiers> carried_before_{};     // by each lane when the run began
  std::array<std::atomic<std::uint64_t>, kMaxTiers> left_{};  // as LaneClient::left_to_load()
  Turn turn_;
  WantedReads wanted_reads_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  SessionCore core_;
  std::uint64_t published_ = 0;   // version
  bool reads_published_ = false;  // some
  std::unordered_map<std::uint32_t, std::shared_ptr<const ChunkTables>>
      parsed_;                    // of chunks that come in slices
  std::vector<Pending> pending_;  // oldest first
  std::uint64_t pending_bytes_ = 0;
  Time sleeps_until_{0};       // the driving thread, unless something changes
  std::uint32_t in_gate_ = 0;  // threads
  bool closed_ = false;
  Status error_;       // of compute
  Status load_error_;  // the first one
};

}  // namespace cake::inline CAKE_ABI::detail
