// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#pragma once

#include <cuda_runtime_api.h>

#include "kv_transfer_plan.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

/// Enqueues the kernel that moves the rows of one piece into pages, or out of them, `width` bytes at
/// once, with at most `blocks` thread blocks.
///
/// Needs:   width is 1, 2, 4, 8 or 16; args.near, its stride, row_bytes, pools and strides are
///          multiples of it
cudaError_t move_rows(const MoveArgs& args, unsigned width, bool into_pages, unsigned blocks,
                      cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda::transfer
