// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/snapshot.hpp"

#include "catch.hpp"
#include "planner_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("compute is free when the steps that were handed out end, the second after the first") {
  OwnState state(prompt_of("11111111", {16e-3}));
  const Step first = state.step(0, 32);
  state.step(32, 64);
  CHECK(snapshot_of(state.view()).compute_free_at == Approx(64e-3));
  state.done(first.id, 32, Errc::ok, from_seconds(40e-3));  // slower than it should have been
  CHECK(snapshot_of(state.view(), kCost, from_seconds(41e-3)).compute_free_at == Approx(72e-3));
}

TEST_CASE("only layers of a chunk that were not asked for are still to be read") {
  const Prompt prompt = prompt_of("11", {16e-3});
  OwnState state(prompt);
  state.land(state.load(1, {0, 3}));
  const detail::RunSnapshot run = snapshot_of(state.view());
  REQUIRE(run.chunks.size() == 2);
  const auto left = static_cast<double>(prompt.spec.read_bytes({3, 4}));
  CHECK(static_cast<double>(run.chunks[1].bytes) == Approx(left));
  CHECK(run.chunks[1].begun);
}

TEST_CASE("chunks that are resident or claimed by a step are not left") {
  OwnState state(prompt_of("1111", {16e-3}));
  state.step(0, 16);
  state.land(state.load(3));
  const detail::RunSnapshot run = snapshot_of(state.view());
  REQUIRE(run.chunks.size() == 2);
  CHECK(run.chunks[0].chunk == 1);
  CHECK(run.chunks[1].chunk == 2);
}

TEST_CASE(
    "a chunk that is being inserted cannot be computed, and comes when its read is resident") {
  OwnState state(prompt_of("11", {16e-3}));
  const detail::ReadTicket ticket = state.load(1);
  const detail::RunSnapshot reading = snapshot_of(state.view());
  CHECK(reading.chunks[1].computable);
  CHECK(reading.chunks[1].coming == Approx(16e-3));
  state.begin_insert(ticket.id, from_seconds(16e-3));
  CHECK_FALSE(snapshot_of(state.view(), kCost, from_seconds(16e-3)).chunks[1].computable);
}

TEST_CASE("the rest of a chunk is not read before the slice with its tables has landed") {
  OwnState state(prompt_of("13", {16e-3, 16e-3}));
  const detail::ReadTicket first = state.load(1, {0, 2});
  const detail::RunSnapshot reading = snapshot_of(state.view());
  CHECK(reading.chunks[1].coming > 1e-3);
  CHECK(reading.chunks[1].rest_from == reading.chunks[1].coming);
  CHECK(reading.chunks[0].rest_from == 0);
  state.land(first);
  CHECK(snapshot_of(state.view()).chunks[1].rest_from == 0);
}

TEST_CASE("a lane that is left out is not up") {
  const OwnState state(prompt_of("33", {16e-3, 16e-3}));
  CHECK(snapshot_of(state.view()).up == 3);
  CHECK(snapshot_of(state.view(), kCost, Time{0}, 2).up == 1);
}

TEST_CASE("sets of tiers come small ones first, each once") {
  const detail::RunSnapshot run = snapshot_of(prompt_of("313021", {16e-3, 16e-3}));
  CHECK(run.tier_sets == std::vector<std::uint8_t>{1, 2, 3});
}

TEST_CASE("the pass that loads may hide takes no more tokens than the engine wants behind a gate") {
  Prompt prompt("11", 40);
  prompt.spec.max_overlap_tokens = 10;
  const ComputeCost cost{5e-3, 1e-3, 0};
  const detail::RunSnapshot run = snapshot_of(prompt, true, cost);
  CHECK(run.first_pass_s == Approx(15e-3));
  CHECK(run.suffix_s == Approx(45e-3));  // in one pass, where nothing is hidden
  CHECK(run.split_suffix_s == Approx(50e-3));
}

TEST_CASE("a snapshot as if the gated step were void has its tokens, and compute is free") {
  OwnState state(Prompt("11", 40));
  state.load(0, {0, 1});
  state.load(1, {0, 1});
  state.step(32, 72, true);
  const ComputeCostEstimator cost(ComputeCost{5e-3, 1e-3, 0});
  detail::RunSnapshot run;
  detail::take_snapshot(state.view(), {cost}, Time{0}, run);
  CHECK(run.compute_free_at == Approx(45e-3));
  CHECK(run.suffix_begin == 72);
  detail::PlanBasis as_if{cost};
  as_if.without_gated = true;
  as_if.step_tokens = 64;
  detail::take_snapshot(state.view(), as_if, Time{0}, run);
  CHECK(run.compute_free_at == 0);
  CHECK(run.suffix_begin == 32);
  CHECK(run.suffix_s == Approx(45e-3));
}

TEST_CASE(
    "layers that lie late in objects but early in the model are known to hold a gated pass up") {
  const WindowedPrompt windowed;
  const Prompt& prompt = windowed.prompt;
  const detail::RunSnapshot run = snapshot_of(prompt, true);
  const auto first = [&](std::uint32_t layers) {
    return static_cast<float>(prompt.spec.read_bytes({0, layers}));
  };
  REQUIRE(run.chunks.size() == 2);
  CHECK(run.gate_needs.at(run.chunks[1].needs).bytes ==
        std::vector<float>{first(3), first(3), first(4), first(4)});
  // The windows begin behind the first chunk.
  CHECK(run.gate_needs.at(run.chunks[0].needs).bytes ==
        std::vector<float>{0, first(1), first(1), first(2)});
  CHECK(snapshot_of(prompt).gate_needs.empty());  // no gates
  CHECK(snapshot_of(Prompt("11", 40), true).gate_needs.empty());
}

TEST_CASE("a wide pass hides loads with the whole suffix, at the cost of its micro-batches") {
  Prompt prompt("11", 150);
  prompt.spec.wide_gated_steps = true;
  const ComputeCost cost{5e-3, 1e-3, 0};
  CHECK(snapshot_of(prompt, true, cost).first_pass_s == Approx(165e-3));  // 64 + 64 + 22 tokens
  CHECK(snapshot_of(prompt, true, cost).split_suffix_s == Approx(165e-3));
  prompt.spec.max_overlap_tokens = 100;
  const detail::RunSnapshot run = snapshot_of(prompt, true, cost);
  CHECK(run.first_pass_s == Approx(110e-3));
  CHECK(run.split_suffix_s == Approx(165e-3));  // 50 tokens come behind it
}

TEST_CASE("compute is free when a wide step ends, however many micro-batches it has") {
  Prompt prompt("1", 150);
  prompt.spec.wide_gated_steps = true;
  const ComputeCost cost{5e-3, 1e-3, 0};
  OwnState state(prompt);
  state.step(16, 166, true);
  CHECK(snapshot_of(state.view(), cost).compute_free_at == Approx(165e-3));
}

TEST_CASE("a slice is the shorter the more reads its lane carries out at once") {
  const LinkEstimate lane{1e9, Time(80'000), Time(20'000)};
  CHECK(detail::worthwhile_slice_bytes(lane, 0) == Approx(200e3));  // two latencies
  CHECK(detail::worthwhile_slice_bytes(lane, 1) == Approx(200e3));
  CHECK(detail::worthwhile_slice_bytes(lane, 2) == Approx(200e3));
  CHECK(detail::worthwhile_slice_bytes(lane, 9) == Approx(25e3));
}
