// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A short run of tests/fuzz/chunk_fuzz.cpp from fixed seeds. It aborts where a property is broken.
#include <random>

#include "catch.hpp"
#include "sample.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace cake;

TEST_CASE("mutated heads never lead the parser astray") {
  const std::size_t head_size = sample::make(1, {3, 2, 16, DType::bf16}, 32, 1).head().size();
  std::mt19937 random(20261123);
  const auto below = [&](std::size_t n) { return random() % n; };
  std::size_t runs = 0;
  for (std::uint32_t i = 0; i < 200000; ++i, ++runs) {
    // A mask over a good head, with few bits set, most of them where fields are.
    std::vector<std::uint8_t> input(1 + head_size, 0);
    input[0] = static_cast<std::uint8_t>(2 | (i & 1) | (i % 8 == 7 ? 4 : 0));
    std::size_t used = 1;
    const std::size_t changes = 1 + below(4);
    for (std::size_t c = 0; c < changes; ++c) {
      const std::size_t area = below(8);
      std::size_t at = below(head_size);
      if (area < 4) at = below(320);             // fields of the header
      if (area == 4) at = 4096 + below(6 * 32);  // extents
      if (area == 5) at = 4096 + 6 * 32 + below(6 * 4 + 32 * 4);
      const std::size_t width = std::size_t{1} << below(4);
      for (std::size_t w = 0; w < width && at + w < head_size; ++w) {
        input[1 + at + w] = static_cast<std::uint8_t>(below(3) == 0 ? 0xFF : random());
        used = std::max(used, at + w + 2);
      }
    }
    input.resize(used);  // behind the last change the head stays as it is
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  CHECK(runs == 200000);
}

TEST_CASE("heads of noise and of every length never lead the parser astray") {
  const auto good = sample::make(1, {3, 2, 16, DType::bf16}, 32, 1);
  std::mt19937 random(4);
  for (std::size_t size = 0; size <= good.head().size(); size += 1 + random() % 16) {
    std::vector<std::uint8_t> input(1 + size);
    std::memcpy(input.data() + 1, good.object.data(), size);
    for (const std::uint8_t mode : {std::uint8_t{0}, std::uint8_t{1}, std::uint8_t{5}}) {
      input[0] = mode;
      REQUIRE(LLVMFuzzerTestOneInput(input.data(), input.size()) == 0);
    }
    for (std::size_t i = 1; i < input.size(); ++i) input[i] = static_cast<std::uint8_t>(random());
    for (const std::uint8_t mode : {std::uint8_t{0}, std::uint8_t{1}}) {
      input[0] = mode;
      REQUIRE(LLVMFuzzerTestOneInput(input.data(), input.size()) == 0);
    }
  }
}

}  // namespace
