// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kernel_image.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {
__global__ void probe() {}
}  // namespace

cudaError_t probe_kernel_image() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, probe);
}

}  // namespace cake::inline CAKE_ABI::cuda
