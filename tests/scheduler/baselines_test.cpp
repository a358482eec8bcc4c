// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/baselines.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("compute only never loads") {
  OwnState state(Prompt("1111"));
  ComputeOnlyScheduler scheduler;
  scheduler.begin(state.view().spec());
  CHECK_FALSE(scheduler.next_load(state.view(), 0, Time{0}));
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{0, 64});
}

TEST_CASE("load only computes holes, and the suffix after the last load") {
  OwnState state(Prompt("0101"));
  LoadOnlyScheduler scheduler;
  scheduler.begin(state.view().spec());
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{0, 16});
  CHECK(scheduler.next_load(state.view(), 0, Time{0})->slice.chunk == 1);
  state.land(state.load(1));
  state.land(state.load(3));
  state.step(0, 16);
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{32, 48});
  state.step(32, 48);
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{64, 72});
}

TEST_CASE("a fixed split computes its share and loads the rest") {
  OwnState state(Prompt("1111"));
  FixedSplitScheduler scheduler(0.5);
  scheduler.begin(state.view().spec());
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{0, 32});
  CHECK(scheduler.next_load(state.view(), 0, Time{0})->slice.chunk == 3);
  state.load(3);
  CHECK(scheduler.next_load(state.view(), 0, Time{0})->slice.chunk == 2);
  state.load(2);
  CHECK_FALSE(scheduler.next_load(state.view(), 0, Time{0}));
}

TEST_CASE("the published schedule goes from both ends, and no step runs into the suffix") {
  OwnState state(Prompt("111"));
  PublishedScheduler scheduler;
  scheduler.begin(state.view().spec());
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{0, 48});
  CHECK(scheduler.next_load(state.view(), 0, Time{0})->slice.chunk == 2);
  state.load(2);
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).tokens == TokenRange{0, 32});
}
