// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every kernel for few queries that there is: bf16 and f16, head_dim 64 and 128, up to 16 rows and
// up to 64.
#include "attention_decode.cuh"
#include "attention_decode.hpp"
#include "src/cuda/runtime/kernel_shared_memory.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

template <class T, int kDim, int kRowWarps>
cudaError_t launch(const AttentionParams& p, const decode::Plan& plan, cudaStream_t stream) {
  using Room = decode::Room<kDim>;
  constexpr auto kKernel = decode::attention_decode<T, kDim, kRowWarps>;
  if (const cudaError_t code = allow_shared_memory<kKernel>(sizeof(Room)); code != cudaSuccess) {
    return code;
  }
  if (const cudaError_t code =
          launch_dependent(kKernel, dim3(plan.blocks), Room::kThreads, sizeof(Room), stream, p);
      code != cudaSuccess) {
    return code;
  }
  const dim3 grid(p.n_kv_heads * p.n_sequences, p.max_seqlen_q * p.group);
  return launch_dependent(decode::combine_parts<T, kDim>, grid, decode::kCombineWarps * 32, 0,
                          stream, p, plan.blocks, static_cast<int>(plan.rows));
}

template <class T>
cudaError_t launch_any(const AttentionParams& p, const decode::Plan& plan, cudaStream_t stream) {
  if (p.head_dim == 64) {
    return plan.rows == 16 ? launch<T, 64, 1>(p, plan, stream) : launch<T, 64, 4>(p, plan, stream);
  }
  return plan.rows == 16 ? launch<T, 128, 1>(p, plan, stream) : launch<T, 128, 4>(p, plan, stream);
}

}  // namespace

cudaError_t launch_attention_decode(AttentionParams params, const decode::Plan& plan, DType dtype,
                                    cudaStream_t stream) {
  params.partial_lse = params.partial_out + std::size_t{plan.blocks} * decode::kPartsOfBlock *
                                                plan.rows * params.head_dim;
  return dtype == DType::bf16 ? launch_any<__nv_bfloat16>(params, plan, stream)
                              : launch_any<__half>(params, plan, stream);
}

}  // namespace cake::inline CAKE_ABI::cuda
