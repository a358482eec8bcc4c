// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Runs with faults of engines that declare what they want: every rule is kept, whatever the
// scheduler asks for, and steps and loads are as declared.
#include <chrono>
#include <random>

#include "catch.hpp"
#include "check.hpp"
#include "large_spec.hpp"

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

namespace {

/// 8,192 stored tokens and 4,096 new ones of the shape of Llama-3.1-8B, from a link of 12 GB/s that stops
/// for `stall` every 7 ms and is twice as fast for as long then.
double seconds_with_stalls(Time stall) {
  SimulationSpec spec = large_spec(8192, 4096, 2048, 8);
  spec.prefill.lateness = std::chrono::milliseconds(2);
  spec.cost = {3e-3, 1.93e-5, 2.7e-10};
  const double rate = 12e9;
  spec.links = {{{{Time{0}, rate}}, std::chrono::microseconds(150)}};
  for (int i = 0; i < 30 && stall > Time{0}; ++i) {
    auto& trace = spec.links[0].trace;
    const Time at = std::chrono::microseconds(1600) + i * Time(std::chrono::milliseconds(7));
    trace.emplace_back(at, 0.0);
    trace.emplace_back(at + stall, 2 * rate);
    trace.emplace_back(at + 2 * stall, rate);
  }
  spec.priors = {{rate, std::chrono::microseconds(150), Time{0}}};
  spec.priors[0].measured = LinkEstimate::kSure;
  spec.insert = std::chrono::microseconds(100);
  MeetOptions options;
  options.cost = spec.cost;
  const SimulationResult result = simulate(spec, MeetInTheMiddleScheduler(options));
  CHECK(result.violation == "");
  return to_seconds(result.report.ttft);
}

}  // namespace

TEST_CASE("reads that are late for a moment, as on a machine with other work, change no schedule") {
  const double calm = seconds_with_stalls(Time{0});
  CHECK(seconds_with_stalls(std::chrono::microseconds(900)) < 1.06 * calm);
}

namespace {

/// TTFT over the lower bound, of a long prompt whose suffix is long enough to hide all loads, over a link
/// whose rate is another one each millisecond, so that its schedule is searched again all the time.
double over_the_bound(unsigned seed) {
  SimulationSpec spec = large_spec(65536, 4096, 2048, 16);
  spec.cost = {1e-3, 2.2e-5, 3.5e-10};
  const Time latency = std::chrono::microseconds(200);
  constexpr double kRate = 25e9;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> share(0.75, 1.25);
  spec.links = {{{}, latency}};
  for (int i = 0; i < 2000; ++i) {
    spec.links[0].trace.emplace_back(std::chrono::milliseconds(i), share(random) * kRate);
  }
  spec.priors = {{kRate, latency, Time{0}}};
  spec.priors[0].measured = LinkEstimate::kSure;
  spec.insert = std::chrono::microseconds(150);
  MeetOptions options;
  options.cost = spec.cost;
  options.cost_is_measured = true;
  const SimulationResult result = simulate(spec, MeetInTheMiddleScheduler(options));
  CHECK(result.violation == "");
  return to_seconds(result.report.ttft) / result.report.bound_s;
}

}  // namespace

TEST_CASE("one chunk that loads longer than the new tokens take comes layer by layer, too") {
  SimulationSpec spec = large_spec(2048, 1, 2048, 8);
  spec.cost = {4e-3, 1.4e-4, 2.6e-9};
  spec.links = {{{{Time{0}, 7e9}}, std::chrono::microseconds(50)}};
  spec.priors = {{7e9, std::chrono::microseconds(50), Time{0}}};
  MeetOptions options;
  options.cost = spec.cost;
  options.cost_is_measured = true;
  const SimulationResult result = simulate(spec, MeetInTheMiddleScheduler(options));
  CHECK(result.violation == "");
  REQUIRE(result.report.steps.size() == 1);
  CHECK(result.report.steps[0].gated);
  const double loads = 8 * (32.0 * (1 << 20) + 12288) / 7e9;
  CHECK(to_seconds(result.report.ttft) < loads + 0.2 * spec.cost.pass(2048, 2049));
}

namespace {

/// The default scheduler, which never gives a gated step up.
struct KeepsGates {
  MeetInTheMiddleScheduler inner;
  void begin(const PrefillSpec& spec) { inner.begin(spec); }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    return inner.next_step(view, budget, now);
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    return inner.next_load(view, lane, now);
  }
};

/// A prompt of this length whose link has only `share` of its rate from half of the time on that the prompt
/// takes otherwise.
template <class S>
PrefillReport over_falling_link(std::uint32_t n, std::uint32_t s, double rate, double share,
                                S like) {
  SimulationSpec spec = large_spec(n, s, 2048, 8);
  spec.cost = {1e-3, 3.49e-5, 6.55e-10};
  spec.links = {{{{Time{0}, rate}}, std::chrono::microseconds(50)}};
  spec.priors = {{rate, std::chrono::microseconds(50), Time{0}}};
  MeetOptions options;
  options.cost = spec.cost;
  options.cost_is_measured = true;
  const Time whole = simulate(spec, MeetInTheMiddleScheduler(options)).report.ttft;
  spec.links[0].trace.emplace_back(whole / 2, share * rate);
  const SimulationResult result = simulate(spec, like(options));
  CHECK(result.violation == "");
  return result.report;
}

std::size_t voided(const PrefillReport& report) {
  return static_cast<std::size_t>(std::count_if(report.steps.begin(), report.steps.end(),
                                                [](const StepReport& s) { return s.voided; }));
}

}  // namespace

TEST_CASE("a gated step does not wait for a link that has become ten times slower") {
  const auto cake = [](const MeetOptions& o) { return MeetInTheMiddleScheduler(o); };
  const auto keeps = [](const MeetOptions& o) { return KeepsGates{MeetInTheMiddleScheduler(o)}; };
  const PrefillReport kept = over_falling_link(8192, 4096, 3e9, 0.1, keeps);
  const PrefillReport given_up = over_falling_link(8192, 4096, 3e9, 0.1, cake);
  CHECK(voided(kept) == 0);
  CHECK(voided(given_up) == 1);
  CHECK(given_up.ttft < kept.ttft / 2);
}

TEST_CASE("a gated step is kept where lanes bring what they should, or a little less") {
  const auto cake = [](const MeetOptions& o) { return MeetInTheMiddleScheduler(o); };
  std::size_t gated = 0;
  for (const std::uint32_t n : {2048u, 8192u, 32768u}) {
    for (const std::uint32_t s : {128u, 1024u, 4096u}) {
      for (const double share : {1.0, 0.9}) {
        const PrefillReport report = over_falling_link(n, s, 12e9, share, cake);
        CHECK(voided(report) == 0);
        for (const StepReport& step : report.steps) gated += step.gated;
      }
    }
  }
  CHECK(gated > 10);
}

TEST_CASE("layers come in their order however often the schedule is searched again") {
  double sum = 0;
  for (unsigned seed = 0; seed < 8; ++seed) sum += over_the_bound(seed);
  CHECK(sum / 8 < 1.13);  // 1.109 was measured, and 1.31 with layers begun anew by each search
}
