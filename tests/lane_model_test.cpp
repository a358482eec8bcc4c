// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/lane_model.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "catch.hpp"

using namespace cake;
using namespace std::chrono_literals;

TEST_CASE("reads are served one after the other, the latency is waited once each") {
  LaneModel lane({1e6, 1ms, 0ms});
  lane.issue(1, 0, 1000, 0ms);
  lane.issue(2, 1, 1000, 0ms);
  CHECK(lane.in_flight()[0].lands == 2ms);
  CHECK(lane.in_flight()[1].lands == 3ms);
  CHECK(lane.bytes_in_flight() == 2000);
  CHECK(lane.ready_at(1000, 0ms) == 4ms);
  CHECK(lane.drained_at(0ms) == 3ms);
}

TEST_CASE("a steady link with the right prior keeps its rate") {
  LaneModel lane({1e6, 1ms, 0ms});
  Time now{0};
  for (std::uint64_t i = 0; i < 20; ++i) {
    lane.issue(i, 0, 5000, now);
    now += 6ms;
    lane.landed(i, true, now);
  }
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(1e-6));
  CHECK(lane.rate().latency == 1ms);
}

TEST_CASE("a wrong prior is corrected within a few reads") {
  LaneModel lane({1e9, 0ms, 0ms});
  Time now{0};
  for (std::uint64_t i = 0; i < 8; ++i) {
    lane.issue(i, 0, 10'000, now);
    now += 10ms;  // really 1e6 bytes per second
    lane.landed(i, true, now);
  }
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(0.25));
}

TEST_CASE("an overdue read makes the lane look slower the longer it stalls") {
  LaneModel lane({1e6, 0ms, 0ms});
  lane.issue(1, 0, 10'000, 0ms);
  CHECK(lane.seconds_per_byte(10ms) == Approx(1e-6));
  CHECK(lane.seconds_per_byte(100ms) == Approx(1e-5));
  CHECK(lane.seconds_per_byte(1s) == Approx(1e-4));
  CHECK(lane.drained_at(100ms) == 200ms);
}

TEST_CASE("a failed read says nothing about the rate") {
  LaneModel lane({1e6, 0ms, 0ms});
  lane.issue(1, 0, 1000, 0ms);
  lane.landed(1, false, 1s);
  CHECK(lane.rate().bytes_per_second == 1e6);
  CHECK(lane.bytes_in_flight() == 0);
}

TEST_CASE("the time of inserts is learned") {
  LaneModel lane({1e6, 0ms, 0ms});
  for (int i = 0; i < 40; ++i) lane.inserted(4ms);
  CHECK(seconds(lane.rate().insert) == Approx(4e-3).epsilon(0.01));
}

namespace {

/// Keeps as many reads in flight as the lane wants; each takes `took`, or the link serves one at a
/// time.
LaneRate served(bool side_by_side, int reads, const LaneRate& prior = {1e6, 0ms, 0ms}) {
  LaneModel lane(prior);
  Time now{0};
  std::uint64_t next = 0;
  std::vector<std::pair<Time, std::uint64_t>> ends;
  for (int landed = 0; landed < reads; ++landed) {
    while (lane.in_flight().size() < lane.rate().depth) {
      const Time begin = side_by_side || ends.empty() ? now : std::max(now, ends.back().first);
      ends.emplace_back(begin + 10ms + (side_by_side ? Time(next % 3) : Time{0}), next);
      lane.issue(next++, 0, 10'000, now);
    }
    const auto first = std::min_element(ends.begin(), ends.end());
    now = first->first;
    lane.landed(first->second, true, now);
    ends.erase(first);
  }
  return lane.rate();
}

}  // namespace

TEST_CASE(
    "reads at once become more while that makes the lane faster, and no more on a plain link") {
  CHECK(served(true, 400).depth == 16);
  CHECK(served(true, 400).bytes_per_second == Approx(16e6).epsilon(0.15));
  CHECK(served(false, 400).depth == 2);
  CHECK(served(false, 400).bytes_per_second == Approx(1e6).epsilon(0.01));
}

TEST_CASE("the search for the right number of reads at once goes on with the next prompt") {
  for (const bool side_by_side : {false, true}) {
    LaneRate rate{1e6, 0ms, 0ms};
    for (int prompt = 0; prompt < 8; ++prompt) rate = served(side_by_side, 40, rate);
    CHECK(rate.depth == (side_by_side ? 16 : 2));
    CHECK(rate.settled);
  }
}

TEST_CASE("the right number of reads at once is looked for again on a lane that has changed") {
  const LaneRate plain = served(false, 40);
  REQUIRE(plain.settled);
  CHECK(served(true, 1000, plain).depth == 16);
  CHECK(served(false, 1000, plain).depth == 2);
}

TEST_CASE("what the first read takes beyond its bytes is the latency, once the rate is known") {
  LaneModel lane({1e9, 0ms, 0ms});  // really 1e6 bytes per second after 30 ms
  for (int prompt = 0; prompt < 6; ++prompt) {
    Time now = 1s * (prompt + 1);
    for (std::uint64_t i = 0; i < 8; ++i) lane.issue(i, 0, 10'000, now);
    now += 30ms;
    for (std::uint64_t i = 0; i < 8; ++i) lane.landed(i, true, now += 10ms);
  }
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(0.05));
  CHECK(seconds(lane.rate().latency) == Approx(0.030).epsilon(0.1));
}
