// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How matrices lie in shared memory for wgmma, and products over whole tiles. A tile is panels of
// 64 columns (128 bytes) beside each other; eight rows of a panel are 1,024 bytes, whose 16-byte
// pieces change places by the row (the 128-byte swizzle of the copy engine).
//
// Source: the matrix descriptor of the PTX ISA (asynchronous warpgroup level matrix instructions).
#pragma once

#include <cstdint>

#include "cake/version.hpp"
#include "mma_sync.cuh"
#include "src/cuda/ptx/wgmma.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

inline constexpr int kPanelColumns = 64;
inline constexpr std::uint32_t kPanelRowBytes = 128;

/// Where 16-byte piece `piece` (of all columns) of a row lies, with `panel_bytes` from one panel to
/// the next.
__device__ inline std::uint32_t panel_place(int row, int piece, std::uint32_t panel_bytes) {
  return static_cast<std::uint32_t>(piece / 8) * panel_bytes +
         static_cast<std::uint32_t>(row) * kPanelRowBytes +
         static_cast<std::uint32_t>(((piece ^ row) & 7) << 4);
}

/// The lower half of the descriptor of groups of eight rows from `address` on; `panel_bytes` lie
/// between panels where the product runs across them.
__device__ inline std::uint32_t describe(std::uint32_t address, std::uint32_t panel_bytes) {
  return panel_bytes >> 4 << 16 | (address & 0x3ffff) >> 4;
}

/// scores = Q K^T for 64 rows of Q and 128 of K, which is issued and not waited for.
template <class T, int kDim, int kQueryRows>
__device__ inline void issue_scores(float (&scores)[64], std::uint32_t q, std::uint32_t k) {
  const std::uint32_t a = describe(q, 0);
  const std::uint32_t b = describe(k, 0);
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    const std::uint32_t along = d % 4 * 32;  // 16 columns
    const std::uint32_t panel = d / 4 * kPanelRowBytes;
    product_shared<T>(scores, a + ((along + panel * kQueryRows) >> 4),
                      b + ((along + panel * 128) >> 4), d != 0);
  }
  commit_products();
}

/// 64 rows of Q from `q` on, of a tile of kQueryRows, for issue_scores() below.
template <int kDim, int kQueryRows>
__device__ inline void load_queries(std::uint32_t (&queries)[kDim / 16][4], std::uint32_t q) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane % 16;
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    load_matrices(queries[d], q + panel_place(row, d * 2 + lane / 16, kQueryRows * kPanelRowBytes));
  }
}

/// The same scores, of rows of Q in registers.
template <class T, int kDim>
__device__ inline void issue_scores(float (&scores)[64],
                                    const std::uint32_t (&queries)[kDim / 16][4], std::uint32_t k) {
  const std::uint32_t b = describe(k, 0);
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    const std::uint32_t along = d % 4 * 32 + d / 4 * 128 * kPanelRowBytes;
    product_mixed<T>(scores, queries[d], b + (along >> 4), d != 0);
  }
  commit_products();
}

/// out += weights V for 64 rows and 128 keys, which is issued and not waited for.
template <class T, int kDim>
__device__ inline void issue_output(float (&out)[kDim / 2], const std::uint32_t (&weights)[8][4],
                                    std::uint32_t v) {
  const std::uint32_t b = describe(v, 128 * kPanelRowBytes);
#pragma unroll
  for (int n = 0; n < 8; ++n) {  // 16 keys
    product_registers<T>(out, weights[n], b + (n * 16 * kPanelRowBytes >> 4));
  }
  commit_products();
}

}  // namespace cake::inline CAKE_ABI::cuda::device
