// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Boxes of matrices by the bulk copy engine, to shared memory and back, and the way there from
// registers; for compute capability 9.0.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cake/version.hpp"
#include "src/cuda/mma/mma_sync.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

/// Copies one box of a matrix to shared memory; its bytes count on `barrier`. c0 runs along rows;
/// what lies outside the matrix is zero.
__device__ inline void copy_matrix_box(std::uint32_t to, const CUtensorMap& map,
                                       std::uint64_t* barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}

/// Four 8 x 8 matrices of 16-bit elements to shared memory; lanes 8i to 8i+7 name the rows of
/// matrix i, which lies in the lanes as sums of products do.
__device__ inline void store_matrices(std::uint32_t address, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

/// Copies one box from shared memory to a matrix; what lies outside the matrix is left out.
__device__ inline void store_matrix_box(const CUtensorMap& map, std::uint32_t from, int c0,
                                        int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
      "r"(from), "r"(c0), "r"(c1)
      : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until the copy engine has read all that this thread's stores take from shared memory.
__device__ inline void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
/// Until this thread's stores are done.
__device__ inline void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

}  // namespace cake::inline CAKE_ABI::cuda::device
