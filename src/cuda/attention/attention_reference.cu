// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention in the plainest way, for tests: a block for each query and head, fp32 throughout.
#include <cmath>

#include "attention_kernels.hpp"
#include "src/cuda/mma/mma_sync.cuh"

namespace cake::inline CAKE_ABI::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxDim = 256;

__device__ float to_float(float x) { return x; }
__device__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float to_float(__half x) { return __half2float(x); }
__device__ void from_float(float& to, float x) { to = x; }
__device__ void from_float(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }
__device__ void from_float(__half& to, float x) { to = __float2half_rn(x); }

template <class T>
__global__ void __launch_bounds__(kThreads) reference(const __grid_constant__ AttentionParams p) {
  __shared__ float q[kMaxDim];
  __shared__ float weights[kThreads];
  __shared__ std::int64_t offsets[kThreads];
  const int tid = static_cast<int>(threadIdx.x);
  const int dim = static_cast<int>(p.head_dim);
  const int row = static_cast<int>(blockIdx.x);  // of q
  const int head = static_cast<int>(blockIdx.y);
  int sequence = 0;
  int begin = 0;
  int queries = static_cast<int>(p.n_queries);
  if (p.cu_seqlens_q != nullptr) {
    while (row >= p.cu_seqlens_q[sequence + 1]) ++sequence;
    begin = p.cu_seqlens_q[sequence];
    queries = p.cu_seqlens_q[sequence + 1] - begin;
  }
  const int limit = p.seqlens_k[sequence] - queries + row - begin;  // last key that it sees
  const std::int64_t kv = head / static_cast<int>(p.group) * p.head_stride;
  if (tid < dim) {
    q[tid] =
        to_float(static_cast<const T*>(p.q)[row * p.q_token_stride + head * p.q_head_stride + tid]);
  }
  float peak = -INFINITY;
  float sum = 0;
  float out = 0;
  for (int first = 0; first <= limit; first += kThreads) {
    __syncthreads();
    const int key = first + tid;
    float score = -INFINITY;
    if (key <= limit) {
      offsets[tid] =
          kv + (p.page_tokens == 0 ? sequence * p.page_stride + key * p.token_stride
                                   : p.page_table[sequence * p.table_stride + key / p.page_tokens] *
                                             p.page_stride +
                                         key % p.page_tokens * p.token_stride);
      const T* const k = static_cast<const T*>(p.k) + offsets[tid];
      score = 0;
      for (int d = 0; d < dim; ++d) score += q[d] * to_float(k[d]);
      score *= p.softmax_scale;
    }
    weights[tid] = score;
    __syncthreads();
    float top = peak;
    for (int i = 0; i < kThreads; ++i) top = fmaxf(top, weights[i]);
    const float shrink = expf(peak - top);
    peak = top;
    sum *= shrink;
    out *= shrink;
    __syncthreads();
    weights[tid] = expf(score - top);
    __syncthreads();
    const int n = min(kThreads, limit + 1 - first);
    for (int i = 0; i < n; ++i) {
      sum += weights[i];
      if (tid < dim) out += weights[i] * to_float(static_cast<const T*>(p.v)[offsets[i] + tid]);
    }
  }
  if (tid < dim) {
    from_float(static_cast<T*>(p.out)[row * p.out_token_stride + head * p.out_head_stride + tid],
               sum > 0 ? out / sum : 0.0f);
  }
  if (p.softmax_lse != nullptr && tid == 0) {
    p.softmax_lse[std::int64_t{head} * p.n_queries + row] = sum > 0 ? peak + logf(sum) : -INFINITY;
  }
}

}  // namespace

cudaError_t launch_attention_reference(const AttentionParams& params, DType dtype,
                                       cudaStream_t stream) {
  const dim3 grid(params.n_queries, params.n_heads);
  if (dtype == DType::f32) {
    reference<float><<<grid, kThreads, 0, stream>>>(params);
  } else if (dtype == DType::bf16) {
    reference<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(params);
  } else {
    reference<__half><<<grid, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace cake::inline CAKE_ABI::cuda
