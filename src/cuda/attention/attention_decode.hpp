// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#pragma once

#include "attention_decode_work.hpp"
#include "attention_kernels.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Few queries over many keys, as planned; partial_out is the workspace. Two launches, the second
/// of which puts parts together.
cudaError_t launch_attention_decode(AttentionParams params, const decode::Plan& plan, DType dtype,
                                    cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda
