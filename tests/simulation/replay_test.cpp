// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A run of the simulation is told from its report alone, and simulated again.
#include "cake/testing/replay.hpp"

#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/simulation.hpp"
#include "catch.hpp"
#include "large_spec.hpp"

using namespace cake;
using namespace cake::testing;
using namespace std::chrono_literals;

namespace {

/// Llama-3.1-8B at 400 TFLOP/s.
SimulationSpec machine(std::uint32_t n, std::uint32_t s, double bytes_per_second, Time latency) {
  SimulationSpec spec = large_spec(n, s, 2048, 8);
  spec.cost = {3e-3, 3.49e-05, 6.55e-10};
  spec.links = {{{{Time{0}, bytes_per_second}}, latency}};
  spec.priors = {{bytes_per_second, latency, Time{0}}};
  spec.inserts = {{{Time{0}, 40e9}}, 60us};
  spec.steps_in_flight = 2;
  spec.staging_bytes = std::uint64_t{512} << 20;
  return spec;
}

MeetInTheMiddleScheduler knowing(const ComputeCost& cost) {
  MeetOptions options;
  options.cost = cost;
  options.cost_is_measured = true;
  return MeetInTheMiddleScheduler(options);
}

/// What it says of a run on `real` when compute is told to cost `curve`.
SimulationSpec told(const SimulationSpec& real, const PrefillReport& report,
                    const ComputeCost& curve) {
  SimulationSpec spec = replay_spec(report, real.stored, curve);
  spec.priors = real.priors;
  spec.workers = real.workers;
  spec.steps_in_flight = real.steps_in_flight;
  spec.staging_bytes = real.staging_bytes;
  return spec;
}

Time sum(const TtftParts& parts) {
  return parts.planning + parts.computing + parts.gates + parts.loads + parts.idle;
}

}  // namespace

TEST_CASE("a run that is replayed from its report takes as long as it took, within a fiftieth") {
  for (const std::uint32_t n : {8192u, 32768u}) {
    for (const std::uint32_t s : {128u, 1024u, 4096u}) {
      for (const double gigabytes : {3.0, 12.0, 25.0}) {
        for (const Time latency : {Time(50us), Time(2ms)}) {
          CAPTURE(n, s, gigabytes, latency.count());
          const SimulationSpec real = machine(n, s, gigabytes * 1e9, latency);
          const SimulationResult run = simulate(real, knowing(real.cost));
          REQUIRE(run.violation == "");
          const SimulationSpec spec = told(real, run.report, real.cost);
          const SimulationResult again = simulate(spec, knowing(real.cost));
          REQUIRE(again.violation == "");
          CHECK(to_seconds(again.report.ttft) == Approx(to_seconds(run.report.ttft)).epsilon(0.02));
          CHECK(slowdown(run.report, real.cost) == Approx(1).epsilon(0.001));
        }
      }
    }
  }
}

TEST_CASE("what a link, its latency and inserts took is told from a report") {
  const SimulationSpec real = machine(32768, 1024, 12e9, 500us);
  const SimulationSpec spec = told(real, simulate(real, knowing(real.cost)).report, real.cost);
  REQUIRE(spec.links.size() == 1);
  CHECK(spec.links[0].trace[0].second == Approx(12e9).epsilon(0.01));
  CHECK(to_seconds(spec.links[0].latency) == Approx(500e-6).epsilon(0.1));
  CHECK(spec.inserts.trace[0].second == Approx(40e9).epsilon(0.05));
  CHECK(to_seconds(spec.inserts.latency) == Approx(60e-6).epsilon(0.2));
}

TEST_CASE("passes that take longer than the curve says are told as a slowdown, which is replayed") {
  SimulationSpec real = machine(8192, 1024, 12e9, 100us);
  const ComputeCost curve = real.cost;
  real.cost = curve.slower(1.3);
  const SimulationResult run = simulate(real, knowing(curve));
  CHECK(slowdown(run.report, curve) == Approx(1.3).epsilon(0.001));
  const SimulationResult again = simulate(told(real, run.report, curve), knowing(curve));
  CHECK(to_seconds(again.report.ttft) == Approx(to_seconds(run.report.ttft)).epsilon(0.02));
}

TEST_CASE("the parts of a time to first token add up to it") {
  const SimulationSpec real = machine(32768, 4096, 7e9, 1ms);
  const auto parts_of = [&](const auto& scheduler) {
    const PrefillReport report = simulate(real, scheduler).report;
    const TtftParts parts = ttft_parts(report, real.cost);
    CHECK(sum(parts) == report.ttft);
    return parts;
  };
  const TtftParts cake = parts_of(knowing(real.cost));
  CHECK(cake.computing > 10 * (cake.gates + cake.loads + cake.idle));
  const TtftParts compute = parts_of(ComputeOnlyScheduler());
  CHECK(compute.loads == Time{0});
  CHECK(compute.gates == Time{0});
  const TtftParts load = parts_of(LoadOnlyScheduler());
  CHECK(load.loads > load.computing);  // it waits for 4.3 GB, and computes 4,096 tokens
}

TEST_CASE("time is nobody's where no step runs and nothing is on its way") {
  PrefillReport report;
  report.spec.max_step_tokens = 100;
  report.planning = Time(10);
  report.ttft = Time(1000);
  StepReport step;
  step.tokens = {0, 10};
  step.issued = Time(100);
  step.ended = Time(300);
  report.steps = {step};
  step.gated = true;
  step.tokens = {50, 60};
  step.issued = Time(200);
  step.ended = Time(900);
  report.steps.push_back(step);
  LoadReport load;
  load.issued = Time(40);
  load.landed = Time(60);
  load.resident = Time(70);
  report.loads = {load, load};
  const TtftParts parts = ttft_parts(report, {0, 10e-9, 0});  // 10 ns a token
  CHECK(parts.planning == Time(10));
  CHECK(parts.loads == Time(30));
  CHECK(parts.computing == Time(200 + 100));
  CHECK(parts.gates == Time(500));
  CHECK(parts.idle == Time(1000 - 10 - 30 - 300 - 500));
}

TEST_CASE("a report without steps or loads is replayed as a machine that was never seen") {
  PrefillReport report;
  report.spec.n_lanes = 2;
  const SimulationSpec spec = replay_spec(report, {}, {});
  CHECK(spec.links.size() == 2);
  CHECK(spec.priors.size() == 2);
  CHECK(slowdown(report, {}) == 1);
  CHECK(sum(ttft_parts(report, {})) == Time{0});
}
