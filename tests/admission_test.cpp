// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A token takes a millisecond to compute, and a lane brings a megabyte a second.
#include <chrono>
#include <limits>

#include "cake/queued.hpp"
#include "catch.hpp"

using namespace cake;
using namespace std::chrono_literals;

namespace {

/// 80 of 100 tokens are stored, a kilobyte each: alone they are loaded in 80 ms, or computed in 80. Compute
/// and load meet in the middle, and the suffix takes 20 ms: 60 in all.
PromptNeeds needs() {
  PromptNeeds needs;
  needs.tokens = 100;
  needs.stored_tokens = 80;
  needs.bytes[0] = 80'000;
  needs.read_bytes = 20'000;
  needs.cost = ComputeCost{0, 1e-3, 0};
  return needs;
}
/// The same of a model of which nobody knows what a pass takes: 80 ms of loads.
PromptNeeds loads_alone() {
  PromptNeeds n = needs();
  n.cost.reset();
  return n;
}

LanesState lanes(std::uint64_t in_flight = 0, std::vector<std::uint64_t> left = {}) {
  LanesState state;
  state.lanes = {{{1e6, 0ms, 0ms}, false, in_flight, left}};
  state.staging_bytes = state.free_staging_bytes = 100'000;
  state.prompts = left.empty() && in_flight == 0 ? 0 : 1;
  return state;
}

/// Times in seconds are rounded down to nanoseconds.
bool about(Time a, Time b) { return a - b < 1us && b - a < 1us; }

}  // namespace

TEST_CASE("a prompt that has lanes and device to itself begins now") {
  const Admission answer = admit(needs(), lanes());
  CHECK(answer.now());
  CHECK(about(answer.expected_ttft, 60ms));
  CHECK(about(answer.alone_ttft, 60ms));
  CHECK(answer.ask_again == 0ms);
  CHECK(about(admit(loads_alone(), lanes()).expected_ttft, 80ms));
}

TEST_CASE("a prompt waits for lanes that carry much for others first") {
  const Admission answer = admit(loads_alone(), lanes(1'000'000));
  CHECK(answer.waits_for == WaitsFor::lanes);
  CHECK(about(answer.expected_ttft, 1080ms));
  CHECK(about(answer.alone_ttft, 80ms));
  CHECK(about(answer.ask_again, 320ms));  // four times its time alone, by when it begins anyway
  CHECK(admit(loads_alone(), lanes(319'000)).now());
  CHECK(admit(loads_alone(), lanes(321'000)).waits_for == WaitsFor::lanes);
  CHECK(admit(loads_alone(), lanes(321'000), {.most_ahead = 5}).now());
}

TEST_CASE("what compute does as soon waits for no lane") {
  const Admission answer = admit(needs(), lanes(1'000'000));
  CHECK(answer.now());
  CHECK(about(answer.expected_ttft, 100ms));
}

TEST_CASE("no prompt waits for lanes longer than four times its time alone") {
  PromptNeeds old = loads_alone();
  old.waited = 319ms;
  CHECK_FALSE(admit(old, lanes(9'000'000)).now());
  old.waited = 321ms;
  CHECK(admit(old, lanes(9'000'000)).now());
}

TEST_CASE("prompts that have more left to load do not go first") {
  CHECK(about(admit(loads_alone(), lanes(0, {80'001, 50'000})).expected_ttft, 130ms));
  CHECK(about(admit(loads_alone(), lanes(0, {80'000, 50'000})).expected_ttft, 210ms));
  CHECK(about(admit(loads_alone(), lanes(10'000, {90'000})).expected_ttft, 90ms));
}

TEST_CASE("only lanes that bring something count, and the slowest one") {
  LanesState two = lanes(1'000'000);
  two.lanes.push_back({{1e6, 5ms, 0ms}, false, 20'000, {}});
  PromptNeeds from_second = loads_alone();
  from_second.bytes = {0, 80'000};
  CHECK(about(admit(from_second, two).expected_ttft, 105ms));
  from_second.bytes = {1'000, 80'000};
  CHECK(about(admit(from_second, two).expected_ttft, 1001ms));
}

TEST_CASE("a prompt waits for staging memory that others have") {
  LanesState full = lanes(40'000);
  full.free_staging_bytes = 19'999;
  const Admission answer = admit(needs(), full);
  CHECK(answer.waits_for == WaitsFor::staging_memory);
  CHECK(about(answer.ask_again, 20ms));  // one read
  SECTION("not when there is as much as its read takes") { full.free_staging_bytes = 20'000; }
  SECTION("not when its lane lends") { full.lanes[0].lends = true; }
  SECTION("not when nobody will give any back") {
    full.prompts = 0;
    full.lanes[0].in_flight = 0;
  }
  SECTION("not for more than there is") { full.staging_bytes = full.free_staging_bytes = 10'000; }
  CHECK(admit(needs(), full).now());
}

TEST_CASE("a prompt of which nothing is stored needs no lane") {
  PromptNeeds fresh = needs();
  fresh.stored_tokens = 0;
  fresh.bytes = {};
  LanesState full = lanes(9'000'000);
  full.free_staging_bytes = 0;
  const Admission answer = admit(fresh, full);
  CHECK(answer.now());
  CHECK(about(answer.expected_ttft, 100ms));
}

TEST_CASE("a prompt whose target others endanger is not begun, and one that is lost anyway is") {
  PromptNeeds late = loads_alone();
  late.ttft_target = 150ms;
  const Admission answer = admit(late, lanes(100'000));
  CHECK(answer.waits_for == WaitsFor::ttft_target);
  CHECK(about(answer.ask_again, 30ms));
  late.ttft_target = 181ms;
  CHECK(admit(late, lanes(100'000)).now());
  late.ttft_target = 79ms;
  CHECK(admit(late, lanes(100'000)).now());
  late.ttft_target = 150ms;
  late.waited = 71ms;
  CHECK(admit(late, lanes(100'000)).now());
}

TEST_CASE("a device that is busy delays what it computes, and no loads") {
  PromptNeeds busy = needs();
  busy.device_busy = 100ms;
  const Admission answer = admit(busy, lanes());
  CHECK(about(answer.expected_ttft, 120ms));  // all is loaded meanwhile
  CHECK(about(answer.alone_ttft, 60ms));
  CHECK(answer.now());
  busy.ttft_target = 110ms;
  CHECK(admit(busy, lanes()).waits_for == WaitsFor::ttft_target);
}

TEST_CASE("numbers that mean nothing are no reason to wait for ever") {
  PromptNeeds odd = needs();
  odd.cost = ComputeCost{std::numeric_limits<double>::quiet_NaN(), -1, 0};
  odd.waited = kNever;
  odd.device_busy = -5s;
  odd.max_step_tokens = 0;
  LanesState state = lanes(~std::uint64_t{0}, {~std::uint64_t{0}});
  state.lanes[0].rate.bytes_per_second = 0;
  const Admission answer =
      admit(odd, state, {.most_ahead = std::numeric_limits<double>::quiet_NaN()});
  CHECK(answer.now());
  CHECK(answer.expected_ttft > 0s);
  CHECK(admit({}, {}).now());
}
