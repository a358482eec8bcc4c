// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The default scheduler: compute from the front, load from the back, meet at run time. Beyond the
// published schedule it knows what a pass and a read cost, and learns it during the run: it forecasts
// a few dozen candidate schedules, follows the best, and searches again when measurements differ from
// what that assumed. So no step is started that the loads would overtake, no load is requested that
// compute would reach first, a late load is taken over, and the last loads come layer by layer with
// the suffix pass right behind them. A pure state machine. Requires external synchronization.
#pragma once

#include <cstdint>
#include <optional>

#include "cake/detail/planner/schedule.hpp"
#include "cake/detail/planner/snapshot.hpp"
#include "cake/export.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"

namespace cake::inline CAKE_ABI {

struct MeetOptions {
  /// Of a model that no session has measured; learned from there.
  ComputeCost cost;
  /// `cost` is what passes were seen to take. Else it is a guess, which may be far off: the first prompt begins with a short
  /// step.
  bool cost_is_measured = false;
  /// Also from what sessions before have measured.
  bool learn = true;
  /// On a lane that was measured a read may take this many times what it should, and the floor on
  /// top; before, up to 64 floors (read_deadline()).
  double deadline_factor = 8;
  Time deadline_floor = std::chrono::milliseconds(500);
  /// Passes of fewer tokens take as long as one of so many, as far as is known beforehand; learned
  /// from there.
  std::uint32_t smallest_step = 1;
};

class CAKE_API MeetInTheMiddleScheduler {
 public:
  explicit MeetInTheMiddleScheduler(const MeetOptions& options = {});
  MeetInTheMiddleScheduler(const MeetInTheMiddleScheduler&);
  MeetInTheMiddleScheduler(MeetInTheMiddleScheduler&&) noexcept;
  MeetInTheMiddleScheduler& operator=(const MeetInTheMiddleScheduler&);
  MeetInTheMiddleScheduler& operator=(MeetInTheMiddleScheduler&&) noexcept;
  ~MeetInTheMiddleScheduler();

  void begin(const PrefillSpec& spec);
  Step next_step(const RunView& view, std::uint32_t budget, Time now);
  /// None where the schedule may have to be searched again, or gives compute nothing to do.
  std::optional<Step> step_at_once(const RunView& view, std::uint32_t budget, Time now);
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now);
  /// Void when lanes have become so slow that computing what they still have to bring is faster.
  Time gate_until(const RunView& view, Time now);

  const MeetOptions& options() const { return options_; }
  /// Goes on from what sessions before have measured. Before begin().
  void calibrate(const ComputeCostEstimator& compute) {
    if (options_.learn) compute_ = compute;
  }
  /// Learns from the last step, too.
  void ended(const RunView& view) { learn(view); }
  /// For the sessions to come; null: it does not learn.
  const ComputeCostEstimator* measured_compute() const {
    return options_.learn ? &compute_ : nullptr;
  }
  /// Learned so far.
  ComputeCost compute_cost() const { return compute_.current(); }
  /// Token where the two ends will meet, as things look now.
  std::uint32_t predicted_meet(const RunView& view, Time now);

 private:
  detail::PlanBasis basis(const RunView& view, Time now) const;
  double slowdown(const RunView& view, Time now) const;
  void learn(const RunView& view);
  void learn(const RunView& view, const FinishedStep& step);
  void learn_gated(const RunView& view, const FinishedStep& last);
  bool holds(const RunView& view, Time now, bool idle) const;
  void refresh(const RunView& view, Time now, bool idle);
  void search(const RunView& view, Time now);

  std::uint32_t begin_step(const RunView& view, std::uint32_t& budget);
  Step ungated(const RunView& view, std::uint32_t budget, std::uint32_t end, Time now);
  bool other_front(const RunView& view) const;
  std::uint32_t end_of_step(const RunView& view, std::uint32_t limit, Time now);
  std::uint32_t reach(const RunView& view, std::uint32_t limit) const;
  std::uint32_t shorten(const RunView& view, std::uint32_t end) const;
  Time when_needed(const RunView& view, std::uint32_t end) const;
  bool cost_is_guess(const RunView& view) const;
  std::uint32_t test_step(const RunView& view, std::uint32_t end, std::uint32_t limit) const;
  std::uint32_t most_tested() const;
  std::uint32_t test_end(const RunView& view, std::uint32_t limit) const;
  bool worth_testing(const RunView& view, std::uint32_t end) const;
  Time lanes_known_at(const RunView& view) const;
  Step wait(Time now) const;
  bool loads_do_not_begin(const RunView& view, Time now);
  bool suffix_may_follow(const RunView& view);
  double loads_end(const RunView& view, Time now) const;

  detail::ChunkLayers next_layers(const RunView& view, LaneId lane);
  detail::ChunkLayers idle_layers(const RunView& view, LaneId lane, Time now);
  detail::ChunkLayers ahead(const RunView& view, LaneId lane) const;
  detail::ChunkLayers trial(const RunView& view, LaneId lane);

  MeetOptions options_;
  ComputeCostEstimator compute_;
  detail::RunSnapshot snapshot_;   // its memory is used by every search,
  detail::Assignment assignment_;  // and this one's
  detail::Schedule schedule_;
  bool planned_ = false;
  Time next_search_{0};
  double step_tokens_ = 1;             // what the engine takes in one pass, on average
  Time asked_ = kNever;                // for the first step
  std::uint32_t tested_ = 0;           // tokens of the longest step of a model's first run
  std::uint32_t ready_ = 0;            // chunks below it are resident, or their first layers are
  std::uint64_t learned_ = 0;          // sequence of the last step that was learned from
  detail::LaneMask tried_ = 0;         // lanes that had a trial in this run
  detail::LaneMask not_starting_ = 0;  // lanes that do not begin what they should read
  Time waits_since_ = kNever;          // compute waits for a load to begin
  Time waits_until_{0};
  std::uint32_t waits_loaded_ = 0;
  std::uint32_t voids_ = 0;  // gated steps that this scheduler gave up
};

static_assert(Scheduler<MeetInTheMiddleScheduler>);

}  // namespace cake::inline CAKE_ABI
