// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The constants of the planner and of the link estimator, with their units. They were found in the simulation, by the mean time of
// its runs; results depend on them little, except where a sentence says so.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

struct PlannerTuning {
  // ---- when a schedule is searched again ---

  /// Share by which a lane or a pass may differ from what the schedule assumed.
  double replan_share = 0.03;
  /// The same while compute or a lane has nothing to do.
  double replan_share_idle = 0.005;
  /// Share by which the average size of a pass may differ.
  double replan_step_share = 0.25;
  /// Shortest time between two searches.
  Time replan_pause{20'000};
  /// What it costs to forecast one chunk of one candidate, about.
  Time visit_cost{10};
  /// A search pauses for this many times what the one before it cost: planning takes one part in a hundred.
  std::int64_t replan_cost_factor = 100;

  // ---- waits ---

  /// Shortest wait before the scheduler is asked again.
  Time shortest_wait{20'000};
  /// One part in so many of the time to the forecast end is waited.
  std::int64_t wait_divisor = 4;
  /// Compute waits for loads that do not begin this many times as long as all loads should take.
  std::int64_t not_begun_factor = 2;
  /// and is asked again after so many times what is left of that, at the latest.
  std::int64_t not_begun_polls = 4;

  // ---- steps ---

  /// The average size of a pass moves one part in so many towards each budget.
  double step_average = 4;
  /// Seconds before the end of the running step at which one that may prove needless is enqueued, at least,
  double enqueue_ahead_s = 2e-4;
  /// and as one part in so many of the running step.
  double enqueue_ahead_divisor = 8;
  /// The last step before the loads is halved when the overhead of a pass is at most this share of it.
  double halve_overhead_share = 0.005;

  // ---- guesses ---

  /// Passes that nobody has measured may be this many times dearer than was said.
  double dearer_than_guessed = 30;
  /// A gated pass that takes no more than this share of what it should shows that passes are cheaper.
  double gated_news = 0.9;
  /// A pass that takes this many times what it should shows that passes are dearer now.
  double overdue = 1.25;
  /// Tokens of the first step of a model whose passes nobody has measured, at least.
  std::uint32_t test_tokens = 64;
  /// It is made where it costs less than this share of the step that the schedule wants.
  double test_share = 0.6;
  /// The next ones have at most so many times the tokens of the longest before them.
  std::uint32_t next_test = 4;
  /// Compute waits for the first read of lanes of which nothing is known for so long at most,
  Time first_landing_wait{2'000'000};
  /// and for one part in so many of what computing everything should take.
  std::int64_t first_landing_divisor = 20;

  // ---- loads ---

  /// Chunks that come layer by layer at once on one lane.
  std::size_t layered_window = 8;
  /// A slice is as long as this many latencies of its lane, shared among the other reads at once: with
  /// half as long a one the lane would just be busy all the time.
  double slice_latencies = 2;
  /// A lane with fewer chunks that come layer by layer shows its latency once more.
  std::uint32_t few_layered_chunks = 3;

  // ---- gates ---

  /// A gated step is void when the rest then takes at most this share of what it takes to wait,
  double void_gate_share = 0.7;
  /// which is looked at so many times in a wait,
  double gate_looks = 8;
  /// and happens so many times in a run at most.
  std::uint32_t most_voids = 4;

  // ---- search ---

  /// With more chunks left, meet points are compared less finely and scarce chunks are not assigned first.
  std::uint32_t fine_search_chunks = 512;
  /// Seconds of waiting that count as none.
  double no_wait_s = 1e-9;
  /// Candidates around the meet point that bisection finds: so many below,
  std::uint32_t neighbours_below = 1;
  /// and so many from it on.
  std::uint32_t neighbours_above = 3;
  /// Holes up to which all is computed in some candidate, where passes are dear.
  std::uint32_t most_holes = 8;
  /// Chunks below the front from which compute may begin again behind windows and states that are
  /// loaded for it.
  std::uint32_t most_contexts = 256;
  /// Of so many lanes every set is tried where passes are dear.
  std::uint32_t few_lanes = 3;
  /// Share of the time left that it must save to take over what is being read already.
  double take_over_share = 0.05;
};
inline constexpr PlannerTuning kPlannerTuning;

/// What load_cursor.hpp uses.
struct LoadTuning {
  /// Chunks behind a segment that a lane without work in it looks at.
  std::uint32_t look_ahead_chunks = 64;
};
inline constexpr LoadTuning kLoadTuning;

/// What link_estimator.cpp uses.
struct LinkTuning {
  /// A read is overdue when it is late by one part in so many of what it should take.
  std::int64_t grace_divisor = 4;
  /// A rate that was measured is remembered beside the limit when the lane looks this many times slower,
  double remember_slowdown = 2;
  /// and falls by this factor at most.
  double most_slowdown = 8;
  /// An insert time moves one part in so many towards each new one.
  double insert_divisor = 4;
  /// Of a read of a whole chunk, on a real machine: a read of one part in so many has an insert that is as
  /// much a matter of each insert as of its bytes, while nothing else is known.
  double insert_unit = 4;
  /// A read takes at least this share of what it should, or the rate would jump.
  double least_share = 0.01;
  /// Share by which what was seen fades with each read, over the reads at once.
  double fade = 0.6;
  /// A single read takes at most so many times what it should, times the reads at once; more is believed
  /// when a second one confirms it.
  double most_believed = 4;
  /// Landings after which the excess of a first read is taken for latency.
  std::uint32_t latency_followers = 4;
  /// Landings of one round, at least.
  std::uint32_t round_landings = 4;
  /// A round this many times faster than the average replaces it.
  double faster_round = 2.5;
  /// The queue depth doubles while that makes the whole this many times faster.
  double deeper_gain = 1.1;
  /// A settled queue depth is looked into again when the rate leaves this range, as a factor.
  double unsettle_below = 0.5;
  double unsettle_above = 2;
  /// Most reads at once.
  std::uint32_t most_depth = 16;
};
inline constexpr LinkTuning kLinkTuning;

}  // namespace cake::inline CAKE_ABI::detail
