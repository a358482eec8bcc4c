// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <cuda_bf16.h>

#include <algorithm>

#include "kernels.hpp"
#include "src/cuda/runtime/dependent_launch.cuh"

namespace cake::inline CAKE_ABI::reference::cuda_impl {
namespace {

namespace device = cuda::device;
using cuda::launch_dependent;

constexpr unsigned kThreads = 256;
constexpr unsigned kVector = 8;  // elements that a thread moves at once

struct alignas(16) Bf16x8 {
  __nv_bfloat162 pair[4];
};

__device__ void load(float (&out)[kVector], const __nv_bfloat16* from) {
  const Bf16x8 in = *reinterpret_cast<const Bf16x8*>(from);
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    const float2 two = __bfloat1622float2(in.pair[i]);
    out[2 * i] = two.x;
    out[2 * i + 1] = two.y;
  }
}
__device__ void load(float (&out)[kVector], const float* from) {
  const float4 a = *reinterpret_cast<const float4*>(from);
  const float4 b = *reinterpret_cast<const float4*>(from + 4);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
  out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
__device__ void store(__nv_bfloat16* to, const float (&in)[kVector]) {
  Bf16x8 out;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    out.pair[i] = __floats2bfloat162_rn(in[2 * i], in[2 * i + 1]);
  }
  *reinterpret_cast<Bf16x8*>(to) = out;
}
__device__ void store(float* to, const float (&in)[kVector]) {
  *reinterpret_cast<float4*>(to) = make_float4(in[0], in[1], in[2], in[3]);
  *reinterpret_cast<float4*>(to + 4) = make_float4(in[4], in[5], in[6], in[7]);
}

__global__ void set_step_kernel(StepState* to, StepState value) { *to = value; }

template <class X>
__global__ void embed_kernel(const std::int32_t* tokens, const StepState* step,
                             const __nv_bfloat16* table, X* x, std::uint32_t n_embd) {
  const std::size_t row = blockIdx.x;
  __shared__ std::int32_t token_of_row;  // in host memory, and so read once
  if (threadIdx.x == 0) token_of_row = tokens[step->begin + static_cast<int>(row)];
  __syncthreads();
  const auto token = static_cast<std::size_t>(token_of_row);
  for (std::uint32_t i = threadIdx.x * kVector; i < n_embd; i += blockDim.x * kVector) {
    float values[kVector];
    load(values, table + token * n_embd + i);
    store(x + row * n_embd + i, values);
  }
}

/// Sum over a block of kThreads threads, in an order that does not change; every thread gets it.
__device__ float block_sum(float value) {
  __shared__ float parts[kThreads / 32];
#pragma unroll
  for (unsigned offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(~0u, value, offset);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (unsigned i = 0; i < kThreads / 32; ++i) sum += parts[i];
  return sum;
}

/// One block for a row; each thread keeps up to kParts vectors of it.
template <class X, unsigned kParts>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(__nv_bfloat16* out, const X* x, const float* weight, std::uint32_t n_embd,
                    float epsilon) {
  device::let_dependents_start();
  device::wait_for_primary();
  const std::size_t row = blockIdx.x;
  float values[kParts][kVector];
  float squares = 0;
#pragma unroll
  for (unsigned part = 0; part < kParts; ++part) {
    const std::uint32_t i = (part * kThreads + threadIdx.x) * kVector;
    if (i < n_embd) {
      load(values[part], x + row * n_embd + i);
#pragma unroll
      for (unsigned j = 0; j < kVector; ++j) squares += values[part][j] * values[part][j];
    }
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(n_embd) + epsilon);
#pragma unroll
  for (unsigned part = 0; part < kParts; ++part) {
    const std::uint32_t i = (part * kThreads + threadIdx.x) * kVector;
    if (i < n_embd) {
      float factors[kVector];
      load(factors, weight + i);
#pragma unroll
      for (unsigned j = 0; j < kVector; ++j) factors[j] *= values[part][j] * scale;
      store(out + row * n_embd + i, factors);
    }
  }
}

template <class X>
cudaError_t launch_norm(void* out, const void* x, const float* weight, std::uint32_t rows,
                        std::uint32_t n_embd, float epsilon, cudaStream_t stream) {
  const std::uint32_t parts = (n_embd + kThreads * kVector - 1) / (kThreads * kVector);
  const auto kernel = parts <= 1   ? rms_norm_kernel<X, 1>
                      : parts <= 2 ? rms_norm_kernel<X, 2>
                      : parts <= 4 ? rms_norm_kernel<X, 4>
                                   : rms_norm_kernel<X, 8>;
  return launch_dependent(kernel, dim3(rows), kThreads, 0, stream, static_cast<__nv_bfloat16*>(out),
                          static_cast<const X*>(x), weight, n_embd, epsilon);
}

/// One block for a row; a thread takes 8 elements of one head at a time.
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeArgs a) {
  device::let_dependents_start();
  device::wait_for_primary();
  const std::uint32_t row = blockIdx.x;
  const std::uint32_t t = static_cast<std::uint32_t>(a.step->begin) + row;
  const std::uint32_t groups = a.head_dim / kVector;  // of a head
  const std::uint32_t heads = a.n_heads + 2 * a.n_kv_heads;
  auto* const in = static_cast<__nv_bfloat16*>(a.qkv) + std::size_t{row} * heads * a.head_dim;
  const float2* const turn = a.table + std::size_t{t} * (a.rope_dimensions / 2);
  const std::int64_t slot = a.page_table[t / a.page_tokens] * a.strides.page +
                            static_cast<std::int64_t>(t % a.page_tokens) * a.strides.token;
  const std::uint32_t first = row >= a.first_query ? 0 : a.n_heads * groups;
  for (std::uint32_t g = first + threadIdx.x; g < heads * groups; g += blockDim.x) {
    const std::uint32_t head = g / groups;
    const std::uint32_t e = g % groups * kVector;
    __nv_bfloat16* const from = in + std::size_t{head} * a.head_dim + e;
    float values[kVector];
    load(values, from);
    if (head < a.n_heads + a.n_kv_heads) {
#pragma unroll
      for (unsigned j = 0; j < kVector; j += 2) {
        if (e + j < a.rope_dimensions) {
          const float2 cos_sin = turn[(e + j) / 2];
          const float x = values[j];
          const float y = values[j + 1];
          values[j] = x * cos_sin.x - y * cos_sin.y;
          values[j + 1] = x * cos_sin.y + y * cos_sin.x;
        }
      }
    }
    if (head < a.n_heads) {
      store(from, values);
    } else if (head < a.n_heads + a.n_kv_heads) {
      store(static_cast<__nv_bfloat16*>(a.k) + slot + (head - a.n_heads) * a.strides.head + e,
            values);
    } else {
      const std::uint32_t side = head - a.n_heads - a.n_kv_heads;
      store(static_cast<__nv_bfloat16*>(a.v) + slot + side * a.strides.head + e, values);
    }
  }
}

__global__ void silu_product_kernel(__nv_bfloat16* out, const __nv_bfloat16* gate_up,
                                    std::size_t vectors, std::uint32_t n_ff) {
  device::let_dependents_start();
  device::wait_for_primary();
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  const std::uint32_t per_row = n_ff / kVector;
  const std::size_t row = i / per_row;
  const std::size_t column = i % per_row * kVector;
  float gate[kVector];
  float up[kVector];
  load(gate, gate_up + row * 2 * n_ff + column);
  load(up, gate_up + row * 2 * n_ff + n_ff + column);
#pragma unroll
  for (unsigned j = 0; j < kVector; ++j) gate[j] = gate[j] / (1.0f + __expf(-gate[j])) * up[j];
  store(out + row * n_ff + column, gate);
}

__global__ void copy_kernel(float* to, const float* from, std::size_t count) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    to[i] = from[i];
  }
}

/// Blocks for a loop over `count` items, a grid at a time.
unsigned blocks_for(std::size_t count) {
  return static_cast<unsigned>(
      std::clamp<std::size_t>((count + kThreads - 1) / kThreads, 1, 132 * 16));
}

}  // namespace

cudaError_t set_step(StepState* to, StepState value, cudaStream_t stream) {
  set_step_kernel<<<1, 1, 0, stream>>>(to, value);
  return cudaGetLastError();
}

cudaError_t embed(const std::int32_t* tokens, const StepState* step, const void* table, void* x,
                  bool f32, std::uint32_t rows, std::uint32_t n_embd, cudaStream_t stream) {
  const auto* const rounded = static_cast<const __nv_bfloat16*>(table);
  if (f32) {
    embed_kernel<<<rows, kThreads, 0, stream>>>(tokens, step, rounded, static_cast<float*>(x),
                                                n_embd);
  } else {
    embed_kernel<<<rows, kThreads, 0, stream>>>(tokens, step, rounded,
                                                static_cast<__nv_bfloat16*>(x), n_embd);
  }
  return cudaGetLastError();
}

cudaError_t rms_norm(void* out, const void* x, bool f32, const float* weight, std::uint32_t rows,
                     std::uint32_t n_embd, float epsilon, cudaStream_t stream) {
  if (n_embd % kVector != 0 || n_embd > kMaxNormWidth) return cudaErrorInvalidValue;
  return f32 ? launch_norm<float>(out, x, weight, rows, n_embd, epsilon, stream)
             : launch_norm<__nv_bfloat16>(out, x, weight, rows, n_embd, epsilon, stream);
}

cudaError_t rope_and_store(const RopeArgs& args, cudaStream_t stream) {
  return launch_dependent(rope_kernel, dim3(args.rows), kThreads, 0, stream, args);
}

cudaError_t silu_product(void* out, const void* gate_up, std::uint32_t rows, std::uint32_t n_ff,
                         cudaStream_t stream) {
  const std::size_t vectors = std::size_t{rows} * (n_ff / kVector);
  const auto blocks = static_cast<unsigned>((vectors + kThreads - 1) / kThreads);
  return launch_dependent(silu_product_kernel, dim3(blocks), kThreads, 0, stream,
                          static_cast<__nv_bfloat16*>(out),
                          static_cast<const __nv_bfloat16*>(gate_up), vectors, n_ff);
}

cudaError_t copy_floats(float* to, const float* from, std::size_t count, cudaStream_t stream) {
  copy_kernel<<<blocks_for(count), kThreads, 0, stream>>>(to, from, count);
  return cudaGetLastError();
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
