// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The bulk tensor copy engine. libcu++ has the copy, but not with a hint for the L2 cache.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cake/version.hpp"
#include "src/cuda/mma/mma_sync.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

/// Hints as `createpolicy.fractional` makes them for all of the data.
enum class CacheHint : std::uint64_t {
  evict_first = 0x12f0'0000'0000'0000,
  evict_last = 0x14f0'0000'0000'0000,
};

__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// Copies one box of a four-dimensional tensor to shared memory; its bytes count on `barrier`.
/// Coordinates run from the innermost dimension outwards; what lies outside the tensor is zero.
__device__ inline void copy_box(std::uint32_t to, const CUtensorMap& map, std::uint64_t* barrier,
                                CacheHint hint, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3),
      "l"(static_cast<std::uint64_t>(hint))
      : "memory");
}

}  // namespace cake::inline CAKE_ABI::cuda::device
