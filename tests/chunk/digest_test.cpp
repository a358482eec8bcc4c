// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/digest.hpp"

#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "catch.hpp"

namespace {

using cake::crc32c;

/// The definition: reflected polynomial 0x1EDC6F41, all ones before and after, bit by bit.
std::uint32_t slow_crc32c(cake::ConstBytes bytes) {
  std::uint32_t state = 0xFFFFFFFF;
  for (const std::byte b : bytes) {
    state ^= std::to_integer<std::uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? 0x82F63B78 : 0);
  }
  return ~state;
}

TEST_CASE("the digest has the published CRC-32C values") {
  const std::string_view check = "123456789";
  CHECK(crc32c(std::as_bytes(std::span(check))) == 0xE3069283);
  CHECK(crc32c({}) == 0);

  // RFC 3720, appendix B.4.
  std::vector<std::uint8_t> bytes(32, 0);
  CHECK(crc32c(std::as_bytes(std::span(bytes))) == 0x8A9136AA);
  bytes.assign(32, 0xFF);
  CHECK(crc32c(std::as_bytes(std::span(bytes))) == 0x62A8AB43);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  CHECK(crc32c(std::as_bytes(std::span(bytes))) == 0x46DD794E);
  std::reverse(bytes.begin(), bytes.end());
  CHECK(crc32c(std::as_bytes(std::span(bytes))) == 0x113FDB5C);
}

TEST_CASE("the digest agrees with its definition at every length and address") {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(3000);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  int wrong = 0;
  for (std::size_t begin = 0; begin < 16; ++begin) {
    for (std::size_t size = 0; size < 300; ++size) {
      const auto part = cake::ConstBytes(bytes).subspan(begin, size);
      wrong += crc32c(part) != slow_crc32c(part);
    }
  }
  CHECK(wrong == 0);
  CHECK(crc32c(bytes) == slow_crc32c(bytes));
}

TEST_CASE("digests run on from what came before") {
  std::mt19937 random(2);
  std::vector<std::byte> bytes(100000);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  const cake::ConstBytes all(bytes);
  for (const std::size_t cut : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, bytes.size()}) {
    CHECK(crc32c(all.subspan(cut), crc32c(all.first(cut))) == crc32c(all));
  }
}

}  // namespace
