// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A block stays on its multiprocessor and takes tile after tile: 128 rows of `in` times 128 or 112
// rows of gate and the same of up, whichever keeps the multiprocessors busier. Its first warpgroup, the producer, brings slices 64 deep to shared
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
constexpr int kRows = 128;  // of a block's tile
constexpr int kDepth = 64;  // of a slice
constexpr int kStages = 4;
constexpr std::uint32_t kGroup = 16;  // tiles of rows that take turns
constexpr std::uint32_t kInBytes = kRows * kDepth * 2;
constexpr std::uint32_t kPanelBytes = 64 * device::kPanelRowBytes;  // 64 x 64 results

struct Barriers {
  std::uint64_t full[kStages];
  std::uint64_t empty[kStages];
};

template <int kTileColumns>
struct TileShape {
  static constexpr int kColumns = kTileColumns;                       // of a tile's results
  static constexpr std::uint32_t kHalfBytes = kColumns * kDepth * 2;  // gate or up
  static constexpr std::uint32_t kStageBytes = kInBytes + 2 * kHalfBytes;
  static constexpr std::uint32_t kOutAt = kStages * kStageBytes;
  static constexpr std::uint32_t kBarriersAt = kOutAt + 4 * kPanelBytes;
  static constexpr std::uint32_t kShared = kBarriersAt + sizeof(Barriers);
  /// Results leave in two panels of 64 columns; the second begins here, so that it ends with the
  /// tile. What both have is written twice.
  static constexpr int kSecondPanel = kColumns - 64;
};

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
template <class Shape>
__device__ void produce(const SwigluMaps& maps, const Tiles& tiles, Barriers& barriers,
                        std::uint32_t base, int slices, int n_ff) {
  device::wait_for_primary();  // consumers touch nothing before its first slice is there
  Turn turn;
  for (std::uint32_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const uint2 tile = tiles.at(i);
    const int row = static_cast<int>(tile.x) * kRows;
    const int gate = static_cast<int>(tile.y) * Shape::kColumns;
    for (int slice = 0; slice < slices; ++slice, turn.advance()) {
      std::uint64_t* const full = &barriers.full[turn.stage];
      const std::uint32_t to = base + turn.stage * Shape::kStageBytes;
      device::wait(&barriers.empty[turn.stage], turn.parity ^ 1);
      device::arrive_expecting(full, Shape::kStageBytes);
      device::copy_matrix_box(to, maps.in, full, slice * kDepth, row);
      device::copy_matrix_box(to + kInBytes, maps.weight, full, slice * kDepth, gate);
      device::copy_matrix_box(to + kInBytes + Shape::kHalfBytes, maps.weight, full, slice * kDepth,
                              n_ff + gate);
    }
  }
}

/// The sums of one tile: gate in the first half of them, up in the second.
template <class Shape>
__device__ __forceinline__ void multiply(float (&sums)[Shape::kColumns], Turn& turn,
                                         Barriers& barriers, std::uint32_t base, int slices) {
  const int warpgroup = static_cast<int>(threadIdx.x / 128) - 1;
  std::uint32_t before = 0;
  const auto release = [&](std::uint32_t stage) {
    if (threadIdx.x % 128 == 0) device::arrive(&barriers.empty[stage]);
  };
  for (int slice = 0; slice < slices; ++slice) {
    device::wait(&barriers.full[turn.stage], turn.parity);
    const std::uint32_t at = base + turn.stage * Shape::kStageBytes;
    const std::uint32_t a =
        device::describe(at + static_cast<std::uint32_t>(warpgroup) * kPanelBytes, 0);
    const std::uint32_t b = device::describe(at + kInBytes, 0);
    device::fence_products();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      device::product_shared(sums, a + (k * 32 >> 4), b + (k * 32 >> 4), slice | k);
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
template <class Shape>
__device__ __forceinline__ void store(const float (&sums)[Shape::kColumns], const SwigluMaps& maps,
                                      std::uint32_t base, int row, int column) {
  const int warpgroup = static_cast<int>(threadIdx.x / 128) - 1;
  const int thread = static_cast<int>(threadIdx.x % 128);
  const int lane = thread % 32;
  const std::uint32_t panels =
      base + Shape::kOutAt + static_cast<std::uint32_t>(warpgroup) * 2 * kPanelBytes;
  if (thread == 0) device::wait_stores_read();
  device::sync_named(1 + warpgroup, 128);
  const int local = thread / 32 * 16 + (lane & 15);
  constexpr int kSecondPiece = Shape::kSecondPanel / 8;
#pragma unroll
  for (int j = 0; j < Shape::kColumns / 8; j += 2) {  // 16 columns
    std::uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * j + 2 * i;
      const int up = at + Shape::kColumns / 2;
      packed[i] = device::pack<__nv_bfloat16>(swiglu(sums[at], sums[up]),
                                              swiglu(sums[at + 1], sums[up + 1]));
    }
    const auto keep = [&](std::uint32_t panel, int piece) {
      device::store_matrices(panel + device::panel_place(local, piece + lane / 16, 0), packed);
    };
    if (j < 8) keep(panels, j);
    if (j >= kSecondPiece) keep(panels + kPanelBytes, j - kSecondPiece);
  }
  device::fence_async_proxy();
  device::sync_named(1 + warpgroup, 128);
  if (thread == 0) {
    device::store_matrix_box(maps.out, panels, column, row + warpgroup * 64);
    device::store_matrix_box(maps.out, panels + kPanelBytes, column + Shape::kSecondPanel,
                             row + warpgroup * 64);
    device::commit_stores();
  }
}

template <class Shape>
__device__ void consume(const SwigluMaps& maps, const Tiles& tiles, Barriers& barriers,
                        std::uint32_t base, int slices) {
  Turn turn;
  for (std::uint32_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const uint2 tile = tiles.at(i);
    float sums[Shape::kColumns];
    multiply<Shape>(sums, turn, barriers, base, slices);
    store<Shape>(sums, maps, base, static_cast<int>(tile.x) * kRows,
                 static_cast<int>(tile.y) * Shape::kColumns);
  }
  if (threadIdx.x % 128 == 0) device::wait_stores();
}

template <class Shape>
__global__ void __launch_bounds__(kThreads, 1)
    swiglu_kernel(const __grid_constant__ SwigluMaps maps, Tiles tiles, int slices, int n_ff) {
  extern __shared__ __align__(1024) unsigned char shared[];
  auto& barriers = *reinterpret_cast<Barriers*>(shared + Shape::kBarriersAt);
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
    if (threadIdx.x == 0) produce<Shape>(maps, tiles, barriers, base, slices, n_ff);
  } else {
    device::grow_registers<232>();
    consume<Shape>(maps, tiles, barriers, base, slices);
  }
}

template <int kColumns>
cudaError_t launch(const SwigluMaps& maps, const SwigluProduct& p, std::uint32_t processors,
                   cudaStream_t stream) {
  using Shape = TileShape<kColumns>;
  constexpr auto kKernel = swiglu_kernel<Shape>;
  if (const cudaError_t code = cuda::allow_shared_memory<kKernel>(Shape::kShared);
      code != cudaSuccess) {
    return code;
  }
  const Tiles tiles{(p.rows + kRows - 1) / kRows, p.n_ff / kColumns};
  const std::uint32_t blocks = std::min(tiles.rows * tiles.columns, processors);
  return cuda::launch_dependent(kKernel, dim3(blocks), kThreads, Shape::kShared, stream, maps,
                                tiles, static_cast<int>(p.n_embd) / kDepth,
                                static_cast<int>(p.n_ff));
}

}  // namespace

cudaError_t launch_swiglu_product(const SwigluMaps& maps, const SwigluProduct& p,
                                  std::uint32_t columns, std::uint32_t processors,
                                  cudaStream_t stream) {
  return columns == 112 ? launch<112>(maps, p, processors, stream)
                        : launch<128>(maps, p, processors, stream);
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
