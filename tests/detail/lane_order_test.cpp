// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/lane_order.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "catch.hpp"

using namespace cake;
using namespace std::chrono_literals;
using detail::LaneDemand;
using detail::LaneLoad;

namespace {

constexpr std::uint64_t kRead = 100;

/// A lane of 1000 bytes a second.
LaneLoad lane_of(const std::vector<LaneDemand>& prompts) {
  LaneLoad lane{1000, kRead, 0};
  for (const LaneDemand& p : prompts) lane.all_left += p.left;
  return lane;
}

std::size_t first(const std::vector<LaneDemand>& prompts, Time now = Time{0}) {
  const auto found = first_in_order(prompts, lane_of(prompts), now);
  REQUIRE(found.has_value());
  return *found;
}

LaneDemand demand(std::uint64_t arrival, std::uint64_t left, Time load_by = kNever) {
  return {arrival, left, left, 0, load_by};
}

/// Serves reads in the order until all is loaded; `later` may add a prompt with each read. Returns what
/// each prompt of the beginning waited behind later ones, in bytes.
template <class Later>
std::vector<std::uint64_t> serve(std::vector<LaneDemand> prompts, Later&& later) {
  const std::size_t n = prompts.size();
  std::vector<std::uint64_t> waited(n, 0);
  for (int reads = 0; reads < 100'000; ++reads) {
    later(prompts, reads);
    std::vector<LaneDemand> left;
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (prompts[i].left == 0) continue;
      left.push_back(prompts[i]);
      which.push_back(i);
    }
    if (left.empty()) return waited;
    LaneDemand& served = prompts[which[first(left, Time{0})]];
    const std::uint64_t bytes = std::min(served.left, kRead);
    served.left -= bytes;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (prompts[i].left == 0 || prompts[i].arrival >= served.arrival) continue;
      prompts[i].overtaken += bytes;
      if (i < n) waited[i] += bytes;
    }
  }
  FAIL("the prompts never end");
  return waited;
}

}  // namespace

TEST_CASE("the prompt with the least left to load goes first, and of two the one that came first") {
  CHECK(first({demand(1, 900), demand(2, 400), demand(3, 500)}) == 1);
  CHECK(first({demand(2, 400), demand(1, 400)}) == 1);
  CHECK_FALSE(detail::first_in_order({}, {}, Time{0}).has_value());
}

TEST_CASE("a prompt that was passed over for four times its own time goes first") {
  std::vector<LaneDemand> prompts{demand(1, 1000), demand(2, 400)};
  prompts[0].overtaken = 3900;
  CHECK(first(prompts) == 1);
  prompts[0].overtaken = 3901;  // with one more read it would be more than 4000
  CHECK(first(prompts) == 0);
  // Of several the one that came first, whatever is left of it.
  prompts.push_back({3, 10, 10, 5000});
  CHECK(first(prompts) == 0);
}

TEST_CASE("no prompt waits longer behind later ones than four times its own time alone") {
  for (const std::uint64_t size : {100ull, 700ull, 5000ull}) {
    std::uint64_t arrival = 1000;
    // Smaller prompts come as fast as the lane serves them, so that the least left never ends.
    const auto waited =
        serve({demand(1, size), demand(2, 3 * size)}, [&](auto& prompts, int reads) {
          if (reads < 2000) prompts.push_back(demand(++arrival, 100));
        });
    CHECK(waited[0] <= 4 * size);
    CHECK(waited[1] <= 4 * 3 * size);
    CHECK(waited[1] > 3 * 3 * size);  // and so long it was passed over
  }
}

TEST_CASE("a target at stake goes first, the earliest latest start before others") {
  // 2000 bytes of others take 2 s: a prompt that has to begin within 1.5 s cannot wait for them.
  CHECK(first({demand(1, 2000), demand(2, 3000, 4500ms)}) == 1);
  // One that can wait for all others is in no hurry.
  CHECK(first({demand(1, 2000), demand(2, 3000, 5100ms)}) == 0);
  CHECK(first({demand(1, 1000, 2500ms), demand(2, 1000, 1900ms), demand(3, 500)}) == 1);
  CHECK(first({demand(1, 1000, 1700ms), demand(2, 1000, 1900ms), demand(3, 500)}) == 0);
}

TEST_CASE("a target that cannot be met any more takes nothing from others") {
  const std::vector<LaneDemand> prompts{demand(1, 500), demand(2, 1000, 1200ms)};
  CHECK(first(prompts, 0ms) == 1);
  CHECK(first(prompts, 200ms) == 1);
  CHECK(first(prompts, 201ms) == 0);
}

TEST_CASE("a prompt that has waited long goes before a target at stake") {
  std::vector<LaneDemand> prompts{demand(1, 1000), demand(2, 1000, 1500ms)};
  CHECK(first(prompts) == 1);
  prompts[0].overtaken = 4000;
  CHECK(first(prompts) == 0);
}

TEST_CASE("what is in the background is behind all others, in the order of arrival") {
  std::vector<LaneDemand> prompts{demand(1, 100), demand(2, 50), demand(3, 900)};
  prompts[0].background = prompts[1].background = true;
  prompts[0].overtaken = 1'000'000;  // nobody ages there
  CHECK(first(prompts) == 2);
  CHECK(detail::bytes_ahead(prompts, 2, lane_of(prompts), Time{0}) == 0);
  CHECK(detail::bytes_ahead(prompts, 1, lane_of(prompts), Time{0}) == 1000);
  prompts.pop_back();
  CHECK(first(prompts) == 0);
}

TEST_CASE("a prompt is asked if it may have a read, and it is known whether others go before it") {
  const std::vector<LaneDemand> prompts{demand(1, 900), demand(2, 400), demand(3, 0)};
  const auto asked = [&](std::vector<bool> asks) {
    return next_to_ask(prompts, lane_of(prompts), Time{0}, [&](std::size_t i) { return asks[i]; });
  };
  CHECK(asked({true, true, false}).first == 1u);
  CHECK_FALSE(asked({true, true, false}).others_before);
  CHECK(asked({true, false, false}).first == 0u);
  CHECK(asked({true, false, false}).others_before);  // it has more to load, and nothing just now
  CHECK(asked({true, false, true}).first == 2u);
  CHECK_FALSE(asked({false, false, false}).first);
  CHECK_FALSE(asked({false, false, false}).others_before);
  CHECK(asked({false, true, false}).first ==
        1u);  // the last one, which wants nothing, is in nobody's way
  CHECK_FALSE(asked({false, true, false}).others_before);
}

TEST_CASE("reads keep a lane busy when they are as many as it needs, and cover its latency") {
  LinkEstimate lane{1000, 100ms, Time{0}};  // 100 bytes of latency
  lane.depth = 2;
  CHECK(detail::keeps_busy({2, 350, 100}, lane));
  CHECK_FALSE(detail::keeps_busy({2, 349, 100}, lane));
  CHECK_FALSE(detail::keeps_busy({1, 10'000, 100}, lane));
  CHECK(detail::keeps_busy({2, 200, 0}, lane));
  CHECK_FALSE(detail::keeps_busy({}, lane));
}

TEST_CASE("what goes ahead of a prompt is what is left of those before it") {
  const std::vector<LaneDemand> prompts{demand(1, 900), demand(2, 400), demand(3, 500)};
  const LaneLoad lane = lane_of(prompts);
  CHECK(detail::bytes_ahead(prompts, 0, lane, Time{0}) == 900);
  CHECK(detail::bytes_ahead(prompts, 1, lane, Time{0}) == 0);
  CHECK(detail::bytes_ahead(prompts, 2, lane, Time{0}) == 400);
}
