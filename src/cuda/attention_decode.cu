// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every kernel for few queries that there is: bf16 and f16, head_dim 64 and 128, up to 16 rows and
// up to 64.
#include <algorithm>
#include <atomic>

#include "attention_decode.cuh"
#include "attention_decode.hpp"

namespace cake::cuda {
namespace {

template <class T, int kDim, int kRowWarps>
cudaError_t launch(const AttentionParams& p, const decode::Plan& plan, cudaStream_t stream) {
  using Room = decode::Room<kDim>;
  const auto kernel = decode::attention_decode<T, kDim, kRowWarps>;
  static std::atomic<std::uint64_t> ready{0};  // bit set of devices that allow the shared memory
  int device = 0;
  if (const cudaError_t code = cudaGetDevice(&device); code != cudaSuccess) return code;
  const std::uint64_t bit = std::uint64_t{1} << (device & 63);
  if ((ready.load(std::memory_order_relaxed) & bit) == 0) {
    const cudaError_t code = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Room)));
    if (code != cudaSuccess) return code;
    ready.fetch_or(bit, std::memory_order_relaxed);
  }
  kernel<<<plan.blocks, Room::kThreads, sizeof(Room), stream>>>(p);
  if (const cudaError_t code = cudaGetLastError(); code != cudaSuccess) return code;
  const dim3 grid(p.n_kv_heads * p.n_sequences, p.max_queries * p.group);
  return launch_dependent(decode::combine_parts<T, kDim>, grid, Room::kThreads, 0, stream, p,
                          plan.blocks, static_cast<int>(plan.rows));
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

}  // namespace cake::cuda
