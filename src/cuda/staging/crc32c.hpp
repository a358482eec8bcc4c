// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// CRC-32C in parallel: each thread digests a piece of a block, and since the code is linear the
// pieces' results, each moved by as many bytes as follow it, add up to the block's. The arithmetic
// is here for host and device alike; the kernel's launcher is at the end.
//
// Polynomials are bit-reversed, as is usual: bit 31 is the coefficient of x^0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cake/version.hpp"

#ifdef __CUDACC__
#define CAKE_HOST_DEVICE __host__ __device__
#else
#define CAKE_HOST_DEVICE
#endif

namespace cake::inline CAKE_ABI::cuda::crc {

inline constexpr std::uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, without x^32
inline constexpr std::uint32_t kOne = 0x80000000;
inline constexpr unsigned kThreads = 256;     // pieces of a block
inline constexpr unsigned kPieceBytes = 256;  // of all but the first, which may be shorter
inline constexpr unsigned kMostBlockBytes = kThreads * kPieceBytes;

/// a * b modulo the polynomial.
CAKE_HOST_DEVICE constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (int bit = 0; bit < 32; ++bit) {
    product ^= b & (0u - (a >> 31));
    a <<= 1;
    b = (b >> 1) ^ (kPolynomial & (0u - (b & 1)));
  }
  return product;
}

/// x^(8 * bytes): what a state is multiplied by when so many zero bytes follow.
CAKE_HOST_DEVICE constexpr std::uint32_t shift_of(std::uint64_t bytes) {
  std::uint32_t result = kOne;
  std::uint32_t power = kOne >> 8;
  for (; bytes != 0; bytes >>= 1, power = multiply(power, power)) {
    if ((bytes & 1) != 0) result = multiply(result, power);
  }
  return result;
}

struct Tables {
  std::uint32_t slice[4][256] = {};    // [k][b]: byte b with k zero bytes behind it
  std::uint32_t shift[kThreads] = {};  // by whole pieces
};
constexpr Tables make_tables() {
  Tables tables;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t state = byte;
    for (int k = 0; k < 4; ++k) {
      for (int bit = 0; bit < 8; ++bit) {
        state = (state >> 1) ^ (kPolynomial & (0u - (state & 1)));
      }
      tables.slice[k][byte] = state;
    }
  }
  const std::uint32_t piece = shift_of(kPieceBytes);
  tables.shift[0] = kOne;
  for (unsigned i = 1; i < kThreads; ++i) {
    tables.shift[i] = multiply(tables.shift[i - 1], piece);
  }
  return tables;
}

/// Piece `index` of a block, counted from its end, so that whole pieces follow each of them.
struct Piece {
  unsigned begin = 0;
  unsigned end = 0;  // begin == end: there is none
  /// Where the digest starts: all ones before the block's first byte, zero elsewhere.
  CAKE_HOST_DEVICE constexpr std::uint32_t seed() const {
    return begin == 0 && end != 0 ? ~std::uint32_t{0} : 0;
  }
};
CAKE_HOST_DEVICE constexpr Piece piece_of(unsigned block_bytes, unsigned index) {
  const unsigned behind = index * kPieceBytes;
  if (behind >= block_bytes) return {};
  const unsigned end = block_bytes - behind;
  return {end > kPieceBytes ? end - kPieceBytes : 0, end};
}

/// The state after one more word of four bytes, the first one lowest.
CAKE_HOST_DEVICE constexpr std::uint32_t add_word(const std::uint32_t (&slice)[4][256],
                                                  std::uint32_t state, std::uint32_t word) {
  state ^= word;
  return slice[3][state & 255] ^ slice[2][(state >> 8) & 255] ^ slice[1][(state >> 16) & 255] ^
         slice[0][state >> 24];
}

}  // namespace cake::inline CAKE_ABI::cuda::crc
