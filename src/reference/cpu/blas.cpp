// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "blas.hpp"

#include <cblas.h>

#include <string>

#include "cake/reference/cpu_backend.hpp"

// What the BLAS at hand offers beyond cblas; each is null where it is another BLAS.
extern "C" {
[[gnu::weak]] void openblas_set_num_threads(int);
[[gnu::weak]] char* openblas_get_corename(void);
[[gnu::weak]] void bli_thread_set_num_threads(long);
[[gnu::weak]] int MKL_Set_Num_Threads_Local(int);
}

namespace cake::inline CAKE_ABI::reference {
namespace blas {
namespace {

int narrow(std::size_t value) { return static_cast<int>(value); }

}  // namespace

void use_calling_thread_only() {
  if (openblas_set_num_threads) openblas_set_num_threads(1);
  if (bli_thread_set_num_threads) bli_thread_set_num_threads(1);
  if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(1);
}

void product_with_transpose(std::size_t m, std::size_t n, std::size_t k, const float* a,
                            std::size_t lda, const float* b, std::size_t ldb, float beta, float* c,
                            std::size_t ldc) {
  if (m == 1) {  // a product with one row is bound by memory; sgemm would pack B first
    cblas_sgemv(CblasRowMajor, CblasNoTrans, narrow(n), narrow(k), 1.0f, b, narrow(ldb), a, 1, beta,
                c, 1);
    return;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, narrow(m), narrow(n), narrow(k), 1.0f, a,
              narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
}

void product(std::size_t m, std::size_t n, std::size_t k, const float* a, std::size_t lda,
             const float* b, std::size_t ldb, float beta, float* c, std::size_t ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(m), narrow(n), narrow(k), 1.0f, a,
              narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
}

}  // namespace blas

const char* blas_description() {
  static const std::string text = [] {
    if (openblas_get_corename) {
      return "OpenBLAS, " + std::string(openblas_get_corename()) + " kernels";
    }
    if (bli_thread_set_num_threads) return std::string("BLIS");
    if (MKL_Set_Num_Threads_Local) return std::string("MKL");
    return std::string("an unknown BLAS");
  }();
  return text.c_str();
}

}  // namespace cake::inline CAKE_ABI::reference
