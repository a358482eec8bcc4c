// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler.hpp"
#include "cake/types.hpp"
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
  const PrefillSpec spec = testing::Prompt("11").spec;
  CHECK(spec.read_bytes({0, 4}) == 8192 + 4 * 4096 + 4096);
  CHECK(spec.read_bytes({0, 1}) == 8192 + 4096);
  CHECK(spec.read_bytes({1, 3}) == 2 * 4096);
  CHECK(spec.read_bytes({3, 4}) == 4096 + 4096);
  CHECK(spec.read_bytes({0, 1}) + spec.read_bytes({1, 4}) == spec.read_bytes({0, 4}));
}

TEST_CASE("chunks tile the prefix") {
  const PrefillSpec spec = testing::Prompt("101").spec;
  CHECK(spec.prefix_end() == 48);
  CHECK(spec.chunk_range(2) == TokenRange{32, 48});
  CHECK(spec.whole(1) == Slice{1, {16, 32}, {0, 4}});
}

TEST_CASE("a chunk without bytes or without a tier is not stored") {
  CHECK_FALSE(StoredChunk{}.stored());
  CHECK_FALSE(StoredChunk{10, 0}.stored());
  CHECK(StoredChunk{10, 2}.stored());
}

TEST_CASE("a gated step behind all that is stored may be wide, others keep to the budget") {
  PrefillSpec spec = testing::Prompt("101", 100).spec;
  CHECK(spec.gated_step_tokens(48, 20) == 20);
  spec.max_overlap_tokens = 10;
  CHECK(spec.gated_step_tokens(48, 20) == 10);
  spec.wide_gated_steps = true;
  spec.max_overlap_tokens = 80;
  CHECK(spec.gated_step_tokens(48, 20) == 80);
  CHECK(spec.gated_step_tokens(60, 20) == 80);
  CHECK(spec.gated_step_tokens(32, 20) == 20);
}
