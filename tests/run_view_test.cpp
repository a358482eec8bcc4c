// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler.hpp"
#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a run view starts with open chunks and holes") {
  const OwnState state(Prompt("1011"));
  const RunView& view = state.view();
  CHECK(view.state(0) == ChunkState::open);
  CHECK(view.state(1) == ChunkState::hole);
  CHECK(view.unloadable(1));
  CHECK(view.open_chunks() == 3);
  CHECK(view.holes() == 1);
  CHECK(view.front() == 0);
  CHECK(view.suffix_front() == 64);
  CHECK(view.next_hole(0) == 1);
  CHECK(view.next_hole(2) == 4);
  CHECK(view.next_stored(1) == 2);
}

TEST_CASE("open bytes are summed per set of tiers") {
  const Prompt prompt("1321", 8, 2);
  OwnState state(prompt);
  const std::uint64_t whole = prompt.spec.read_bytes({0, 4});
  const auto bytes = [&](std::uint32_t tiers) -> std::uint64_t {
    const RunView view = state.view();
    for (const OpenBytes& set : view.open_bytes()) {
      if (set.tiers == tiers) return set.bytes;
    }
    return 0;
  };
  CHECK(bytes(1) == 2 * whole);
  CHECK(bytes(2) == whole);
  CHECK(bytes(3) == whole);
  state.load(3, {0, 1});
  CHECK(bytes(1) == whole + prompt.spec.read_bytes({1, 4}));
  state.step(0, 16);
  CHECK(bytes(1) == prompt.spec.read_bytes({1, 4}));
}

TEST_CASE("the front passes what is claimed or resident, in order") {
  OwnState state(Prompt("1111"));
  state.land(state.load(1));
  CHECK(state.view().front() == 0);
  state.step(0, 16);
  CHECK(state.view().front() == 32);
  state.step(32, 40);
  CHECK(state.view().front() == 40);
  CHECK(state.view().state(2) == ChunkState::computing);
}

TEST_CASE("a chunk that the engine holds in part belongs to compute") {
  Prompt prompt("111");
  prompt.spec.resident_tokens = 20;
  const OwnState state(prompt);
  CHECK(state.view().state(0) == ChunkState::resident);
  CHECK(state.view().state(1) == ChunkState::computing);
  CHECK(state.view().front() == 20);
  CHECK(state.view().open_chunks() == 1);
}

TEST_CASE("a load that failed leaves a late hole") {
  OwnState state(Prompt("111"));
  state.failed(state.load(2).id, Errc::corrupt, Time(5));
  CHECK(state.view().state(2) == ChunkState::hole);
  CHECK(state.view().next_hole(0) == 2);
  CHECK(state.view().lost_chunks() == 1);
}
