// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/schedule.hpp"

#include "cake/detail/planner/search.hpp"
#include "cake/detail/planner/snapshot.hpp"
#include "catch.hpp"
#include "planner_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

/// A schedule, and the run that it was made for.
struct Planned {
  explicit Planned(const Prompt& p) : prompt(p), state(p), compute(kCost) {
    detail::RunSnapshot run;
    detail::take_snapshot(state.view(), {compute, 64, 0}, Time{0}, run);
    schedule = detail::search(run);
  }
  bool drifted(double share = 0.03, double step = 64, detail::LaneMask without = 0) const {
    return detail::drift(schedule.assumptions, state.view(), {compute, step, without}, now, share);
  }
  Prompt prompt;
  OwnState state;
  ComputeCostEstimator compute;
  detail::Schedule schedule;
  Time now{0};
};

}  // namespace

TEST_CASE("a queue gives whole chunks in order, and passes over those that cannot be read") {
  OwnState state(Prompt("1111"));
  detail::LaneQueue queue;
  queue.whole = {3, 2, 1};
  CHECK(queue.next_whole(state.view(), 0).chunk == 3);
  CHECK(queue.next_whole(state.view(), 0).chunk == 3);  // as long as nobody reads it
  state.load(3);
  state.step(0, 48);  // compute took chunk 2
  CHECK(queue.next_whole(state.view(), 0).layers.empty());
}

TEST_CASE("a queue gives the lowest layers of the layered chunks first") {
  OwnState state(Prompt("11"));
  const auto one = static_cast<double>(state.view().spec().layer_bytes);
  detail::LaneQueue queue;
  queue.layered = {1, 0};
  const detail::ChunkLayers first = queue.next_layered(state.view(), 0, 2 * one);
  CHECK(first.chunk == 1);
  CHECK(first.layers == LayerRange{0, 2});
  state.land(state.load(1, {0, 2}));
  const detail::ChunkLayers second = queue.next_layered(state.view(), 0, 2 * one);
  CHECK(second.chunk == 0);
  CHECK(second.layers == LayerRange{0, 2});
  state.load(0, {0, 2});  // its tables are not there yet
  const detail::ChunkLayers third = queue.next_layered(state.view(), 0, 2 * one + 1);
  CHECK(third.chunk == 1);
  CHECK(third.layers == LayerRange{2, 4});
}

TEST_CASE(
    "what the model needs first is read first, also where other layers lie before it in the "
    "objects") {
  const WindowedPrompt windowed;
  const Prompt& prompt = windowed.prompt;
  OwnState state(prompt);
  detail::LaneQueue queue;
  queue.layered = {1, 0};
  CHECK(queue.next_layered(state.view(), 0, 1).chunk == 1);
  state.land(state.load(1, {0, 1}));
  const detail::ChunkLayers second = queue.next_layered(state.view(), 0, 1);
  CHECK(second.chunk == 1);
  CHECK(second.layers == LayerRange{1, 2});
  state.land(state.load(1, {1, 4}));
  CHECK(queue.next_layered(state.view(), 0, 1).chunk == 0);
}

TEST_CASE("a slice takes more layers where they are small") {
  PrefillSpec spec;
  spec.n_layers = 4;
  spec.layer_bytes = 100;
  CHECK(detail::worthwhile_layers(spec, 0, 0) == 1);
  CHECK(detail::worthwhile_layers(spec, 1, 200) == 2);
  CHECK(detail::worthwhile_layers(spec, 1, 1e9) == 3);
  const std::vector<std::uint64_t> begins = {0, 10, 20, 200, 400};
  spec.layer_begins = begins;
  CHECK(detail::worthwhile_layers(spec, 0, 10) == 1);
  CHECK(detail::worthwhile_layers(spec, 0, 100) == 3);
  CHECK(detail::worthwhile_layers(spec, 2, 100) == 1);
  CHECK(detail::worthwhile_layers(spec, 0, 1e9) == 4);
}

TEST_CASE("a schedule that was reset gives compute everything and lanes nothing") {
  Planned planned(prompt_of("1111", {1e-4}));
  CHECK_FALSE(planned.schedule.queues[0].empty());
  planned.schedule.reset(planned.prompt.spec);
  CHECK(planned.schedule.queues[0].empty());
  CHECK(planned.schedule.owner == std::vector<std::uint8_t>(4, detail::kCompute));
}

TEST_CASE("a schedule holds while things are as it assumed") {
  Planned planned(prompt_of("1111", {16e-3}));
  CHECK_FALSE(planned.drifted());
  CHECK_FALSE(planned.drifted(0.005));
}

TEST_CASE(
    "a lost chunk, another step size and a lane that is left out are drift whatever the share") {
  Planned planned(prompt_of("1111", {16e-3}));
  CHECK(planned.drifted(1e9, 32));
  CHECK_FALSE(planned.drifted(1e9, 60));
  CHECK(planned.drifted(1e9, 64, 1));
  planned.state.failed(planned.state.load(3).id, Errc::io, Time(1));
  CHECK(planned.drifted(1e9));
}

TEST_CASE("a lane that is left out counts as up again once it reads") {
  Planned planned(prompt_of("1111", {16e-3}));
  planned.state.load(3);
  CHECK_FALSE(planned.drifted(0.03, 64, 1));
}

TEST_CASE("a stalled lane is drift") {
  Planned planned(prompt_of("1111", {16e-3}));
  planned.state.load(3);
  planned.now = from_seconds(16e-3);
  CHECK_FALSE(planned.drifted());
  planned.now = from_seconds(32e-3);
  CHECK(planned.drifted());
  CHECK_FALSE(planned.drifted(10));
}

TEST_CASE("passes that cost more than assumed are drift") {
  Planned planned(prompt_of("1111", {16e-3}));
  planned.compute.observe({0, 64}, 64e-3);
  CHECK_FALSE(planned.drifted());
  for (std::uint32_t i = 0; i < 4; ++i) planned.compute.observe({64 * i, 64 * i + 64}, 80e-3);
  CHECK(planned.drifted());
  CHECK_FALSE(planned.drifted(0.5));
}
