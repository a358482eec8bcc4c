// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/kv_layout.hpp"

#include "catch.hpp"

using namespace cake;

TEST_CASE("bytes of a layout") {
  const UniformKvLayout layout{32, 8, 128, DType::bf16, KvOrder::nhd};
  CHECK(layout.row_bytes() == 2048);
  CHECK(layout.bytes_per_token() == 131072);
  CHECK(layout.run_bytes(256) == 524288);
  CHECK(UniformKvLayout{1, 1, 1, DType::f32, KvOrder::hnd}.bytes_per_token() == 8);
}

TEST_CASE("a layout without layers, heads or width is not valid") {
  CHECK(UniformKvLayout{1, 1, 1, DType::f16, KvOrder::nhd}.valid());
  CHECK_FALSE(UniformKvLayout{0, 1, 1, DType::f16, KvOrder::nhd}.valid());
  CHECK_FALSE(UniformKvLayout{1, 0, 1, DType::f16, KvOrder::nhd}.valid());
  CHECK_FALSE(UniformKvLayout{1, 1, 0, DType::f16, KvOrder::nhd}.valid());
}
