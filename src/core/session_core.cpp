// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/session_core.hpp"

#include <algorithm>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/admission.hpp"

namespace cake::inline CAKE_ABI::detail {

void SessionCore::begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
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
    scheduler_->begin(state_.spec());
    predicted_meet_ = scheduler_->predicted_meet(view(), Time{0});
  } catch (...) {  // it knows nothing of this run: compute goes on without it
    ++scheduler_faults_;
    scheduler_failed_ = true;
  }
}

void SessionCore::calibrate(const std::optional<ComputeCostEstimator>& compute) {
  if (compute) scheduler_->calibrate(*compute);
}

bool SessionCore::idle() const {
  if (over() || !view().running().empty() || state_.loads_live()) return false;
  return lanes_declined();
}

bool SessionCore::lanes_declined() const {
  for (LaneId l = 0; l < view().n_lanes(); ++l) {
    if (!view().lane(l).down() && declined_[l] != version()) return false;
  }
  return true;
}

Step SessionCore::next_step(std::uint32_t budget, bool may_gate, Time now) {
  for (;;) {
    const StepQuestion question = begin_step(budget, may_gate, now);
    if (question.answer) return *question.answer;
    if (const auto step = end_step(question, ask(question), now)) return *step;
  }
}

SessionCore::StepQuestion SessionCore::begin_step(std::uint32_t budget, bool may_gate, Time now) {
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
  question.answer.reset();
  if (const StepAnswer answer = ask_at_once(question)) {
    question.answer = end_step(question, answer, now);
    if (question.answer) return question;
  }
  question.version = version();
  if (!update()) question.answer = no_memory(now);
  return question;
}

SessionCore::StepAnswer SessionCore::ask_at_once(const StepQuestion& question) {
  if (scheduler_failed_) return std::nullopt;
  try {
    return scheduler_->step_at_once(state_.view(), question.budget, question.now);
  } catch (...) {
    ++scheduler_faults_;
    return std::nullopt;
  }
}

std::optional<Step> SessionCore::end_step(const StepQuestion& question, const StepAnswer& answer,
                                          Time now) {
  if (over()) return Step{};
  const std::uint32_t budget = question.budget;
  Step step;
  step.kind = Step::Kind::wait;
  step.until = now;
  if (answer) step = *answer;
  if (step.kind == Step::Kind::compute) {
    const std::uint32_t end = std::min(step.tokens.end, step.tokens.begin + budget);
    const bool taken = take_front({step.tokens.begin, end});
    step.tokens = suited(step, budget);
    if (may_compute(state_.view(), step)) {
      idle_since_ = kNever;
      gate_until_ = now;
      return claim(step, now);
    }
    if (taken) return again(now);
    if (question.version != version()) return again(now);
    ++scheduler_faults_;
  }
  return fall_back(budget, step.kind == Step::Kind::wait ? step.until : kNever, now);
}

bool SessionCore::reconsider_gate(Time now) {
  const GateQuestion question = begin_gate(now);
  return question.ask && end_gate(question, ask(question), now);
}

SessionCore::GateQuestion SessionCore::begin_gate(Time now) {
  GateQuestion question{false, version(), now};
  if (over() || scheduler_failed_ || now < gate_until() || !state_.newest_gate_shut()) {
    return question;
  }
  question.ask = update();
  if (!question.ask) gate_until_ = now + kMemoryPause;
  return question;
}

bool SessionCore::end_gate(const GateQuestion& question, Time until, Time now) {
  if (until > question.now) {
    gate_until_ = until;
    return false;
  }
  if (over() || version() != question.version) return false;
  gate_until_ = now;
  state_.void_gate();
  return true;
}

std::optional<ReadTicket> SessionCore::next_load(LaneId lane, std::uint64_t max_bytes, Time now,
                                                 bool* short_of_room) {
  bool is_short = false;
  const LoadQuestion question = begin_load(lane, now);
  const auto ticket = end_load(question, ask(question), max_bytes, now, is_short);
  if (short_of_room != nullptr) *short_of_room = is_short;
  return ticket;
}

SessionCore::LoadQuestion SessionCore::begin_load(LaneId lane, Time now) {
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

std::optional<ReadTicket> SessionCore::end_load(const LoadQuestion& question,
                                                const LoadAnswer& answer, std::uint64_t max_bytes,
                                                Time now, bool& short_of_room) {
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
    expire(now);  // a gated step may have waited for this lane
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

std::optional<ReadTicket> SessionCore::join(const Slice& slice, LaneId lane, Time now) {
  const RunView view = state_.view();
  const PrefillSpec& spec = view.spec();
  if (over() || lane >= view.n_lanes() || view.lane(lane).down()) return std::nullopt;
  LoadRequest load{slice, kNever};
  if (!may_load(view, load, lane)) return std::nullopt;
  if (spec.chunk_range(slice.chunk).begin < view.front()) return std::nullopt;
  if (spec.whole_chunks && slice.layers.end != spec.n_layers) return std::nullopt;
  const LinkEstimator& link = view.lane(lane);
  const auto bytes = static_cast<double>(spec.read_bytes(slice.layers));
  const double expected = to_seconds(link.ready_at(bytes, now) - now);
  load.deadline = read_deadline(now, kLateFloor, kLateFactor * expected, link.rate().measured);
  idle_timed_out_ = false;
  return state_.claim(load, lane, now, true);
}

SessionCore::StepAnswer SessionCore::ask(const StepQuestion& question) {
  if (scheduler_failed_) return std::nullopt;
  try {
    return scheduler_->next_step(RunView(seen_), question.budget, question.now);
  } catch (...) {  // it has broken a rule; the run goes on without its answer
    ++ask_faults_;
    return std::nullopt;
  }
}

SessionCore::LoadAnswer SessionCore::ask(const LoadQuestion& question) {
  if (!question.ask || scheduler_failed_) return std::nullopt;
  try {
    return scheduler_->next_load(RunView(seen_), question.lane, question.now);
  } catch (...) {
    ++ask_faults_;
    return std::nullopt;
  }
}

Time SessionCore::ask(const GateQuestion& question) {
  try {
    return scheduler_->gate_until(RunView(seen_), question.now);
  } catch (...) {
    ++ask_faults_;
    return kNever;
  }
}

std::uint64_t SessionCore::left_to_load(LaneId lane) const {
  const RunView view = state_.view();
  std::uint64_t open = 0;
  for (const OpenBytes& set : view.open_bytes()) {
    if ((set.tiers >> lane & 1) != 0) open += set.bytes;
  }
  const PrefillSpec& spec = view.spec();
  const std::uint32_t computed = predicted_meet_ - std::min(predicted_meet_, view.front());
  const std::uint64_t chunk = spec.read_bytes({0, spec.n_layers});
  return open - std::min(open, computed / std::max(1u, spec.chunk_tokens) * chunk);
}

void SessionCore::returned(std::uint64_t id, Time now) {
  const ReadEntry* entry = find(id);
  if (entry == nullptr) return;
  const ReadTicket& ticket = entry->ticket;
  const Rest again{ticket.lane, ticket.slice.chunk, ticket.slice.layers.end, ticket.deadline};
  const bool wanted = entry->holds_claim();
  state_.returned(id, now);
  // Without room to note it, the chunk is compute's.
  if (wanted && rest_.size() < rest_.capacity()) rest_.push_back(again);
}

PrefillReport SessionCore::report(Time now) const {
  PrefillReport r = state_.report(now);
  r.predicted_meet_token = predicted_meet_;
  r.scheduler_faults = scheduler_faults_ + ask_faults_;
  scheduler_->tell_compute_cost(r.rates.per_token, r.rates.per_position);
  r.set_bound();
  return r;
}

TokenRange SessionCore::suited(const Step& step, std::uint32_t budget) const {
  const RunView view = state_.view();
  const PrefillSpec& spec = view.spec();
  TokenRange range = step.tokens;
  const bool behind_gate = step.gated && range.begin != view.front();
  const std::uint32_t most = behind_gate ? spec.gated_step_tokens(range.begin, budget) : budget;
  if (range.size() > most) range.end = range.begin + most;
  if (range.empty() || range.end > spec.n_tokens) return range;  // refused by its rule
  const std::uint32_t wanted =
      range.begin + std::min({most, spec.smallest_step, spec.n_tokens - range.begin});
  while (range.end < wanted) {
    const std::uint32_t chunk = spec.chunk_of(range.end);
    const bool suffix = chunk == spec.end_chunk;
    const std::uint32_t end = suffix ? spec.n_tokens : spec.chunk_range(chunk).end;
    const bool begun = !suffix && range.end > spec.chunk_range(chunk).begin;
    const bool free =
        suffix ? view.suffix_front() <= range.end : begun || view.state(chunk) == ChunkState::hole;
    if (!free) break;
    range.end = std::min(wanted, end);
  }
  return range;
}

std::optional<LoadRequest> SessionCore::next_rest(LaneId lane, Time now) {
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
    } else if (rest->lane == lane && may_load(view, {slice, rest->deadline}, lane) &&
               !waits_too_long(slice, lane, now)) {
      return LoadRequest{slice, rest->deadline};
    } else {
      ++rest;
    }
  }
  return std::nullopt;
}

bool SessionCore::waits_too_long(const Slice& slice, LaneId lane, Time now) const {
  const RunView view = state_.view();
  const LinkEstimator& link = view.lane(lane);
  if (link.in_flight().empty()) return false;
  const auto bytes = static_cast<double>(state_.spec().read_bytes(slice.layers));
  return link.ready_at(bytes, now) - now - link.insert_of(bytes) > state_.spec().read_timeout;
}

bool SessionCore::ends_in_time(std::uint64_t bytes, const LinkEstimator& link, Time now) const {
  const double takes = static_cast<double>(bytes) * link.seconds_per_byte(now);
  return to_seconds(link.rate().latency) + takes <= to_seconds(state_.spec().read_timeout);
}

Time SessionCore::late_deadline(const LoadRequest& load, LaneId lane, Time now) const {
  if (state_.spec().reaches.empty()) return kNever;
  const RunView view = state_.view();
  const LinkEstimator& link = view.lane(lane);
  const auto bytes = static_cast<double>(state_.spec().read_bytes(load.slice.layers));
  const double expected = to_seconds(link.ready_at(bytes, now) - now);
  return read_deadline(now, kLateFloor, kLateFactor * expected, link.rate().measured);
}

void SessionCore::leave_out_unneeded(Slice& slice) const {
  const PrefillSpec& spec = state_.spec();
  if (slice.chunk >= spec.end_chunk || slice.layers.end > spec.n_layers) return;
  slice.layers.end = std::min(slice.layers.end, view().layers_needed(slice.chunk));
}

void SessionCore::take_grown(Time now) {
  const RunView view = state_.view();
  for (const std::uint32_t chunk : state_.grown()) {
    std::erase_if(rest_, [&](const Rest& r) { return r.chunk == chunk; });
    const std::optional<LaneId> lane = soonest_lane(chunk, now);
    if (lane && rest_.size() < rest_.capacity()) {
      rest_.push_back({*lane, chunk, view.layers_needed(chunk), kNever});
    }
  }
  state_.forget_grown();
}

std::optional<LaneId> SessionCore::soonest_lane(std::uint32_t chunk, Time now) const {
  const RunView view = state_.view();
  const std::uint64_t own = unissued(chunk, view.layers_needed(chunk));
  std::optional<LaneId> best;
  bool any_up = false;
  Time soonest = kNever;
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    if (!view.on_lane(chunk, l) || view.lane(l).down()) continue;
    any_up = true;
    if (!ends_in_time(own, view.lane(l), now)) continue;
    std::uint64_t bytes = own;
    for (const Rest& rest : rest_) {
      if (rest.lane == l) bytes += unissued(rest.chunk, rest.end_layer);
    }
    const Time at = view.lane(l).ready_at(static_cast<double>(bytes), now);
    if (at >= soonest) continue;
    soonest = at;
    best = l;
  }
  return any_up ? best : LaneId{0};
}

std::uint64_t SessionCore::unissued(std::uint32_t chunk, std::uint32_t end_layer) const {
  const std::uint32_t issued = view().layers_issued(chunk);
  return issued < end_layer ? state_.spec().read_bytes({issued, end_layer}) : 0;
}

bool SessionCore::take_front(TokenRange tokens) {
  const std::uint32_t begin = tokens.begin;
  const RunView view = state_.view();
  const std::uint32_t front = view.front();
  if (view.context_from() == front || begin < view.context_from() || begin > front) return false;
  const ChunkState state = view.state(view.front_chunk());
  if (begin % view.spec().chunk_tokens != 0) return false;
  if (state != ChunkState::open && state != ChunkState::loading) return false;
  state_.take_front(tokens);
  return true;
}

bool SessionCore::may_ask(LaneId lane) const {
  return !over() && lane < view().n_lanes() && !view().lane(lane).down() && has_room(lane);
}

bool SessionCore::update() {
  if (seen_version_ == version() && seen_.may_gate == view().may_gate()) return true;
  try {
    state_.update(seen_);
  } catch (const std::bad_alloc&) {
    return false;
  }
  seen_version_ = version();
  return true;
}

std::optional<Step> SessionCore::again(Time now) {
  if (++stale_ < kStaleAnswers) return std::nullopt;
  stale_ = 0;
  return wait_until(now, now);
}

Step SessionCore::claim(const Step& step, Time now) {
  try {
    const Step claimed = state_.claim(step, now);
    no_memory_since_ = kNever;
    return claimed;
  } catch (const std::bad_alloc&) {
    return no_memory(now);
  }
}

Step SessionCore::no_memory(Time now) {
  if (no_memory_since_ == kNever) no_memory_since_ = now;
  if (now < no_memory_since_ + kMemoryWait) return wait_until(now + kMemoryPause, now);
  state_.end(Errc::out_of_memory);
  return {};
}

Step SessionCore::wait_until(Time until, Time now) const {
  Step step;
  step.kind = Step::Kind::wait;
  step.until = std::max(std::min(until, next_deadline()), now + Time(1));
  return step;
}

bool SessionCore::has_room(LaneId lane) const {
  const RunView view = state_.view();
  const LinkEstimator& model = view.lane(lane);
  if (model.in_flight().empty() || model.in_flight().size() < model.rate().depth) return true;
  const LinkEstimate& rate = model.rate();
  const double window = kWindowLatencies * rate.bytes_per_second * to_seconds(rate.latency) +
                        kWindowReads * static_cast<double>(model.in_flight().back().bytes);
  return static_cast<double>(model.bytes_in_flight()) < window;
}

Time SessionCore::others_until() const {
  const RunView view = state_.view();
  Time until{0};
  for (LaneId l = 0; l < view.n_lanes(); ++l) {
    if (view.lane(l).down() || left_to_load(l) == 0) continue;
    until = std::max(until, view.lane(l).others_until());
  }
  return std::min(until, idle_since_ + state_.options().read_timeout);
}

Step SessionCore::fall_back(std::uint32_t budget, Time until, Time now) {
  const RunView view = state_.view();
  const Time idle_timeout = state_.options().idle_timeout;
  if (!view.running().empty() || state_.loads_live()) {
    idle_since_ = kNever;
    return wait_until(until, now);
  }
  if (idle_since_ == kNever) idle_since_ = now;
  const Time idle_until = std::max(idle_since_, others_until()) + idle_timeout;
  if (!idle() && !idle_timed_out_ && now < idle_until) {
    return wait_until(std::min(until, idle_until), now);
  }
  idle_timed_out_ = true;
  if (take_front({view.front(), view.front()})) return wait_until(now, now);
  Step step;
  step.kind = Step::Kind::compute;
  const std::uint32_t left = view.spec().n_tokens - view.front();
  step.tokens = {view.front(), compute_end(view, view.front() + std::min(budget, left))};
  idle_since_ = kNever;
  return claim(step, now);
}

}  // namespace cake::inline CAKE_ABI::detail
