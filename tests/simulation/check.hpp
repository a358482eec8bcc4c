// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One seeded run with faults, and everything that must hold in it. Shared by the tests, the
// `simulate` program and the mutation check.
#pragma once

#include <algorithm>
#include <string>

#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "random_spec.hpp"

namespace cake::testing {

/// Priors of every second run are off by up to 30 in either direction.
inline MeetOptions wild_options(std::uint64_t seed, const SimulationSpec& spec) {
  MeetOptions options;
  Random r(seed ^ 0x5eed);
  options.cost = spec.cost;
  if (r.chance(0.5)) options.cost.per_token *= r.scale(1 / 30.0, 30);
  return options;
}

/// Compute may have waited for loads that never came and then done everything itself, so a run
/// takes at most as long as compute only and load only together, and some deadlines. How many
/// cannot be said exactly: with priors that are wrong by 30 a pass may follow loads that come slice
/// by slice over a link that has slowed down. In 100,000 runs it was never more than three.
inline constexpr int kDeadlines = 10;

inline std::string check_time(const SimulationSpec& spec, const SimulationResult& result) {
  const double ttft = seconds(result.report.ttft);
  const PrefillPlan& plan = spec.plan;
  if (ttft <= spec.cost.passes(plan.resident_tokens, plan.n_tokens, plan.max_step_tokens)) {
    return {};
  }
  const double compute = seconds(simulate(spec, ComputeOnlyScheduler{}).report.ttft);
  const double load = seconds(simulate(spec, LoadOnlyScheduler{}).report.ttft);
  const double waited = seconds(result.longest_deadline + spec.session.patience);
  if (ttft <= compute + load + kDeadlines * waited) return {};
  return "took " + std::to_string(ttft) + " s; compute only " + std::to_string(compute) +
         " s, load only " + std::to_string(load) + " s, longest deadline " +
         std::to_string(seconds(result.longest_deadline)) + " s";
}

/// The run of this seed, and what went wrong in it or, now and then, in that of a plain scheduler
/// that relies on the session more.
inline SimulationResult wild_run(std::uint64_t seed) {
  const SimulationSpec spec = wild_spec(seed);
  SimulationResult result = simulate(spec, MeetInTheMiddleScheduler(wild_options(seed, spec)));
  if (result.violation.empty() && spec.cancel_at == kNever) {
    result.violation = check_time(spec, result);
  }
  if (result.violation.empty() && seed % 4 == 0) {
    SimulationSpec plain = spec;
    plain.faulty_scheduler = true;  // it may dawdle
    result.violation = simulate(plain, LoadOnlyScheduler{}).violation;
  }
  return result;
}

}  // namespace cake::testing
