// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Programmatic dependent launch, from compute capability 9.0 on: a kernel that was launched behind
// another one starts while that one still runs, and waits inside for what it wrote.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace device {

/// Kernels behind this one may start once every block has come here. They still see nothing of it
/// before they have waited.
__device__ inline void let_dependents_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Until the kernel in front of this one is over and its writes are seen. A kernel that was
/// launched behind another one comes here in every block: whoever waits for it waits for no more
/// than it.
__device__ inline void wait_for_primary() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace device

/// Launches a kernel that calls wait_for_primary(), so that it may start before the one in front of
/// it in the stream is over. As any other kernel where the code that runs does not wait.
template <class... Parameters, class... Args>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                             std::size_t shared_bytes, cudaStream_t stream, Args&&... args) {
  cudaFuncAttributes attributes{};
  if (const auto code = cudaFuncGetAttributes(&attributes, kernel); code != cudaSuccess) {
    return code;
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = attributes.ptxVersion >= 90 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

}  // namespace cake::inline CAKE_ABI::cuda
