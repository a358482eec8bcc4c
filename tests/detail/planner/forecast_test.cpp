// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/forecast.hpp"

#include "catch.hpp"
#include "planner_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a forecast follows compute and loads to the end of the run") {
  const detail::RunSnapshot run = snapshot_of(prompt_of("11111111", {16e-3}));
  detail::Assignment assignment;
  const detail::Forecast found = detail::forecast(run, {3, 1, false}, assignment);
  CHECK(found.compute_done == Approx(48e-3));
  CHECK(found.loads_done == Approx(80e-3));
  CHECK(found.finish == Approx(88e-3));
  CHECK(assignment.owner[2] == detail::kCompute);
  CHECK(assignment.owner[3] == 0);
  CHECK(assignment.lands[7] == Approx(16e-3));
  CHECK(assignment.lands[3] == Approx(80e-3));
}

TEST_CASE("a forecast depends on nothing but its arguments") {
  const detail::RunSnapshot run = snapshot_of(prompt_of("3132013", {16e-3, 5e-3}, 64), true);
  detail::Assignment fresh;
  const detail::Forecast first = detail::forecast(run, {2, 3, true}, fresh);
  detail::Assignment used;
  used.owner.assign(100, 0);
  detail::forecast(run, {7, 1, false}, used);
  const detail::Forecast again = detail::forecast(run, {2, 3, true}, used);
  CHECK(again.finish == first.finish);
  REQUIRE(used.size() == fresh.size());
  for (std::size_t i = 0; i < used.size(); ++i) {
    CHECK(used.owner[i] == fresh.owner[i]);
    CHECK(used.lands[i] == fresh.lands[i]);
  }
}

TEST_CASE("without lanes every chunk is compute's, and the last pass takes the suffix along") {
  const ComputeCost cost{50e-3, 1e-3, 0};
  const detail::RunSnapshot run = snapshot_of(prompt_of("11", {1e-3}), false, cost);
  detail::Assignment assignment;
  CHECK(detail::forecast(run, {0, 0, false}, assignment).finish == Approx(50e-3 + 40e-3));
}

TEST_CASE("scarce chunks first leaves the others to the other lane") {
  // Lane 1 alone holds chunk 0; both hold chunk 1, which is read first.
  const detail::RunSnapshot run = snapshot_of(prompt_of("23", {5e-3, 4e-3}));
  detail::Assignment assignment;
  CHECK(detail::forecast(run, {0, 3, false}, assignment).loads_done == Approx(8e-3));
  CHECK(detail::forecast(run, {0, 3, true}, assignment).loads_done == Approx(5e-3));
  CHECK(assignment.owner[1] == 0);
}

TEST_CASE(
    "a pass behind loads begins when the layer that it needs first and that comes late is there") {
  detail::RunSnapshot run = snapshot_of(prompt_of("1111", {16e-3}, 64), true);
  detail::Assignment assignment;
  const detail::Forecast early = detail::forecast(run, {0, 1, false}, assignment);
  const float all = run.chunks[0].all_bytes;
  run.gate_needs = {{4, all, std::vector<float>(4, 0.75F * all)}};
  const detail::Forecast late = detail::forecast(run, {0, 1, false}, assignment);
  REQUIRE(early.slice_layers != 0);
  // The first chunk comes whole; the pass of 64 ms begins behind the first slices of the three others,
  const double slice = 16e-3 * (8192 + 4096) / (8192 + 4 * 4096 + 4096);
  CHECK(early.finish == Approx(16e-3 + 3 * slice + 64e-3));
  // or behind three quarters of them.
  CHECK(late.finish == Approx(16e-3 + 0.75 * 48e-3 + 64e-3));
}

TEST_CASE("what the front lacks is read before the chunks, where compute begins with it") {
  detail::RunSnapshot run = snapshot_of(prompt_of("1111", {16e-3}));
  run.partial = true;
  run.front = 16;
  run.begin_from = 16;  // the context ends at 0: windows are read for it
  run.begin_at = 10e-3;
  run.begin_loads[0] = 10e-3;
  run.chunks.erase(run.chunks.begin());
  detail::Assignment assignment;
  CHECK(detail::forecast(run, {1, 1, false}, assignment).loads_done == Approx(42e-3));
  CHECK(detail::forecast(run, {0, 1, false}, assignment).loads_done == Approx(48e-3));
}
