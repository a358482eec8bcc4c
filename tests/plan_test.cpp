// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/plan.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;

TEST_CASE("ranges are half open, and empty when they run backwards") {
  CHECK(TokenRange{3, 5}.size() == 2);
  CHECK(TokenRange{5, 3}.size() == 0);
  CHECK(TokenRange{5, 5}.empty());
  CHECK(LayerRange{2, 1}.empty());
}

TEST_CASE("head and foot are read with the first and the last layer") {
  const PrefillPlan plan = testing::Prompt("11").plan;
  CHECK(plan.read_bytes({0, 4}) == 8192 + 4 * 4096 + 4096);
  CHECK(plan.read_bytes({0, 1}) == 8192 + 4096);
  CHECK(plan.read_bytes({1, 3}) == 2 * 4096);
  CHECK(plan.read_bytes({3, 4}) == 4096 + 4096);
  CHECK(plan.read_bytes({0, 1}) + plan.read_bytes({1, 4}) == plan.read_bytes({0, 4}));
}

TEST_CASE("chunks tile the prefix") {
  const PrefillPlan plan = testing::Prompt("101").plan;
  CHECK(plan.prefix_end() == 48);
  CHECK(plan.chunk_range(2) == TokenRange{32, 48});
  CHECK(plan.whole(1) == Slice{1, {16, 32}, {0, 4}});
}

TEST_CASE("a chunk without bytes or without a tier is not stored") {
  CHECK_FALSE(StoredChunk{}.stored());
  CHECK_FALSE(StoredChunk{10, 0}.stored());
  CHECK(StoredChunk{10, 2}.stored());
}
