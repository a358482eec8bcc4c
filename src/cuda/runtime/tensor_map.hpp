// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How the bulk copy engine sees a matrix. Exported for cake::reference_cuda, which is a library of its own.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cake/export.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// A row-major bf16 matrix in boxes of 64 columns, swizzled by 128 bytes.
///
/// Needs:   rows that are a multiple of 16 bytes apart, an address that is a multiple of 16
/// Errors:  unsupported where the driver has no such maps; invalid_argument, naming the shape
CAKE_API Result<CUtensorMap> map_of_matrix(const void* base, std::uint64_t rows,
                                           std::uint64_t columns, std::uint32_t box_rows);

}  // namespace cake::inline CAKE_ABI::cuda
