// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Arrays that are filled or rounded element by element, outside of passes: what Thrust is for.
#include <cuda_bf16.h>
#include <curand_kernel.h>
#include <thrust/execution_policy.h>
#include <thrust/fill.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/system_error.h>
#include <thrust/tabulate.h>
#include <thrust/transform.h>

#include <new>

#include "kernels.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {
namespace {

/// Calls algorithm(policy), which only enqueues.
template <class Algorithm>
cudaError_t enqueue(cudaStream_t stream, Algorithm algorithm) {
  try {
    algorithm(thrust::cuda::par_nosync.on(stream));
    return cudaGetLastError();
  } catch (const thrust::system_error& e) {
    (void)cudaGetLastError();
    return static_cast<cudaError_t>(e.code().value());
  } catch (const std::bad_alloc&) {
    (void)cudaGetLastError();
    return cudaErrorMemoryAllocation;
  }
}

struct Round {
  __device__ __nv_bfloat16 operator()(float x) const { return __float2bfloat16_rn(x); }
};

struct Turn {
  const float* inverse_frequency;
  std::uint32_t half;
  __device__ float2 operator()(std::size_t i) const {
    const float angle = static_cast<float>(i / half) * inverse_frequency[i % half];
    double sine;
    double cosine;
    sincos(static_cast<double>(angle), &sine, &cosine);
    return make_float2(static_cast<float>(cosine), static_cast<float>(sine));
  }
};

/// Four elements at a time, as the generator gives them.
struct NormalQuad {
  __nv_bfloat16* to;
  std::size_t count;
  float deviation;
  std::uint64_t seed;
  __device__ void operator()(std::size_t quad) const {
    curandStatePhilox4_32_10_t state;
    curand_init(seed, quad, 0, &state);
    const float4 four = curand_normal4(&state);
    const float values[4] = {four.x, four.y, four.z, four.w};
    for (unsigned j = 0; j < 4 && 4 * quad + j < count; ++j) {
      to[4 * quad + j] = __float2bfloat16_rn(values[j] * deviation);
    }
  }
};

}  // namespace

cudaError_t rope_table(float2* table, const float* inverse_frequency, std::uint32_t positions,
                       std::uint32_t half, cudaStream_t stream) {
  return enqueue(stream, [&](const auto& policy) {
    thrust::tabulate(policy, table, table + std::size_t{positions} * half,
                     Turn{inverse_frequency, half});
  });
}

cudaError_t round_to_bf16(void* to, const float* from, std::size_t count, cudaStream_t stream) {
  return enqueue(stream, [&](const auto& policy) {
    thrust::transform(policy, from, from + count, static_cast<__nv_bfloat16*>(to), Round{});
  });
}

cudaError_t fill_normal_bf16(void* to, std::size_t count, float deviation, std::uint64_t seed,
                             cudaStream_t stream) {
  return enqueue(stream, [&](const auto& policy) {
    thrust::for_each_n(policy, thrust::counting_iterator<std::size_t>(0), (count + 3) / 4,
                       NormalQuad{static_cast<__nv_bfloat16*>(to), count, deviation, seed});
  });
}

cudaError_t fill(float* to, std::size_t count, float value, cudaStream_t stream) {
  return enqueue(stream, [&](const auto& policy) { thrust::fill(policy, to, to + count, value); });
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
