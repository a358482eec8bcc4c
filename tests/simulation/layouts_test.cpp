// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Whole runs with layouts of any kinds: no step reads a window or a state that is not there, however
// loads fail.
#include "catch.hpp"
#include "check.hpp"

namespace {

using namespace cake;
using namespace cake::testing;

TEST_CASE("wild prefills with planes, windows and states of any kind keep every rule") {
  std::uint64_t extended = 0;
  std::uint64_t lost = 0;
  std::uint64_t out_of_window = 0;
  std::uint64_t spared = 0;
  std::uint64_t gated = 0;
  MeanTime mean = MeanTime::of_layouts();
  for (std::uint64_t seed = 0; seed < MeanTime::kSeedsOfMean; ++seed) {
    Against against;
    const SimulationResult result = mixed_run(seed, &against);
    mean.add(against);
    extended += result.report.chunks_extended != 0;
    lost += result.lost_loads != 0;
    out_of_window += result.report.tokens_out_of_window != 0;
    spared += result.report.bytes_out_of_window != 0;
    for (const StepReport& step : result.report.steps) gated += step.gated && !step.voided;
    if (result.violation.empty()) continue;
    FAIL("seed " << seed << ": " << result.violation << "; replay: simulate " << seed
                 << " 1 layouts trace");
  }
  CHECK(mean.check() == "");
  // The rare turns are reached.
  CHECK(extended > 100);
  CHECK(lost > 100);
  CHECK(out_of_window > 100);
  CHECK(spared > 1000);
  CHECK(gated > 100);
}

TEST_CASE(
    "with steady links and right priors windows and states seldom cost more than a baseline") {
  std::uint64_t slower = 0;
  std::uint64_t loaded = 0;
  for (std::uint64_t seed = 0; seed < 10'000; ++seed) {
    SimulationSpec spec = steady_mixed_spec(seed);
    MeetOptions options;
    options.cost = spec.cost;
    options.cost_is_measured = true;
    const SimulationResult cake = simulate(spec, MeetInTheMiddleScheduler(options));
    if (!cake.violation.empty()) FAIL("steady seed " << seed << ": " << cake.violation);
    spec.faulty_scheduler = true;  // a baseline may dawdle
    const Time compute = simulate(spec, ComputeOnlyScheduler{}).report.ttft;
    const Time load = simulate(spec, LoadOnlyScheduler{}).report.ttft;
    loaded += cake.report.tokens_loaded;
    slower += to_seconds(cake.report.ttft) > 1.02 * to_seconds(std::min(compute, load));
  }
  CHECK(loaded > 0);
  CHECK(slower <= 4);  // exact, as the mean times are
}

TEST_CASE("chunks that a step gives back undone are loaded with what a hole above needs of them") {
  const SimulationSpec spec = mixed_spec(36094);  // its engine does less than it is asked
  MeetOptions options;
  options.cost = spec.cost;
  const SimulationResult result = simulate(spec, MeetInTheMiddleScheduler(options));
  CHECK(result.violation == "");
  CHECK(result.report.chunks_extended > 1);
}

/// A prompt of ten chunks of 16 tokens whose four layers need all tokens, 40, 20 and a state.
struct Small {
  Small() {
    const KvPlane plane{1, 64};
    const KvLayout layout{
        4, {{{plane}}, {{plane}, 40}, {{plane}, 20}, {{plane}, 0, true}}, {0, 1, 2, 3}};
    spec.geometry = ChunkGeometry(layout, 16);
    spec.prefill.n_tokens = 170;
    spec.prefill.chunk_tokens = 16;
    spec.prefill.n_chunks = spec.prefill.end_chunk = 10;
    detail::describe_layout(spec.geometry, spec.prefill);
    spec.cost.per_token = 1;  // so that everything is loaded
    spec.links = {{}};
    spec.priors = {{1e9, Time{0}, Time{0}}};
    spec.stored.assign(10, {spec.geometry.object_bytes(), 1, 4});
  }
  /// Layers of each chunk that were read, as digits.
  std::string layers_read() {
    const SimulationResult result = simulate(spec, MeetInTheMiddleScheduler{});
    CHECK(result.violation == "");
    std::vector<std::uint32_t> read(10);
    for (const LoadReport& load : result.report.loads) {
      if (load.outcome == Errc::ok) read[load.slice.chunk] += load.slice.layers.size();
    }
    std::string text;
    for (const std::uint32_t n : read) text += std::to_string(n);
    return text;
  }
  void lacks(std::uint32_t chunk, std::uint32_t held) {
    spec.stored[chunk] = {spec.geometry.object_bytes(held), 1, held};
  }
  SimulationSpec spec;
};

TEST_CASE("of each chunk those layers are read that reach back to it") {
  // The suffix begins at 160: chunk 9 ends there, 8 sixteen tokens below, 7 thirty-two.
  CHECK(Small().layers_read() == "1111111234");
}

TEST_CASE("a chunk that is absent needs the windows and the state below it") {
  Small small;
  small.spec.stored[4] = {};
  CHECK(small.layers_read() == "1234011234");
}

TEST_CASE("a chunk that cannot be read is computed behind windows and a state that are read late") {
  Small small;
  small.spec.faults.assign(10, SimulatedFault::none);
  small.spec.faults[4] = SimulatedFault::read_error;
  CHECK(small.layers_read() == "1234011234");
}

TEST_CASE("where the state below a hole is not stored all is computed from the last one that is") {
  Small small;
  small.spec.stored[6] = {};
  small.lacks(5, 3);
  small.lacks(4, 3);
  CHECK(small.layers_read() == "1234000234");
  // The same when chunk 6 turns out to be damaged.
  Small late;
  late.lacks(5, 3);
  late.lacks(4, 3);
  late.spec.faults.assign(10, SimulatedFault::none);
  late.spec.faults[6] = SimulatedFault::corrupt;
  CHECK(late.layers_read() == "1234000234");
}

/// Thirty chunks of 16 tokens of which a step needs no more than the last 16 tokens; only the last one is
/// read, which takes as long as computing `chunks` of them. Lanes and passes are known.
struct Windows {
  explicit Windows(double chunks) {
    const KvLayout layout{2, {{{{1, 64}}, 16}}};
    spec.geometry = ChunkGeometry(layout, 16);
    spec.prefill.n_tokens = 30 * 16 + 8;
    spec.prefill.chunk_tokens = 16;
    spec.prefill.n_chunks = spec.prefill.end_chunk = 30;
    detail::describe_layout(spec.geometry, spec.prefill);
    spec.cost.per_token = 1e-3;
    const double rate = static_cast<double>(spec.prefill.read_bytes({0, 2})) / (chunks * 16e-3);
    spec.links = {{}};
    spec.links[0].trace = {{Time{0}, rate}};
    spec.priors = {{rate, Time{0}, Time{0}}};
    spec.stored.assign(30, {spec.geometry.object_bytes(), 1, 2});
  }
  PrefillReport run() {
    MeetOptions options;
    options.cost = spec.cost;
    options.cost_is_measured = true;
    const SimulationResult result = simulate(spec, MeetInTheMiddleScheduler(options));
    CHECK(result.violation == "");
    return result.report;
  }
  SimulationSpec spec;
};

TEST_CASE("a late read is waited for where computing its chunk takes all the tokens below") {
  Windows windows(10);
  windows.spec.priors[0].bytes_per_second *= 2;
  const PrefillReport report = windows.run();
  CHECK(report.tokens_computed == 8);
  CHECK(to_seconds(report.ttft) < 0.17);
}

TEST_CASE("windows that turn out to be needed come from the lane that brings them soonest") {
  Small small;  // chunk 4 is damaged: windows and a state of the three below it are read late
  small.spec.faults.assign(10, SimulatedFault::none);
  small.spec.faults[4] = SimulatedFault::corrupt;
  small.spec.prefill.n_lanes = 2;
  small.spec.links = {{{{Time{0}, 1e5}}}, {}};
  small.spec.priors = {{1e5, Time{0}, Time{0}}, {1e9, Time{0}, Time{0}}};
  for (StoredChunk& chunk : small.spec.stored) chunk.tiers = 3;
  const SimulationResult result = simulate(small.spec, MeetInTheMiddleScheduler{});
  CHECK(result.violation == "");
  CHECK(result.report.chunks_extended != 0);
  for (const LoadReport& load : result.report.loads) CHECK(load.lane == 1);
}

/// As above, with two lanes: reads that the session gave up after `timeout`, where the first lane has `share` of the
/// rate of the other one, and both are known.
std::vector<LoadReport> given_up(double share, Time timeout) {
  Small small;
  small.spec.faults.assign(10, SimulatedFault::none);
  small.spec.faults[4] = SimulatedFault::corrupt;
  small.spec.prefill.n_lanes = 2;
  small.spec.session.read_timeout = timeout;
  small.spec.links = {{{{Time{0}, share * 1e9}}}, {{{Time{0}, 1e9}}}};
  small.spec.priors.clear();
  for (const SimulatedLink& link : small.spec.links) {
    small.spec.priors.push_back(
        {link.trace[0].second, Time{0}, Time{0}, 2, 0, false, LinkEstimate::kSure});
  }
  for (StoredChunk& chunk : small.spec.stored) chunk.tiers = 3;
  const SimulationResult result = simulate(small.spec, MeetInTheMiddleScheduler{});
  CHECK(result.violation == "");
  CHECK(result.report.chunks_extended != 0);
  std::vector<LoadReport> reads;
  for (const LoadReport& load : result.report.loads) {
    if (load.outcome == Errc::timeout) reads.push_back(load);
  }
  return reads;
}

TEST_CASE("no lane gets windows to read that would take it longer than a read may") {
  CHECK(given_up(0.2, Time(40'000)).empty());
  CHECK(given_up(0.3, Time(30'000)).empty());
  CHECK(given_up(0.4, Time(30'000)).empty());
}

TEST_CASE("windows that would be given up behind the reads in flight are read after those") {
  CHECK(given_up(0.1, Time(50'000)).empty());
  CHECK(given_up(0.2, Time(50'000)).empty());
  CHECK(given_up(0.3, Time(40'000)).empty());
}

TEST_CASE("where loading takes longer all is computed, and nothing is read for it") {
  const PrefillReport report = Windows(40).run();
  CHECK(report.bytes_read == 0);
  CHECK(report.tokens_computed == 30 * 16 + 8);
}

TEST_CASE("the compute-only baseline reads no windows and states") {
  SimulationSpec spec = Windows(1).spec;
  spec.faulty_scheduler = true;
  const SimulationResult result = simulate(spec, ComputeOnlyScheduler{});
  CHECK(result.violation == "");
  CHECK(result.report.bytes_read == 0);
  CHECK(result.report.tokens_computed == 30 * 16 + 8);
}

TEST_CASE("an earlier window is loaded where the last one lies in a slow tier alone") {
  Windows windows(1);
  windows.spec.prefill.n_lanes = 2;
  windows.spec.links.push_back(windows.spec.links[0]);
  windows.spec.links[0].trace[0].second /= 100;
  windows.spec.priors.push_back(windows.spec.priors[0]);
  windows.spec.priors[0].bytes_per_second /= 100;
  for (std::uint32_t c = 0; c < 26; ++c) windows.spec.stored[c].tiers = 2;
  const PrefillReport report = windows.run();
  CHECK(report.tokens_computed == 4 * 16 + 8);
  CHECK(report.chunks[25].source == Source::loaded);
  CHECK(to_seconds(report.ttft) < 0.1);
}

}  // namespace
