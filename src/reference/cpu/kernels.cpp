// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kernels.hpp"

namespace cake::inline CAKE_ABI::reference {

extern const Kernels kernels_base;
#if defined(CAKE_REFERENCE_X86_KERNELS)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

const Kernels& kernels() {
#if defined(CAKE_REFERENCE_X86_KERNELS)
  // What is asked for here is exactly what the tables are compiled with (llama.cmake).
  static const Kernels* const best = [] {
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return v4 ? &kernels_avx512 : v3 ? &kernels_avx2 : &kernels_base;
  }();
  return *best;
#else
  return kernels_base;
#endif
}

}  // namespace cake::inline CAKE_ABI::reference
