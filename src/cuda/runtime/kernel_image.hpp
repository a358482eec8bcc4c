// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#pragma once

#include <cuda_runtime_api.h>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Whether this build holds code that the current device can run.
cudaError_t probe_kernel_image();

}  // namespace cake::inline CAKE_ABI::cuda
