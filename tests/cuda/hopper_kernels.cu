// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "hopper_kernels.hpp"
#include "src/cuda/attention/impls/sm90_tile.cuh"
#include "src/cuda/ptx/tma.cuh"

namespace cake::inline CAKE_ABI::testing {
namespace {

using namespace cake::cuda::device;

__global__ void __launch_bounds__(128)
    box(const __grid_constant__ CUtensorMap map, int4 at, std::uint16_t* out) {
  __shared__ __align__(1024) std::uint16_t buffer[128 * 64];
  __shared__ std::uint64_t barrier;
  for (int i = static_cast<int>(threadIdx.x); i < 128 * 64; i += 128) buffer[i] = 0xffff;
  if (threadIdx.x == 0) {
    prefetch_map(map);
    init_barrier(&barrier, 1);
    fence_barrier_init();
  }
  fence_async_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    arrive_expecting(&barrier, sizeof buffer);
    copy_box(shared_address(buffer), map, &barrier, CacheHint::evict_first, at.x, at.y, at.z, at.w);
  }
  wait(&barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < 128 * 64; i += 128) {
    const std::uint32_t place = panel_place(i / 64, i % 64 / 8, 128 * kPanelRowBytes) / 2;
    out[i] = buffer[place + static_cast<std::uint32_t>(i % 8)];
  }
}

/// Threads copy 16 bytes each, even ones not; the barrier says when all are there.
__global__ void __launch_bounds__(256) gathered(const uint4* from, uint4* out) {
  __shared__ uint4 buffer[128];
  __shared__ std::uint64_t full;
  if (threadIdx.x == 0) init_barrier(&full, 128);
  if (threadIdx.x < 128) buffer[threadIdx.x] = make_uint4(1, 1, 1, 1);
  __syncthreads();
  if (threadIdx.x < 128) {
    copy_async(shared_address(&buffer[threadIdx.x]), from + threadIdx.x, threadIdx.x % 2 == 1);
    arrive_after_copies(&full);
  } else {
    wait(&full, 0);
    out[threadIdx.x - 128] = buffer[threadIdx.x - 128];
  }
}

/// Rows of kDim elements to panels.
template <int kRows, int kDim>
__device__ void to_panels(unsigned char* to, const void* from) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim / 8; i += 128) {
    const int row = i / (kDim / 8);
    const int piece = i % (kDim / 8);
    *reinterpret_cast<uint4*>(to + panel_place(row, piece, kRows * kPanelRowBytes)) =
        static_cast<const uint4*>(from)[i];
  }
}

template <class T, int kDim, bool kInRegisters>
__global__ void __launch_bounds__(128)
    products(const void* q, const void* k, const void* v, float* scores_out, float* out_out) {
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char* const k_at = shared + 64 * kDim * 2;
  unsigned char* const v_at = k_at + 128 * kDim * 2;
  to_panels<64, kDim>(shared, q);
  to_panels<128, kDim>(k_at, k);
  to_panels<128, kDim>(v_at, v);
  fence_async_proxy();
  __syncthreads();
  float scores[64];
  if constexpr (kInRegisters) {
    std::uint32_t queries[kDim / 16][4];
    load_queries<kDim, 64>(queries, shared_address(shared));
    fence_products();
    issue_scores<T, kDim>(scores, queries, shared_address(k_at));
  } else {
    fence_products();
    issue_scores<T, kDim, 64>(scores, shared_address(shared), shared_address(k_at));
  }
  wait_products_but<0>();
  pin(scores);
  float out[kDim / 2] = {};
  std::uint32_t weights[8][4];
#pragma unroll
  for (int i = 0; i < 32; ++i) weights[i / 4][i % 4] = pack<T>(scores[2 * i], scores[2 * i + 1]);
  fence_products();
  issue_output<T, kDim>(out, weights, shared_address(v_at));
  wait_products_but<0>();
  pin(out);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    scores_out[(row + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = scores[i];
  }
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) {
    out_out[(row + i / 2 % 2 * 8) * kDim + i / 4 * 8 + lane % 4 * 2 + i % 2] = out[i];
  }
}

template <class T, int kDim, bool kInRegisters>
cudaError_t launch_products(const void* q, const void* k, const void* v, float* scores,
                            float* out) {
  constexpr int kShared = (64 + 128 + 128) * kDim * 2;
  const cudaError_t code = cudaFuncSetAttribute(
      products<T, kDim, kInRegisters>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (code != cudaSuccess) return code;
  products<T, kDim, kInRegisters><<<1, 128, kShared>>>(q, k, v, scores, out);
  return cudaGetLastError();
}

template <int kPlaces>
__global__ void __launch_bounds__(256, 1) ring(int count, int* out) {
  __shared__ int places[kPlaces];
  __shared__ std::uint64_t full[kPlaces], empty[kPlaces];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPlaces; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&empty[i], 128);
    }
    fence_barrier_init();
  }
  __syncthreads();
  Ring<kPlaces> at;
  if (uniform(static_cast<int>(threadIdx.x) / 128) == 0) {
    shrink_registers<40>();
    for (int i = 0; i < count; ++i) {
      wait(&empty[at.stage()], at.parity() ^ 1);
      if (threadIdx.x == 0) {
        places[at.stage()] = i;
        arrive(&full[at.stage()]);
      }
      at.next();
    }
  } else {
    grow_registers<232>();
    for (int i = 0; i < count; ++i) {
      wait(&full[at.stage()], at.parity());
      if (threadIdx.x == 128 + static_cast<unsigned>(i) % 128) out[i] = places[at.stage()];
      arrive(&empty[at.stage()]);
      at.next();
    }
  }
}

/// The counter is atomic, though turns order its accesses: racecheck loses an order that a second
/// named barrier hands on, where one side only arrives; with bar.sync on both sides it follows.
__global__ void __launch_bounds__(384) turns(int rounds, int* out) {
  __shared__ int next;
  if (threadIdx.x == 0) next = 0;
  __syncthreads();
  const int me = uniform(static_cast<int>(threadIdx.x) / 128);
  if (me == 2) arrive_named(1, 256);
  for (int i = 0; i < rounds; ++i) {
    sync_named(1 + me, 256);
    if (threadIdx.x % 128 == 0) out[atomicAdd(&next, 1)] = me;
    arrive_named(1 + (me + 1) % 3, 256);
  }
}

}  // namespace

cudaError_t run_box(const CUtensorMap& map, const int (&at)[4], std::uint16_t* out) {
  box<<<1, 128>>>(map, make_int4(at[0], at[1], at[2], at[3]), out);
  return cudaGetLastError();
}

cudaError_t run_gathered(const void* from, void* out) {
  gathered<<<1, 256>>>(static_cast<const uint4*>(from), static_cast<uint4*>(out));
  return cudaGetLastError();
}

template <class T>
cudaError_t run_products_of(int dim, bool in_registers, const void* q, const void* k, const void* v,
                            float* scores, float* out) {
  if (dim == 64) {
    return in_registers ? launch_products<T, 64, true>(q, k, v, scores, out)
                        : launch_products<T, 64, false>(q, k, v, scores, out);
  }
  return in_registers ? launch_products<T, 128, true>(q, k, v, scores, out)
                      : launch_products<T, 128, false>(q, k, v, scores, out);
}

cudaError_t run_products(bool bf16, int dim, bool in_registers, const void* q, const void* k,
                         const void* v, float* scores, float* out) {
  return bf16 ? run_products_of<__nv_bfloat16>(dim, in_registers, q, k, v, scores, out)
              : run_products_of<__half>(dim, in_registers, q, k, v, scores, out);
}

cudaError_t run_ring(int places, int count, int* out) {
  places == 2 ? ring<2><<<1, 256>>>(count, out) : ring<3><<<1, 256>>>(count, out);
  return cudaGetLastError();
}

cudaError_t run_turns(int rounds, int* out) {
  turns<<<1, 384>>>(rounds, out);
  return cudaGetLastError();
}

}  // namespace cake::inline CAKE_ABI::testing
