// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "attention_mma.cuh"

namespace cake::inline CAKE_ABI::cuda {
cudaError_t launch_attention_bf16(const AttentionParams& params, cudaStream_t stream) {
  return device::launch_any<__nv_bfloat16>(params, stream);
}
}  // namespace cake::inline CAKE_ABI::cuda
