// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention of few queries: when its kernel is taken, and which block of it reads which keys.
// Arithmetic alone, so that it can be tested without a device. The tiles of all (sequence, KV head)
// pairs stand in one row, and each block takes an equal share of the row, wherever pairs begin and
// end. The host knows the number of blocks; how many tiles there are is known when the kernel runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cake/cuda/attention.hpp"

#ifdef __CUDACC__
#define CAKE_DECODE_HOST_DEVICE __host__ __device__
#else
#define CAKE_DECODE_HOST_DEVICE
#endif

namespace cake::inline CAKE_ABI::cuda::decode {

inline constexpr std::uint32_t kTileKeys = 64;
/// Blocks that run side by side on one multiprocessor.
inline constexpr std::uint32_t kBlocksPerProcessor = 2;
/// Most (query, head of a group) pairs of a sequence and KV head; beyond that, products take longer
/// than reading the keys does.
inline constexpr std::uint32_t kMaxRows = 64;
/// Unfinished (sequence, KV head) pairs of a block at most: where its share begins, and where it
/// ends.
inline constexpr std::uint32_t kPartsOfBlock = 2;

/// How the kernel is launched; no rows: this shape is for another kernel.
struct Plan {
  std::uint32_t rows = 0;  // room for rows in each part of a result: 16 or 64
  std::uint32_t blocks = 0;
  explicit operator bool() const { return rows != 0; }
};

/// The shape is one that attention() takes. A number of splits that the caller chose is another
/// kernel's.
inline Plan plan(const AttentionShape& s, std::uint32_t processors) {
  const std::uint64_t rows = std::uint64_t{s.max_seqlen_q} * (s.n_heads / s.n_kv_heads);
  if (s.num_splits != 0 || rows == 0 || rows > kMaxRows) return {};
  return {rows <= 16 ? 16u : kMaxRows, processors * kBlocksPerProcessor};
}

/// Parts of results, fp32: numbers first, then the logarithms of sums.
inline std::size_t workspace_bytes(const Plan& plan, std::uint32_t head_dim) {
  return std::size_t{plan.blocks} * kPartsOfBlock * plan.rows * (std::size_t{head_dim} + 1) *
         sizeof(float);
}

/// Tiles of one sequence and KV head. One at least where there are queries: a block has to write
/// the zeros.
CAKE_DECODE_HOST_DEVICE inline std::uint32_t tiles_of(int queries, int keys) {
  if (queries <= 0) return 0;
  return keys <= 0 ? 1 : (static_cast<std::uint32_t>(keys) + kTileKeys - 1) / kTileKeys;
}

/// a / b, by the division of 32-bit numbers where these are, which is much the faster one.
CAKE_DECODE_HOST_DEVICE inline std::uint64_t quotient(std::uint64_t a, std::uint64_t b) {
  return ((a | b) >> 32) == 0 ? static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b)
                              : a / b;
}

/// The row of tiles and its shares.
struct Shares {
  std::uint64_t tiles = 0;
  std::uint64_t blocks = 0;  // those that get a tile at all

  CAKE_DECODE_HOST_DEVICE Shares(std::uint64_t all, std::uint32_t most)
      : tiles(all), blocks(all < most ? all : most) {}
  /// First tile of a block's share; at the end of the row for blocks that get none.
  CAKE_DECODE_HOST_DEVICE std::uint64_t begin(std::uint64_t block) const {
    return block >= blocks ? tiles : quotient(tiles * block, blocks);
  }
  /// The block whose share holds a tile.
  CAKE_DECODE_HOST_DEVICE std::uint64_t holder(std::uint64_t tile) const {
    return quotient((tile + 1) * blocks - 1, tiles);
  }
};

}  // namespace cake::inline CAKE_ABI::cuda::decode
