// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every instantiation of the attention kernel for sm_90a, and nothing else.
#include "src/cuda/attention/impls/sm90_attention.cuh"
#include "src/cuda/runtime/kernel_shared_memory.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

template <class T, int kDim, int kConsumers, device::KeysBy kKeysBy>
cudaError_t launch(const AttentionParams& p, const Sm90Boxes& boxes, std::uint32_t processors,
                   cudaStream_t stream) {
  using Tile = device::Sm90Tile<kDim, kConsumers, kKeysBy>;
  constexpr auto kKernel = device::sm90_attention<T, kDim, kConsumers, kKeysBy>;
  if (const cudaError_t code = allow_shared_memory<kKernel>(Tile::kShared); code != cudaSuccess) {
    return code;
  }
  const std::uint32_t tiles = (p.max_seqlen_q * p.group + Tile::kRows - 1) / Tile::kRows *
                              p.n_kv_heads * p.n_sequences * p.num_splits;
  const std::uint32_t blocks = tiles < processors ? tiles : processors;
  kKernel<<<blocks, Tile::kThreads, Tile::kShared, stream>>>(p, boxes);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_any(const AttentionParams& p, const Sm90Boxes& boxes, std::uint32_t rows_of_tile,
                       std::uint32_t processors, cudaStream_t stream) {
  using device::KeysBy;
  if (p.head_dim == 64 && rows_of_tile == 192) {
    return boxes.key_rows != 0 ? launch<T, 64, 3, KeysBy::boxes>(p, boxes, processors, stream)
                               : launch<T, 64, 3, KeysBy::rows>(p, boxes, processors, stream);
  }
  if (p.head_dim == 64) {
    return boxes.key_rows != 0 ? launch<T, 64, 2, KeysBy::boxes>(p, boxes, processors, stream)
                               : launch<T, 64, 2, KeysBy::rows>(p, boxes, processors, stream);
  }
  return boxes.key_rows != 0 ? launch<T, 128, 2, KeysBy::boxes>(p, boxes, processors, stream)
                             : launch<T, 128, 2, KeysBy::rows>(p, boxes, processors, stream);
}

}  // namespace

cudaError_t launch_sm90_kernel(const AttentionParams& p, const Sm90Boxes& boxes, DType dtype,
                               std::uint32_t rows_of_tile, std::uint32_t processors,
                               cudaStream_t stream) {
  return dtype == DType::bf16
             ? launch_any<__nv_bfloat16>(p, boxes, rows_of_tile, processors, stream)
             : launch_any<__half>(p, boxes, rows_of_tile, processors, stream);
}

}  // namespace cake::inline CAKE_ABI::cuda
