// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The few BLAS calls that the model needs, row-major and single-threaded.
#pragma once

#include <cstddef>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::reference::blas {

/// Makes the BLAS run on the calling thread alone. Cheap; call it before the first product.
void use_calling_thread_only();

/// C[m][n] = A[m][k] * B[n][k]^T + beta * C. The shape of x * W^T.
void product_with_transpose(std::size_t m, std::size_t n, std::size_t k, const float* a,
                            std::size_t lda, const float* b, std::size_t ldb, float beta, float* c,
                            std::size_t ldc);

/// C[m][n] = A[m][k] * B[k][n] + beta * C.
void product(std::size_t m, std::size_t n, std::size_t k, const float* a, std::size_t lda,
             const float* b, std::size_t ldb, float beta, float* c, std::size_t ldc);

}  // namespace cake::inline CAKE_ABI::reference::blas
