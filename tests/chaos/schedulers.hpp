// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Schedulers, among them such as break every rule. The session must bear them all.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "cake/detail/admission.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "chaos/fate.hpp"

namespace cake::inline CAKE_ABI::chaos {

/// Any answer at all.
class Nonsense {
 public:
  explicit Nonsense(std::uint64_t seed) : random_(seed) {}
  void begin(const PrefillSpec& spec) { spec_ = &spec; }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    const std::uint32_t far = 2 * spec_->n_tokens;
    Step step;
    step.kind = static_cast<Step::Kind>(random_.below(3));
    step.gated = random_.chance(0.5);
    step.tokens.begin = random_.chance(0.5)   ? view.front()
                        : random_.chance(0.5) ? spec_->prefix_end()
                                              : random_.below(far);
    step.tokens.end =
        random_.chance(0.5) ? step.tokens.begin + random_.below(budget + 1) : random_.below(far);
    if (random_.chance(0.05)) step.tokens.end = ~0u;
    step.until = random_.chance(0.1) ? kNever : now + Time(random_.below(2'000'000));
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId, Time now) {
    if (random_.chance(0.3)) return std::nullopt;
    LoadRequest load;
    load.slice = spec_->whole(random_.below(spec_->n_chunks + 2));
    if (random_.chance(0.6) && load.slice.chunk < spec_->end_chunk) {
      const std::uint32_t issued = view.layers_issued(load.slice.chunk);
      load.slice.layers = {issued, issued + 1 + random_.below(spec_->n_layers)};
    }
    load.deadline = random_.chance(0.1) ? Time{-1} : now + Time(random_.below(30'000'000));
    return load;
  }

 private:
  Random random_;
  const PrefillSpec* spec_ = nullptr;
};

/// Loads in slices of one or two layers, in any order of chunks, and puts gated steps behind them.
class Slices {
 public:
  explicit Slices(std::uint64_t seed) : random_(seed) {}
  void begin(const PrefillSpec& spec) { spec_ = &spec; }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    Step step;
    step.kind = Step::Kind::compute;
    step.gated = view.front() < spec_->prefix_end() && random_.chance(0.7);
    std::uint32_t begin = view.front();
    if (step.gated) {
      const std::uint32_t chunk = random_.between(view.front_chunk(), spec_->end_chunk);
      begin = chunk == spec_->end_chunk ? spec_->prefix_end() : chunk * spec_->chunk_tokens;
    }
    const std::uint64_t end = std::uint64_t{begin} + 1 + random_.below(budget);
    step.tokens = {begin,
                   static_cast<std::uint32_t>(std::min<std::uint64_t>(end, spec_->n_tokens))};
    if ((step.gated || random_.chance(0.4)) && detail::may_compute(view, step)) return step;
    step.kind = Step::Kind::wait;
    step.until = now + std::chrono::microseconds(200);
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    for (int i = 0; i < 20 && spec_->end_chunk > 0; ++i) {
      LoadRequest load;
      load.slice = spec_->whole(random_.below(spec_->end_chunk));
      const std::uint32_t issued = view.layers_issued(load.slice.chunk);
      load.slice.layers = {issued, std::min(spec_->n_layers, issued + random_.between(1, 2))};
      load.deadline = now + Time(random_.below(60'000'000));
      if (detail::may_load(view, load, lane)) return load;
    }
    return std::nullopt;
  }

 private:
  Random random_;
  const PrefillSpec* spec_ = nullptr;
};

/// One of them all.
class AnyScheduler {
 public:
  enum Kind : std::uint8_t {
    meet,
    load_only,
    compute_only,
    split,
    published,
    nonsense,
    slices,
    thrower,    // meet, which throws now and then
    unlimited,  // load_only without deadlines
    n_kinds
  };
  explicit AnyScheduler(std::uint64_t seed = 0)
      : random_(seed),
        kind_(static_cast<Kind>(random_.below(n_kinds))),
        meet_(options(random_)),
        nonsense_(seed + 1),
        slices_(seed + 2) {}

  void begin(const PrefillSpec& spec) {
    maybe_throw(0.1);
    meet_.begin(spec);
    load_only_.begin(spec);
    compute_only_.begin(spec);
    split_.begin(spec);
    published_.begin(spec);
    nonsense_.begin(spec);
    slices_.begin(spec);
  }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    maybe_throw(0.1);
    switch (kind_) {
      case load_only:
      case unlimited:
        return load_only_.next_step(view, budget, now);
      case compute_only:
        return compute_only_.next_step(view, budget, now);
      case split:
        return split_.next_step(view, budget, now);
      case published:
        return published_.next_step(view, budget, now);
      case nonsense:
        return nonsense_.next_step(view, budget, now);
      case slices:
        return slices_.next_step(view, budget, now);
      default:
        return meet_.next_step(view, budget, now);
    }
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    maybe_throw(0.1);
    std::optional<LoadRequest> load = ask(view, lane, now);
    // The baselines wait for seconds.
    if (load && kind_ == unlimited) load->deadline = kNever;
    if (load && (kind_ == load_only || kind_ == split || kind_ == published)) {
      load->deadline = now + std::chrono::milliseconds(30);
    }
    return load;
  }
  std::uint32_t predicted_meet(const RunView& view, Time now) {
    maybe_throw(0.1);
    return kind_ == meet ? meet_.predicted_meet(view, now) : 0;
  }
  Kind kind() const { return kind_; }

 private:
  static MeetOptions options(Random& random) {
    MeetOptions meet;
    meet.deadline_floor = std::chrono::milliseconds(random.between(1, 40));
    meet.deadline_factor = random.between(1, 4);
    meet.cost.per_token = random.chance(0.5) ? 1e-5 : 1e-3;
    return meet;
  }
  std::optional<LoadRequest> ask(const RunView& view, LaneId lane, Time now) {
    switch (kind_) {
      case load_only:
      case unlimited:
        return load_only_.next_load(view, lane, now);
      case compute_only:
        return compute_only_.next_load(view, lane, now);
      case split:
        return split_.next_load(view, lane, now);
      case published:
        return published_.next_load(view, lane, now);
      case nonsense:
        return nonsense_.next_load(view, lane, now);
      case slices:
        return slices_.next_load(view, lane, now);
      default:
        return meet_.next_load(view, lane, now);
    }
  }
  void maybe_throw(double p) {
    if (kind_ == thrower && random_.chance(p)) throw_something(random_);
  }
  Random random_;
  Kind kind_;
  MeetInTheMiddleScheduler meet_;
  LoadOnlyScheduler load_only_;
  ComputeOnlyScheduler compute_only_;
  FixedSplitScheduler split_;
  PublishedScheduler published_;
  Nonsense nonsense_;
  Slices slices_;
};
static_assert(Scheduler<AnyScheduler>);

}  // namespace cake::inline CAKE_ABI::chaos
