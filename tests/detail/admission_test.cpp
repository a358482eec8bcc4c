// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/admission.hpp"

#include "cake/detail/layer_gate_state.hpp"
#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a step begins at the front, or gated behind loads") {
  OwnState state(Prompt("111"));
  CHECK(detail::may_compute(state.view(), step_of(0, 20)));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(16, 32)));
  CHECK(detail::may_compute(state.view(), step_of(48, 56, true)));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(50, 56, true)));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(0, 57)));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(0, 0)));
}

TEST_CASE("a step takes no chunk that is resident or being inserted") {
  OwnState state(Prompt("111"));
  const detail::ReadTicket ticket = state.load(1);
  CHECK(detail::may_compute(state.view(), step_of(0, 32)));  // a take-over
  state.begin_insert(ticket.id, Time(1));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(0, 32)));
  state.inserted(ticket.id, true, Time(2));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(0, 32)));
  CHECK(detail::may_compute(state.view(), step_of(0, 16)));
}

TEST_CASE("no gated step starts behind a hole") {
  const OwnState state(Prompt("101"));
  CHECK_FALSE(detail::may_compute(state.view(), step_of(48, 56, true)));
  CHECK(detail::may_compute(state.view(), step_of(16, 32, true)));
}

TEST_CASE("slices of a chunk come in order, the second after the tables") {
  OwnState state(Prompt("11"));
  const auto slice = [](std::uint32_t chunk, std::uint32_t begin, std::uint32_t end) {
    return LoadRequest{{chunk, {chunk * 16, chunk * 16 + 16}, {begin, end}}, kNever};
  };
  CHECK(detail::may_load(state.view(), slice(1, 0, 2), 0));
  CHECK_FALSE(detail::may_load(state.view(), slice(1, 1, 2), 0));
  CHECK_FALSE(detail::may_load(state.view(), slice(2, 0, 2), 0));
  CHECK_FALSE(detail::may_load(state.view(), slice(1, 0, 5), 0));
  CHECK_FALSE(detail::may_load(state.view(), slice(1, 0, 2), 1));
  const detail::ReadTicket first = state.load(1, {0, 2});
  CHECK_FALSE(detail::may_load(state.view(), slice(1, 2, 4), 0));
  state.land(first);
  CHECK(detail::may_load(state.view(), slice(1, 2, 4), 0));
  const detail::ReadTicket second = state.load(1, {2, 3});
  state.failed(second.id, Errc::io, Time(1));
  CHECK_FALSE(detail::may_load(state.view(), slice(1, 3, 4), 0));
}

TEST_CASE("a gate opens layer by layer, when every chunk below has that layer") {
  OwnState state(Prompt("11"));
  const detail::ReadTicket a = state.load(0, {0, 2});
  const detail::ReadTicket b = state.load(1, {0, 1});
  const Step step = state.step(32, 40, true);
  CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::shut);
  state.land(a);
  CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::shut);
  state.land(b);
  CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::open);
  CHECK(state.gate(step.id, 1, Time{0}) == detail::GateAnswer::shut);
  state.land(state.load(1, {1, 4}));
  CHECK(state.gate(step.id, 1, Time{0}) == detail::GateAnswer::open);
  CHECK(state.gate(step.id, 2, Time{0}) == detail::GateAnswer::shut);
  state.land(state.load(0, {2, 4}));
  CHECK(state.gate(step.id, 3, Time{0}) == detail::GateAnswer::open);
}

TEST_CASE("a gate is void once a chunk below it is lost") {
  OwnState state(Prompt("11"));
  const detail::ReadTicket a = state.load(0);
  state.load(1);
  const Step step = state.step(32, 40, true);
  state.failed(a.id, Errc::corrupt, Time(1));
  CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::voided);
  state.done(step.id, 0, Errc::superseded, Time(2));
  CHECK(state.view().front() == 0);
  CHECK(state.view().suffix_front() == 32);
}

TEST_CASE("the next layers of a chunk begin where the last ones that were asked for ended") {
  OwnState state(Prompt("121", 8, 2));
  const auto next = [&](std::uint32_t chunk, std::uint32_t most, LaneId lane = 0) {
    return detail::next_layers(state.view(), lane, chunk, most);
  };
  CHECK(next(0, 4) == LayerRange{0, 4});
  CHECK(next(0, ~0u) == LayerRange{0, 4});
  CHECK(next(0, 0).empty());
  CHECK(next(1, 4).empty());  // another lane's
  CHECK(next(1, 3, 1) == LayerRange{0, 3});
  const detail::ReadTicket first = state.load(0, {0, 1});
  CHECK(next(0, 4).empty());  // its tables are not known
  REQUIRE(state.begin_insert(first.id, Time(1)));
  CHECK(next(0, 2) == LayerRange{1, 3});
  state.failed(state.load(0, {1, 3}).id, Errc::io, Time(2));
  CHECK(next(0, 4).empty());
}

TEST_CASE("a step from the front ends before what is there or is being inserted") {
  OwnState state(Prompt("11111"));
  CHECK(detail::compute_end(state.view(), 200) == 200);
  const detail::ReadTicket ticket = state.load(3);
  CHECK(detail::compute_end(state.view(), 88) == 88);  // a take-over
  REQUIRE(state.begin_insert(ticket.id, Time(1)));
  CHECK(detail::compute_end(state.view(), 88) == 48);
  CHECK(detail::compute_end(state.view(), 20) == 20);
  const Step step = state.step(0, 20);
  CHECK(detail::compute_end(state.view(), 88) == 48);
  state.done(step.id, 20, Errc::ok, Time(2));
  CHECK(detail::compute_end(state.view(), 30) == 30);
}
