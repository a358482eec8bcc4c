// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention for sm_90a. A block stays on its multiprocessor and takes tile after tile. Its first
// warpgroup, the producer, brings queries, keys and values to shared memory, by boxes of the bulk
// copy engine where it can and row by row where it cannot; each of the others, the consumers, has
// 64 query rows of the tile. The heads of a group are rows beside each other, so keys are read once
// for all of them. Keys run from the last block of 128 to the first.
//
// A consumer issues the scores of a block together with the output of the one before, and takes
// the softmax of the former while the tensor cores do the latter; consumers issue in turn, so that
// one computes exponents while another has the tensor cores.
//
// Sources: FlashAttention-3 (Shah et al. 2024: the roles, the two overlaps, the order of the keys),
// FlashAttention-4 (a maximum that is raised only when it grew much), DeepGEMM (how the files are
// laid out), the CUTLASS documentation (who arrives at which barrier).
//
// Not done: clusters of two blocks that bring each other half of the keys and values by multicast.
// With room for two blocks of keys they wait for each other: 0.7 of the speed.
#pragma once

#include "cake/version.hpp"
#include "sm90_consumer.cuh"
#include "sm90_producer.cuh"
#include "sm90_tile.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

template <class T, int kDim, int kConsumers, KeysBy kKeysBy>
__global__ void __launch_bounds__(Sm90Tile<kDim, kConsumers, kKeysBy>::kThreads, 1)
    sm90_attention(const __grid_constant__ AttentionParams p,
                   const __grid_constant__ Sm90Boxes boxes) {
  using Tile = Sm90Tile<kDim, kConsumers, kKeysBy>;
  extern __shared__ __align__(1024) unsigned char shared[];
  auto& barriers = *reinterpret_cast<typename Tile::Barriers*>(shared + Tile::kBarriersAt);
  if (threadIdx.x == 0) barriers.init();
  __syncthreads();
  const std::uint32_t base = shared_address(shared);
  if (uniform(static_cast<int>(threadIdx.x) / 128) == 0) {
    shrink_registers<Tile::kProducerRegisters>();
    Sm90Producer<T, Tile>{p, boxes, barriers, base}.run();
  } else {
    grow_registers<Tile::kConsumerRegisters>();
    Sm90Consumer<T, Tile>{p, barriers, base, shared}.run();
  }
}

}  // namespace cake::inline CAKE_ABI::cuda::device
