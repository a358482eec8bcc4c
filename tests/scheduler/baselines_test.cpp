// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/baselines.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("compute only never loads") {
  OwnClaims claims(Prompt("1111"));
  ComputeOnlyScheduler scheduler;
  scheduler.begin(claims.board().plan());
  CHECK_FALSE(scheduler.next_load(claims.board(), 0, Time{0}));
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{0, 64});
}

TEST_CASE("load only computes holes, and the suffix after the last load") {
  OwnClaims claims(Prompt("0101"));
  LoadOnlyScheduler scheduler;
  scheduler.begin(claims.board().plan());
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{0, 16});
  CHECK(scheduler.next_load(claims.board(), 0, Time{0})->slice.chunk == 1);
  claims.land(claims.load(1));
  claims.land(claims.load(3));
  claims.step(0, 16);
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{32, 48});
  claims.step(32, 48);
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{64, 72});
}

TEST_CASE("a fixed split computes its share and loads the rest") {
  OwnClaims claims(Prompt("1111"));
  FixedSplitScheduler scheduler(0.5);
  scheduler.begin(claims.board().plan());
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{0, 32});
  CHECK(scheduler.next_load(claims.board(), 0, Time{0})->slice.chunk == 3);
  claims.load(3);
  CHECK(scheduler.next_load(claims.board(), 0, Time{0})->slice.chunk == 2);
  claims.load(2);
  CHECK_FALSE(scheduler.next_load(claims.board(), 0, Time{0}));
}

TEST_CASE("the published schedule goes from both ends, and no step runs into the suffix") {
  OwnClaims claims(Prompt("111"));
  PublishedScheduler scheduler;
  scheduler.begin(claims.board().plan());
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{0, 48});
  CHECK(scheduler.next_load(claims.board(), 0, Time{0})->slice.chunk == 2);
  claims.load(2);
  CHECK(scheduler.next_step(claims.board(), 64, Time{0}).tokens == TokenRange{0, 32});
}
