// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The products of gate and up with SwiGLU behind them, as one kernel for sm_90a: what they come to
// never leaves the multiprocessor, which saves writing and reading two matrices of n_ff columns.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// out[row][i] = silu(in[row] . weight[i]) * (in[row] . weight[n_ff + i]), summed in fp32 and
/// rounded once.
///
/// Shape:   in: bf16 [rows][n_embd]; weight: bf16 [2 n_ff][n_embd], gate first; out: bf16
///          [rows][n_ff]; all dense, at multiples of 16 bytes
struct SwigluProduct {
  const void* in = nullptr;
  const void* weight = nullptr;
  void* out = nullptr;
  std::uint32_t rows = 0;
  std::uint32_t n_ff = 0;
  std::uint32_t n_embd = 0;
};

/// Whether the kernel takes a shape: whole tiles of weights.
constexpr bool swiglu_product_takes(std::uint32_t n_ff, std::uint32_t n_embd) {
  return n_ff != 0 && n_embd != 0 && n_ff % 128 == 0 && n_embd % 64 == 0;
}

/// Columns of a tile's results: 112 where all tiles are then done sooner, 128 otherwise.
///
/// Needs:   a shape that the kernel takes, and at least one multiprocessor
constexpr std::uint32_t swiglu_tile_columns(std::uint32_t rows, std::uint32_t n_ff,
                                            std::uint32_t processors) {
  const auto time = [&](std::uint32_t columns) {
    const std::uint64_t tiles = (std::uint64_t{rows} + 127) / 128 * (n_ff / columns);
    return (tiles + processors - 1) / processors * columns;
  };
  return n_ff % 112 == 0 && time(112) < time(128) ? 112 : 128;
}

/// Whether the kernel is the faster way: its tiles keep so many multiprocessors busy for nine
/// tenths of the time; or there is little to multiply, reading weights is what takes time, and most
/// multiprocessors read. Elsewhere products with an algorithm for the number of rows are faster.
///
/// Needs:   a shape that the kernel takes
constexpr bool swiglu_product_suits(std::uint32_t rows, std::uint32_t n_ff,
                                    std::uint32_t processors) {
  if (rows == 0 || processors == 0) return false;
  const std::uint64_t columns = n_ff / swiglu_tile_columns(rows, n_ff, processors);
  const std::uint64_t tiles = (std::uint64_t{rows} + 127) / 128 * columns;
  const std::uint64_t rounds = (tiles + processors - 1) / processors;
  const std::uint64_t room = rounds * processors;
  if (10 * (rows * columns) >= 9 * (room * 128)) return true;
  return rows > 64 && rounds <= 2 && 10 * tiles >= 8 * room;
}

/// Multiprocessors of the current device.
///
/// Errors:  unsupported where it is not of compute capability 9.0
Result<std::uint32_t> sm90_processors();

/// Errors:  unsupported (a device that is not of compute capability 9.0, a shape that the kernel
///          does not take), device
Status swiglu_product(const SwigluProduct& product, cudaStream_t stream);

/// How the bulk copy engine sees the three matrices.
struct SwigluMaps {
  CUtensorMap in, weight, out;
};
/// The launch alone, with tiles of so many columns: 128 or 112.
///
/// Needs:   compute capability 9.0; maps whose boxes of weights have as many rows
cudaError_t launch_swiglu_product(const SwigluMaps& maps, const SwigluProduct& product,
                                  std::uint32_t columns, std::uint32_t processors,
                                  cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
