// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/gate.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a step begins at the front, or gated behind loads") {
  OwnClaims claims(Prompt("111"));
  CHECK(may_claim(claims.board(), step_of(0, 20)));
  CHECK_FALSE(may_claim(claims.board(), step_of(16, 32)));
  CHECK(may_claim(claims.board(), step_of(48, 56, true)));
  CHECK_FALSE(may_claim(claims.board(), step_of(50, 56, true)));
  CHECK_FALSE(may_claim(claims.board(), step_of(0, 57)));
  CHECK_FALSE(may_claim(claims.board(), step_of(0, 0)));
}

TEST_CASE("a step takes no chunk that is resident or being inserted") {
  OwnClaims claims(Prompt("111"));
  const LoadOrder order = claims.load(1);
  CHECK(may_claim(claims.board(), step_of(0, 32)));  // a take-over
  claims.begin_insert(order.id, Time(1));
  CHECK_FALSE(may_claim(claims.board(), step_of(0, 32)));
  claims.inserted(order.id, true, Time(2));
  CHECK_FALSE(may_claim(claims.board(), step_of(0, 32)));
  CHECK(may_claim(claims.board(), step_of(0, 16)));
}

TEST_CASE("no gated step starts behind a hole") {
  const OwnClaims claims(Prompt("101"));
  CHECK_FALSE(may_claim(claims.board(), step_of(48, 56, true)));
  CHECK(may_claim(claims.board(), step_of(16, 32, true)));
}

TEST_CASE("slices of a chunk come in order, the second after the tables") {
  OwnClaims claims(Prompt("11"));
  const auto slice = [](std::uint32_t chunk, std::uint32_t begin, std::uint32_t end) {
    return Load{{chunk, {chunk * 16, chunk * 16 + 16}, {begin, end}}, kNever};
  };
  CHECK(may_load(claims.board(), slice(1, 0, 2), 0));
  CHECK_FALSE(may_load(claims.board(), slice(1, 1, 2), 0));
  CHECK_FALSE(may_load(claims.board(), slice(2, 0, 2), 0));
  CHECK_FALSE(may_load(claims.board(), slice(1, 0, 5), 0));
  CHECK_FALSE(may_load(claims.board(), slice(1, 0, 2), 1));
  const LoadOrder first = claims.load(1, {0, 2});
  CHECK_FALSE(may_load(claims.board(), slice(1, 2, 4), 0));
  claims.land(first);
  CHECK(may_load(claims.board(), slice(1, 2, 4), 0));
  const LoadOrder second = claims.load(1, {2, 3});
  claims.failed(second.id, Errc::io, Time(1));
  CHECK_FALSE(may_load(claims.board(), slice(1, 3, 4), 0));
}

TEST_CASE("a gate opens layer by layer, when every chunk below has that layer") {
  OwnClaims claims(Prompt("11"));
  const LoadOrder a = claims.load(0, {0, 2});
  const LoadOrder b = claims.load(1, {0, 1});
  const Step step = claims.step(32, 40, true);
  CHECK(claims.gate(step.id, 0) == GateState::shut);
  claims.land(a);
  CHECK(claims.gate(step.id, 0) == GateState::shut);
  claims.land(b);
  CHECK(claims.gate(step.id, 0) == GateState::open);
  CHECK(claims.gate(step.id, 1) == GateState::shut);
  claims.land(claims.load(1, {1, 4}));
  CHECK(claims.gate(step.id, 1) == GateState::open);
  CHECK(claims.gate(step.id, 2) == GateState::shut);
  claims.land(claims.load(0, {2, 4}));
  CHECK(claims.gate(step.id, 3) == GateState::open);
}

TEST_CASE("a gate is void once a chunk below it is lost") {
  OwnClaims claims(Prompt("11"));
  const LoadOrder a = claims.load(0);
  claims.load(1);
  const Step step = claims.step(32, 40, true);
  claims.failed(a.id, Errc::corrupt, Time(1));
  CHECK(claims.gate(step.id, 0) == GateState::voided);
  claims.done(step.id, 0, Errc::superseded, Time(2));
  CHECK(claims.board().front() == 0);
  CHECK(claims.board().suffix_front() == 32);
}
