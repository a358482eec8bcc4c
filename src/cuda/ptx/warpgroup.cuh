// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a warpgroup (four warps) does as one: trade registers, and meet others at named barriers.
#pragma once

#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::cuda::device {

/// Gives registers back, down to kCount for each thread of the warpgroup.
template <int kCount>
__device__ inline void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
/// Waits for registers that others give back, up to kCount for each thread of the warpgroup.
template <int kCount>
__device__ inline void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// A number that all lanes of a warp have alike, said so that the compiler can keep it, and what is
/// computed from it, in uniform registers: descriptors of products have to be there.
__device__ inline int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

/// The same number, of which the compiler knows nothing: what is computed from it is not moved out
/// of loops, where it would take registers all the time.
__device__ inline int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// Meets the other threads of a named barrier (1 to 15): those that sync and those that arrive.
__device__ inline void sync_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
/// Counts this thread at a named barrier without waiting there.
__device__ inline void arrive_named(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace cake::inline CAKE_ABI::cuda::device
