// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A real run beside the same run in virtual time: whether they agree, and where the time went.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "cake/calibration.hpp"
#include "cake/report.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/replay.hpp"
#include "cake/testing/simulation.hpp"

namespace cake::benchmarks {

/// What passes cost by the steps of a run in which nothing held compute up.
inline ComputeCost curve_of(const PrefillReport& compute_only) {
  ComputeCostEstimator curve;
  Time until{0};
  for (const StepReport& step : compute_only.steps) {
    curve.observe(step.tokens, to_seconds(step.ended - std::max(step.issued, until)));
    until = step.ended;
  }
  return curve.current();
}

/// What a session knows when it begins.
struct Known {
  Known(const Calibration& calibration, const ModelFingerprint& model)
      : tiers(calibration.tiers()), compute(calibration.compute(model)) {}
  std::vector<LinkEstimate> tiers;
  std::optional<ComputeCostEstimator> compute;
};

struct Replayed {
  double simulated = 0;  // seconds of TTFT; 0: it was not simulated
  double slowdown = 1;   // passes beside loads over the curve
  testing::TtftParts parts;
};

/// Of a run of the default scheduler, two steps in flight, whose prefix lies whole in the first tier.
inline Replayed replayed(const PrefillReport& report, const Known& known, const ComputeCost& curve,
                         unsigned threads, std::uint64_t staging_bytes) {
  const PrefillSpec& prefill = report.spec;
  SimulationSpec spec = testing::replay_spec(
      report,
      std::vector<StoredChunk>(prefill.end_chunk, {prefill.read_bytes({0, prefill.n_layers}), 1}),
      curve);
  spec.priors = known.tiers;
  spec.workers = threads;
  spec.staging_bytes = staging_bytes;
  spec.steps_in_flight = 2;
  MeetInTheMiddleScheduler scheduler;
  if (known.compute) scheduler.calibrate(*known.compute);
  const SimulationResult result = simulate(spec, scheduler);
  Replayed out;
  out.slowdown = testing::slowdown(report, curve);
  out.parts = testing::ttft_parts(report, curve);
  if (!result.violation.empty()) return out;
  out.simulated = to_seconds(result.report.ttft + report.planning);
  return out;
}

}  // namespace cake::benchmarks
