// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Small kernels around single instructions of sm_90a, for hopper_test.cpp.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::testing {

/// Copies the box at (column, row, head, page) of `map`, 128 rows of 64 elements, and writes its
/// rows to `out` [128][64] as they were. A thread first fills the buffer with 0xff.
cudaError_t run_box(const CUtensorMap& map, const int (&at)[4], std::uint16_t* out);

/// 128 pieces of 16 bytes through shared memory, by one warpgroup for another; those with even
/// numbers become zeros.
cudaError_t run_gathered(const void* from, void* out);

/// scores [64][128] = q [64][dim] k^T [128][dim], and out [64][dim] = bf16 or f16 of scores v
/// [128][dim]; q in registers or in shared memory.
cudaError_t run_products(bool bf16, int dim, bool in_registers, const void* q, const void* k,
                         const void* v, float* scores, float* out);

/// A producer warpgroup hands 0 .. count - 1 through a ring of two or three places to a consumer
/// warpgroup, each with registers of its own kind; the consumer writes what it got.
cudaError_t run_ring(int places, int count, int* out);

/// Three warpgroups append their number in turn, `rounds` times; out [3 * rounds].
cudaError_t run_turns(int rounds, int* out);

}  // namespace cake::inline CAKE_ABI::testing
