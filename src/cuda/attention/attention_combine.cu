// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Puts the parts of split keys together: a warp for each query and head weighs every part by its
// share of the sum of exponents.
#include <cmath>

#include "attention_kernels.hpp"
#include "src/cuda/mma/mma_sync.cuh"

namespace cake::inline CAKE_ABI::cuda {
namespace {

constexpr int kWarps = 8;

/// Whether the keys of this query's sequence were not split.
__device__ bool whole(const AttentionParams& p, std::int64_t query) {
  if (p.split_from_keys == 0) return false;
  int sequence = 0;
  if (p.cu_seqlens_q != nullptr) {
    while (query >= p.cu_seqlens_q[sequence + 1]) ++sequence;
  }
  return p.seqlens_k[sequence] < static_cast<int>(p.split_from_keys);
}

template <class T, int kDim>
__global__ void __launch_bounds__(kWarps * 32) combine(const __grid_constant__ AttentionParams p) {
  constexpr int kPerLane = kDim / 32;
  const std::int64_t at = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const std::int64_t all = std::int64_t{p.n_queries} * p.n_heads;
  if (at >= all) return;
  const std::int64_t query = at / p.n_heads;
  const std::int64_t head = at % p.n_heads;
  if (whole(p, query)) return;
  const int lane = static_cast<int>(threadIdx.x & 31);
  float peak = -INFINITY;
  for (std::uint32_t s = 0; s < p.num_splits; ++s) peak = fmaxf(peak, p.partial_lse[s * all + at]);
  float sum = 0;
  float out[kPerLane] = {};
  for (std::uint32_t s = 0; s < p.num_splits; ++s) {
    const float softmax_lse = p.partial_lse[s * all + at];
    if (softmax_lse == -INFINITY) continue;  // nothing was written for it
    const float weight = expf(softmax_lse - peak);
    sum += weight;
    const float* const from = p.partial_out + (s * all + at) * kDim + lane * kPerLane;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] += weight * from[i];
  }
  const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
  auto* const to =
      reinterpret_cast<std::uint32_t*>(static_cast<T*>(p.out) + query * p.out_token_stride +
                                       head * p.out_head_stride + lane * kPerLane);
#pragma unroll
  for (int i = 0; i < kPerLane; i += 2) {
    to[i / 2] = device::pack<T>(out[i] * inverse, out[i + 1] * inverse);
  }
  if (p.softmax_lse != nullptr && lane == 0) {
    p.softmax_lse[head * p.n_queries + query] = sum > 0 ? peak + logf(sum) : -INFINITY;
  }
}

template <class T>
void launch(const AttentionParams& p, cudaStream_t stream) {
  const auto all = std::uint64_t{p.n_queries} * p.n_heads;
  const auto blocks = static_cast<unsigned>((all + kWarps - 1) / kWarps);
  if (p.head_dim == 64) {
    combine<T, 64><<<blocks, kWarps * 32, 0, stream>>>(p);
  } else {
    combine<T, 128><<<blocks, kWarps * 32, 0, stream>>>(p);
  }
}

}  // namespace

cudaError_t launch_attention_combine(const AttentionParams& params, DType dtype,
                                     cudaStream_t stream) {
  dtype == DType::bf16 ? launch<__nv_bfloat16>(params, stream) : launch<__half>(params, stream);
  return cudaGetLastError();
}

}  // namespace cake::inline CAKE_ABI::cuda
