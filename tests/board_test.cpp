// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/board.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a board starts with open chunks and holes") {
  const OwnClaims claims(Prompt("1011"));
  const Board& board = claims.board();
  CHECK(board.state(0) == ChunkState::open);
  CHECK(board.state(1) == ChunkState::hole);
  CHECK(board.doomed(1));
  CHECK(board.open_chunks() == 3);
  CHECK(board.holes() == 1);
  CHECK(board.front() == 0);
  CHECK(board.suffix_front() == 64);
  CHECK(board.next_hole(0) == 1);
  CHECK(board.next_hole(2) == 4);
  CHECK(board.next_stored(1) == 2);
}

TEST_CASE("open bytes are summed per set of tiers") {
  const Prompt prompt("1321", 8, 2);
  OwnClaims claims(prompt);
  const std::uint64_t whole = prompt.plan.read_bytes({0, 4});
  const auto bytes = [&](std::uint32_t tiers) -> std::uint64_t {
    for (const OpenBytes& set : claims.board().open_bytes()) {
      if (set.tiers == tiers) return set.bytes;
    }
    return 0;
  };
  CHECK(bytes(1) == 2 * whole);
  CHECK(bytes(2) == whole);
  CHECK(bytes(3) == whole);
  claims.load(3, {0, 1});
  CHECK(bytes(1) == whole + prompt.plan.read_bytes({1, 4}));
  claims.step(0, 16);
  CHECK(bytes(1) == prompt.plan.read_bytes({1, 4}));
}

TEST_CASE("the front passes what is claimed or resident, in order") {
  OwnClaims claims(Prompt("1111"));
  claims.land(claims.load(1));
  CHECK(claims.board().front() == 0);
  claims.step(0, 16);
  CHECK(claims.board().front() == 32);
  claims.step(32, 40);
  CHECK(claims.board().front() == 40);
  CHECK(claims.board().state(2) == ChunkState::computing);
}

TEST_CASE("a chunk that the engine holds in part belongs to compute") {
  Prompt prompt("111");
  prompt.plan.resident_tokens = 20;
  const OwnClaims claims(prompt);
  CHECK(claims.board().state(0) == ChunkState::resident);
  CHECK(claims.board().state(1) == ChunkState::computing);
  CHECK(claims.board().front() == 20);
  CHECK(claims.board().open_chunks() == 1);
}

TEST_CASE("a load that failed leaves a late hole") {
  OwnClaims claims(Prompt("111"));
  claims.failed(claims.load(2).id, Errc::corrupt, Time(5));
  CHECK(claims.board().state(2) == ChunkState::hole);
  CHECK(claims.board().next_hole(0) == 2);
  CHECK(claims.board().lost_chunks() == 1);
}
