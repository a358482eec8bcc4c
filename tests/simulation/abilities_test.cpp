// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Runs with faults of engines that declare what they want: every rule is kept, whatever the
// scheduler asks for, and steps and loads are as declared.
#include "catch.hpp"
#include "check.hpp"

namespace {

using namespace cake;
using namespace cake::testing;

SimulationSpec declared(std::uint64_t seed) {
  SimulationSpec spec = wild_spec(seed);
  Random random(seed ^ 0xab111);
  spec.prefill.smallest_step = random.chance(0.5) ? 1 : random.between(2, 200);
  spec.prefill.max_overlap_tokens = random.chance(0.5) ? ~0u : random.between(1, 100);
  if (random.chance(0.3)) {
    spec.prefill.whole_chunks = true;
    spec.prefill.may_gate = spec.has_gates = false;
  } else if (random.chance(0.5)) {
    spec = widened(spec, seed);
  }
  return spec;
}

/// What of the run is not as declared; empty: nothing.
std::string unsuited(const SimulationSpec& spec, const SimulationResult& result) {
  if (!result.violation.empty()) return result.violation;
  for (const StepReport& step : result.report.steps) {
    if (step.gated && step.tokens.size() > spec.prefill.max_overlap_tokens) {
      return "a gated step of " + std::to_string(step.tokens.size()) + " tokens";
    }
  }
  for (const LoadReport& load : result.report.loads) {
    if (spec.prefill.whole_chunks && load.slice.layers != LayerRange{0, spec.prefill.n_layers}) {
      return "a load of some layers of a chunk";
    }
  }
  return {};
}

/// Steps of more tokens than one pass takes.
std::uint32_t wide_steps(const SimulationSpec& spec, const PrefillReport& report) {
  std::uint32_t n = 0;
  for (const StepReport& step : report.steps) {
    n += step.tokens.size() > spec.prefill.max_step_tokens;
  }
  return n;
}

}  // namespace

TEST_CASE("in wild runs steps and loads are as the engine declares, whoever schedules") {
  std::uint32_t gated = 0;
  std::uint32_t whole = 0;
  std::uint32_t wide = 0;
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    SimulationSpec spec = declared(seed);
    const MeetOptions options = wild_options(seed, spec);
    CAPTURE(seed);
    const auto meet = simulate(spec, MeetInTheMiddleScheduler(options));
    REQUIRE(unsuited(spec, meet) == "");
    wide += wide_steps(spec, meet.report);
    spec.faulty_scheduler = true;  // it may dawdle
    const auto slices = simulate(spec, LayerByLayer{});
    REQUIRE(unsuited(spec, slices) == "");
    const auto gates = simulate(spec, AlwaysGates{});
    REQUIRE(unsuited(spec, gates) == "");
    wide += wide_steps(spec, gates.report);
    for (const StepReport& step : gates.report.steps) gated += step.gated;
    whole += spec.prefill.whole_chunks && !slices.report.loads.empty();
  }
  CHECK(gated > 100);
  CHECK(whole > 100);
  CHECK(wide > 50);
}
