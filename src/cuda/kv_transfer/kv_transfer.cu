// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Rows between densely packed memory and pages. Soon over, several loads of each thread in flight
// (of 16 bytes where the rows allow it), loads and stores marked as used once: it runs beside a
// prefill that wants the multiprocessors and the L2 cache for itself.
#include <algorithm>

#include "kv_transfer_kernels.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kInFlight = 4;

template <class Vector, bool kIntoPages>
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ MoveArgs a) {
  const std::uint32_t vectors = a.row_bytes / sizeof(Vector);  // of a row
  const std::uint32_t total = a.n_rows * vectors;
  const std::uint32_t stride = gridDim.x * kThreads;
  for (std::uint32_t x = blockIdx.x * kThreads + threadIdx.x; x < total; x += stride * kInFlight) {
    Vector value[kInFlight];
    Vector* to[kInFlight];
#pragma unroll
    for (unsigned i = 0; i < kInFlight; ++i) {
      const std::uint32_t at = x + i * stride;
      to[i] = nullptr;
      if (at < total) {
        const std::uint32_t row = at / vectors;
        const Place place = place_of(a, row);
        Vector* const near = reinterpret_cast<Vector*>(a.near + place.near) + (at - row * vectors);
        Vector* const page =
            reinterpret_cast<Vector*>(a.pools[place.run] + place.pool) + (at - row * vectors);
        value[i] = __ldcs(kIntoPages ? near : page);
        to[i] = kIntoPages ? page : near;
      }
    }
#pragma unroll
    for (unsigned i = 0; i < kInFlight; ++i) {
      if (to[i] != nullptr) __stcs(to[i], value[i]);
    }
  }
}

template <class Vector>
cudaError_t launch(const MoveArgs& args, bool into_pages, unsigned blocks, cudaStream_t stream) {
  const std::uint64_t vectors = std::uint64_t{args.n_rows} * (args.row_bytes / sizeof(Vector));
  const std::uint64_t needed = (vectors + kThreads - 1) / kThreads;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::clamp<std::uint64_t>(needed, 1, blocks)));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return into_pages ? cudaLaunchKernelEx(&config, move_kernel<Vector, true>, args)
                    : cudaLaunchKernelEx(&config, move_kernel<Vector, false>, args);
}

}  // namespace

cudaError_t move_rows(const MoveArgs& args, unsigned width, bool into_pages, unsigned blocks,
                      cudaStream_t stream) {
  switch (width) {
    case 16:
      return launch<uint4>(args, into_pages, blocks, stream);
    case 8:
      return launch<uint2>(args, into_pages, blocks, stream);
    case 4:
      return launch<unsigned int>(args, into_pages, blocks, stream);
    case 2:
      return launch<unsigned short>(args, into_pages, blocks, stream);
    default:
      return launch<unsigned char>(args, into_pages, blocks, stream);
  }
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
