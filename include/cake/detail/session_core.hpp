// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One prompt's run without I/O, thread or clock: its state, and a scheduler that is asked what to
// claim next. The same code runs behind real lanes and in virtual time. One thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/prefill_state.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"

namespace cake::inline CAKE_ABI::detail {

template <Scheduler S>
class SessionCore : public PrefillState {
 public:
  explicit SessionCore(S scheduler = S(), const SessionOptions& options = {})
      : PrefillState(options), scheduler_(std::move(scheduler)) {}

  /// `stored` holds spec.end_chunk entries; priors one per lane.
  void begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
             std::span<const LinkEstimate> priors) {
    PrefillState::begin(spec, std::move(stored), priors);
    declined_.assign(priors.size(), 0);
    idle_since_ = kNever;
    idle_timed_out_ = false;
    rest_.clear();
    rest_.reserve(spec.end_chunk < kRestReserve ? spec.end_chunk : kRestReserve);
    try {
      scheduler_.begin(view_.spec());
      if constexpr (requires { scheduler_.predicted_meet(view_, Time{0}); }) {
        predicted_meet_ = scheduler_.predicted_meet(view_, Time{0});
      }
    } catch (...) {  // it knows nothing of this run: compute goes on without it
      ++scheduler_faults_;
      scheduler_failed_ = true;
    }
  }

  /// Most layers that one read may take; a load of more is carried out in several.
  void set_read_layers(std::uint32_t layers) { read_layers_ = std::max(1u, layers); }

  const S& scheduler() const { return scheduler_; }

  /// What compute does next; `budget` is the most tokens of the step, `may_gate` whether it may
  /// start before the KV below it is whole.
  Step next_step(std::uint32_t budget, bool may_gate, Time now) {
    expire(now);
    if (over()) return {};
    const PrefillSpec& spec = view_.spec();
    budget = std::min({budget, spec.max_step_tokens, spec.n_tokens});
    if (budget == 0) {  // over at once: the engine says when it has room for more
      Step step;
      step.kind = Step::Kind::wait;
      step.until = now;
      return step;
    }
    if (view_.front() >= spec.n_tokens || view_.running().size() >= 2 || newest_gate_shut()) {
      return wait_until(kNever, now);
    }
    set_may_gate(may_gate);
    Step step = ask_for_step(budget, now);
    if (step.kind == Step::Kind::compute) {
      if (step.tokens.size() > budget) step.tokens.end = step.tokens.begin + budget;
      if (may_compute(view_, step)) {
        idle_since_ = kNever;
        return claim(step, now);
      }
      ++scheduler_faults_;
    }
    return fall_back(budget, step.kind == Step::Kind::wait ? step.until : kNever, now);
  }

  /// The next read for a lane that has room for `max_bytes`; none: ask again when something
  /// changed. `short_of_room`: there would be one for more bytes.
  std::optional<ReadTicket> next_load(LaneId lane, std::uint64_t max_bytes, Time now,
                                      bool* short_of_room = nullptr) {
    if (over() || lane >= view_.n_lanes() || view_.lane(lane).down() || !has_room(lane)) {
      return std::nullopt;
    }
    std::optional<LoadRequest> load = next_rest(lane);
    const bool rest = load.has_value();
    if (!rest) load = ask_for_load(lane, now);
    if (!load || !may_load(view_, *load, lane)) {
      if (load) ++scheduler_faults_;
      declined_[lane] = version_;
      return std::nullopt;
    }
    LayerRange& layers = load->slice.layers;
    const bool cut = layers.size() > read_layers_;
    const std::uint32_t end = layers.end;
    if (cut) layers.end = layers.begin + read_layers_;
    // Layers that keep nothing are no read of their own.
    const PrefillSpec& spec = view_.spec();
    while (layers.end < spec.n_layers && spec.read_bytes(layers) == 0) ++layers.end;
    if (view_.spec().read_bytes(layers) > max_bytes) {
      if (short_of_room != nullptr) *short_of_room = true;
      return std::nullopt;
    }
    if (cut && !rest) rest_.push_back({lane, load->slice.chunk, end, load->deadline});
    idle_timed_out_ = false;
    return claim(*load, lane, now);
  }

  /// As PrefillState::returned(); a scheduler does not ask for it again, so that is done here.
  void returned(std::uint64_t id, Time now) {
    const ReadEntry* entry = find(id);
    if (entry == nullptr) return;
    const Rest again{entry->lane, entry->slice.chunk, entry->slice.layers.end, entry->deadline};
    const bool wanted = entry->live;
    PrefillState::returned(id, now);
    // Without room to note it, the chunk is compute's.
    if (wanted && rest_.size() < rest_.capacity()) rest_.push_back(again);
  }

  PrefillReport report(Time now) const {
    PrefillReport r = PrefillState::report(now);
    r.predicted_meet_token = predicted_meet_;
    r.scheduler_faults = scheduler_faults_;
    if constexpr (requires { scheduler_.compute_cost(); }) {
      r.rates.per_token = scheduler_.compute_cost().per_token;
      r.rates.per_position = scheduler_.compute_cost().per_position;
    }
    r.set_bound();
    return r;
  }

 private:
  static constexpr std::uint32_t kRestReserve = 64;

  /// Layers of a chunk that a load asked for and that did not fit into one read, or that found no
  /// memory.
  struct Rest {
    LaneId lane = 0;
    std::uint32_t chunk = 0;
    std::uint32_t end_layer = 0;
    Time deadline = kNever;
  };

  /// The next part of a load that was cut. While there is one that cannot be read yet, none.
  std::optional<LoadRequest> next_rest(LaneId lane) {
    for (auto rest = rest_.begin(); rest != rest_.end();) {
      const std::uint32_t issued = view_.layers_issued(rest->chunk);
      const Slice slice{
          rest->chunk, view_.spec().object_range(rest->chunk), {issued, rest->end_layer}};
      const ChunkState state = view_.state(rest->chunk);
      if (issued >= rest->end_layer || view_.unloadable(rest->chunk) ||
          state == ChunkState::computing || state == ChunkState::resident) {
        rest = rest_.erase(rest);  // all asked for, or compute's
      } else if (rest->lane == lane && may_load(view_, {slice, rest->deadline}, lane)) {
        return LoadRequest{slice, rest->deadline};
      } else {
        ++rest;
      }
    }
    return std::nullopt;
  }

  /// A scheduler that throws has broken a rule; the run goes on without its answer.
  Step ask_for_step(std::uint32_t budget, Time now) {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = now;
    if (scheduler_failed_) return step;
    try {
      return scheduler_.next_step(view_, budget, now);
    } catch (...) {
      ++scheduler_faults_;
      return step;
    }
  }
  std::optional<LoadRequest> ask_for_load(LaneId lane, Time now) {
    if (scheduler_failed_) return std::nullopt;
    try {
      return scheduler_.next_load(view_, lane, now);
    } catch (...) {
      ++scheduler_faults_;
      return std::nullopt;
    }
  }

  Step wait_until(Time until, Time now) const {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = std::max(std::min(until, next_deadline()), now + Time(1));
    return step;
  }

  /// Enough reads in flight to reach the rate that was seen, and enough bytes to cover the latency
  /// twice, with one read more than the one on the link.
  bool has_room(LaneId lane) const {
    const LinkEstimator& model = view_.lane(lane);
    if (model.in_flight().empty() || model.in_flight().size() < model.rate().depth) return true;
    const double window = 2 * model.rate().bytes_per_second * to_seconds(model.rate().latency) +
                          1.5 * static_cast<double>(model.in_flight().back().bytes);
    return static_cast<double>(model.bytes_in_flight()) < window;
  }

  /// The scheduler waits, or gave an order that breaks a rule. When nobody else is at work, compute
  /// goes on with the front by itself, so that no scheduler can hang a run.
  Step fall_back(std::uint32_t budget, Time until, Time now) {
    if (!view_.running().empty() || loads_live()) {
      idle_since_ = kNever;
      return wait_until(until, now);
    }
    bool declined = true;
    for (LaneId l = 0; l < view_.n_lanes(); ++l) {
      declined = declined && (view_.lane(l).down() || declined_[l] == version_);
    }
    if (idle_since_ == kNever) idle_since_ = now;
    if (!declined && !idle_timed_out_ && now < idle_since_ + options_.idle_timeout) {
      return wait_until(std::min(until, idle_since_ + options_.idle_timeout), now);
    }
    idle_timed_out_ = true;
    const PrefillSpec& spec = view_.spec();
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {view_.front(), view_.front() + std::min(budget, spec.n_tokens - view_.front())};
    for (std::uint32_t c = view_.front_chunk() + 1; c < spec.end_chunk; ++c) {
      if (spec.chunk_range(c).begin >= step.tokens.end) break;
      if (view_.state(c) == ChunkState::resident) step.tokens.end = spec.chunk_range(c).begin;
    }
    idle_since_ = kNever;
    return claim(step, now);
  }

  S scheduler_;
  std::vector<std::uint64_t> declined_;  // [lane] version at which the lane was last refused work
  std::uint32_t scheduler_faults_ = 0;
  std::vector<Rest> rest_;
  std::uint32_t read_layers_ = ~0u;
  bool scheduler_failed_ = false;
  std::uint32_t predicted_meet_ = 0;
  Time idle_since_ = kNever;
  bool idle_timed_out_ = false;  // once already, and no read has been claimed since
};

}  // namespace cake::inline CAKE_ABI::detail
