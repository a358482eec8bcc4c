// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Barriers in shared memory, for compute capability 9.0: a phase ends when the expected threads
// have arrived and the expected bytes have come. Waiters name the parity of the phase.
#pragma once

#include <cstdint>
#include <cuda/ptx>

#include "src/cuda/mma/mma_sync.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

namespace ptx = ::cuda::ptx;

__device__ inline void init_barrier(std::uint64_t* barrier, std::uint32_t arrivals) {
  ptx::mbarrier_init(barrier, arrivals);
}

/// Makes freshly initialised barriers visible to the bulk copy engine; then a block-wide barrier.
__device__ inline void fence_barrier_init() {
  ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
}

__device__ inline void arrive(std::uint64_t* barrier) { (void)ptx::mbarrier_arrive(barrier); }

/// The same for threads of which `mine` is true. The branch is inside of the assembly: around it the
/// compiler moves the arrival behind most of what follows.
__device__ inline void arrive_where(bool mine, std::uint64_t* barrier) {
  asm volatile(
      "{ .reg .pred other; .reg .b64 state;\n"
      "setp.eq.s32 other, %1, 0;\n"
      "@other bra done;\n"
      "mbarrier.arrive.shared::cta.b64 state, [%0];\n"
      "done: }" ::"r"(shared_address(barrier)),
      "r"(static_cast<int>(mine))
      : "memory");
}

/// One arrival that also announces bytes which bulk copies will bring.
__device__ inline void arrive_expecting(std::uint64_t* barrier, std::uint32_t bytes) {
  (void)ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, barrier,
                                       bytes);
}

/// Arrives for this thread once all its copies by copy_async() so far are there.
__device__ inline void arrive_after_copies(std::uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

/// Returns when the phase of this parity is over. The loop is inside of the assembly: around
/// libcu++'s instruction the compiler takes it for one that lanes leave at different times, and
/// uses no uniform registers from there on.
__device__ inline void wait(std::uint64_t* barrier, std::uint32_t parity) {
  asm volatile(
      "{ .reg .pred over;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@over bra done;\n"
      "bra again;\n"
      "done: }" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Orders this thread's ordinary writes to shared memory before what wgmma and bulk copies read.
__device__ inline void fence_async_proxy() { ptx::fence_proxy_async(ptx::space_shared); }

}  // namespace cake::inline CAKE_ABI::cuda::device
