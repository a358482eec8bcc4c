// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The state of one prompt's run: which step, load or insert holds which chunk, and what becomes of
// a chunk when its holder succeeds, fails, is overtaken or comes too late. Told from outside what
// happened and when; no I/O, thread or clock. One thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cake/detail/admission.hpp"
#include "cake/detail/layer_gate_state.hpp"
#include "cake/detail/read_table.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The same with every wait between none and a year, so that a time to come can be added up.
inline SessionOptions bounded(SessionOptions options) {
  constexpr Time kLongest = std::chrono::hours(24 * 365);
  options.idle_timeout = std::clamp(options.idle_timeout, Time{0}, kLongest);
  options.read_timeout = std::clamp(options.read_timeout, Time{0}, kLongest);
  options.lookup_timeout = std::clamp(options.lookup_timeout, Time{0}, kLongest);
  return options;
}

class PrefillState {
 public:
  explicit PrefillState(const SessionOptions& options = {}) : options_(bounded(options)) {}

  /// `stored` holds spec.end_chunk entries; priors one per lane.
  void begin(PrefillSpec spec, std::vector<StoredChunk> stored,
             std::span<const LinkEstimate> priors) {
    *this = PrefillState(options_);
    stored_ = std::move(stored);
    spec.stored = stored_;
    view_.begin(spec, priors);
    chunks_.assign(spec.end_chunk, {});
    for (std::uint32_t c = 0; c < spec.end_chunk; ++c) {
      if (view_.state(c) == ChunkState::resident) chunks_[c].source = Source::resident;
      if (!stored_[c].stored()) chunks_[c].load_error = Errc::not_found;
    }
  }

  const RunView& view() const { return view_; }
  /// Cancellation or a compute error; ok while all is well.
  Errc status() const { return status_; }
  bool complete() const { return view_.front() >= view_.spec().n_tokens && view_.running_.empty(); }
  /// Counts changes: whoever saw one number knows that something happened when it sees another.
  std::uint64_t version() const { return version_; }
  bool over() const { return status_ != Errc::ok || complete(); }
  /// Slices whose bytes are being inserted; nobody may free the KV before this is 0.
  std::uint32_t inserting() const { return inserting_; }

  /// Whether KV of `layer` below the step is resident. The engine asks, and may read it when open.
  GateAnswer gate(std::uint64_t id, std::uint32_t layer) {
    const GateAnswer state = gate_.ask(id, layer);
    return state == GateAnswer::shut && status_ != Errc::ok ? GateAnswer::voided : state;
  }

  /// A step has ended. `tokens` may be fewer than asked only for the step that was issued last.
  /// superseded: its gate was void, which nobody else may say. A gated step is not ok before each
  /// layer's gate was found open.
  void done(std::uint64_t id, std::uint32_t tokens, Errc code, Time now) {
    const auto step = std::find_if(view_.running_.begin(), view_.running_.end(),
                                   [&](const RunningStep& r) { return r.id == id; });
    if (step == view_.running_.end()) return;
    const RunningStep ran = *step;
    view_.running_.erase(step);
    if (!view_.running_.empty()) view_.running_.front().begins = now;
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
      release_range(ran.tokens.begin, ran.tokens.end);
      if (code != Errc::superseded && status_ == Errc::ok) fail(code);
      return;
    }
    const std::uint32_t end = ran.tokens.begin + std::min(ran.tokens.size(), tokens);
    if (end < ran.tokens.end) {
      if (id != next_step_) {
        return break_rule("a step that another one follows did less than it was asked for");
      }
      release_range(end, ran.tokens.end);
    }
    record.tokens = {ran.tokens.begin, end};
    for (std::uint32_t c = view_.spec().chunk_of(ran.tokens.begin); c < view_.spec().end_chunk;
         ++c) {
      const TokenRange range = view_.spec().chunk_range(c);
      if (range.begin >= end) break;
      if (chunks_[c].source == Source::none) chunks_[c].begin = ran.issued;
      chunks_[c].source = Source::computed;
      chunks_[c].end = now;
      if (range.end <= end) view_.set_state(c, ChunkState::resident);
    }
    const Time from = std::max(ran.issued, last_done_);
    last_done_ = now;
    // While a gated step is being enqueued behind this one, nobody notices that this one has ended.
    const bool waited = ran.gated || (!view_.running_.empty() && view_.running_.back().gated);
    view_.finished_ = {view_.finished_.sequence + 1, record.tokens, now - from, waited};
    if (complete()) ended_ = now;
  }

  // ---- I/O lanes ---

  /// The read is there and its bytes are verified: may they be inserted? False: the claim was lost,
  /// drop them.
  bool begin_insert(std::uint64_t id, Time now) {
    ReadEntry* entry = reads_.find(id);
    if (entry == nullptr) return false;
    view_.lanes_[entry->lane].landed(id, true, now);
    changed();
    if (!entry->live || status_ != Errc::ok) {
      entry->busy = false;
      return false;
    }
    loads_[entry->report].landed = now;
    entry->inserting = true;
    ++inserting_;
    ++view_.inserting_[entry->slice.chunk];
    if (entry->slice.layers.begin == 0) view_.flags_[entry->slice.chunk] |= RunView::kParsed;
    view_.set_state(entry->slice.chunk, ChunkState::inserting);
    return true;
  }

  void inserted(std::uint64_t id, bool ok, Time now) {
    ReadEntry* entry = reads_.find(id);
    if (entry == nullptr) return;
    const std::uint32_t chunk = entry->slice.chunk;
    LoadReport& record = loads_[entry->report];
    record.resident = now;
    record.outcome = ok ? Errc::ok : Errc::device;
    view_.lanes_[entry->lane].inserted(now - record.landed);
    entry->busy = entry->live = entry->inserting = false;
    --inserting_;
    --view_.inserting_[chunk];
    if (!ok) {
      count_failure(*entry);
      mark_unloadable(chunk, Errc::device);
    } else if ((view_.flags_[chunk] & RunView::kUnloadable) == 0) {
      const bool whole = view_.add_layers(chunk, entry->slice.layers);
      gate_.add(chunk, entry->slice.layers, whole);
      if (whole) {
        view_.set_state(chunk, ChunkState::resident);
        chunks_[chunk].source = Source::loaded;
        chunks_[chunk].lane = entry->lane;
        chunks_[chunk].end = now;
        view_.advance();
      }
    }
    refresh_state(chunk);
    changed();
  }

  /// The read failed, or its bytes are not what was asked for. Also how a lane reports the end of a
  /// read that it had to abandon. False: nobody wanted it any more, so it is no failure.
  bool failed(std::uint64_t id, Errc code, Time now) {
    ReadEntry* entry = reads_.find(id);
    if (entry == nullptr) return false;
    if (code == Errc::timeout) view_.lanes_[entry->lane].given_up(id, now);
    view_.lanes_[entry->lane].landed(id, false, now);
    const bool wanted = entry->live;
    if (wanted) {
      count_failure(*entry);
      loads_[entry->report].landed = now;
      loads_[entry->report].outcome = code;
      entry->live = false;
      mark_unloadable(entry->slice.chunk, code);
    }
    entry->busy = false;
    changed();
    return wanted;
  }

  /// The lane had no memory for the read just now: nothing was read, and the slice may be claimed
  /// again.
  void returned(std::uint64_t id, Time now) {
    ReadEntry* entry = reads_.find(id);
    if (entry == nullptr) return;
    const Slice slice = entry->slice;
    view_.lanes_[entry->lane].landed(id, false, now);
    const bool wanted = entry->live;
    entry->busy = entry->live = false;
    chunks_[slice.chunk].bytes -= loads_[entry->report].bytes;
    loads_[entry->report].bytes = 0;
    if (!wanted) return changed();
    if (view_.issued_[slice.chunk] != slice.layers.end) {  // another one follows it already
      mark_unloadable(slice.chunk, Errc::out_of_memory);
    } else {
      view_.issue(slice.chunk, {0, slice.layers.begin});
      if (slice.layers.begin == 0) view_.set_state(slice.chunk, ChunkState::open);
    }
    changed();
  }

  /// Whether the lane should still wait for this read.
  bool wanted(std::uint64_t id) const {
    const ReadEntry* entry = reads_.find(id);
    return entry != nullptr && entry->live;
  }
  /// What this read is of; none once its lane has answered.
  const ReadEntry* find(std::uint64_t id) const { return reads_.find(id); }
  /// The first read that failed while it was wanted; 0 while there is none.
  std::uint64_t first_failure() const { return first_failure_; }

  void set_lane_down(LaneId lane, bool down) {
    if (lane >= view_.n_lanes() || view_.lane(lane).down() == down) return;
    view_.lanes_[lane].set_down(down);
    changed();
  }

  // ---- time and the end ---

  /// Drops every read whose deadline has passed.
  void expire(Time now) {
    for (ReadEntry& entry : reads_.all()) {
      if (!entry.live || entry.inserting || entry.deadline > now) continue;
      count_failure(entry);
      loads_[entry.report].landed = now;
      loads_[entry.report].outcome = Errc::timeout;
      entry.live = false;
      mark_unloadable(entry.slice.chunk, Errc::timeout);
      changed();
    }
    if (!newest_gate_shut() || loads_live()) {
      starved_since_ = kNever;
    } else if (starved_since_ == kNever) {
      starved_since_ = now;
    }
    if (starved_since_ != kNever && (now >= starved_since_ + options_.idle_timeout || all_down())) {
      release_starved();
    }
  }
  Time next_deadline() const {
    Time earliest = reads_.next_deadline();
    if (starved_since_ != kNever) {
      earliest = std::min(earliest, starved_since_ + options_.idle_timeout);
    }
    return earliest;
  }

  void cancel() {
    if (!over()) fail(Errc::canceled);
  }
  /// Drops every read that is still on its way; the run is over for the lanes.
  void close() {
    reads_.revoke_reads();
    if (status_ == Errc::ok && !complete()) status_ = Errc::canceled;
    changed();
  }

  PrefillReport report(Time now) const;

 protected:
  void changed() { ++version_; }
  void set_may_gate(bool may) { view_.may_gate_ = may && view_.spec().may_gate; }

  bool newest_gate_shut() const {
    return !view_.running_.empty() && gate_.shut(view_.running_.back().id);
  }
  bool loads_live() const { return reads_.any_live(); }
  bool all_down() const {
    return std::all_of(view_.lanes_.begin(), view_.lanes_.end(),
                       [](const LinkEstimator& lane) { return lane.down(); });
  }

  Step claim(Step step, Time now) {
    const PrefillSpec& spec = view_.spec();
    if (steps_.size() == steps_.capacity()) steps_.reserve(2 * steps_.size() + 16);
    if (step.gated && step.tokens.begin == view_.front()) step.gated = false;
    if (step.gated) gate_.begin(next_step_ + 1, view_, step.tokens.begin);
    step.id = ++next_step_;  // nothing from here on needs memory
    for (std::uint32_t c = spec.chunk_of(step.tokens.begin);
         c < spec.end_chunk && spec.chunk_range(c).begin < step.tokens.end; ++c) {
      if (view_.state(c) == ChunkState::loading) take_over(c);
      view_.set_state(c, ChunkState::computing);
      view_.partial_end_ = step.tokens.end;
    }
    if (step.tokens.end > spec.prefix_end()) view_.suffix_front_ = step.tokens.end;
    view_.advance();
    view_.running_.push_back({step.id, step.tokens, now, now, step.gated});
    steps_.push_back({step.tokens, now, Time{0}, step.gated, false});
    changed();
    return step;
  }

  /// Compute has the chunk from now on; bytes that reads of it still bring are discarded.
  void take_over(std::uint32_t chunk) {
    ++reads_superseded_;
    view_.flags_[chunk] |= RunView::kUnloadable;
    view_.drop_layers(chunk);
    if (chunks_[chunk].load_error == Errc::ok) chunks_[chunk].load_error = Errc::superseded;
    reads_.revoke_reads(chunk);
  }

  /// No slice of this chunk will be loaded any more. It becomes a hole as soon as nobody inserts
  /// into it.
  void mark_unloadable(std::uint32_t chunk, Errc why) {
    view_.flags_[chunk] |= RunView::kUnloadable;
    chunks_[chunk].load_error = why;
    reads_.revoke_reads(chunk);
    refresh_state(chunk);
  }

  /// A gated step waits for chunks that no lane reads: they are compute's from now on.
  void release_starved() {
    starved_since_ = kNever;
    for (std::uint32_t c = view_.front_chunk(); gate_.covers(c); ++c) {
      if (view_.state(c) == ChunkState::open) view_.set_state(c, ChunkState::loading);
      if (view_.state(c) == ChunkState::loading) mark_unloadable(c, Errc::timeout);
    }
    changed();
  }

  /// Brings the state of a chunk in line with what its slices do.
  void refresh_state(std::uint32_t chunk) {
    const ChunkState state = view_.state(chunk);
    if (view_.inserting_[chunk] != 0 ||
        (state != ChunkState::inserting && state != ChunkState::loading)) {
      return;
    }
    if ((view_.flags_[chunk] & RunView::kUnloadable) != 0) {
      view_.drop_layers(chunk);
      view_.set_state(chunk, ChunkState::hole);
      gate_.lost(chunk);
    } else {
      view_.set_state(chunk, ChunkState::loading);
    }
  }

  /// Claims the slice for a lane. Needs may_load().
  ReadTicket claim(const LoadRequest& load, LaneId lane, Time now) {
    if (loads_.size() == loads_.capacity()) loads_.reserve(2 * loads_.size() + 16);
    reads_.reserve();
    view_.lanes_[lane].reserve();  // nothing from here on needs memory
    Slice slice = load.slice;
    slice.tokens = view_.spec().object_range(slice.chunk);
    const std::uint64_t bytes = view_.spec().read_bytes(slice.layers);
    const Time limit = now > kNever - options_.read_timeout ? kNever : now + options_.read_timeout;
    const Time deadline = std::min(load.deadline, limit);
    ReadEntry& entry = reads_.add({.id = ++next_load_,
                                   .slice = slice,
                                   .lane = lane,
                                   .deadline = deadline,
                                   .report = loads_.size(),
                                   .busy = true,
                                   .live = true});
    if (view_.state(slice.chunk) == ChunkState::open) {
      view_.set_state(slice.chunk, ChunkState::loading);
      chunks_[slice.chunk].begin = now;
    }
    view_.issue(slice.chunk, slice.layers);
    view_.lanes_[lane].issue(entry.id, slice.chunk, bytes, now);
    chunks_[slice.chunk].bytes += bytes;
    loads_.push_back({slice, lane, bytes, now, Time{0}, Time{0}, Errc::superseded});
    changed();
    return {entry.id, slice, lane, bytes, deadline};
  }

  RunView view_;
  std::uint64_t version_ = 1;  // counts changes that a scheduler may care about
  Errc status_ = Errc::ok;
  SessionOptions options_;

 private:
  /// Takes [begin, end) back from compute.
  void release_range(std::uint32_t begin, std::uint32_t end) {
    const PrefillSpec& spec = view_.spec();
    for (std::uint32_t c = spec.chunk_of(begin);
         c < spec.end_chunk && spec.chunk_range(c).begin < end; ++c) {
      if (spec.chunk_range(c).begin < begin) {
        view_.partial_end_ = begin;  // its first tokens were computed by an earlier step
        continue;
      }
      if (view_.state(c) != ChunkState::computing) continue;
      const bool unloadable = (view_.flags_[c] & RunView::kUnloadable) != 0;
      view_.set_state(c, unloadable ? ChunkState::hole : ChunkState::open);
    }
    if (end > spec.prefix_end()) view_.suffix_front_ = std::max(begin, spec.prefix_end());
    view_.front_ = std::min(view_.front_, begin);
    view_.advance();
    changed();
  }

  void count_failure(const ReadEntry& entry) {
    ++failed_loads_;
    if (first_failure_ == 0) first_failure_ = entry.id, first_failure_report_ = entry.report;
  }

  void break_rule(const char* what) {
    if (status_ != Errc::ok) return;
    broken_rule_ = what;
    fail(Errc::invalid_argument);
  }
  void fail(Errc code) {
    status_ = code;
    reads_.revoke_reads();
    changed();
  }

  std::vector<StoredChunk> stored_;
  ReadTable reads_;
  LayerGateState gate_;
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
  std::uint32_t reads_superseded_ = 0;
  Time starved_since_ = kNever;  // since when a gated step waits with nothing in flight
  Time last_done_{0};
  Time ended_{0};
};

inline PrefillReport PrefillState::report(Time now) const {
  PrefillReport r;
  if (status_ != Errc::ok) {
    r.status = Error{
        status_, 0,
        std::string("prefill") + (broken_rule_ ? ": " : "") + (broken_rule_ ? broken_rule_ : "")};
  }
  r.spec = view_.spec();
  r.spec.stored = {};
  r.spec.layer_begins = {};
  r.ttft = complete() ? ended_ : now;
  r.failed_loads = failed_loads_;
  r.reads_superseded = reads_superseded_;
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

}  // namespace cake::inline CAKE_ABI::detail
