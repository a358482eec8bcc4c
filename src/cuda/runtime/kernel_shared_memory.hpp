// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// More than 48 KiB of shared memory for a kernel has to be allowed once on each device.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Allows kKernel `bytes` of dynamic shared memory on the current device.
///
/// Thread:  Safe for concurrent use
template <auto kKernel>
cudaError_t allow_shared_memory(int bytes) {
  static std::atomic<std::uint64_t> ready{0};  // bit set of devices
  int device = 0;
  if (const cudaError_t code = cudaGetDevice(&device); code != cudaSuccess) return code;
  const std::uint64_t bit = std::uint64_t{1} << (device & 63);
  if ((ready.load(std::memory_order_relaxed) & bit) != 0) return cudaSuccess;
  const cudaError_t code = cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel),
                                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (code == cudaSuccess) ready.fetch_or(bit, std::memory_order_relaxed);
  return code;
}

}  // namespace cake::inline CAKE_ABI::cuda
