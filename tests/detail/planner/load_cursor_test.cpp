// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/load_cursor.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {
/// The order in which a lane would take all chunks.
std::vector<std::uint32_t> order(const Prompt& prompt, LaneId lane, std::uint32_t first) {
  OwnState state(prompt);
  detail::LoadCursor cursor;
  cursor.begin(state.view().spec());
  std::vector<std::uint32_t> chunks;
  while (const auto chunk = cursor.next(state.view(), lane, first)) {
    REQUIRE(cursor.next(state.view(), lane, first) == chunk);  // it stays the next one
    chunks.push_back(*chunk);
    state.load(*chunk, {0, 4}, lane);
  }
  return chunks;
}
using Chunks = std::vector<std::uint32_t>;
}  // namespace

TEST_CASE("without holes loads go from the last chunk to the first") {
  CHECK(order(Prompt("1111"), 0, 0) == Chunks{3, 2, 1, 0});
}
TEST_CASE("with holes the segment before the first hole comes first, from its back") {
  CHECK(order(Prompt("110111011"), 0, 0) == Chunks{1, 0, 5, 4, 3, 8, 7});
}
TEST_CASE("what lies below the first segment comes last") {
  CHECK(order(Prompt("11011"), 0, 3) == Chunks{4, 3, 1, 0});
}
TEST_CASE("a lane takes only chunks that it holds") {
  CHECK(order(Prompt("1321", 8, 2), 1, 0) == Chunks{2, 1});
}
