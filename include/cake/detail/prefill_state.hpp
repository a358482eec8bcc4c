// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The state of one prompt's run: which step, load or insert holds which chunk, and what becomes of
// a chunk when its holder succeeds, fails, is overtaken or comes too late. Told from outside what
// happened and when; no I/O, thread or clock. One thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/detail/chunk_table.hpp"
#include "cake/detail/layer_gate_state.hpp"
#include "cake/detail/read_table.hpp"
#include "cake/detail/run_log.hpp"
#include "cake/export.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The same with every wait between none and a year, so that a time to come can be added up.
CAKE_API SessionOptions bounded(SessionOptions options);

/// A copy is a run of its own, as ChunkTable says.
class CAKE_API PrefillState {
 public:
  explicit PrefillState(const SessionOptions& options = {}) : options_(bounded(options)) {}

  /// `stored` holds spec.end_chunk entries; priors one per lane.
  void begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
             std::span<const LinkEstimate> priors);

  RunView view() const { return chunks_.view(); }
  /// As ChunkTable: what view() shows, and how a copy of it is kept up to date.
  const RunTables& tables() const { return chunks_.tables(); }
  void update(RunTables& copy) { chunks_.update(copy); }
  const PrefillSpec& spec() const { return chunks_.tables().spec; }
  const SessionOptions& options() const { return options_; }
  /// Cancellation or a compute error; ok while all is well.
  Errc status() const { return status_; }
  bool complete() const {
    return view().front() >= spec().n_tokens && chunks_.tables().running.empty();
  }
  bool over() const { return status_ != Errc::ok || complete(); }
  /// Counts changes: whoever saw one number knows that something happened when it sees another.
  std::uint64_t version() const { return version_; }
  /// Slices whose bytes are being inserted; nobody may free the KV before this is 0.
  std::uint32_t inserting() const { return inserting_; }

  // ---- compute ----

  /// Compute is to begin with `tokens`, at a chunk's first token between RunView::context_from() and
  /// the front, which is not inserted into: all up to the front is its own, or the front's chunk, and the
  /// chunks of `tokens` behind it up to the first that is resident or inserted into. What it lacks below
  /// is loaded now, or is compute's as well. The front is then another one, or has its context.
  void take_front(TokenRange tokens);
  /// The engine takes gated steps for now.
  void set_may_gate(bool may) { chunks_.set_may_gate(may); }
  /// Compute has these tokens from now on. Needs may_compute(); nothing is claimed when it throws.
  Step claim(Step step, Time now);
  /// Whether KV of `layer` below the step is resident. The engine asks, and may read it when open.
  GateAnswer gate(std::uint64_t id, std::uint32_t layer, Time now);
  /// The newest step waits for layers, or is void: nothing may be enqueued behind it.
  bool newest_gate_shut() const;
  /// The newest step, which is gated, is void from now on.
  void void_gate();
  /// A step has ended. `tokens` may be fewer than asked only for the step that was issued last.
  /// superseded: its gate was void, which nobody else may say. A gated step is not ok before each
  /// layer's gate was found open.
  void done(std::uint64_t id, std::uint32_t tokens, Errc code, Time now);

  // ---- I/O lanes ----

  /// Claims the slice for a lane. Needs may_load(); nothing is claimed when it throws.
  /// `joined`: as in the ticket; when its bytes come says nothing of the lane.
  ReadTicket claim(const LoadRequest& load, LaneId lane, Time now, bool joined = false);
  /// The read is there and its bytes are verified: may they be inserted? False: the claim was lost,
  /// drop them. Bytes that the store lends are moved by the insert alone: then its end counts as the
  /// landing, so that the rate of the lane is that of the inserts.
  bool begin_insert(std::uint64_t id, Time now, bool lent = false);
  void inserted(std::uint64_t id, bool ok, Time now);
  /// One part of a read is there and verified: may it be inserted? Once all parts are there,
  /// begin_insert() as well. False: the claim was lost, drop it. Until end_part() compute does not get
  /// the chunk.
  bool begin_part(std::uint64_t id);
  void end_part(std::uint32_t chunk);
  /// The read failed, or its bytes are not what was asked for. Also how a lane reports the end of a
  /// read that it had to abandon. False: nobody wanted it any more, so it is no failure.
  bool failed(std::uint64_t id, Errc code, Time now);
  /// The lane had no memory for the read just now: nothing was read, and the slice may be claimed
  /// again.
  void returned(std::uint64_t id, Time now);
  /// As LinkEstimator says, of a read that was claimed.
  void held_up(std::uint64_t id);
  void begun(std::uint64_t id, Time now);
  /// Whether the lane should still wait for this read.
  bool wanted(std::uint64_t id) const;
  /// Null once its lane has answered.
  const ReadEntry* find(std::uint64_t id) const { return reads_.find(id); }
  std::span<const ReadEntry> reads() const { return reads_.all(); }
  /// The first read that failed while it was wanted; 0 while there is none.
  std::uint64_t first_failure() const { return log_.first_failure(); }
  /// Something is being read or inserted; an insert outlives its read where another part of that failed.
  bool loads_live() const { return reads_.any_claim() || inserting_ != 0; }
  void set_lane_down(LaneId lane, bool down);
  /// As LinkEstimator: what the lane carries for other prompts first, and has carried for them. Only the
  /// first is a change, and only where it differs by much.
  void set_lane_ahead(LaneId lane, std::uint64_t bytes, Time now);
  void set_carried_for_others(LaneId lane, std::uint64_t bytes) {
    chunks_.lane(lane).set_carried_for_others(bytes);
  }
  /// Chunks of which more layers are needed than before, since the last forget_grown(). No
  /// scheduler knows of them: who drives the run asks for them.
  std::span<const std::uint32_t> grown() const { return grown_; }
  void forget_grown() { grown_.clear(); }

  // ---- time and the end ----

  /// Drops every read whose deadline has passed, and chunks that a gated step has waited for too
  /// long: not at all where no lane has anything to read (`lanes_declined`).
  void expire(Time now, bool lanes_declined = false);
  /// When expire() has something to do.
  Time next_deadline() const;
  /// Ends the run for this reason, unless it is over.
  void end(Errc why);
  void cancel() { end(Errc::canceled); }
  /// Drops every read that is still on its way; the run is over for the lanes.
  void close();
  PrefillReport report(Time now) const;

 private:
  /// What others are given first differs by much: by more than the floor, and one part in so many.
  static constexpr Time kAheadFloor = std::chrono::milliseconds(1);
  static constexpr std::int64_t kAheadDivisor = 8;

  void changed() { ++version_; }
  bool noticed_late(Time busy, Time now) const;
  void take_over(std::uint32_t chunk);
  void mark_unloadable(std::uint32_t chunk, Errc why);
  void refresh_state(std::uint32_t chunk);
  void lose(std::uint32_t chunk);
  void renew_needs(std::uint32_t chunk);
  void release(TokenRange tokens);
  void release_starved();
  bool all_down() const;
  Errc checked(Errc code, const RunningStep& ran);
  void break_rule(const char* what);
  void fail(Errc code);

  SessionOptions options_;
  ChunkTable chunks_;
  ReadTable reads_;
  LayerGateState gate_;
  RunLog log_;
  std::uint64_t version_ = 1;
  Errc status_ = Errc::ok;
  const char* broken_rule_ = nullptr;  // by the engine
  std::vector<std::uint32_t> grown_;
  std::uint32_t extended_ = 0;  // chunks that grew, each time anew
  std::uint64_t next_load_ = 0;
  std::uint64_t next_step_ = 0;
  std::uint32_t inserting_ = 0;
  Time starved_since_ = kNever;  // since when a gated step waits with nothing in flight
  Time last_done_{0};
  Time ended_{0};
};

}  // namespace cake::inline CAKE_ABI::detail
