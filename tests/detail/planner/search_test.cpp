// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/search.hpp"

#include <algorithm>

#include "catch.hpp"
#include "planner_helpers.hpp"

using namespace cake;
using namespace cake::testing;
using namespace std::chrono_literals;

namespace {
detail::Schedule best(const Prompt& prompt, bool gated = false, const ComputeCost& cost = kCost) {
  return detail::search(snapshot_of(prompt, gated, cost));
}

/// The end by the best of all candidates that there are.
double best_of_all(const detail::RunSnapshot& run) {
  detail::Assignment scratch;
  double least = 1e9;
  const auto n = static_cast<std::uint32_t>(run.chunks.size());
  for (detail::LaneMask lanes = 0; lanes <= run.up; ++lanes) {
    for (detail::LaneMask waits_for = 0; waits_for <= run.up; ++waits_for) {
      for (std::uint32_t meet = 0; meet <= n; ++meet) {
        for (const bool scarce_first : {false, true}) {
          least = std::min(least,
                           forecast(run, {meet, lanes, scarce_first, waits_for}, scratch).finish);
        }
      }
    }
  }
  return least;
}

/// All prompts of up to `most` chunks, by the tiers of each.
template <class F>
void for_each_prompt(std::uint32_t most, std::uint32_t n_tiers, F&& visit) {
  for (std::uint32_t n = 1; n <= most; ++n) {
    for (std::uint32_t bits = 0; bits < 1u << n * n_tiers; ++bits) {
      std::string tiers;
      for (std::uint32_t c = 0; c < n; ++c) {
        tiers += static_cast<char>('0' + (bits >> c * n_tiers & ((1u << n_tiers) - 1)));
      }
      visit(tiers);
    }
  }
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

TEST_CASE("a lane is given no read that it does not end before the session gives it up") {
  Prompt prompt = prompt_of("1111", {16e-3});
  prompt.priors[0].latency = 1ms;
  prompt.spec.read_timeout = 18ms;
  CHECK_FALSE(best(prompt).queues[0].empty());
  prompt.spec.read_timeout = 16ms;
  const detail::Schedule schedule = best(prompt);
  CHECK(schedule.owner == std::vector<std::uint8_t>(4, detail::kCompute));
  CHECK(schedule.forecast.finish == Approx(72e-3));
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

TEST_CASE("compute and loads meet in the middle below a hole, too") {
  const detail::Schedule schedule = best(prompt_of("11111110", {15e-3}));
  CHECK(schedule.candidate.meet == 3);
  CHECK(schedule.forecast.waits == Approx(12e-3));
  CHECK(schedule.forecast.finish == Approx(60e-3 + 24e-3));
}

TEST_CASE("no candidate ends before the one that the search finds, wherever the holes are") {
  for (const double overhead : {0.0, 4e-3, 40e-3}) {
    for (const std::uint32_t suffix : {8u, 100u}) {
      for_each_prompt(6, 1, [&](const std::string& tiers) {
        for (const double load : {0.5e-3, 3e-3, 13e-3, 15e-3, 16e-3, 24e-3, 48e-3, 160e-3}) {
          for (const bool gated : {false, true}) {
            const auto run =
                snapshot_of(prompt_of(tiers, {load}, suffix), gated, {overhead, 1e-3, 0});
            CAPTURE(overhead, suffix, tiers, load, gated);
            REQUIRE(detail::search(run).forecast.finish <= best_of_all(run) * (1 + 1e-9));
          }
        }
      });
    }
  }
}

TEST_CASE("no candidate ends before the one that the search finds on two lanes") {
  for (const double overhead : {0.0, 4e-3, 40e-3}) {
    for_each_prompt(4, 2, [&](const std::string& tiers) {
      for (const double load : {3e-3, 13e-3, 24e-3}) {
        for (const double other : {0.2, 1.0, 8.0}) {
          const auto run =
              snapshot_of(prompt_of(tiers, {load, load * other}), false, {overhead, 1e-3, 0});
          CAPTURE(overhead, tiers, load, other);
          REQUIRE(detail::search(run).forecast.finish <= best_of_all(run) * (1 + 1e-9));
        }
      }
    });
  }
}

TEST_CASE("what a slow lane is reading is taken over when the others bring the rest sooner") {
  OwnState state(prompt_of("111121", {2e-3, 500e-3}));
  state.load(4, {0, 4}, 1);
  const detail::RunSnapshot run = snapshot_of(state.view());
  const detail::Schedule schedule = detail::search(run);
  CHECK((schedule.owner[4] == detail::kCompute));
  CHECK(std::count(schedule.owner.begin(), schedule.owner.end(), 0) == 5);
  CHECK(schedule.forecast.finish == Approx(best_of_all(run)));
}

TEST_CASE("a read that lands nearly as soon as compute would be done is waited for") {
  OwnState state(prompt_of("111121", {2e-3, 25e-3}));
  state.load(4, {0, 4}, 1);
  const detail::Schedule schedule = detail::search(snapshot_of(state.view()));
  CHECK((schedule.owner[4] == detail::kNobody));
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
