// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The attention kernel for sm_90a as its launcher sees it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "attention_kernels.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// How the bulk copy engine sees queries, keys and values.
struct Sm90Boxes {
  CUtensorMap q, k, v;
  std::int32_t key_rows;  // of a box of k and v, a divisor of 128; 0: they have none
  bool queries_by_box;    // q has boxes
};

/// Keys that the kernel takes at once.
inline constexpr std::uint32_t kSm90KeysOfBlock = 128;

/// Rows of a box of keys or values: it lies in one page and in one block of keys, and in whole
/// groups of eight rows. 0: pages of this size have no boxes.
std::uint32_t sm90_box_rows(std::uint32_t page_tokens);

/// Describes what can be described; the rest is gathered row by row. Reads no device memory.
Sm90Boxes sm90_boxes(const AttentionParams& params, DType dtype, std::uint32_t rows_of_tile);

/// Enqueues the instantiation for these boxes and rows of a tile: 128, or 192 where head_dim is 64.
cudaError_t launch_sm90_kernel(const AttentionParams& params, const Sm90Boxes& boxes, DType dtype,
                               std::uint32_t rows_of_tile, std::uint32_t processors,
                               cudaStream_t stream);

/// Both: the kernel over whatever boxes there are.
cudaError_t launch_sm90_attention(const AttentionParams& params, DType dtype,
                                  std::uint32_t rows_of_tile, std::uint32_t processors,
                                  cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda
