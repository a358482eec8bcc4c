// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/search.hpp"

#include <algorithm>

#include "catch.hpp"
#include "planner_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {
detail::Schedule best(const Prompt& prompt, bool gated = false, const ComputeCost& cost = kCost) {
  return detail::search(snapshot_of(prompt, gated, cost));
}
}  // namespace

TEST_CASE("compute and loads meet where both end at once") {
  const detail::Schedule schedule = best(prompt_of("11111111", {16e-3}));
  CHECK(schedule.candidate.meet == 4);
  CHECK(schedule.meet_token == 64);
  CHECK(schedule.forecast.compute_done == Approx(64e-3));
  CHECK(schedule.forecast.loads_done == Approx(64e-3));
  CHECK(schedule.forecast.finish == Approx(72e-3));
}

TEST_CASE("a link that is too slow is not used at all") {
  const detail::Schedule schedule = best(prompt_of("1111", {1.0}));
  CHECK(schedule.forecast.finish == Approx(72e-3));
  CHECK(schedule.owner == std::vector<std::uint8_t>(4, detail::kCompute));
  CHECK(schedule.queues[0].empty());
}

TEST_CASE("a link that is much faster loads everything") {
  const detail::Schedule schedule = best(prompt_of("1111", {1e-4}));
  CHECK(schedule.candidate.meet == 0);
  CHECK(schedule.forecast.finish == Approx(4e-4 + 8e-3));
}

TEST_CASE("lanes share by their speed") {
  const detail::Schedule schedule = best(prompt_of("333333", {1e-3, 2e-3}));
  CHECK(std::count(schedule.owner.begin(), schedule.owner.end(), 0) == 4);
  CHECK(schedule.forecast.loads_done == Approx(4e-3));
}

TEST_CASE("a chunk that only a slow lane holds is computed, and waits for what lies below it") {
  const detail::Schedule schedule = best(prompt_of("1121", {1e-3, 10.0}));
  CHECK(schedule.owner[2] == detail::kCompute);
  CHECK(schedule.forecast.finish == Approx(2e-3 + 16e-3 + 8e-3));
}

TEST_CASE("a hole waits for the segment below it, which is loaded first") {
  const detail::Schedule schedule = best(prompt_of("110111", {4e-3}));
  CHECK(schedule.queues[0].whole == std::vector<std::uint32_t>{1, 0, 5, 4, 3});
  CHECK(schedule.forecast.finish == Approx(8e-3 + 16e-3 + 8e-3));
}

TEST_CASE("a gated suffix hides all but one layer of the last loads") {
  const Prompt prompt = prompt_of("11", {4e-3}, 64);
  const detail::Schedule plain = best(prompt, false);
  const detail::Schedule gated = best(prompt, true);
  CHECK(plain.forecast.finish == Approx(8e-3 + 64e-3));
  CHECK(gated.forecast.slice_layers == 1);
  CHECK(gated.queues[0].layered == std::vector<std::uint32_t>{1, 0});
  // Both first slices: the header and one of four layers.
  CHECK(gated.forecast.finish == Approx(2 * 4e-3 * (8192 + 4096) / (8192 + 5 * 4096) + 64e-3));
}

TEST_CASE("computing everything takes the suffix along in the last pass") {
  const ComputeCost cost{50e-3, 1e-3, 0};
  CHECK(best(prompt_of("11", {1.0}), false, cost).forecast.finish == Approx(50e-3 + 40e-3));
}

TEST_CASE("nothing that was planned before is left in a schedule") {
  detail::Assignment scratch;
  detail::Schedule schedule;
  detail::search(snapshot_of(prompt_of("333333333", {1e-3, 2e-3}, 64), true), scratch, schedule);
  detail::search(snapshot_of(prompt_of("1111", {1.0})), scratch, schedule);
  CHECK(schedule.owner == std::vector<std::uint8_t>(4, detail::kCompute));
  REQUIRE(schedule.queues.size() == 1);
  CHECK(schedule.queues[0].empty());
  CHECK(schedule.forecast.slice_layers == 0);
  CHECK(schedule.meet_token == 64);
}
