// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The arithmetic of the device's digests, carried out on the host: what each thread does, one after
// the other.
#include "src/cuda/staging/crc32c.hpp"

#include <cstring>
#include <vector>

#include "cake/chunk/digest.hpp"
#include "catch.hpp"
#include "tests/chunk/sample.hpp"

namespace {

using namespace cake;
namespace crc = cake::cuda::crc;

constexpr crc::Tables kTables = crc::make_tables();

std::uint32_t by_pieces(ConstBytes block) {
  const auto bytes = static_cast<unsigned>(block.size());
  std::uint32_t sum = 0;
  unsigned covered = 0;
  for (unsigned i = 0; i < crc::kThreads; ++i) {
    const crc::Piece piece = crc::piece_of(bytes, i);
    std::uint32_t state = piece.seed();
    for (unsigned at = piece.begin; at < piece.end; at += 4) {
      std::uint32_t word;
      std::memcpy(&word, block.data() + at, 4);
      state = crc::add_word(kTables.slice, state, word);
    }
    sum ^= crc::multiply(state, kTables.shift[i]);
    covered += piece.end - piece.begin;
  }
  CHECK(covered == bytes);
  return ~sum;
}

TEST_CASE("a block's digest is the sum of its pieces' digests") {
  std::vector<std::byte> bytes(crc::kMostBlockBytes);
  sample::fill(bytes, 3);
  const ConstBytes all(bytes);
  for (unsigned size = 4; size <= 3 * crc::kPieceBytes + 8; size += 4) {
    REQUIRE(by_pieces(all.first(size)) == crc32c(all.first(size)));
  }
  std::uint64_t x = 11;
  for (int i = 0; i < 200; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const std::size_t size = 4 + (x >> 33) % (crc::kMostBlockBytes / 4) * 4;
    REQUIRE(by_pieces(all.last(size)) == crc32c(all.last(size)));
  }
  CHECK(by_pieces(all) == crc32c(all));
  std::vector<std::byte> zero(4096);
  CHECK(by_pieces(zero) == crc32c(zero));
}

TEST_CASE("bytes behind a digest move it by a power of x") {
  // Of digests without the inversions: crc32c(a, ~0) starts from 0, and its inverse is the state.
  std::vector<std::byte> bytes(1000);
  sample::fill(bytes, 4);
  const std::uint32_t state = ~crc32c(bytes, ~0u);
  for (const std::size_t zeros : {0u, 1u, 2u, 3u, 255u, 256u, 4096u, 65535u, 100000u}) {
    std::vector<std::byte> longer = bytes;
    longer.resize(bytes.size() + zeros);
    CHECK(crc::multiply(state, crc::shift_of(zeros)) == ~crc32c(longer, ~0u));
  }
  for (unsigned i = 0; i < crc::kThreads; ++i) {
    REQUIRE(kTables.shift[i] == crc::shift_of(std::uint64_t{i} * crc::kPieceBytes));
  }
  CHECK(crc::multiply(crc::kOne, 12345) == 12345);
  CHECK(crc::multiply(12345, 67890) == crc::multiply(67890, 12345));
}

TEST_CASE("pieces cover a block once, and only the first is short") {
  for (const unsigned bytes : {4u, 252u, 256u, 260u, 4096u, 65532u, 65536u}) {
    unsigned end = bytes;
    for (unsigned i = 0; i < crc::kThreads; ++i) {
      const crc::Piece piece = crc::piece_of(bytes, i);
      if (end == 0) {
        REQUIRE(piece.begin == piece.end);
        REQUIRE(piece.seed() == 0);
        continue;
      }
      REQUIRE(piece.end == end);
      REQUIRE((piece.begin == 0 || piece.end - piece.begin == crc::kPieceBytes));
      REQUIRE((piece.seed() != 0) == (piece.begin == 0));
      end = piece.begin;
    }
    CHECK(end == 0);
  }
}

}  // namespace
