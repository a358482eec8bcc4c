// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/prefill_state.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace cake::inline CAKE_ABI::detail {

SessionOptions bounded(SessionOptions options) {
  constexpr Time kLongest = std::chrono::hours(24 * 365);
  options.idle_timeout = std::clamp(options.idle_timeout, Time{0}, kLongest);
  options.read_timeout = std::clamp(options.read_timeout, Time{0}, kLongest);
  options.lookup_timeout = std::clamp(options.lookup_timeout, Time{0}, kLongest);
  return options;
}

void PrefillState::begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
                         std::span<const LinkEstimate> priors) {
  *this = PrefillState(options_);
  PrefillSpec limited = spec;
  limited.read_timeout = std::min(spec.read_timeout, options_.read_timeout);
  chunks_.begin(limited, std::move(stored), priors);
  log_.begin(view());
  if (!spec.reaches.empty()) grown_.reserve(2 * std::size_t{spec.end_chunk});
}

// ---- compute ----

Step PrefillState::claim(Step step, Time now) {
  const PrefillSpec& s = spec();
  log_.reserve_step();
  if (step.gated && step.tokens.begin == view().front()) step.gated = false;
  if (step.gated) gate_.begin(next_step_ + 1, view(), step.tokens.begin);
  step.id = ++next_step_;  // nothing from here on needs memory
  for (std::uint32_t c = s.chunk_of(step.tokens.begin);
       c < s.end_chunk && s.chunk_range(c).begin < step.tokens.end; ++c) {
    if (view().state(c) == ChunkState::loading) take_over(c);
  }
  const RunningStep running{step.id, step.tokens, now, now, step.gated};
  chunks_.claim(running);
  log_.step(running);
  changed();
  return step;
}

GateAnswer PrefillState::gate(std::uint64_t id, std::uint32_t layer, Time now) {
  const GateAnswer state = gate_.ask(id, layer, now);
  if (status_ == Errc::ok) return state;
  // Of a wide step much may be left, which nobody wants any more.
  return state == GateAnswer::shut || spec().wide_gated_steps ? GateAnswer::voided : state;
}

bool PrefillState::newest_gate_shut() const {
  const std::vector<RunningStep>& running = chunks_.tables().running;
  return !running.empty() && gate_.shut(running.back().id);
}

void PrefillState::void_gate() {
  if (view().running().empty()) return;
  gate_.give_up(view().running().back().id);
  changed();
}

/// What the end of a step counts as, whatever the engine says.
Errc PrefillState::checked(Errc code, const RunningStep& ran) {
  const bool passed = gate_.passed(ran.id);
  if (gate_.close(ran.id) || (code == Errc::ok && !passed && status_ != Errc::ok)) {
    return Errc::superseded;
  }
  if (code == Errc::superseded && status_ == Errc::ok) {
    break_rule("the engine returned superseded for a step whose gate was not void");
  } else if (code == Errc::ok && !passed) {
    break_rule(
        "the engine ended a gated step without waiting for the gate of every layer; an engine "
        "that takes no gates must say so (EngineAbilities::gates = false)");
    return Errc::superseded;
  }
  return code;
}

void PrefillState::done(std::uint64_t id, std::uint32_t tokens, Errc code, Time now) {
  const RunningStep ran = chunks_.end_step(id, now);
  if (ran.id == 0) return;
  changed();
  log_.step_ended(ran, now);
  const Time from = std::max(ran.issued, last_done_);
  const Time busy = spec().reaches.empty() ? gate_.busy(ran.id, from, now) : now - from;
  code = checked(code, ran);
  if (code != Errc::ok) {
    log_.step_voided(ran);
    release(ran.tokens);
    if (code != Errc::superseded && status_ == Errc::ok) fail(code);
    return;
  }
  const std::uint32_t end = ran.tokens.begin + std::min(ran.tokens.size(), tokens);
  if (end < ran.tokens.end) {
    if (id != next_step_) {
      return break_rule("a step that another one follows did less than it was asked for");
    }
    release({end, ran.tokens.end});
  }
  const TokenRange computed{ran.tokens.begin, end};
  log_.step_computed(ran, computed, now);
  for (std::uint32_t c = spec().chunk_of(computed.begin); c < spec().end_chunk; ++c) {
    const TokenRange range = spec().chunk_range(c);
    if (range.begin >= end) break;
    if (range.end <= end) chunks_.set_state(c, ChunkState::resident);
  }
  last_done_ = now;
  chunks_.set_finished(computed, busy, ran.gated || noticed_late(busy, now));
  if (complete()) ended_ = now;
}

/// Whoever waits in a gate of the step behind another one does not notice that the other one has ended, but as soon
/// as the gate has opened.
bool PrefillState::noticed_late(Time busy, Time now) const {
  const std::vector<RunningStep>& running = chunks_.tables().running;
  if (running.empty() || !running.back().gated) return false;
  return now - gate_.free_since(running.back().id) <= busy / 32;
}

/// Compute has the chunk from now on; bytes that reads of it still bring are discarded.
void PrefillState::take_over(std::uint32_t chunk) {
  log_.chunk_taken_over(chunk);
  chunks_.set_unloadable(chunk);
  chunks_.drop_layers(chunk);
  reads_.drop_reads_of(chunk);
}

// ---- I/O lanes ----

ReadTicket PrefillState::claim(const LoadRequest& load, LaneId lane, Time now, bool joined) {
  log_.reserve_read();
  reads_.reserve();
  chunks_.lane(lane).reserve();  // nothing from here on needs memory
  const std::uint32_t chunk = load.slice.chunk;
  LayerRange layers = load.slice.layers;
  // Layers without bytes come with those before them: of a rest without bytes nobody would make a read.
  const std::uint32_t held = spec().layers_held(chunk);
  while (layers.end < held && spec().read_bytes({layers.end, layers.end + 1}) == 0) ++layers.end;
  ReadTicket ticket;
  ticket.id = ++next_load_;
  ticket.slice = {chunk, spec().object_range(chunk), layers};
  ticket.lane = lane;
  ticket.joined = joined;
  ticket.offset = spec().read_offset(layers);
  ticket.bytes = spec().read_bytes(layers);
  const Time limit = now > kNever - options_.read_timeout ? kNever : now + options_.read_timeout;
  ticket.deadline = std::min(load.deadline, limit);
  reads_.add(ticket, log_.next_read());
  log_.read(ticket, now);
  if (view().state(chunk) == ChunkState::open) chunks_.set_state(chunk, ChunkState::loading);
  chunks_.issue(chunk, layers);
  chunks_.lane(lane).issue(ticket.id, chunk, ticket.bytes, now);
  changed();
  return ticket;
}

bool PrefillState::begin_insert(std::uint64_t id, Time now, bool lent) {
  const ReadEntry* entry = reads_.find(id);
  if (entry == nullptr) return false;
  const Slice& slice = entry->ticket.slice;
  LinkEstimator& lane = chunks_.lane(entry->ticket.lane);
  if (!lent) lane.landed(id, !entry->ticket.joined, now);
  changed();
  if (entry->phase != ReadPhase::reading || status_ != Errc::ok) {
    if (lent) lane.landed(id, false, now);  // nothing was moved
    reads_.end(id);
    return false;
  }
  log_.read_landed(*entry, now);
  reads_.begin_insert(id, lent);
  ++inserting_;
  if (slice.layers.begin == 0) chunks_.set_parsed(slice.chunk);
  chunks_.begin_insert(slice.chunk);
  return true;
}

void PrefillState::inserted(std::uint64_t id, bool ok, Time now) {
  const ReadEntry* found = reads_.find(id);
  if (found == nullptr) return;
  const ReadEntry entry = *found;
  const std::uint32_t chunk = entry.ticket.slice.chunk;
  log_.read_inserted(entry, ok ? Errc::ok : Errc::device, now);
  LinkEstimator& lane = chunks_.lane(entry.ticket.lane);
  if (entry.lent) {
    lane.landed(id, ok, now);
  } else {
    lane.inserted(now - log_.landed_at(entry), entry.ticket.bytes);
  }
  reads_.end(id);
  --inserting_;
  chunks_.end_insert(chunk);
  if (!ok) {
    mark_unloadable(chunk, Errc::device);
  } else if (!view().unloadable(chunk)) {
    const bool whole = chunks_.add_layers(chunk, entry.ticket.slice.layers);
    gate_.add(chunk, entry.ticket.slice.layers, whole);
    if (whole) {
      chunks_.set_state(chunk, ChunkState::resident);
      log_.chunk_loaded(chunk, entry.ticket.lane, now);
      chunks_.advance();
    }
  }
  refresh_state(chunk);
  changed();
}

bool PrefillState::begin_part(std::uint64_t id) {
  const ReadEntry* entry = reads_.find(id);
  if (entry == nullptr || entry->phase != ReadPhase::reading || status_ != Errc::ok) return false;
  const std::uint32_t chunk = entry->ticket.slice.chunk;
  const bool first = view().state(chunk) != ChunkState::inserting;
  ++inserting_;
  chunks_.begin_insert(chunk);
  if (first) changed();
  return true;
}

void PrefillState::end_part(std::uint32_t chunk) {
  chunks_.end_insert(chunk);
  --inserting_;
  const ChunkState before = view().state(chunk);
  refresh_state(chunk);
  if (view().state(chunk) != before) changed();
}

bool PrefillState::failed(std::uint64_t id, Errc code, Time now) {
  const ReadEntry* found = reads_.find(id);
  if (found == nullptr) return false;
  const ReadEntry entry = *found;
  LinkEstimator& lane = chunks_.lane(entry.ticket.lane);
  if (code == Errc::timeout) lane.given_up(id, now);
  lane.landed(id, false, now);
  reads_.end(id);
  if (entry.holds_claim()) {
    log_.read_failed(entry, code, now);
    mark_unloadable(entry.ticket.slice.chunk, code);
  }
  changed();
  return entry.holds_claim();
}

void PrefillState::held_up(std::uint64_t id) {
  const ReadEntry* entry = reads_.find(id);
  if (entry == nullptr) return;
  chunks_.lane(entry->ticket.lane).held_up(id);
  changed();
}

void PrefillState::begun(std::uint64_t id, Time now) {
  const ReadEntry* entry = reads_.find(id);
  if (entry == nullptr) return;
  chunks_.lane(entry->ticket.lane).begun(id, now);
  changed();
}

void PrefillState::returned(std::uint64_t id, Time now) {
  const ReadEntry* found = reads_.find(id);
  if (found == nullptr) return;
  const ReadEntry entry = *found;
  const Slice& slice = entry.ticket.slice;
  chunks_.lane(entry.ticket.lane).landed(id, false, now);
  reads_.end(id);
  log_.read_returned(entry);
  changed();
  if (!entry.holds_claim()) return;
  if (view().layers_issued(slice.chunk) != slice.layers.end) {  // another one follows it already
    mark_unloadable(slice.chunk, Errc::out_of_memory);
    return;
  }
  chunks_.issue(slice.chunk, {0, slice.layers.begin});
  if (slice.layers.begin == 0) chunks_.set_state(slice.chunk, ChunkState::open);
}

bool PrefillState::wanted(std::uint64_t id) const {
  const ReadEntry* entry = reads_.find(id);
  return entry != nullptr && entry->holds_claim();
}

void PrefillState::set_lane_down(LaneId lane, bool down) {
  if (lane >= view().n_lanes() || view().lane(lane).down() == down) return;
  chunks_.lane(lane).set_down(down);
  changed();
}

void PrefillState::set_lane_ahead(LaneId lane, std::uint64_t bytes, Time now) {
  const Time before = view().lane(lane).others_until();
  if (bytes == 0 && before <= now) return;
  const Time until = std::max(view().lane(lane).carries_until(bytes, now), now);
  const Time was = std::max(before, now);
  const Time differs = until > was ? until - was : was - until;
  if (differs <= std::max(kAheadFloor, (was - now) / kAheadDivisor)) return;
  chunks_.lane(lane).set_ahead(bytes, now);
  changed();
}

/// No slice of this chunk will be loaded any more. It becomes a hole as soon as nobody inserts into
/// it.
void PrefillState::mark_unloadable(std::uint32_t chunk, Errc why) {
  chunks_.set_unloadable(chunk);
  log_.chunk_lost(chunk, why);
  reads_.drop_reads_of(chunk);
  refresh_state(chunk);
  renew_needs(chunk);
}

/// What was loaded of the chunk is of no use, or nothing will be: it is compute's.
void PrefillState::lose(std::uint32_t chunk) {
  chunks_.set_unloadable(chunk);
  log_.chunk_lost(chunk, Errc::superseded);
  reads_.drop_reads_of(chunk);
  const ChunkState state = view().state(chunk);
  if (state != ChunkState::open && state != ChunkState::resident) return refresh_state(chunk);
  chunks_.drop_layers(chunk);
  chunks_.set_state(chunk, ChunkState::hole);
  gate_.lost(chunk);
}

/// The chunk is compute's: windows and states below it, down to the next one that is, have to be
/// there. A chunk whose object lacks them is compute's as well.
void PrefillState::renew_needs(std::uint32_t chunk) {
  const PrefillSpec& s = spec();
  const std::uint32_t widest = s.widest_window();
  std::uint32_t above = s.chunk_range(chunk).begin;
  for (std::uint32_t c = chunk; widest != 0 && c-- > 0;) {
    const std::uint32_t end = s.object_range(c).end;
    if (chunks_.computes(c) || above - end >= widest) break;
    const std::uint32_t needed = s.layers_needed(end, above);
    if (needed <= view().layers_needed(c)) continue;
    if (needed <= s.layers_held(c)) {
      chunks_.grow(c, needed);
      ++extended_;
      if (grown_.size() < grown_.capacity())
        grown_.push_back(c);  // else compute takes it in the end
    } else {
      lose(c);
      above = s.chunk_range(c).begin;
    }
  }
  chunks_.advance();
}

/// Compute does not have these tokens any more. The next chunk above that is compute's may have
/// counted on them.
void PrefillState::release(TokenRange tokens) {
  const PrefillSpec& s = spec();
  chunks_.release(tokens);
  bool loads = false;
  for (std::uint32_t c = s.chunk_of(tokens.begin); !s.reaches.empty() && c < s.end_chunk; ++c) {
    if (loads && chunks_.computes(c)) return renew_needs(c);
    loads = loads || !chunks_.computes(c);
  }
}

void PrefillState::take_front(TokenRange tokens) {
  const std::uint32_t chunk = spec().chunk_of(tokens.begin);
  const std::uint32_t front = view().front_chunk();
  std::uint32_t end = std::max(chunk + 1, front);
  for (std::uint32_t c = chunk; c < end; ++c) lose(c);
  const std::uint32_t last = tokens.empty() ? front : spec().chunk_of(tokens.end - 1);
  for (; end < spec().end_chunk && end <= last; ++end) {
    const ChunkState state = view().state(end);
    if (state == ChunkState::hole) continue;
    if (state != ChunkState::open && state != ChunkState::loading) break;
    lose(end);
  }
  renew_needs(chunk);
  changed();
}

/// Brings the state of a chunk in line with what its slices do.
void PrefillState::refresh_state(std::uint32_t chunk) {
  const ChunkState state = view().state(chunk);
  if (chunks_.inserting(chunk) ||
      (state != ChunkState::inserting && state != ChunkState::loading)) {
    return;
  }
  if (view().unloadable(chunk)) {
    chunks_.drop_layers(chunk);
    chunks_.set_state(chunk, ChunkState::hole);
    gate_.lost(chunk);
  } else {
    chunks_.set_state(chunk, ChunkState::loading);
  }
}

// ---- time and the end ----

void PrefillState::expire(Time now, bool lanes_declined) {
  for (const ReadEntry& entry : reads_.all()) {
    if (entry.phase != ReadPhase::reading || entry.ticket.deadline > now) continue;
    log_.read_failed(entry, Errc::timeout, now);
    reads_.drop(entry.ticket.id);
    mark_unloadable(entry.ticket.slice.chunk, Errc::timeout);
    changed();
  }
  if (!newest_gate_shut() || loads_live()) {
    starved_since_ = kNever;
  } else if (starved_since_ == kNever) {
    starved_since_ = now;
  }
  if (starved_since_ == kNever) return;
  if (lanes_declined || all_down() || now >= starved_since_ + options_.idle_timeout) {
    release_starved();
  }
}

Time PrefillState::next_deadline() const {
  Time earliest = reads_.next_deadline();
  if (starved_since_ != kNever) {
    earliest = std::min(earliest, starved_since_ + options_.idle_timeout);
  }
  return earliest;
}

bool PrefillState::all_down() const {
  const std::vector<LinkEstimator>& lanes = chunks_.tables().lanes;
  return std::all_of(lanes.begin(), lanes.end(),
                     [](const LinkEstimator& lane) { return lane.down(); });
}

/// A gated step waits for chunks that no lane reads: they are compute's from now on.
void PrefillState::release_starved() {
  starved_since_ = kNever;
  for (std::uint32_t c = view().front_chunk(); gate_.covers(c); ++c) {
    if (view().state(c) == ChunkState::open) chunks_.set_state(c, ChunkState::loading);
    if (view().state(c) == ChunkState::loading) mark_unloadable(c, Errc::timeout);
  }
  changed();
}

void PrefillState::end(Errc why) {
  if (!over()) fail(why);
}

void PrefillState::close() {
  reads_.drop_reads();
  if (status_ == Errc::ok && !complete()) status_ = Errc::canceled;
  changed();
}

void PrefillState::break_rule(const char* what) {
  if (status_ != Errc::ok) return;
  broken_rule_ = what;
  fail(Errc::invalid_argument);
}

void PrefillState::fail(Errc code) {
  status_ = code;
  reads_.drop_reads();
  changed();
}

PrefillReport PrefillState::report(Time now) const {
  PrefillReport r;
  if (status_ != Errc::ok) {
    std::string what = "prefill";
    if (broken_rule_ != nullptr) what.append(": ").append(broken_rule_);
    r.status = Error{status_, 0, std::move(what)};
  }
  log_.fill(r);
  for (std::uint32_t c = 0; c < spec().end_chunk; ++c) {
    const Source source = r.chunks[c].source;
    if (source != Source::loaded && source != Source::out_of_window) continue;
    r.bytes_out_of_window += spec().payload_bytes({view().layers_needed(c), spec().n_layers});
  }
  r.chunks_extended = extended_;
  r.ttft = complete() ? ended_ : now;
  r.summarize();
  return r;
}

}  // namespace cake::inline CAKE_ABI::detail
