// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/link_estimator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "catch.hpp"

using namespace cake;
using namespace std::chrono_literals;

TEST_CASE("reads are served one after the other, the latency is waited once each") {
  LinkEstimator lane({1e6, 1ms, 0ms});
  lane.issue(1, 0, 1000, 0ms);
  lane.issue(2, 1, 1000, 0ms);
  CHECK(lane.in_flight()[0].lands == 2ms);
  CHECK(lane.in_flight()[1].lands == 3ms);
  CHECK(lane.bytes_in_flight() == 2000);
  CHECK(lane.ready_at(1000, 0ms) == 4ms);
  CHECK(lane.drained_at(0ms) == 3ms);
}

TEST_CASE("a steady link with the right prior keeps its rate") {
  LinkEstimator lane({1e6, 1ms, 0ms});
  Time now{0};
  for (std::uint64_t i = 0; i < 20; ++i) {
    lane.issue(i, 0, 5000, now);
    now += 6ms;
    lane.landed(i, true, now);
  }
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(1e-6));
  CHECK(lane.rate().latency == 1ms);
}

TEST_CASE("a link that had nothing to carry between two reads is not thought to be slow") {
  LinkEstimator lane({1e6, 10ms, 0ms});
  for (std::uint64_t i = 0; i < 2; ++i) lane.issue(i, 0, 1000, 0ms);
  lane.landed(0, true, 11ms);
  // The second one passed the link at 2 ms; what comes now has it to itself from 11 ms on.
  for (std::uint64_t i = 2; i < 4; ++i) lane.issue(i, 0, 1000, 11ms);
  lane.landed(1, true, 12ms);
  lane.landed(2, true, 22ms);
  lane.landed(3, true, 23ms);
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(1e-6));
  CHECK(lane.rate().latency == 10ms);
}

TEST_CASE("a read that took less than the latency shows that it is shorter") {
  LinkEstimator lane({1e6, 10ms, 0ms});
  lane.issue(0, 0, 1000, 0ms);
  lane.issue(1, 0, 1000, 8ms);
  lane.landed(0, true, 11ms);
  lane.landed(1, true, 14ms);
  CHECK(lane.rate().latency == 6ms);
}

TEST_CASE("a wrong prior is corrected within a few reads") {
  LinkEstimator lane({1e9, 0ms, 0ms});
  Time now{0};
  for (std::uint64_t i = 0; i < 8; ++i) {
    lane.issue(i, 0, 10'000, now);
    now += 10ms;  // really 1e6 bytes per second
    lane.landed(i, true, now);
  }
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(0.25));
}

TEST_CASE("an overdue read makes the lane look slower the longer it stalls") {
  LinkEstimator lane({1e6, 0ms, 0ms});
  lane.issue(1, 0, 10'000, 0ms);
  CHECK(lane.seconds_per_byte(10ms) == Approx(1e-6));
  CHECK(lane.seconds_per_byte(100ms) == Approx(1e-5));
  CHECK(lane.seconds_per_byte(1s) == Approx(1e-4));
  CHECK(lane.drained_at(100ms) == 200ms);
}

TEST_CASE("a failed read says nothing about the rate") {
  LinkEstimator lane({1e6, 0ms, 0ms});
  lane.issue(1, 0, 1000, 0ms);
  lane.landed(1, false, 1s);
  CHECK(lane.rate().bytes_per_second == 1e6);
  CHECK(lane.bytes_in_flight() == 0);
}

namespace {
/// A lane that has shown 1e6 bytes per second behind 1 ms, with a large read and a small one on it since 0 ms.
LinkEstimator with_large_and_small_read() {
  LinkEstimator lane({1e6, 1ms, 0ms, 2, 0, false, LinkEstimate::kSure});
  lane.issue(10, 1, 100'000, 0ms);
  lane.issue(11, 2, 1000, 0ms);
  return lane;
}
}  // namespace

TEST_CASE("a read is not charged with the time of a failed one before it") {
  for (const Time failed : {Time(0ms), Time(50ms), Time(101ms), Time(200ms)}) {
    LinkEstimator lane = with_large_and_small_read();
    lane.landed(10, false, failed);
    lane.landed(11, true, std::max(Time(2ms), failed + 1ms));
    CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(1e-6));
    CHECK(lane.rate().latency == 1ms);
  }
}

TEST_CASE("a read that was served beside a failed one is not thought to have taken no time") {
  LinkEstimator lane = with_large_and_small_read();
  lane.landed(10, false, 101ms);
  lane.landed(11, true, 101ms);
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(1e-6));
}

TEST_CASE("a read behind a failed one tells what both together cannot have taken") {
  LinkEstimator slower = with_large_and_small_read();
  slower.landed(10, false, 101ms);
  slower.landed(11, true, 104ms);
  CHECK(slower.rate().bytes_per_second < 0.98e6);
  LinkEstimator faster({1e6, 0ms, 0ms, 2, 0, false, LinkEstimate::kSure});
  faster.issue(1, 0, 1000, 0ms);
  faster.issue(2, 1, 100'000, 0ms);
  faster.landed(1, false, 1ms);
  faster.landed(2, true, 20ms);
  CHECK(faster.rate().bytes_per_second > 1.1e6);
}

TEST_CASE("a read stalls no longer than since the one before it failed") {
  LinkEstimator lane = with_large_and_small_read();
  lane.landed(10, false, 200ms);
  CHECK(lane.seconds_per_byte(260ms) == Approx(60e-6));
}

TEST_CASE("a read that fails before older ones says nothing about them") {
  LinkEstimator lane = with_large_and_small_read();
  lane.landed(11, false, 90ms);
  CHECK(lane.seconds_per_byte(260ms) == Approx(2.6e-6));
  lane.landed(10, true, 101ms);
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(1e-6));
}

TEST_CASE(
    "a read that fails or is given up delays none before it, and those behind it come earlier") {
  for (const bool in_time : {false, true}) {
    LinkEstimator lane({1e6, 1ms, 0ms});
    lane.issue(1, 0, 10'000, 0ms);
    lane.issue(2, 1, 2000, 0ms);
    lane.issue(3, 2, 1000, 0ms);
    if (in_time) {
      lane.given_up(2, 5ms);
    } else {
      lane.landed(2, false, 5ms);
    }
    REQUIRE(lane.in_flight().size() == 2);
    CHECK(lane.in_flight()[0].lands == 11ms);
    CHECK(lane.in_flight()[1].lands == 12ms);
    CHECK(lane.ready_at(1000, 5ms) == 13ms);
    lane.landed(3, false, 6ms);
    CHECK(lane.in_flight()[0].lands == 11ms);
    CHECK(lane.ready_at(1000, 6ms) == 12ms);
  }
}

TEST_CASE("the reads behind an oldest one that fails have the link from then on") {
  LinkEstimator lane({1e6, 1ms, 0ms});
  lane.issue(1, 0, 10'000, 0ms);
  lane.issue(2, 1, 2000, 0ms);
  lane.landed(1, false, 5ms);
  CHECK(lane.in_flight()[0].lands == 7ms);
}

TEST_CASE("a read that lands before older ones has held them up") {
  LinkEstimator lane({1e6, 1ms, 0ms, 2, 0, false, LinkEstimate::kSure});
  lane.issue(1, 0, 10'000, 0ms);
  lane.issue(2, 1, 2000, 0ms);
  lane.landed(2, true, 3ms);
  CHECK(to_seconds(lane.in_flight()[0].lands) == Approx(13e-3));
}

TEST_CASE("a guess is forgotten with the first read that lands") {
  for (const double guess : {1e3, 1e6, 1e9, 1e12}) {
    LinkEstimator lane({guess, 0ms, 0ms});
    CHECK_FALSE(lane.measured());
    lane.issue(1, 0, 10'000, 0ms);
    CHECK(lane.rate().measured == 0);
    lane.landed(1, true, 10ms);
    CHECK(lane.measured());
    CHECK(lane.rate().measured == 1);
    CHECK(lane.rate().bytes_per_second == Approx(1e6));
  }
}

TEST_CASE(
    "a read that was given up tells that the lane was no faster than bytes in flight over its "
    "age") {
  LinkEstimator lane({1e9, 0ms, 0ms});
  lane.issue(1, 0, 3'000'000, 0ms);
  lane.issue(2, 1, 3'000'000, 0ms);
  lane.given_up(1, 600ms);
  CHECK(lane.rate().bytes_per_second == Approx(1e7));
  CHECK(lane.rate().measured == 0);  // a limit, which nobody measured
  CHECK(lane.measured());            // but something is known
  CHECK(lane.bytes_in_flight() == 3'000'000);
  lane.given_up(2, 600ms);
  CHECK(lane.rate().bytes_per_second <= 1e7);
  CHECK(lane.in_flight().empty());
}

TEST_CASE("a read that is given up in time tells nothing") {
  LinkEstimator lane({1e6, 0ms, 0ms});
  lane.issue(1, 0, 10'000, 0ms);
  lane.given_up(1, 5ms);
  CHECK_FALSE(lane.measured());
  CHECK(lane.rate().bytes_per_second == 1e6);
  CHECK(lane.in_flight().empty());
}

TEST_CASE("what was measured comes back when a read was given up and the next one is as before") {
  for (const double after : {1e6, 5e3}) {  // the stall was once; the lane has become that slow
    LinkEstimator lane({1e6, 0ms, 0ms});
    Time now{0};
    const auto read = [&](double rate) {
      lane.issue(7, 0, 10'000, now);
      now += from_seconds(10'000 / rate);
      lane.landed(7, true, now);
    };
    for (int i = 0; i < 10; ++i) read(1e6);
    lane.issue(8, 0, 10'000, now);
    lane.given_up(8, now += 2s);
    CHECK(lane.rate().bytes_per_second < 0.2e6);
    read(after);
    read(after);
    CHECK(lane.rate().bytes_per_second == Approx(after).epsilon(0.3));
  }
}

TEST_CASE("one stalled or one cached read does not throw the rate off, two of a kind do") {
  for (const double factor : {0.001, 30.0, 1000.0}) {
    for (const std::uint32_t depth : {1u, 2u, 8u}) {
      CAPTURE(factor, depth);
      LinkEstimate prior{1e6, 0ms, 0ms, depth};
      prior.measured = LinkEstimate::kSure;
      LinkEstimator lane(prior);
      Time now{0};
      const auto read = [&](double times) {
        lane.issue(7, 0, 10'000, now);
        now += from_seconds(10'000 / 1e6 * times);
        lane.landed(7, true, now);
      };
      for (int i = 0; i < 10; ++i) read(1);
      read(factor);
      CHECK(lane.rate().bytes_per_second < 2e6);
      CHECK(lane.rate().bytes_per_second > 0.15e6);
      for (std::uint32_t i = 0; i < 4 + 4 * depth; ++i) read(1);
      CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(0.5));
      for (std::uint32_t i = 0; i < 8 + 8 * depth; ++i) read(factor);
      CHECK(lane.rate().bytes_per_second > 0.25e6 / factor);
      CHECK(lane.rate().bytes_per_second < 4e6 / factor);
    }
  }
}

TEST_CASE("one read that was late, or one slow insert, is no latency") {
  LinkEstimator lane({1e6, 1ms, 1ms});
  for (int prompt = 0; prompt < 6; ++prompt) {
    Time now = 100s * (prompt + 1);
    for (std::uint64_t i = 0; i < 8; ++i) lane.issue(i, 0, 10'000, now);
    now += prompt == 3 ? Time(5s) : Time(1ms);
    for (std::uint64_t i = 0; i < 8; ++i) {
      lane.landed(i, true, now += 10ms);
      lane.inserted(prompt == 4 && i == 3 ? Time(5s) : Time(1ms), 10'000);
    }
    CHECK(lane.rate().latency < 20ms);
    CHECK(lane.rate().insert < 20ms);
  }
}

TEST_CASE("a latency that was guessed too long is corrected by a single read") {
  LinkEstimator lane({1e6, 10s, 0ms});
  lane.issue(1, 0, 10'000, 0ms);
  lane.landed(1, true, 12ms);
  CHECK(lane.rate().latency <= 12ms);
}

TEST_CASE("a stalled read among others that land does not make the lane look slow") {
  LinkEstimator lane({1e6, 0ms, 0ms});
  lane.issue(1, 0, 10'000, 0ms);  // hangs
  Time now{0};
  for (std::uint64_t i = 2; i < 50; ++i) {
    lane.issue(i, 0, 10'000, now);
    lane.landed(i, true, now += 10ms);
    CHECK(lane.seconds_per_byte(now + 1ms) < 3e-6);
  }
  lane.given_up(1, now + 1ms);
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(0.1));
}

TEST_CASE("a session that measured nothing leaves what others have learned") {
  LinkEstimate known{5e7, 3ms, 1ms};
  known.measured = 9;
  LinkEstimator idle(LinkEstimate{1e9, 0ms, 0ms});
  LinkEstimate next = idle.learned(known, 1s);
  CHECK(next.unused == 1);
  next.unused = 0;
  CHECK(next == known);
  CHECK(idle.learned(idle.learned(known, 1s), 1s).unused == 2);
}

TEST_CASE("two sessions that ran at once both count, by the reads that each has seen") {
  const LinkEstimate prior{1e9, 0ms, 0ms};
  const auto session = [&](int reads, Time each) {
    LinkEstimator lane(prior);
    Time now{0};
    for (int i = 0; i < reads; ++i) {
      lane.issue(1, 0, 10'000, now);
      lane.landed(1, true, now += each);
    }
    return lane;
  };
  const LinkEstimate first = session(9, 10ms).learned(prior, 1s);
  CHECK(first.bytes_per_second == Approx(1e6));
  const LinkEstimate both = session(3, 20ms).learned(first, 1s);
  CHECK(both.bytes_per_second > 0.75e6);
  CHECK(both.bytes_per_second < 0.99e6);
  CHECK(both.measured >= 9);
  // One that only gave up does not deny what the other one measured meanwhile.
  LinkEstimator stalled(prior);
  stalled.issue(1, 0, 10'000, 0ms);
  CHECK(stalled.learned(first, 5s).bytes_per_second == first.bytes_per_second);
  CHECK(stalled.learned(prior, 5s).bytes_per_second == Approx(2e3));
}

TEST_CASE("no value that a lane's rate may be given is too much for arithmetic") {
  const double inf = std::numeric_limits<double>::infinity();
  for (const double rate : {0.0, -1.0, 1e-300, 1e-4, 1e300, inf, -inf, std::nan("")}) {
    for (const Time latency : {Time{0}, Time(-5), kNever, Time::min()}) {
      for (const std::uint32_t depth : {0u, 1u, ~0u}) {
        LinkEstimator lane({rate, latency, latency, depth, rate, true});
        CHECK(lane.rate().bytes_per_second >= 1);
        CHECK(lane.rate().depth >= 1);
        Time now(1000);
        for (std::uint64_t i = 0; i < 40; ++i) {
          lane.issue(i, 0, i % 3 == 0 ? ~0ull / 64 : 4096, now);
          CHECK(lane.ready_at(1e18, now) >= now);
          CHECK(lane.resident_at(lane.in_flight().back(), now) >= now);
          CHECK(lane.seconds_per_byte(now) > 0);
          now += 1ms;
          if (i % 2 == 0) lane.landed(i, i % 4 == 0, now);
          if (i % 8 == 1) lane.given_up(i, now);
          lane.inserted(i % 2 == 0 ? kNever : Time::min(), i % 3 == 0 ? ~0ull : 0);
        }
        const LinkEstimate learned = lane.learned({rate, latency}, now);
        CHECK(learned.bytes_per_second >= 1);
        CHECK(std::isfinite(learned.bytes_per_second));
      }
    }
  }
}

TEST_CASE("a read gets the time that is known to be enough, and much more while nothing is known") {
  CHECK(read_deadline(1s, 500ms, 1.0, LinkEstimate::kSure) == 2500ms);
  CHECK(read_deadline(1s, 500ms, 1.0, 0) == 33s);
  CHECK(read_deadline(1s, 500ms, 100.0, 0) == 101500ms);
  for (std::uint32_t reads = 0; reads < 20; ++reads) {
    CHECK(read_deadline(0s, 500ms, 0, reads + 1) <= read_deadline(0s, 500ms, 0, reads));
    for (const double allowed :
         {-1.0, 1e300, std::numeric_limits<double>::infinity(), std::nan("")}) {
      for (const Time floor : {Time{0}, Time(-1), kNever}) {
        CHECK(read_deadline(5s, floor, allowed, reads) >= 5s);
        CHECK(read_deadline(5s, floor, allowed, reads) <= 5s + kLongestRead);
      }
    }
  }
}

TEST_CASE("the time of inserts is learned") {
  LinkEstimator lane({1e6, 0ms, 0ms});
  for (int i = 0; i < 40; ++i) lane.inserted(4ms, 10'000);
  CHECK(to_seconds(lane.rate().insert) == Approx(4e-3).epsilon(0.01));
}

TEST_CASE("of an insert it is learned what each one takes, and what its bytes do") {
  LinkEstimator lane({1e9, 0ms, 0ms});
  lane.set_noise(Time(2'000'000), 32'000'000);
  const auto took = [](std::uint64_t bytes) {
    return Time(100'000) + from_seconds(static_cast<double>(bytes) * 20e-12);
  };
  // Whole chunks alone: what a small one will take is not thought to be as much.
  for (int i = 0; i < 20; ++i) lane.inserted(took(32'000'000), 32'000'000);
  CHECK(to_seconds(lane.insert_of(32e6)) == Approx(740e-6).epsilon(0.02));
  CHECK(lane.insert_of(1e6) < Time(200'000));
  for (int i = 0; i < 40; ++i) lane.inserted(took(1'000'000), 1'000'000);
  CHECK(to_seconds(lane.insert_of(1e6)) == Approx(120e-6).epsilon(0.05));
  CHECK(to_seconds(lane.insert_of(32e6)) == Approx(740e-6).epsilon(0.2));
  for (int i = 0; i < 200; ++i) {
    const std::uint64_t bytes = i % 2 == 0 ? 32'000'000 : 1'000'000;
    lane.inserted(took(bytes), bytes);
  }
  CHECK(to_seconds(lane.rate().insert) == Approx(100e-6).epsilon(0.1));
  CHECK(lane.rate().insert_per_byte == Approx(20e-12).epsilon(0.1));
}

TEST_CASE("reads that wait for memory to be made say nothing of their lane") {
  LinkEstimate prior{1e9, Time{100'000}, Time{0}};
  prior.measured = LinkEstimate::kSure;
  LinkEstimator lane(prior);
  Time now{0};
  for (std::uint64_t i = 0; i < 4; ++i) lane.issue(i, 0, 1'000'000, now);
  for (std::uint64_t i = 0; i < 4; ++i) lane.held_up(i);
  for (std::uint64_t i = 0; i < 4; ++i) {  // eight milliseconds for each, one after the other
    lane.begun(i, now += Time(8'000'000));
    CHECK(lane.in_flight().front().load == i);
    CHECK(lane.in_flight().front().lands == now + Time(1'100'000));
    lane.landed(i, true, now += Time(1'100'000));
  }
  CHECK(lane.in_flight().empty());
  CHECK(lane.rate().bytes_per_second == Approx(1e9).epsilon(0.02));
  CHECK(lane.rate().latency <= Time(110'000));
  CHECK(lane.rate().measured == LinkEstimate::kSure);
  // One that is given up meanwhile neither.
  lane.issue(5, 0, 1'000'000, now);
  lane.held_up(5);
  lane.given_up(5, now += Time(5'000'000'000));
  CHECK(lane.rate().bytes_per_second == Approx(1e9).epsilon(0.02));
  // One that is on the link is not disturbed by another one that waits.
  lane.issue(6, 0, 1'000'000, now);
  lane.issue(7, 0, 1'000'000, now);
  lane.held_up(7);
  lane.landed(6, true, now += Time(1'100'000));
  lane.begun(7, now += Time(8'000'000));
  lane.landed(7, true, now += Time(1'100'000));
  CHECK(lane.rate().bytes_per_second == Approx(1e9).epsilon(0.02));
  lane.begun(9, now);  // that nobody knows
  CHECK(lane.in_flight().empty());
}

TEST_CASE("first reads that are late because their threads were not run are no latency") {
  LinkEstimate prior{1e9, Time{100'000}, Time{0}};
  prior.measured = LinkEstimate::kSure;
  for (const bool noisy : {false, true}) {
    LinkEstimate known = prior;
    for (int prompt = 0; prompt < 8; ++prompt) {  // of four prompts three are late
      LinkEstimator lane(known);
      if (noisy) lane.set_noise(Time(2'000'000), 1'000'000);
      Time now{0};
      for (int burst = 0; burst < 2; ++burst) {
        for (std::uint64_t i = 0; i < 8; ++i) lane.issue(i, 0, 1'000'000, now);
        now += Time(prompt % 4 == 0 ? 100'000 : 1'100'000);
        for (std::uint64_t i = 0; i < 8; ++i) lane.landed(i, true, now += Time(1'000'000));
        now += Time(5'000'000);
      }
      known = lane.rate();
    }
    CHECK((known.latency < Time(800'000)) == noisy);
  }
}

namespace {

/// Keeps as many reads in flight as the lane wants; each takes `took`, or the link serves one at a
/// time.
LinkEstimate served(bool side_by_side, int reads, const LinkEstimate& prior = {1e6, 0ms, 0ms}) {
  LinkEstimator lane(prior);
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
    LinkEstimate rate{1e6, 0ms, 0ms};
    for (int prompt = 0; prompt < 8; ++prompt) rate = served(side_by_side, 40, rate);
    CHECK(rate.depth == (side_by_side ? 16 : 2));
    CHECK(rate.settled);
  }
}

TEST_CASE("the right number of reads at once is looked for again on a lane that has changed") {
  const LinkEstimate plain = served(false, 40);
  REQUIRE(plain.settled);
  CHECK(served(true, 1000, plain).depth == 16);
  CHECK(served(false, 1000, plain).depth == 2);
}

TEST_CASE("what the first read takes beyond its bytes is the latency, once the rate is known") {
  LinkEstimator lane({1e9, 0ms, 0ms});  // really 1e6 bytes per second after 30 ms
  for (int prompt = 0; prompt < 6; ++prompt) {
    Time now = 1s * (prompt + 1);
    for (std::uint64_t i = 0; i < 8; ++i) lane.issue(i, 0, 10'000, now);
    now += 30ms;
    for (std::uint64_t i = 0; i < 8; ++i) lane.landed(i, true, now += 10ms);
  }
  CHECK(lane.rate().bytes_per_second == Approx(1e6).epsilon(0.05));
  CHECK(to_seconds(lane.rate().latency) == Approx(0.030).epsilon(0.1));
}

TEST_CASE("a small read that is late by as much as a thread may be says nothing of its lane") {
  LinkEstimate prior{1e9, Time{0}, Time{0}};
  prior.measured = LinkEstimate::kSure;
  for (const bool noisy : {false, true}) {
    LinkEstimator lane(prior);
    if (noisy) lane.set_noise(Time(2'000'000), 32'000'000);
    Time now{0};
    for (std::uint64_t read = 1; read <= 40; ++read) {  // a megabyte in a millisecond each
      lane.issue(read, 0, 1'000'000, now);
      now += Time(read == 30 ? 2'500'000 : 1'000'000);
      if (read == 30) CHECK((lane.slowdown(now) > 1) == !noisy);
      lane.landed(read, true, now);
      if (read == 30) CHECK((lane.rate().bytes_per_second > 0.9e9) == noisy);
    }
    CHECK(lane.rate().bytes_per_second > 0.9e9);
  }
}

TEST_CASE("small reads that land at once after a stall do not make a lane fast") {
  LinkEstimate prior{1e9, Time{0}, Time{0}};
  prior.measured = LinkEstimate::kSure;
  LinkEstimator lane(prior);
  lane.set_noise(Time(2'000'000), 32'000'000);
  for (std::uint64_t read = 1; read <= 8; ++read) lane.issue(read, 0, 1'000'000, Time{0});
  lane.landed(1, true, Time(7'900'000));
  for (std::uint64_t read = 2; read <= 8; ++read) lane.landed(read, true, Time(8'000'000));
  CHECK(lane.rate().bytes_per_second == Approx(1e9).epsilon(0.25));
}

TEST_CASE("a lane that is late by more than a thread may be looks slower, whatever its reads") {
  LinkEstimate prior{1e9, Time{0}, Time{0}};
  prior.measured = LinkEstimate::kSure;
  LinkEstimator lane(prior);
  lane.set_noise(Time(2'000'000), 32'000'000);
  lane.issue(1, 0, 1'000'000, Time{0});
  CHECK(lane.slowdown(Time(2'900'000)) == 1);
  CHECK(lane.slowdown(Time(30'000'000)) == Approx(30));
}

namespace {

/// Prompts that read by turns, one read each on the way, over one link that carries `rate` bytes a second.
/// Each is told what was carried for the others.
std::vector<LinkEstimator> share_a_link(std::size_t prompts, double rate, const LinkEstimate& prior,
                                        int rounds) {
  constexpr std::uint64_t kBytes = 1'000'000;
  std::vector<LinkEstimator> all(prompts, LinkEstimator(prior));
  std::vector<std::uint64_t> own(prompts, 0);
  std::uint64_t carried = 0;
  Time now{0};
  for (std::size_t p = 0; p < prompts; ++p) all[p].issue(1, 0, kBytes, now);
  for (int round = 1; round <= rounds; ++round) {
    for (std::size_t p = 0; p < prompts; ++p) {
      now += from_seconds(static_cast<double>(kBytes) / rate);
      carried += kBytes;
      own[p] += kBytes;
      all[p].set_carried_for_others(carried - own[p]);
      all[p].landed(static_cast<std::uint64_t>(round), true, now);
      all[p].issue(static_cast<std::uint64_t>(round) + 1, 0, kBytes, now);
    }
  }
  return all;
}

}  // namespace

TEST_CASE(
    "a prompt's rate is what it gets of a shared lane, and what it teaches is the whole lane's") {
  for (const double prior : {0.3e9, 1e9, 3e9}) {
    LinkEstimate known{prior, Time{0}, Time{0}};
    known.measured = prior == 1e9 ? LinkEstimate::kSure : 0;
    for (const std::size_t prompts : {2u, 4u, 8u}) {
      const auto all = share_a_link(prompts, 1e9, known, 40);
      LinkEstimate taught = known;
      for (const LinkEstimator& lane : all) {
        CHECK(lane.rate().bytes_per_second ==
              Approx(1e9 / static_cast<double>(prompts)).epsilon(0.1));
        taught = lane.learned(taught, Time{0});
      }
      CHECK(taught.bytes_per_second == Approx(1e9).epsilon(0.1));
    }
  }
}

TEST_CASE("a lane that has become slower is taught as slower, also by prompts that share it") {
  LinkEstimate known{1e9, Time{0}, Time{0}};
  known.measured = LinkEstimate::kSure;
  for (const LinkEstimator& lane : share_a_link(4, 0.25e9, known, 40)) {
    known = lane.learned(known, Time{0});
  }
  CHECK(known.bytes_per_second == Approx(0.25e9).epsilon(0.15));
}

TEST_CASE("a prompt that has a lane alone teaches what it did before lanes were shared") {
  LinkEstimator lane({1e9, 1ms, 0ms});
  LinkEstimator told = lane;
  Time now{0};
  for (std::uint64_t i = 1; i <= 20; ++i) {
    lane.issue(i, 0, 1'000'000 * (i % 3 + 1), now);
    told.issue(i, 0, 1'000'000 * (i % 3 + 1), now);
    now += Time(2'300'000);
    told.set_carried_for_others(0);
    lane.landed(i, true, now);
    told.landed(i, true, now);
  }
  CHECK(told.learned({}, now) == lane.learned({}, now));
}

TEST_CASE("what a lane carries for others first delays every read that is not on it yet") {
  LinkEstimator lane({1e6, 0ms, 0ms});
  lane.set_ahead(5000, 10ms);
  CHECK(lane.others_until() == 15ms);
  CHECK(lane.ready_at(1000, 10ms) == 16ms);
  CHECK(lane.ready_at(1000, 20ms) == 21ms);
  lane.issue(1, 0, 2000, 10ms);  // it was given one in between
  CHECK(lane.in_flight()[0].lands == 12ms);
  lane.set_ahead(0, 11ms);
  CHECK(lane.ready_at(1000, 11ms) == 13ms);
}
