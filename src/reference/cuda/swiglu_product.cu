// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A block stays on its multiprocessor and takes tile after tile: 128 rows of `in` times 128 rows of
// gate and the same 128 of up. Its first warpgroup, the producer, brings slices 64 deep to shared
// memory; the other two have 64 rows each, with gate and up of a number in the same thread.
//
// Not done: pairs of blocks that bring each other half of the weights by multicast. They were
// slower on an H100, 519 instead of 803 TFLOP/s, their loads alone 606 instead of 960.
//
// Sources: the roles are those of CUTLASS's warp-specialised kernels and of DeepGEMM, the order of
// tiles is the grouped one of Triton's matrix multiplication tutorial.
#include <cuda_bf16.h>

#include <algorithm>

#include "src/cuda/mma/mma_sync.cuh"
#include "src/cuda/mma/sm90_operands.cuh"
#include "src/cuda/ptx/matrix_box.cuh"
#include "src/cuda/ptx/mbarrier.cuh"
#include "src/cuda/ptx/warpgroup.cuh"
#include "src/cuda/ptx/wgmma_256.cuh"
#include "src/cuda/runtime/dependent_launch.cuh"
#include "src/cuda/runtime/kernel_shared_memory.hpp"
#include "swiglu_product.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {
namespace {

namespace device = cuda::device;

constexpr int kThreads = 384;
constexpr int kRows = 128;     // of a block's tile
constexpr int kColumns = 128;  // of its results
constexpr int kDepth = 64;     // of a slice
constexpr int kStages = 4;
constexpr std::uint32_t kGroup = 16;  // tiles of rows that take turns
constexpr std::uint32_t kInBytes = kRows * kDepth * 2;
constexpr std::uint32_t kHalfBytes = kColumns * kDepth * 2;  // gate or up
constexpr std::uint32_t kStageBytes = kInBytes + 2 * kHalfBytes;
constexpr std::uint32_t kPanelBytes = 64 * device::kPanelRowBytes;  // 64 x 64 results
constexpr std::uint32_t kOutAt = kStages * kStageBytes;
constexpr std::uint32_t kBarriersAt = kOutAt + 4 * kPanelBytes;

struct Barriers {
  std::uint64_t full[kStages];
  std::uint64_t empty[kStages];
};
constexpr std::uint32_t kShared = kBarriersAt + sizeof(Barriers);

/// Tiles in an order in which those that run at once share rows and weights.
struct Tiles {
  std::uint32_t rows;     // tiles of rows
  std::uint32_t columns;  // tiles of columns
  __device__ std::uint32_t count() const { return rows * columns; }
  /// Tile of rows and tile of columns.
  __device__ uint2 at(std::uint32_t i) const {
    const std::uint32_t group = i / (kGroup * columns);
    const std::uint32_t first = group * kGroup;
    const std::uint32_t size = min(kGroup, rows - first);
    const std::uint32_t rest = i - first * columns;
    return make_uint2(first + rest % size, rest / size);
  }
};

/// A place in the ring of stages.
struct Turn {
  std::uint32_t stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// One thread: brings all slices of all tiles.
__device__ void produce(const SwigluMaps& maps, const Tiles& tiles, Barriers& barriers,
                        std::uint32_t base, int slices, int n_ff) {
  device::wait_for_primary();  // consumers touch nothing before its first slice is there
  Turn turn;
  for (std::uint32_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const uint2 tile = tiles.at(i);
    const int row = static_cast<int>(tile.x) * kRows;
    const int gate = static_cast<int>(tile.y) * kColumns;
    for (int slice = 0; slice < slices; ++slice, turn.advance()) {
      std::uint64_t* const full = &barriers.full[turn.stage];
      const std::uint32_t to = base + turn.stage * kStageBytes;
      device::wait(&barriers.empty[turn.stage], turn.parity ^ 1);
      device::arrive_expecting(full, kStageBytes);
      device::copy_matrix_box(to, maps.in, full, slice * kDepth, row);
      device::copy_matrix_box(to + kInBytes, maps.weight, full, slice * kDepth, gate);
      device::copy_matrix_box(to + kInBytes + kHalfBytes, maps.weight, full, slice * kDepth,
                              n_ff + gate);
    }
  }
}

/// The sums of one tile: gate in the first half of them, up in the second.
__device__ __forceinline__ void multiply(float (&sums)[128], Turn& turn, Barriers& barriers,
                                         std::uint32_t base, int slices) {
  const int warpgroup = static_cast<int>(threadIdx.x / 128) - 1;
  std::uint32_t before = 0;
  const auto release = [&](std::uint32_t stage) {
    if (threadIdx.x % 128 == 0) device::arrive(&barriers.empty[stage]);
  };
  for (int slice = 0; slice < slices; ++slice) {
    device::wait(&barriers.full[turn.stage], turn.parity);
    const std::uint32_t at = base + turn.stage * kStageBytes;
    const std::uint32_t a =
        device::describe(at + static_cast<std::uint32_t>(warpgroup) * kPanelBytes, 0);
    const std::uint32_t b = device::describe(at + kInBytes, 0);
    device::fence_products();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      device::product_shared_256(sums, a + (k * 32 >> 4), b + (k * 32 >> 4), slice | k);
    }
    device::commit_products();
    device::wait_products_but<1>();
    if (slice > 0) release(before);
    before = turn.stage;
    turn.advance();
  }
  device::wait_products_but<0>();
  device::pin(sums);
  release(before);
}

__device__ __forceinline__ float swiglu(float gate, float up) {
  return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

/// SwiGLU of a tile's sums, rounded, to shared memory and from there on its way.
__device__ __forceinline__ void store(const float (&sums)[128], const SwigluMaps& maps,
                                      std::uint32_t base, int row, int column) {
  const int warpgroup = static_cast<int>(threadIdx.x / 128) - 1;
  const int thread = static_cast<int>(threadIdx.x % 128);
  const int lane = thread % 32;
  const std::uint32_t panels =
      base + kOutAt + static_cast<std::uint32_t>(warpgroup) * 2 * kPanelBytes;
  if (thread == 0) device::wait_stores_read();
  device::sync_named(1 + warpgroup, 128);
  const int local = thread / 32 * 16 + (lane & 15);
#pragma unroll
  for (int j = 0; j < 16; j += 2) {  // 16 columns
    std::uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * j + 2 * i;
      packed[i] = device::pack<__nv_bfloat16>(swiglu(sums[at], sums[64 + at]),
                                              swiglu(sums[at + 1], sums[64 + at + 1]));
    }
    device::store_matrices(panels + device::panel_place<64>(local, j + lane / 16), packed);
  }
  device::fence_async_proxy();
  device::sync_named(1 + warpgroup, 128);
  if (thread == 0) {
    device::store_matrix_box(maps.out, panels, column, row + warpgroup * 64);
    device::store_matrix_box(maps.out, panels + kPanelBytes, column + 64, row + warpgroup * 64);
    device::commit_stores();
  }
}

__device__ void consume(const SwigluMaps& maps, const Tiles& tiles, Barriers& barriers,
                        std::uint32_t base, int slices) {
  Turn turn;
  for (std::uint32_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const uint2 tile = tiles.at(i);
    float sums[128];
    multiply(sums, turn, barriers, base, slices);
    store(sums, maps, base, static_cast<int>(tile.x) * kRows, static_cast<int>(tile.y) * kColumns);
  }
  if (threadIdx.x % 128 == 0) device::wait_stores();
}

__global__ void __launch_bounds__(kThreads, 1)
    swiglu_kernel(const __grid_constant__ SwigluMaps maps, Tiles tiles, int slices, int n_ff) {
  extern __shared__ __align__(1024) unsigned char shared[];
  auto& barriers = *reinterpret_cast<Barriers*>(shared + kBarriersAt);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      device::init_barrier(&barriers.full[s], 1);
      device::init_barrier(&barriers.empty[s], 2);  // warpgroups
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  const std::uint32_t base = device::shared_address(shared);
  if (threadIdx.x < 128) {
    device::shrink_registers<40>();
    if (threadIdx.x == 0) produce(maps, tiles, barriers, base, slices, n_ff);
  } else {
    device::grow_registers<232>();
    consume(maps, tiles, barriers, base, slices);
  }
}

}  // namespace

cudaError_t launch_swiglu_product(const SwigluMaps& maps, const SwigluProduct& p,
                                  std::uint32_t processors, cudaStream_t stream) {
  if (const cudaError_t code = cuda::allow_shared_memory<swiglu_kernel>(kShared);
      code != cudaSuccess) {
    return code;
  }
  const Tiles tiles{(p.rows + kRows - 1) / kRows, p.n_ff / kColumns};
  const std::uint32_t blocks = std::min(tiles.rows * tiles.columns, processors);
  return cuda::launch_dependent(swiglu_kernel, dim3(blocks), kThreads, kShared, stream, maps, tiles,
                                static_cast<int>(p.n_embd) / kDepth, static_cast<int>(p.n_ff));
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
