// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/claims.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a load that compute took over is dropped before its insert") {
  OwnClaims claims(Prompt("11"));
  const LoadOrder order = claims.load(0);
  claims.step(0, 16);
  CHECK_FALSE(claims.wanted(order.id));
  CHECK_FALSE(claims.begin_insert(order.id, Time(3)));
  CHECK(claims.report(Time(4)).taken_over == 1);
  CHECK(claims.report(Time(4)).failed_loads == 0);
}

TEST_CASE("a deadline drops the read and leaves a hole") {
  OwnClaims claims(Prompt("11"));
  const LoadOrder order = claims.load(1, {0, 4}, 0, Time{0}, Time(100));
  CHECK(claims.next_deadline() == Time(100));
  claims.expire(Time(99));
  CHECK(claims.wanted(order.id));
  claims.expire(Time(100));
  CHECK_FALSE(claims.wanted(order.id));
  CHECK(claims.board().state(1) == ChunkState::hole);
  CHECK_FALSE(claims.begin_insert(order.id, Time(200)));
  CHECK(claims.report(Time(200)).failed_loads == 1);
}

TEST_CASE("a failed slice makes a hole once the running inserts have ended") {
  OwnClaims claims(Prompt("11"));
  claims.land(claims.load(1, {0, 1}));
  const LoadOrder inserting = claims.load(1, {1, 2});
  const LoadOrder failing = claims.load(1, {2, 4});
  REQUIRE(claims.begin_insert(inserting.id, Time(1)));
  claims.failed(failing.id, Errc::io, Time(2));
  CHECK(claims.board().state(1) == ChunkState::inserting);
  CHECK(claims.inserting() == 1);
  claims.inserted(inserting.id, true, Time(3));
  CHECK(claims.board().state(1) == ChunkState::hole);
  CHECK(claims.inserting() == 0);
}

TEST_CASE("a short step gives the rest back") {
  OwnClaims claims(Prompt("111"));
  const Step step = claims.step(0, 48);
  claims.done(step.id, 20, Errc::ok, Time(9));
  CHECK(claims.board().front() == 20);
  CHECK(claims.board().state(0) == ChunkState::resident);
  CHECK(claims.board().state(1) == ChunkState::computing);
  CHECK(claims.board().state(2) == ChunkState::open);
  const Step rest = claims.step(20, 48);
  claims.done(rest.id, 28, Errc::ok, Time(12));
  CHECK(claims.board().state(2) == ChunkState::resident);
}

TEST_CASE("only the newest step may do less than asked") {
  OwnClaims claims(Prompt("111"));
  const Step first = claims.step(0, 16);
  claims.step(16, 32);
  claims.done(first.id, 10, Errc::ok, Time(9));
  CHECK(claims.status() == Errc::invalid_argument);
}

TEST_CASE("a compute error ends the run and drops the reads") {
  OwnClaims claims(Prompt("111"));
  const LoadOrder order = claims.load(2);
  const Step step = claims.step(0, 16);
  claims.done(step.id, 0, Errc::device, Time(9));
  CHECK(claims.over());
  CHECK_FALSE(claims.wanted(order.id));
  CHECK(claims.report(Time(9)).status.code() == Errc::device);
}

TEST_CASE("cancelling lets inserts end and nothing else begin") {
  OwnClaims claims(Prompt("111"));
  const LoadOrder inserting = claims.load(2);
  const LoadOrder reading = claims.load(1);
  REQUIRE(claims.begin_insert(inserting.id, Time(1)));
  claims.cancel();
  CHECK(claims.status() == Errc::canceled);
  CHECK(claims.inserting() == 1);
  CHECK_FALSE(claims.begin_insert(reading.id, Time(2)));
  claims.inserted(inserting.id, true, Time(3));
  CHECK(claims.inserting() == 0);
}

TEST_CASE("a gated step that waits for nobody frees its chunks at once when every lane is down") {
  OwnClaims claims(Prompt("1"));
  const Step step = claims.step(16, 24, true);
  claims.expire(Time(1));
  CHECK(claims.gate(step.id, 0) == GateState::shut);
  claims.set_lane_down(0, true);
  claims.expire(Time(2));
  CHECK(claims.gate(step.id, 0) == GateState::voided);
  CHECK(claims.board().state(0) == ChunkState::hole);
}

TEST_CASE("a step that was issued behind another has the device once that one has ended") {
  OwnClaims claims(Prompt("1111"));
  const Step first = claims.step(0, 16);
  claims.step(16, 48);
  CHECK(claims.board().running()[1].begins == claims.board().running()[1].issued);
  claims.done(first.id, 16, Errc::ok, Time(70));
  REQUIRE(claims.board().running().size() == 1);
  CHECK(claims.board().running()[0].begins == Time(70));
}

TEST_CASE("a read that was dropped counts on its lane until it has ended") {
  OwnClaims claims(Prompt("111"));
  const LoadOrder dropped = claims.load(1);
  claims.step(0, 32);  // takes chunk 1 over
  const LoadOrder next = claims.load(2);
  CHECK(claims.board().lane(0).in_flight().size() == 2);
  CHECK_FALSE(claims.failed(dropped.id, Errc::io, Time(1)));
  REQUIRE(claims.board().lane(0).in_flight().size() == 1);
  CHECK(claims.board().lane(0).in_flight().front().load == next.id);
}

TEST_CASE("the next deadline is that of the read that is due first") {
  OwnClaims claims(Prompt("111"));
  claims.load(2, {0, 4}, 0, Time{0}, Time(50));
  claims.load(1, {0, 4}, 0, Time{0}, Time(20));
  claims.load(0, {0, 4}, 0, Time{0}, Time(40));
  CHECK(claims.next_deadline() == Time(20));
  claims.expire(Time(20));
  CHECK(claims.next_deadline() == Time(40));
}
