// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "benchmarks/fleet/device.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cake::benchmarks {

using detail::LaneDemand;
using detail::ReadTicket;

Device::Device(FleetWorld& world)
    : world_(world),
      memory_(world.spec.memory_bytes /
              world.spec.prompt.read_bytes({0, world.spec.prompt.n_layers})),
      memory_link_{world.spec.memory},
      free_staging_(world.spec.staging_bytes),
      chunk_bytes_(world.spec.prompt.read_bytes({0, world.spec.prompt.n_layers})) {
  const auto known = [](const SimulatedLink& link) {
    return LinkEstimate{link.trace.front().second, link.latency, Time{0}};
  };
  lanes_[kMemoryLane].known = known(world.spec.memory);
  lanes_[kStoreLane].known = known(world.spec.store);
}

void Device::at(Time time, EventQueue::Act act) {
  world_.events.put(std::max(time, world_.now), [this, act = std::move(act)] {
    act();
    turn();
  });
}

// ---- prompts ----

void Device::arrive(std::size_t index, const Request& request) {
  std::vector<std::uint64_t> names = chunk_names(request.prompt, world_.spec.prompt.chunk_tokens);
  const std::size_t chunks = names.size();
  queue_.push_back({index, &request, std::move(names), chunks});
  turn();
}

void Device::turn() {
  for (const Shared& prompt : prompts_) prompt->core.expire(since_begin(*prompt));
  poke_gate();
  for (int round = 0; round < 64; ++round) {
    end_prompts();
    begin_prompts();
    bool moved = false;
    for (LaneId l = 0; l < kLanes; ++l) moved = serve(l) || moved;
    moved = prefetch() || moved;
    moved = compute() || moved;
    if (!moved) break;
  }
  plan_wake();
}

void Device::begin_prompts() {
  while (!queue_.empty() && prompts_.size() < world_.spec.prompts_at_once) {
    const Queued next = std::move(queue_.front());
    queue_.pop_front();
    begin(next);
  }
}

PrefillSpec Device::spec_of(const Request& request, const Prompt& prompt) const {
  PrefillSpec spec = world_.spec.prompt;
  spec.n_tokens = request.tokens();
  spec.n_chunks = static_cast<std::uint32_t>(prompt.names.size());
  spec.n_lanes = kLanes;
  spec.reads_at_once = world_.spec.reads_at_once;
  return spec;
}

std::vector<StoredChunk> Device::look_up(const Prompt& prompt) {
  std::vector<StoredChunk> found;
  for (const std::uint64_t name : prompt.names) {
    const std::uint32_t tiers = (memory_.use(name) ? 1u << kMemoryLane : 0) |
                                (world_.stored.contains(name) ? 1u << kStoreLane : 0);
    found.push_back({tiers == 0 ? 0 : chunk_bytes_, tiers});
  }
  while (!found.empty() && !found.back().stored()) found.pop_back();
  return found;
}

void Device::begin(const Queued& queued) {
  auto prompt = std::make_shared<Prompt>(world_.policy.scheduler(prompts_.size()));
  prompt->index = queued.index;
  prompt->arrived = queued.request->arrival;
  prompt->began = world_.now;
  prompt->arrival = ++arrivals_;
  prompt->names = queued.names;
  PrefillSpec spec = spec_of(*queued.request, *prompt);
  std::vector<StoredChunk> stored = look_up(*prompt);
  spec.end_chunk = static_cast<std::uint32_t>(stored.size());
  prompt->checker.begin(spec);
  const std::array<LinkEstimate, kLanes> known{lanes_[0].known, lanes_[1].known};
  prompt->core.begin(spec, std::move(stored), known);
  for (LaneId l = 0; l < kLanes; ++l) {
    prompt->alone[l] = prompt->core.left_to_load(l);
    prompt->carried_before[l] = lanes_[l].carried;
  }
  prompts_.push_back(prompt);
  invite_to_all(prompt);
}

void Device::end_prompts() {
  for (std::size_t i = 0; i < prompts_.size();) {
    const Shared prompt = prompts_[i];
    if (!prompt->core.over() || prompt->core.inserting() != 0) {
      ++i;
      continue;
    }
    prompts_.erase(prompts_.begin() + static_cast<std::ptrdiff_t>(i));
    end(prompt);
  }
}

void Device::end(const Shared& prompt) {
  FleetResult& result = world_.result;
  teach(*prompt);
  prompt->core.close();
  prompt->closed = true;
  const PrefillReport report = prompt->core.report(since_begin(*prompt));
  prompt->checker.check(report, static_cast<bool>(report.status));
  prompt->checker.prompt_ends();
  if (!prompt->checker.violation().empty()) world_.fail(prompt->checker.violation());
  if (!report.status) world_.fail("a prompt failed");
  if (report.scheduler_faults != 0) world_.fail("the scheduler broke a rule");
  result.ttft[prompt->index] = prompt->began + report.ttft - prompt->arrived;
  result.ended = std::max(result.ended, world_.now);
  result.loaded_tokens += report.tokens_loaded;
  result.computed_tokens += report.tokens_computed;
  result.failed_loads += report.failed_loads;
  for (const std::uint64_t name : prompt->names) {
    memory_.put(name);
    world_.stored.insert(name);
  }
}

void Device::teach(const Prompt& prompt) {
  for (LaneId l = 0; l < kLanes; ++l) {
    LinkEstimate& known = lanes_[l].known;
    known = prompt.core.view().lane(l).learned(known, since_begin(prompt));
  }
}

// ---- lanes ----

bool Device::serve(LaneId id) {
  Lane& lane = lanes_[id];
  bool moved = false;
  while (lane.reads.size() < world_.spec.reads_at_once) {
    const Shared prompt = next_to_ask(id);
    if (!prompt) break;
    if (const auto ticket = ask(*prompt, id)) {
      begin_read(prompt, id, *ticket);
      moved = true;
    } else {
      prompt->refused[id] = prompt->core.version();
    }
  }
  return moved;
}

detail::LaneLoad Device::take_demands(LaneId id) {
  detail::LaneLoad load{lanes_[id].known.bytes_per_second, chunk_bytes_, 0};
  demands_.clear();
  left_.clear();
  for (const Shared& prompt : prompts_) {
    left_.push_back(prompt->core.left_to_load(id));
    load.all_left += left_.back();
    LaneDemand demand{prompt->arrival, left_.back(), prompt->alone[id], prompt->overtaken[id]};
    // All with as much left: then they go by arrival.
    if (!world_.policy.least_left) demand = {prompt->arrival, left_.back() == 0 ? 0u : 1u};
    demands_.push_back(demand);
  }
  return load;
}

Device::Shared Device::next_to_ask(LaneId id) {
  const detail::LaneLoad load = take_demands(id);
  const detail::LaneChoice choice = detail::next_to_ask(
      demands_, load, world_.now,
      [&](std::size_t i) { return prompts_[i]->refused[id] != prompts_[i]->core.version(); });
  if (!choice.first) return nullptr;
  const Shared& first = prompts_[*choice.first];
  return choice.others_before && busy_for_others(lanes_[id], *first) ? nullptr : first;
}

bool Device::busy_for_others(const Lane& lane, const Prompt& prompt) const {
  detail::LaneFlight flight;
  bool others = false;
  for (const auto& read : lane.reads) {
    ++flight.reads;
    flight.bytes += read->bytes;
    flight.newest = read->bytes;
    others = others || read->owner.get() != &prompt;
  }
  return others && keeps_busy(flight, lane.known);
}

std::uint64_t Device::ahead(const Prompt& prompt, LaneId id) {
  const detail::LaneLoad load = take_demands(id);
  std::size_t own = 0;
  while (prompts_[own].get() != &prompt) ++own;
  const detail::LanePlace place = place_of(demands_[own], load, world_.now);
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < demands_.size(); ++i) {
    if (place_of(demands_[i], load, world_.now).before(place)) bytes += left_[i];
  }
  return bytes;
}

std::optional<ReadTicket> Device::ask(Prompt& prompt, LaneId id) {
  const Time now = since_begin(prompt);
  prompt.core.set_lane_ahead(id, ahead(prompt, id), now);
  prompt.core.set_carried_for_others(
      id, lanes_[id].carried - prompt.carried_before[id] - prompt.carried[id]);
  return prompt.core.next_load(id, free_staging_, now);
}

void Device::begin_read(const Shared& prompt, LaneId id, const ReadTicket& ticket) {
  prompt->checker.read_begins(ticket.slice);
  for (const Shared& other : prompts_) {
    const bool may_have_read = other->refused[id] != other->core.version();
    if (other->arrival < prompt->arrival && may_have_read) other->overtaken[id] += ticket.bytes;
  }
  auto read = std::make_shared<Read>();
  read->lane = id;
  read->name = prompt->names[ticket.slice.chunk];
  read->slice = ticket.slice;
  read->bytes = ticket.bytes;
  read->owner = prompt;
  read->wanted_by = {{prompt, ticket}};
  read->absent = id == kMemoryLane && !memory_.use(read->name);
  put_on_lane(read);
  if (!world_.policy.joins) return;
  for (const Shared& other : prompts_) {
    if (other != prompt) join(*read, other);
  }
}

void Device::put_on_lane(const std::shared_ptr<Read>& read) {
  free_staging_ -= read->bytes;
  lanes_[read->lane].reads.push_back(read);
  SerialLink& link = read->lane == kMemoryLane ? memory_link_ : world_.store;
  const Time done =
      read->absent ? world_.now + link.link.latency : link.carry(read->bytes, world_.now);
  at(done, [this, read] { read_done(read); });
}

/// As lane_prompts.cpp for what is in the background: no read of it begins while a prompt that has begun
/// wants something of the store, or is read for. Two at once, as PrefetchOptions.
bool Device::prefetch() {
  if (!world_.policy.prefetch || queue_.empty()) return false;
  Lane& lane = lanes_[kStoreLane];
  bool moved = false;
  while (lane.reads.size() < 2 && free_staging_ >= chunk_bytes_ &&
         take_demands(kStoreLane).all_left == 0 &&
         std::none_of(lane.reads.begin(), lane.reads.end(),
                      [](const auto& read) { return read->owner != nullptr; })) {
    auto read = std::make_shared<Read>();
    for (Queued& queued : queue_) {
      const std::optional<Slice> slice = next_to_prefetch(queued);
      if (!slice) continue;
      read->slice = *slice;
      read->name = queued.names[slice->chunk];
      break;
    }
    if (read->name == 0) break;
    read->lane = kStoreLane;
    read->bytes = chunk_bytes_;
    world_.result.prefetched_bytes += read->bytes;
    put_on_lane(read);
    moved = true;
  }
  return moved;
}

/// The last chunk that the store has, and RAM has not.
std::optional<Slice> Device::next_to_prefetch(Queued& queued) {
  const std::vector<std::shared_ptr<Read>>& reads = lanes_[kStoreLane].reads;
  while (queued.to_prefetch > 0) {
    const auto chunk = static_cast<std::uint32_t>(--queued.to_prefetch);
    const std::uint64_t name = queued.names[chunk];
    if (memory_.holds(name) || !world_.stored.contains(name)) continue;
    if (std::any_of(reads.begin(), reads.end(), [&](const auto& r) { return r->name == name; })) {
      continue;
    }
    return world_.spec.prompt.whole(chunk);
  }
  return std::nullopt;
}

void Device::invite_to_all(const Shared& prompt) {
  if (!world_.policy.joins) return;
  for (Lane& lane : lanes_) {
    for (const auto& read : lane.reads) join(*read, prompt);
  }
}

void Device::join(Read& read, const Shared& prompt) {
  const std::uint32_t chunk = read.slice.chunk;
  if (chunk >= prompt->names.size() || prompt->names[chunk] != read.name) return;
  const auto ticket = prompt->core.join(read.slice, read.lane, since_begin(*prompt));
  if (!ticket) return;
  prompt->checker.read_begins(ticket->slice);
  read.wanted_by.push_back({prompt, *ticket});
}

void Device::read_done(const std::shared_ptr<Read>& read) {
  Lane& lane = lanes_[read->lane];
  std::erase(lane.reads, read);
  free_staging_ += read->bytes;
  if (!read->absent) {
    if (read->owner) read->owner->carried[read->lane] += read->bytes;
    lane.carried += read->bytes;
    FleetResult& result = world_.result;
    (read->lane == kMemoryLane ? result.memory_bytes : result.store_bytes) += read->bytes;
    for (const Joined& joined : read->wanted_by) {
      if (joined.prompt != read->owner) result.joined_bytes += read->bytes;
    }
    if (read->bytes == chunk_bytes_) memory_.put(read->name);  // promoted
  }
  for (const Joined& joined : read->wanted_by) land(joined, read->absent);
  wake_lanes();  // there is staging memory
}

void Device::land(const Joined& joined, bool absent) {
  Prompt& prompt = *joined.prompt;
  const ReadTicket& ticket = joined.ticket;
  const Time now = since_begin(prompt);
  if (prompt.closed) return;
  if (absent) {
    if (prompt.core.failed(ticket.id, Errc::not_found, now)) {
      prompt.checker.read_failed(ticket.slice);
    }
  } else if (prompt.core.begin_insert(ticket.id, now)) {
    prompt.checker.insert_begins(ticket.slice);
    prompt.checker.insert_ends(ticket.slice, true);
    prompt.core.inserted(ticket.id, true, now);
  }
}

void Device::wake_lanes() {
  for (const Shared& prompt : prompts_) prompt->refused = {};
}

// ---- compute ----

/// What compute may still have to do for the prompt: neither resident nor a lane's.
std::uint32_t Device::left_to_compute(const Prompt& prompt) const {
  const RunView view = prompt.core.view();
  const PrefillSpec& spec = view.spec();
  std::uint64_t loads = std::max(prompt.core.left_to_load(0), prompt.core.left_to_load(1)) /
                        chunk_bytes_ * spec.chunk_tokens;
  for (std::uint32_t c = view.front_chunk(); c < spec.end_chunk; ++c) {
    const ChunkState state = view.state(c);
    const bool open = state == ChunkState::open || state == ChunkState::hole;
    if (!open && state != ChunkState::computing) loads += spec.chunk_tokens;
  }
  const std::uint32_t left = spec.n_tokens - view.front();
  return left - static_cast<std::uint32_t>(std::min<std::uint64_t>(left, loads));
}

std::vector<Device::Shared> Device::by_turn() const {
  std::vector<Shared> order = prompts_;
  if (!world_.policy.shortest_first) return order;
  std::vector<std::pair<std::uint32_t, std::size_t>> left;
  for (std::size_t i = 0; i < order.size(); ++i) left.push_back({left_to_compute(*order[i]), i});
  std::sort(left.begin(), left.end());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = prompts_[left[i].second];
  return order;
}

/// The first prompt in turn that has a step gets the device. One that is alone may take gated steps; the
/// device does not wait for layers of one prompt while another one is there.
bool Device::compute() {
  if (pass_) return false;
  bool moved = false;
  for (const Shared& prompt : by_turn()) {
    detail::SessionCore& core = prompt->core;
    const Time now = since_begin(*prompt);
    if (core.over() || (prompt->asked == core.version() && now < prompt->ask_again)) continue;
    for (LaneId l = 0; l < kLanes; ++l) core.set_lane_ahead(l, ahead(*prompt, l), now);
    const bool alone = prompts_.size() == 1 && queue_.empty();
    const Step step = core.next_step(world_.spec.prompt.max_step_tokens, alone, now);
    moved = true;
    if (step.kind == Step::Kind::compute) {
      start(prompt, step);
      return true;
    }
    prompt->asked = core.version();
    prompt->ask_again = step.kind == Step::Kind::wait ? step.until : kNever;
    prompt->refused = {};  // as PrefillSession::next() wakes the lanes when it says wait
  }
  return moved;
}

void Device::start(const Shared& prompt, const Step& step) {
  prompt->checker.step_begins(step);
  pass_ = Pass{prompt, step, 0, world_.now, step.gated};
  if (step.gated) return poke_gate();
  for (std::uint32_t l = 0; l < world_.spec.prompt.n_layers; ++l) {
    prompt->checker.step_reads(step, l);
  }
  at(world_.now + duration(*pass_), [this] { end_pass(pass_->step.tokens.size()); });
}

Time Device::duration(const Pass& pass) const {
  const TokenRange tokens = pass.step.tokens;
  const FleetSpec& spec = world_.spec;
  const bool wide = pass.step.gated && spec.prompt.wide_gated_steps;
  return from_seconds(wide ? spec.cost.passes(tokens.begin, tokens.end, spec.prompt.max_step_tokens)
                           : spec.cost.pass(tokens.begin, tokens.end));
}

void Device::poke_gate() {
  if (!pass_ || !pass_->waiting) return;
  Prompt& prompt = *pass_->prompt;
  const detail::GateAnswer gate =
      prompt.core.gate(pass_->step.id, pass_->layer, since_begin(prompt));
  const bool shut = gate == detail::GateAnswer::shut;
  if (shut && !prompt.core.reconsider_gate(since_begin(prompt))) return;
  pass_->waiting = false;
  world_.result.gate_time += world_.now - pass_->waits_since;
  if (shut || gate == detail::GateAnswer::voided) return end_pass(0);
  prompt.checker.step_reads(pass_->step, pass_->layer);
  const Time took = duration(*pass_) / world_.spec.prompt.n_layers;
  world_.result.device_time += took;
  at(world_.now + took, [this] {
    if (++pass_->layer == world_.spec.prompt.n_layers) return end_pass(pass_->step.tokens.size());
    pass_->waiting = true;
    pass_->waits_since = world_.now;
    poke_gate();
  });
}

void Device::end_pass(std::uint32_t tokens) {
  const Pass pass = std::move(*pass_);
  pass_.reset();
  if (!pass.step.gated) world_.result.device_time += duration(pass);
  pass.prompt->checker.step_ends(pass.step, tokens);
  const Errc code = tokens == 0 ? Errc::superseded : Errc::ok;
  pass.prompt->core.done(pass.step.id, tokens, code, since_begin(*pass.prompt));
  // The engine looks after all its prompts between two passes, with next().
  for (const Shared& prompt : prompts_) prompt->asked = 0;
  wake_lanes();
}

/// When a deadline passes, or compute is to be asked again.
void Device::plan_wake() {
  Time soonest = kNever;
  for (const Shared& prompt : prompts_) {
    Time in_run = prompt->core.next_deadline();
    if (!pass_) in_run = std::min(in_run, prompt->ask_again);
    if (pass_ && pass_->waiting && pass_->prompt == prompt) {
      in_run = std::min(in_run, prompt->core.gate_until());
    }
    if (in_run < kNever - prompt->began) soonest = std::min(soonest, prompt->began + in_run);
  }
  soonest = std::max(soonest, world_.now + Time(1));
  if (soonest == kNever || (wake_at_ > world_.now && wake_at_ <= soonest)) return;
  wake_at_ = soonest;
  at(soonest, [] {});
}

}  // namespace cake::benchmarks
