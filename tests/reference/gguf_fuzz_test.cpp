// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A short run of tests/fuzz/gguf_fuzz.cpp from fixed seeds. It aborts where a property is broken.
#include <random>

#include "catch.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("mutated files never lead the GGUF reader astray") {
  std::mt19937 random(20261123);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  std::size_t runs = 0;
  for (; runs < 60000; ++runs) {
    // Few bits over a good file; its head, where everything is decided, is below 2,600 bytes.
    std::vector<std::uint8_t> input(1 + 2600, 0);
    input[0] = static_cast<std::uint8_t>(1 | (below(3) == 0 ? 2 : 0) | (below(8) == 0 ? 4 : 0));
    for (std::size_t change = 1 + below(3); change-- > 0;) {
      const std::size_t at = 1 + (below(3) == 0 ? below(24) : below(2600));
      const std::size_t width = std::size_t{1} << below(4);
      const bool one_bit = below(2) == 0;
      for (std::size_t i = at; i < at + width && i < input.size(); ++i) {
        input[i] = one_bit ? static_cast<std::uint8_t>(1u << below(8))
                           : static_cast<std::uint8_t>(below(2) == 0 ? 0xFF : random());
        if (one_bit) break;
      }
    }
    REQUIRE(LLVMFuzzerTestOneInput(input.data(), input.size()) == 0);
  }
  CHECK(runs == 60000);
}

TEST_CASE("noise of every length never leads the GGUF reader astray") {
  std::mt19937 random(4);
  for (std::size_t size = 1; size < 600; ++size) {
    std::vector<std::uint8_t> input(size);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    input[0] = size % 2 == 0 ? 0 : 4;
    const std::uint8_t start[] = {'G', 'G', 'U', 'F', 3, 0, 0, 0};
    for (std::size_t i = 0; i < 8 && i + 1 < size; ++i) input[i + 1] = start[i];
    REQUIRE(LLVMFuzzerTestOneInput(input.data(), input.size()) == 0);
  }
}
