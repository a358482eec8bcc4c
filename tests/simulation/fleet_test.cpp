// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The fleet of benchmarks/fleet in cases that can be worked out by hand: a token takes an eighth of a
// second, a chunk is four tokens, the store brings four chunks a second and a RAM tier eight.
#include "benchmarks/fleet/fleet.hpp"

#include <chrono>
#include <cstdint>
#include <set>
#include <vector>

#include "benchmarks/fleet/memory_tier.hpp"
#include "benchmarks/fleet/workload.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/event_queue.hpp"
#include "catch.hpp"

using namespace cake;
using namespace cake::benchmarks;
using namespace std::chrono_literals;

namespace {

constexpr Segment kDocument{1, 16};
constexpr std::uint64_t kChunk = 1000;  // bytes

FleetSpec small_fleet() {
  FleetSpec spec;
  spec.prompt.chunk_tokens = 4;
  spec.prompt.n_layers = 1;
  spec.prompt.layer_bytes = kChunk;
  spec.cost = {0, 0.125, 0};
  spec.memory = {{{Time{0}, 8000}}, Time{0}};
  spec.store = {{{Time{0}, 4000}}, Time{0}};
  return spec;
}

/// A prompt that begins with the segment and has four tokens of its own.
Request after(Segment prefix, Time arrival = 0s, std::uint32_t device = 0) {
  static std::uint64_t own = 1000;
  return {arrival, device, {prefix, {++own, 4}}};
}

FleetSpec with_stored(FleetSpec spec, std::vector<Segment> prompt) {
  for (const std::uint64_t name : chunk_names(prompt, 4)) spec.stored.push_back(name);
  return spec;
}

FleetPolicy load_only() {
  return {"load only", [](std::size_t) { return detail::AnyScheduler(LoadOnlyScheduler()); }};
}
FleetPolicy compute_only() {
  return {"compute only", [](std::size_t) { return detail::AnyScheduler(ComputeOnlyScheduler()); }};
}

using Times = std::vector<Time>;

FleetResult run(const FleetSpec& spec, const FleetPolicy& policy,
                const std::vector<Request>& requests) {
  FleetResult result = run_fleet(spec, policy, requests);
  REQUIRE(result.violation == "");
  CHECK(result.failed_loads == 0);
  return result;
}

}  // namespace

TEST_CASE("prompts of one device are computed one after the other, those of two at once") {
  FleetSpec spec = small_fleet();
  spec.devices = 2;
  const FleetResult result =
      run(spec, compute_only(), {{0s, 0, {{1, 8}}}, {0s, 0, {{2, 8}}}, {250ms, 1, {{1, 4}}}});
  CHECK(result.ttft == Times{1s, 2s, 500ms});
  CHECK(result.device_time == 2500ms);
  CHECK(result.store_bytes + result.memory_bytes == 0);
  CHECK(result.computed_tokens == 20);
}

TEST_CASE("a prefix that two prompts of a device have in common is read once") {
  const FleetSpec spec = with_stored(small_fleet(), {kDocument});
  const std::vector<Request> two{after(kDocument), after(kDocument)};
  const FleetResult joined = run(spec, load_only(), two);
  CHECK(joined.ttft == Times{1500ms, 2s});  // four chunks, then one suffix behind the other
  CHECK(joined.store_bytes == 4 * kChunk);
  CHECK(joined.joined_bytes == 4 * kChunk);
  CHECK(joined.loaded_tokens == 32);

  FleetPolicy alone = load_only();
  alone.joins = false;
  const FleetResult twice = run(spec, alone, two);
  CHECK(twice.ttft == Times{1500ms, 2500ms});
  CHECK(twice.store_bytes == 8 * kChunk);
}

TEST_CASE("two devices read a common prefix twice, over one link") {
  FleetSpec spec = with_stored(small_fleet(), {kDocument});
  spec.devices = 2;
  const FleetResult result =
      run(spec, load_only(), {after(kDocument, 0s, 0), after(kDocument, 0s, 1)});
  CHECK(result.store_bytes == 8 * kChunk);
  CHECK(*std::max_element(result.ttft.begin(), result.ttft.end()) == 2500ms);
}

TEST_CASE("a lane reads for the prompt with the least left, or in the order of arrival") {
  const Segment long_one{1, 32};
  const Segment short_one{2, 4};
  FleetSpec spec = with_stored(with_stored(small_fleet(), {long_one}), {short_one});
  const std::vector<Request> two{after(long_one), after(short_one, 100ms)};
  // Two reads of the long prompt are in flight, 250 ms each; the short one's chunk comes behind them.
  const FleetResult least_left = run(spec, load_only(), two);
  CHECK(least_left.ttft == Times{2750ms, 1150ms});
  FleetPolicy first_come = load_only();
  first_come.least_left = false;
  // Its chunk is the ninth, and by then the long prompt's suffix has the device until 2,500 ms.
  CHECK(run(spec, first_come, two).ttft == Times{2500ms, 2900ms});
}

TEST_CASE("the device goes to the prompt with the fewest tokens to compute, or to the first one") {
  const std::vector<Request> three{{0s, 0, {{1, 8}}}, {0s, 0, {{2, 12}}}, {100ms, 0, {{3, 4}}}};
  CHECK(run(small_fleet(), compute_only(), three).ttft == Times{1s, 3s, 1400ms});
  FleetPolicy first_come = compute_only();
  first_come.shortest_first = false;
  CHECK(run(small_fleet(), first_come, three).ttft == Times{1s, 2500ms, 2900ms});
}

TEST_CASE("a prompt queues while its device has as many as it may") {
  FleetSpec spec = with_stored(small_fleet(), {kDocument});
  spec.prompts_at_once = 1;
  const FleetResult result =
      run(spec, load_only(), {after(kDocument), after({2, 4}), after({3, 4})});
  CHECK(result.ttft == Times{1500ms, 2500ms, 3500ms});  // the others compute eight tokens each
}

TEST_CASE("while one prompt is computed the one that queues is prefetched") {
  const Segment other{2, 16};
  FleetSpec spec = with_stored(small_fleet(), {other});
  spec.prompts_at_once = 1;
  spec.memory_bytes = 100 * kChunk;
  // Sixteen tokens are computed in 2 s, and four chunks are prefetched in 1. Then RAM brings two of them
  // in 250 ms, while the store brings the others in 500, not all four in 1 s.
  const std::vector<Request> two{{0s, 0, {{1, 16}}}, after(other, 100ms)};
  FleetPolicy policy = load_only();
  CHECK(run(spec, policy, two).ttft == Times{2s, 3400ms});
  policy.prefetch = true;
  const FleetResult result = run(spec, policy, two);
  CHECK(result.prefetched_bytes == 4 * kChunk);
  CHECK(result.store_bytes == 6 * kChunk);
  CHECK(result.memory_bytes == 2 * kChunk);
  CHECK(result.ttft == Times{2s, 2900ms});
}

TEST_CASE("what a prompt had is in the RAM tier for the next one, as far as there is room") {
  FleetSpec spec = small_fleet();
  const std::vector<Request> two{after(kDocument), after(kDocument, 10s)};
  // Twenty tokens are computed first. Then four chunks come from the store, and four tokens are computed.
  CHECK(run(spec, load_only(), two).ttft == Times{2500ms, 1500ms});
  spec.memory_bytes = 5 * kChunk + kChunk / 2;
  const FleetResult all = run(spec, load_only(), two);
  CHECK(all.memory_bytes + all.store_bytes == 4 * kChunk);
  // Three of five chunks: two of those that the second prompt wants, while the store brings the others.
  spec.memory_bytes = 3 * kChunk;
  const FleetResult part = run(spec, load_only(), two);
  CHECK(part.ttft == Times{2500ms, 1s});
  CHECK(part.memory_bytes == 2 * kChunk);
  CHECK(part.store_bytes == 2 * kChunk);
}

TEST_CASE("computing and loading meet") {
  MeetOptions meet;
  meet.cost = small_fleet().cost;
  meet.cost_is_measured = true;
  const FleetPolicy cake{
      "cake", [&](std::size_t) { return detail::AnyScheduler(MeetInTheMiddleScheduler(meet)); }};
  // One chunk is computed in 500 ms while three are loaded in 750; then the suffix.
  const FleetResult result = run(with_stored(small_fleet(), {kDocument}), cake, {after(kDocument)});
  CHECK(result.ttft == Times{1250ms});
  CHECK(result.store_bytes == 3 * kChunk);
}

TEST_CASE("prompts have chunks in common as far as all their tokens are the same") {
  const auto one = chunk_names(std::vector<Segment>{{1, 10}, {2, 10}}, 4);
  const auto other = chunk_names(std::vector<Segment>{{1, 10}, {3, 10}}, 4);
  const auto longer = chunk_names(std::vector<Segment>{{1, 10}, {2, 10}, {3, 5}}, 4);
  REQUIRE(one.size() == 5);
  REQUIRE(longer.size() == 6);
  CHECK(std::set(one.begin(), one.end()).size() == 5);
  for (std::size_t c = 0; c < 5; ++c) {
    CHECK((one[c] == other[c]) == (c < 2));  // the third chunk has tokens of the second segment
    CHECK(one[c] == longer[c]);
  }
  CHECK(chunk_names(std::vector<Segment>{{1, 3}}, 4).empty());
}

TEST_CASE("a workload is the same for one seed, comes in order, in bursts, and shares prefixes") {
  WorkloadSpec spec;
  spec.requests = 4000;
  const std::vector<Request> requests = make_workload(spec);
  const std::vector<Request> again = make_workload(spec);
  REQUIRE(requests.size() == 4000);
  std::vector<int> each_second;
  std::set<std::uint64_t> names;
  std::size_t chunks = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CHECK(requests[i].arrival == again[i].arrival);
    if (i > 0) CHECK(requests[i].arrival >= requests[i - 1].arrival);
    CHECK(requests[i].device < spec.devices);
    const auto second = static_cast<std::size_t>(requests[i].arrival / 1s);
    if (each_second.size() <= second) each_second.resize(second + 1);
    ++each_second[second];
    const auto own = chunk_names(requests[i].prompt, 256);
    chunks += own.size();
    names.insert(own.begin(), own.end());
  }
  CHECK(names.size() < chunks / 2);  // more than half of all chunks came before
  // The variance of a Poisson process of one rate is its mean.
  const double mean = 4000.0 / static_cast<double>(each_second.size());
  double variance = 0;
  for (const int n : each_second) variance += (n - mean) * (n - mean);
  CHECK(variance / static_cast<double>(each_second.size()) > 2 * mean);
}

TEST_CASE("the RAM tier gives up what was used least recently") {
  MemoryTier tier(2);
  tier.put(1);
  tier.put(2);
  CHECK(tier.use(1));
  tier.put(3);
  CHECK(tier.holds(1));
  CHECK_FALSE(tier.holds(2));
  CHECK(tier.holds(3));
  CHECK(tier.size() == 2);
  CHECK_FALSE(tier.use(2));
}

TEST_CASE("percentiles are values that so many others do not exceed") {
  const Times values{5s, 1s, 4s, 2s, 3s};
  CHECK(percentile(values, 0.5) == 3s);
  CHECK(percentile(values, 0.2) == 1s);
  CHECK(percentile(values, 0.99) == 5s);
  CHECK(mean_seconds(values) == Approx(3));
}

TEST_CASE("acts of one time come in the order in which they were put") {
  EventQueue events;
  std::vector<int> order;
  events.put(2s, [&] { order.push_back(3); });
  events.put(1s, [&] { order.push_back(1); });
  events.put(1s, [&] { order.push_back(2); });
  while (events.next() != kNever) events.take()();
  CHECK(order == std::vector<int>{1, 2, 3});
}
