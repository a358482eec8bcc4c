// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#pragma once

#include <cuda_runtime_api.h>

#include "kv_transfer_plan.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

/// Enqueues the kernel that moves the rows of one piece into pages, or out of them, with at most
/// `blocks` thread blocks.
///
/// Needs:   args.near, its stride, pools and strides are multiples of 16 bytes
cudaError_t move_rows(const MoveArgs& args, bool into_pages, unsigned blocks, cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda::transfer
