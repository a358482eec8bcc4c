// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every instantiation of the attention kernel for sm_90a, and nothing else.
#include "src/cuda/attention/impls/sm90_attention.cuh"
#include "src/cuda/runtime/kernel_shared_memory.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

template <class T, int kDim, int kConsumers>
cudaError_t launch(const AttentionParams& p, const Sm90Boxes& boxes, std::uint32_t processors,
                   cudaStream_t stream) {
  using Tile = device::Sm90Tile<kDim, kConsumers>;
  constexpr auto kKernel = device::sm90_attention<T, kDim, kConsumers>;
  if (const cudaError_t code = allow_shared_memory<kKernel>(Tile::kShared); code != cudaSuccess) {
    return code;
  }
  const std::uint32_t tiles = (p.max_seqlen_q * p.group + Tile::kRows - 1) / Tile::kRows *
                              p.n_kv_heads * p.n_sequences * p.num_splits;
  const std::uint32_t blocks = tiles < processors ? tiles : processors;
  kKernel<<<blocks, Tile::kThreads, Tile::kShared, stream>>>(p, boxes);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_sm90_kernel(const AttentionParams& p, const Sm90Boxes& boxes, DType dtype,
                               std::uint32_t rows_of_tile, std::uint32_t processors,
                               cudaStream_t stream) {
  const bool bf16 = dtype == DType::bf16;
  if (p.head_dim == 128) {
    return bf16 ? launch<__nv_bfloat16, 128, 2>(p, boxes, processors, stream)
                : launch<__half, 128, 2>(p, boxes, processors, stream);
  }
  if (rows_of_tile == 192) {
    return bf16 ? launch<__nv_bfloat16, 64, 3>(p, boxes, processors, stream)
                : launch<__half, 64, 3>(p, boxes, processors, stream);
  }
  return bf16 ? launch<__nv_bfloat16, 64, 2>(p, boxes, processors, stream)
              : launch<__half, 64, 2>(p, boxes, processors, stream);
}

}  // namespace cake::inline CAKE_ABI::cuda
