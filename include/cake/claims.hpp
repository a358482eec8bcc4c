// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The claims of one prompt's run: which step, load or insert holds which chunk, and what becomes of
// a chunk when its holder succeeds, fails, is overtaken or comes too late. Told from outside what
// happened and when; no I/O, thread or clock. One thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cake/board.hpp"
#include "cake/concepts.hpp"
#include "cake/gate.hpp"
#include "cake/load_slots.hpp"
#include "cake/plan.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"

namespace cake {

struct SessionOptions {
  /// How long compute waits with nothing in flight and nothing offered before it goes on by itself.
  Time patience = std::chrono::milliseconds(20);
  /// Longest wait for one read, whatever deadline the scheduler gives it. Its chunk is then
  /// computed.
  Time read_timeout = std::chrono::seconds(30);
  /// Longest wait for the store's answer what it holds. Then the prompt runs without the store.
  Time lookup_timeout = std::chrono::seconds(1);
};

/// The same with every wait between none and a year, so that a time to come can be added up.
inline SessionOptions bounded(SessionOptions options) {
  constexpr Time kLongest = std::chrono::hours(24 * 365);
  options.patience = std::clamp(options.patience, Time{0}, kLongest);
  options.read_timeout = std::clamp(options.read_timeout, Time{0}, kLongest);
  options.lookup_timeout = std::clamp(options.lookup_timeout, Time{0}, kLongest);
  return options;
}

class Claims {
 public:
  explicit Claims(const SessionOptions& options = {}) : options_(bounded(options)) {}

  /// `stored` holds plan.end_chunk entries; priors one per lane.
  void begin(PrefillPlan plan, std::vector<StoredChunk> stored, std::span<const LaneRate> priors) {
    *this = Claims(options_);
    stored_ = std::move(stored);
    plan.stored = stored_;
    board_.begin(plan, priors);
    chunks_.assign(plan.end_chunk, {});
    for (std::uint32_t c = 0; c < plan.end_chunk; ++c) {
      if (board_.state(c) == ChunkState::resident) chunks_[c].source = Source::resident;
      if (!stored_[c].stored()) chunks_[c].load_error = Errc::not_found;
    }
  }

  const Board& board() const { return board_; }
  /// Cancellation or a compute error; ok while all is well.
  Errc status() const { return status_; }
  bool complete() const {
    return board_.front() >= board_.plan().n_tokens && board_.running_.empty();
  }
  /// Counts changes: whoever saw one number knows that something happened when it sees another.
  std::uint64_t version() const { return version_; }
  bool over() const { return status_ != Errc::ok || complete(); }
  /// Slices whose bytes are being inserted; nobody may free the KV before this is 0.
  std::uint32_t inserting() const { return inserting_; }

  /// Whether KV of `layer` below the step is resident. The engine asks, and may read it when open.
  GateState gate(std::uint64_t id, std::uint32_t layer) {
    const GateState state = gate_.ask(id, layer);
    return state == GateState::shut && status_ != Errc::ok ? GateState::voided : state;
  }

  /// A step has ended. `tokens` may be fewer than asked only for the step that was issued last.
  /// superseded: its gate was void, which nobody else may say. A gated step is not ok before each
  /// layer's gate was found open.
  void done(std::uint64_t id, std::uint32_t tokens, Errc code, Time now) {
    const auto step = std::find_if(board_.running_.begin(), board_.running_.end(),
                                   [&](const RunningStep& r) { return r.id == id; });
    if (step == board_.running_.end()) return;
    const RunningStep ran = *step;
    board_.running_.erase(step);
    if (!board_.running_.empty()) board_.running_.front().begins = now;
    changed();
    StepReport& record = steps_[ran.id - 1];
    record.ended = now;
    const bool passed = gate_.passed(id);
    if (gate_.close(id) || (code == Errc::ok && !passed && status_ != Errc::ok)) {
      code = Errc::superseded;
    } else if (code == Errc::superseded && status_ == Errc::ok) {
      break_rule("the engine returned superseded for a step whose gate was not void");
    } else if (code == Errc::ok && !passed) {
      break_rule(
          "the engine ended a gated step without waiting for the gate of every layer; an engine "
          "that takes no gates must say so (may_gate = false)");
      code = Errc::superseded;
    }
    if (code != Errc::ok) {
      record.voided = true;
      record.tokens = ran.tokens;
      give_back(ran.tokens.begin, ran.tokens.end);
      if (code != Errc::superseded && status_ == Errc::ok) fail(code);
      return;
    }
    const std::uint32_t end = ran.tokens.begin + std::min(ran.tokens.size(), tokens);
    if (end < ran.tokens.end) {
      if (id != next_step_) {
        return break_rule("a step that another one follows did less than it was asked for");
      }
      give_back(end, ran.tokens.end);
    }
    record.tokens = {ran.tokens.begin, end};
    for (std::uint32_t c = board_.plan().chunk_of(ran.tokens.begin); c < board_.plan().end_chunk;
         ++c) {
      const TokenRange range = board_.plan().chunk_range(c);
      if (range.begin >= end) break;
      if (chunks_[c].source == Source::none) chunks_[c].begin = ran.issued;
      chunks_[c].source = Source::computed;
      chunks_[c].end = now;
      if (range.end <= end) board_.set_state(c, ChunkState::resident);
    }
    const Time from = std::max(ran.issued, last_done_);
    last_done_ = now;
    // While a gated step is being enqueued behind this one, nobody notices that this one has ended.
    const bool waited = ran.gated || (!board_.running_.empty() && board_.running_.back().gated);
    board_.finished_ = {board_.finished_.sequence + 1, record.tokens, now - from, waited};
    if (complete()) ended_ = now;
  }

  // ---- I/O lanes ---

  /// The read is there and its bytes are verified: may they be inserted? False: the claim was lost,
  /// drop them.
  bool begin_insert(std::uint64_t id, Time now) {
    LoadSlot* slot = slots_.find(id);
    if (slot == nullptr) return false;
    board_.lanes_[slot->lane].landed(id, true, now);
    changed();
    if (!slot->live || status_ != Errc::ok) {
      slot->busy = false;
      return false;
    }
    loads_[slot->report].landed = now;
    slot->inserting = true;
    ++inserting_;
    ++board_.inserting_[slot->slice.chunk];
    if (slot->slice.layers.begin == 0) board_.flags_[slot->slice.chunk] |= Board::kParsed;
    board_.set_state(slot->slice.chunk, ChunkState::inserting);
    return true;
  }

  void inserted(std::uint64_t id, bool ok, Time now) {
    LoadSlot* slot = slots_.find(id);
    if (slot == nullptr) return;
    const std::uint32_t chunk = slot->slice.chunk;
    LoadReport& record = loads_[slot->report];
    record.resident = now;
    record.outcome = ok ? Errc::ok : Errc::device;
    board_.lanes_[slot->lane].inserted(now - record.landed);
    slot->busy = slot->live = slot->inserting = false;
    --inserting_;
    --board_.inserting_[chunk];
    if (!ok) {
      count_failure(*slot);
      doom(chunk, Errc::device);
    } else if ((board_.flags_[chunk] & Board::kDoomed) == 0) {
      const bool whole = board_.add_layers(chunk, slot->slice.layers);
      gate_.add(chunk, slot->slice.layers, whole);
      if (whole) {
        board_.set_state(chunk, ChunkState::resident);
        chunks_[chunk].source = Source::loaded;
        chunks_[chunk].lane = slot->lane;
        chunks_[chunk].end = now;
        board_.advance();
      }
    }
    settle(chunk);
    changed();
  }

  /// The read failed, or its bytes are not what was asked for. Also how a lane reports the end of a
  /// read that it had to abandon. False: nobody wanted it any more, so it is no failure.
  bool failed(std::uint64_t id, Errc code, Time now) {
    LoadSlot* slot = slots_.find(id);
    if (slot == nullptr) return false;
    if (code == Errc::timeout) board_.lanes_[slot->lane].given_up(id, now);
    board_.lanes_[slot->lane].landed(id, false, now);
    const bool wanted = slot->live;
    if (wanted) {
      count_failure(*slot);
      loads_[slot->report].landed = now;
      loads_[slot->report].outcome = code;
      slot->live = false;
      doom(slot->slice.chunk, code);
    }
    slot->busy = false;
    changed();
    return wanted;
  }

  /// The lane had no memory for the read just now: nothing was read, and the slice may be claimed
  /// again.
  void returned(std::uint64_t id, Time now) {
    LoadSlot* slot = slots_.find(id);
    if (slot == nullptr) return;
    const Slice slice = slot->slice;
    board_.lanes_[slot->lane].landed(id, false, now);
    const bool wanted = slot->live;
    slot->busy = slot->live = false;
    chunks_[slice.chunk].bytes -= loads_[slot->report].bytes;
    loads_[slot->report].bytes = 0;
    if (!wanted) return changed();
    if (board_.issued_[slice.chunk] != slice.layers.end) {  // another one follows it already
      doom(slice.chunk, Errc::out_of_memory);
    } else {
      board_.issue(slice.chunk, {0, slice.layers.begin});
      if (slice.layers.begin == 0) board_.set_state(slice.chunk, ChunkState::open);
    }
    changed();
  }

  /// Whether the lane should still wait for this read.
  bool wanted(std::uint64_t id) const {
    const LoadSlot* slot = slots_.find(id);
    return slot != nullptr && slot->live;
  }
  /// What this read is of; none once its lane has answered.
  const LoadSlot* find(std::uint64_t id) const { return slots_.find(id); }
  /// The first read that failed while it was wanted; 0 while there is none.
  std::uint64_t first_failure() const { return first_failure_; }

  void set_lane_down(LaneId lane, bool down) {
    if (lane >= board_.n_lanes() || board_.lane(lane).down() == down) return;
    board_.lanes_[lane].set_down(down);
    changed();
  }

  // ---- time and the end ---

  /// Drops every read whose deadline has passed.
  void expire(Time now) {
    for (LoadSlot& slot : slots_.all()) {
      if (!slot.live || slot.inserting || slot.deadline > now) continue;
      count_failure(slot);
      loads_[slot.report].landed = now;
      loads_[slot.report].outcome = Errc::timeout;
      slot.live = false;
      doom(slot.slice.chunk, Errc::timeout);
      changed();
    }
    if (!newest_gate_shut() || loads_live()) {
      starving_since_ = kNever;
    } else if (starving_since_ == kNever) {
      starving_since_ = now;
    }
    if (starving_since_ != kNever && (now >= starving_since_ + options_.patience || all_down())) {
      starve();
    }
  }
  Time next_deadline() const {
    Time earliest = slots_.next_deadline();
    if (starving_since_ != kNever) {
      earliest = std::min(earliest, starving_since_ + options_.patience);
    }
    return earliest;
  }

  void cancel() {
    if (!over()) fail(Errc::canceled);
  }
  /// Drops every read that is still on its way; the run is over for the lanes.
  void close() {
    slots_.drop_reads();
    if (status_ == Errc::ok && !complete()) status_ = Errc::canceled;
    changed();
  }

  PrefillReport report(Time now) const;

 protected:
  void changed() { ++version_; }
  void set_may_gate(bool may) { board_.may_gate_ = may && board_.plan().may_gate; }

  bool newest_gate_shut() const {
    return !board_.running_.empty() && gate_.shut(board_.running_.back().id);
  }
  bool loads_live() const { return slots_.any_live(); }
  bool all_down() const {
    return std::all_of(board_.lanes_.begin(), board_.lanes_.end(),
                       [](const LaneModel& lane) { return lane.down(); });
  }

  Step claim(Step step, Time now) {
    const PrefillPlan& plan = board_.plan();
    if (steps_.size() == steps_.capacity()) steps_.reserve(2 * steps_.size() + 16);
    if (step.gated && step.tokens.begin == board_.front()) step.gated = false;
    if (step.gated) gate_.begin(next_step_ + 1, board_, step.tokens.begin);
    step.id = ++next_step_;  // nothing from here on needs memory
    for (std::uint32_t c = plan.chunk_of(step.tokens.begin);
         c < plan.end_chunk && plan.chunk_range(c).begin < step.tokens.end; ++c) {
      if (board_.state(c) == ChunkState::loading) take_over(c);
      board_.set_state(c, ChunkState::computing);
      board_.partial_end_ = step.tokens.end;
    }
    if (step.tokens.end > plan.prefix_end()) board_.suffix_front_ = step.tokens.end;
    board_.advance();
    board_.running_.push_back({step.id, step.tokens, now, now, step.gated});
    steps_.push_back({step.tokens, now, Time{0}, step.gated, false});
    changed();
    return step;
  }

  /// Compute has the chunk from now on; reads for it land in vain.
  void take_over(std::uint32_t chunk) {
    ++taken_over_;
    board_.flags_[chunk] |= Board::kDoomed;
    board_.drop_layers(chunk);
    if (chunks_[chunk].load_error == Errc::ok) chunks_[chunk].load_error = Errc::superseded;
    slots_.drop_reads(chunk);
  }

  /// No slice of this chunk will be loaded any more. It becomes a hole as soon as nobody inserts
  /// into it.
  void doom(std::uint32_t chunk, Errc why) {
    board_.flags_[chunk] |= Board::kDoomed;
    chunks_[chunk].load_error = why;
    slots_.drop_reads(chunk);
    settle(chunk);
  }

  /// A gated step waits for chunks that no lane reads: they are compute's from now on.
  void starve() {
    starving_since_ = kNever;
    for (std::uint32_t c = board_.front_chunk(); gate_.covers(c); ++c) {
      if (board_.state(c) == ChunkState::open) board_.set_state(c, ChunkState::loading);
      if (board_.state(c) == ChunkState::loading) doom(c, Errc::timeout);
    }
    changed();
  }

  /// Brings the state of a chunk in line with what its slices do.
  void settle(std::uint32_t chunk) {
    const ChunkState state = board_.state(chunk);
    if (board_.inserting_[chunk] != 0 ||
        (state != ChunkState::inserting && state != ChunkState::loading)) {
      return;
    }
    if ((board_.flags_[chunk] & Board::kDoomed) != 0) {
      board_.drop_layers(chunk);
      board_.set_state(chunk, ChunkState::hole);
      gate_.lost(chunk);
    } else {
      board_.set_state(chunk, ChunkState::loading);
    }
  }

  /// Claims the slice for a lane. Needs may_load().
  LoadOrder claim(const Load& load, LaneId lane, Time now) {
    if (loads_.size() == loads_.capacity()) loads_.reserve(2 * loads_.size() + 16);
    slots_.reserve();
    board_.lanes_[lane].reserve();  // nothing from here on needs memory
    Slice slice = load.slice;
    slice.tokens = board_.plan().object_range(slice.chunk);
    const std::uint64_t bytes = board_.plan().read_bytes(slice.layers);
    const Time limit = now > kNever - options_.read_timeout ? kNever : now + options_.read_timeout;
    const Time deadline = std::min(load.deadline, limit);
    LoadSlot& slot = slots_.add({.id = ++next_load_,
                                 .slice = slice,
                                 .lane = lane,
                                 .deadline = deadline,
                                 .report = loads_.size(),
                                 .busy = true,
                                 .live = true});
    if (board_.state(slice.chunk) == ChunkState::open) {
      board_.set_state(slice.chunk, ChunkState::loading);
      chunks_[slice.chunk].begin = now;
    }
    board_.issue(slice.chunk, slice.layers);
    board_.lanes_[lane].issue(slot.id, slice.chunk, bytes, now);
    chunks_[slice.chunk].bytes += bytes;
    loads_.push_back({slice, lane, bytes, now, Time{0}, Time{0}, Errc::superseded});
    changed();
    return {slot.id, slice, lane, bytes, deadline};
  }

  Board board_;
  std::uint64_t version_ = 1;  // counts changes that a scheduler may care about
  Errc status_ = Errc::ok;
  SessionOptions options_;

 private:
  /// Takes [begin, end) back from compute.
  void give_back(std::uint32_t begin, std::uint32_t end) {
    const PrefillPlan& plan = board_.plan();
    for (std::uint32_t c = plan.chunk_of(begin);
         c < plan.end_chunk && plan.chunk_range(c).begin < end; ++c) {
      if (plan.chunk_range(c).begin < begin) {
        board_.partial_end_ = begin;  // its first tokens were computed by an earlier step
        continue;
      }
      if (board_.state(c) != ChunkState::computing) continue;
      const bool doomed = (board_.flags_[c] & Board::kDoomed) != 0;
      board_.set_state(c, doomed ? ChunkState::hole : ChunkState::open);
    }
    if (end > plan.prefix_end()) board_.suffix_front_ = std::max(begin, plan.prefix_end());
    board_.front_ = std::min(board_.front_, begin);
    board_.advance();
    changed();
  }

  void count_failure(const LoadSlot& slot) {
    ++failed_loads_;
    if (first_failure_ == 0) first_failure_ = slot.id, first_failure_report_ = slot.report;
  }

  void break_rule(const char* what) {
    if (status_ != Errc::ok) return;
    broken_rule_ = what;
    fail(Errc::invalid_argument);
  }
  void fail(Errc code) {
    status_ = code;
    slots_.drop_reads();
    changed();
  }

  std::vector<StoredChunk> stored_;
  LoadSlots slots_;
  GateTracker gate_;
  std::vector<ChunkReport> chunks_;
  std::vector<StepReport> steps_;
  std::vector<LoadReport> loads_;
  std::uint64_t next_load_ = 0;
  std::uint64_t next_step_ = 0;
  std::uint32_t inserting_ = 0;
  std::uint32_t failed_loads_ = 0;
  std::uint64_t first_failure_ = 0;       // read
  std::size_t first_failure_report_ = 0;  // index of its report
  const char* broken_rule_ = nullptr;     // by the engine
  std::uint32_t taken_over_ = 0;
  Time starving_since_ = kNever;  // since when a gated step waits with nothing in flight
  Time last_done_{0};
  Time ended_{0};
};

inline PrefillReport Claims::report(Time now) const {
  PrefillReport r;
  if (status_ != Errc::ok) {
    r.status = Error{
        status_, 0,
        std::string("prefill") + (broken_rule_ ? ": " : "") + (broken_rule_ ? broken_rule_ : "")};
  }
  r.plan = board_.plan();
  r.plan.stored = {};
  r.ttft = complete() ? ended_ : now;
  r.failed_loads = failed_loads_;
  r.taken_over = taken_over_;
  r.chunks = chunks_;
  r.steps = steps_;
  r.loads = loads_;
  if (first_failure_ != 0) {
    const LoadReport& load = loads_[first_failure_report_];
    r.load_error = Error{load.outcome, 0,
                         "load of chunk " + std::to_string(load.slice.chunk) + " from tier " +
                             std::to_string(load.lane) +
                             (load.outcome == Errc::timeout ? ": not there by its deadline" : "")};
  }
  r.summarize();
  return r;
}

}  // namespace cake
