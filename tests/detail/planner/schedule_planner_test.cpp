// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/schedule_planner.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

constexpr ComputeCost kCost{0, 1e-3, 0};  // 16 ms for a chunk

/// One chunk takes `chunk_s` seconds on each lane.
Prompt prompt_of(const std::string& tiers, std::vector<double> chunk_s, std::uint32_t suffix = 8) {
  Prompt prompt(tiers, suffix, static_cast<std::uint32_t>(chunk_s.size()));
  const auto bytes = static_cast<double>(prompt.spec.read_bytes({0, 4}));
  for (std::size_t l = 0; l < chunk_s.size(); ++l) {
    prompt.priors[l] = {bytes / chunk_s[l], Time{0}, Time{0}};
  }
  return prompt;
}

detail::Schedule best(const Prompt& prompt, bool gated, detail::SchedulePlanner& planner,
                      const ComputeCost& cost = kCost) {
  OwnState state(prompt);
  planner.look(state.view(), cost, 64, gated, Time{0});
  return planner.choose();
}

}  // namespace

TEST_CASE("compute and loads meet where both end at once") {
  detail::SchedulePlanner planner;
  const detail::Schedule schedule = best(prompt_of("11111111", {16e-3}), false, planner);
  CHECK(schedule.stop == 4);
  CHECK(schedule.computed == Approx(64e-3));
  CHECK(schedule.loaded == Approx(64e-3));
  CHECK(schedule.end == Approx(72e-3));
}

TEST_CASE("a link that is too slow is not used at all") {
  detail::SchedulePlanner planner;
  const detail::Schedule schedule = best(prompt_of("1111", {1.0}), false, planner);
  CHECK(schedule.end == Approx(72e-3));
  for (const detail::SchedulePlanner::Item& item : planner.items())
    CHECK(item.owner == detail::SchedulePlanner::kCompute);
}

TEST_CASE("a link that is much faster loads everything") {
  detail::SchedulePlanner planner;
  const detail::Schedule schedule = best(prompt_of("1111", {1e-4}), false, planner);
  CHECK(schedule.stop == 0);
  CHECK(schedule.end == Approx(4e-4 + 8e-3));
}

TEST_CASE("lanes share by their speed") {
  detail::SchedulePlanner planner;
  const detail::Schedule schedule = best(prompt_of("333333", {1e-3, 2e-3}), false, planner);
  std::uint32_t first = 0;
  for (const detail::SchedulePlanner::Item& item : planner.items()) first += item.owner == 0;
  CHECK(first == 4);
  CHECK(schedule.loaded == Approx(4e-3));
}

TEST_CASE("a chunk that only a slow lane holds is computed, and waits for what lies below it") {
  detail::SchedulePlanner planner;
  const detail::Schedule schedule = best(prompt_of("1121", {1e-3, 10.0}), false, planner);
  CHECK(planner.items()[2].owner == detail::SchedulePlanner::kCompute);
  CHECK(schedule.end == Approx(2e-3 + 16e-3 + 8e-3));
}

TEST_CASE("a hole waits for the segment below it, which is loaded first") {
  detail::SchedulePlanner planner;
  const detail::Schedule schedule = best(prompt_of("110111", {4e-3}), false, planner);
  std::vector<std::uint32_t> order;
  planner.in_load_order(
      [&](const detail::SchedulePlanner::Item& item) { order.push_back(item.chunk); });
  CHECK(order == std::vector<std::uint32_t>{1, 0, 5, 4, 3});
  CHECK(schedule.end == Approx(8e-3 + 16e-3 + 8e-3));
}

TEST_CASE("a gated suffix hides all but one layer of the last loads") {
  detail::SchedulePlanner planner;
  const Prompt prompt = prompt_of("11", {4e-3}, 64);
  const detail::Schedule plain = best(prompt, false, planner);
  const detail::Schedule gated = best(prompt, true, planner);
  CHECK(plain.end == Approx(8e-3 + 64e-3));
  CHECK(gated.layers == 1);
  // Both first slices: the header and one of four layers.
  CHECK(gated.end == Approx(2 * 4e-3 * (8192 + 4096) / (8192 + 5 * 4096) + 64e-3));
}

TEST_CASE("computing everything takes the suffix along in the last pass") {
  detail::SchedulePlanner planner;
  const ComputeCost cost{50e-3, 1e-3, 0};
  const detail::Schedule schedule = best(prompt_of("11", {1.0}), false, planner, cost);
  CHECK(schedule.end == Approx(50e-3 + 40e-3));
}

TEST_CASE("compute is free when the steps that were handed out end, the second after the first") {
  OwnState state(prompt_of("11111111", {16e-3}));
  const Step first = state.step(0, 32);
  state.step(32, 64);
  detail::SchedulePlanner planner;
  planner.look(state.view(), kCost, 64, false, Time{0});
  CHECK(planner.compute_free() == Approx(64e-3));
  state.done(first.id, 32, Errc::ok, from_seconds(40e-3));  // slower than it should have been
  planner.look(state.view(), kCost, 64, false, from_seconds(41e-3));
  CHECK(planner.compute_free() == Approx(72e-3));
}

TEST_CASE("only layers of a chunk that were not asked for are still to be read") {
  const Prompt prompt = prompt_of("11", {16e-3});
  OwnState state(prompt);
  state.land(state.load(1, {0, 3}));
  detail::SchedulePlanner planner;
  planner.look(state.view(), kCost, 64, false, Time{0});
  planner.choose();
  REQUIRE(planner.items().size() == 2);
  const auto left = static_cast<double>(prompt.spec.read_bytes({3, 4}));
  CHECK(static_cast<double>(planner.items()[1].bytes) == Approx(left));
}
