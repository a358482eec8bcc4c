// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/outlook.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

constexpr ComputeCost kCost{0, 1e-3, 0};  // 16 ms for a chunk

/// One chunk takes `chunk_s` seconds on each lane.
Prompt prompt_of(const std::string& tiers, std::vector<double> chunk_s, std::uint32_t suffix = 8) {
  Prompt prompt(tiers, suffix, static_cast<std::uint32_t>(chunk_s.size()));
  const auto bytes = static_cast<double>(prompt.plan.read_bytes({0, 4}));
  for (std::size_t l = 0; l < chunk_s.size(); ++l) {
    prompt.priors[l] = {bytes / chunk_s[l], Time{0}, Time{0}};
  }
  return prompt;
}

Course best(const Prompt& prompt, bool gated, Outlook& outlook, const ComputeCost& cost = kCost) {
  OwnClaims claims(prompt);
  outlook.look(claims.board(), cost, 64, gated, Time{0});
  return outlook.choose();
}

}  // namespace

TEST_CASE("compute and loads meet where both end at once") {
  Outlook outlook;
  const Course course = best(prompt_of("11111111", {16e-3}), false, outlook);
  CHECK(course.stop == 4);
  CHECK(course.computed == Approx(64e-3));
  CHECK(course.loaded == Approx(64e-3));
  CHECK(course.end == Approx(72e-3));
}

TEST_CASE("a link that is too slow is not used at all") {
  Outlook outlook;
  const Course course = best(prompt_of("1111", {1.0}), false, outlook);
  CHECK(course.end == Approx(72e-3));
  for (const Outlook::Item& item : outlook.items()) CHECK(item.owner == Outlook::kCompute);
}

TEST_CASE("a link that is much faster loads everything") {
  Outlook outlook;
  const Course course = best(prompt_of("1111", {1e-4}), false, outlook);
  CHECK(course.stop == 0);
  CHECK(course.end == Approx(4e-4 + 8e-3));
}

TEST_CASE("lanes share by their speed") {
  Outlook outlook;
  const Course course = best(prompt_of("333333", {1e-3, 2e-3}), false, outlook);
  std::uint32_t first = 0;
  for (const Outlook::Item& item : outlook.items()) first += item.owner == 0;
  CHECK(first == 4);
  CHECK(course.loaded == Approx(4e-3));
}

TEST_CASE("a chunk that only a slow lane holds is computed, and waits for what lies below it") {
  Outlook outlook;
  const Course course = best(prompt_of("1121", {1e-3, 10.0}), false, outlook);
  CHECK(outlook.items()[2].owner == Outlook::kCompute);
  CHECK(course.end == Approx(2e-3 + 16e-3 + 8e-3));
}

TEST_CASE("a hole waits for the segment below it, which is loaded first") {
  Outlook outlook;
  const Course course = best(prompt_of("110111", {4e-3}), false, outlook);
  std::vector<std::uint32_t> order;
  outlook.in_load_order([&](const Outlook::Item& item) { order.push_back(item.chunk); });
  CHECK(order == std::vector<std::uint32_t>{1, 0, 5, 4, 3});
  CHECK(course.end == Approx(8e-3 + 16e-3 + 8e-3));
}

TEST_CASE("a gated suffix hides all but one layer of the last loads") {
  Outlook outlook;
  const Prompt prompt = prompt_of("11", {4e-3}, 64);
  const Course plain = best(prompt, false, outlook);
  const Course gated = best(prompt, true, outlook);
  CHECK(plain.end == Approx(8e-3 + 64e-3));
  CHECK(gated.layers == 1);
  // Both first slices: the header and one of four layers.
  CHECK(gated.end == Approx(2 * 4e-3 * (8192 + 4096) / (8192 + 5 * 4096) + 64e-3));
}

TEST_CASE("computing everything takes the suffix along in the last pass") {
  Outlook outlook;
  const ComputeCost cost{50e-3, 1e-3, 0};
  const Course course = best(prompt_of("11", {1.0}), false, outlook, cost);
  CHECK(course.end == Approx(50e-3 + 40e-3));
}

TEST_CASE("compute is free when the steps that were handed out end, the second after the first") {
  OwnClaims claims(prompt_of("11111111", {16e-3}));
  const Step first = claims.step(0, 32);
  claims.step(32, 64);
  Outlook outlook;
  outlook.look(claims.board(), kCost, 64, false, Time{0});
  CHECK(outlook.compute_free() == Approx(64e-3));
  claims.done(first.id, 32, Errc::ok, from_seconds(40e-3));  // slower than it should have been
  outlook.look(claims.board(), kCost, 64, false, from_seconds(41e-3));
  CHECK(outlook.compute_free() == Approx(72e-3));
}

TEST_CASE("only layers of a chunk that were not asked for are still to be read") {
  const Prompt prompt = prompt_of("11", {16e-3});
  OwnClaims claims(prompt);
  claims.land(claims.load(1, {0, 3}));
  Outlook outlook;
  outlook.look(claims.board(), kCost, 64, false, Time{0});
  outlook.choose();
  REQUIRE(outlook.items().size() == 2);
  const auto left = static_cast<double>(prompt.plan.read_bytes({3, 4}));
  CHECK(static_cast<double>(outlook.items()[1].bytes) == Approx(left));
}
