// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/lane_model.hpp"

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
