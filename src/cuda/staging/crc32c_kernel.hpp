// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::cuda::crc {

/// Enqueues the digests of `runs` runs, as DeviceStaging::crc32c() describes them.
///
/// Shape:   out[runs * ceil(run_bytes / block_bytes)], memory that the device can write
/// Needs:   sizes above 0 and multiples of 4, data at a multiple of 4, block_bytes at most
///          kMostBlockBytes, fewer than 2^31 digests
cudaError_t launch(const std::byte* data, std::size_t run_bytes, std::size_t runs,
                   std::size_t block_bytes, std::uint32_t* out, cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda::crc
