// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The widest matrix products of a warpgroup, for sm_90a: 64 rows times 16 deep times 256 or 224
// columns. They read the least shared memory for what they multiply. Fences, groups, and how sums lie in a
// thread: wgmma.cuh.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cake/version.hpp"
#include "wgmma.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

// clang-format off
#define CAKE_NUMBERS_112 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, " \
  "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, " \
  "%87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, " \
  "%104, %105, %106, %107, %108, %109, %110, %111"
#define CAKE_NUMBERS_128 CAKE_NUMBERS_112 \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
  "%126, %127"
#define CAKE_NAMES_8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define CAKE_NAMES_32(d, i) CAKE_NAMES_8(d, i), CAKE_NAMES_8(d, i + 8), \
  CAKE_NAMES_8(d, i + 16), CAKE_NAMES_8(d, i + 24)
// clang-format on

/// c = a b where `add` is 0, c += a b otherwise, in two numbers of c for each column: a is
/// [row][depth] and b [column][depth], bf16, both in shared memory by the lower halves of their
/// descriptors, which describe() makes.
__device__ inline void product_shared(float (&c)[128], std::uint32_t a, std::uint32_t b, int add) {
  asm volatile(
      "{ .reg .pred p; .reg .b64 da, db; setp.ne.b32 p, %130, 0; "
      "mov.b64 da, {%128, 0x40000040}; mov.b64 db, {%129, 0x40000040}; "
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" CAKE_NUMBERS_128
      "}, da, db, p, 1, 1, 0, 0; }"
      : CAKE_NAMES_32(c, 0), CAKE_NAMES_32(c, 32), CAKE_NAMES_32(c, 64), CAKE_NAMES_32(c, 96)
      : "r"(a), "r"(b), "r"(add));
}
__device__ inline void product_shared(float (&c)[112], std::uint32_t a, std::uint32_t b, int add) {
  asm volatile(
      "{ .reg .pred p; .reg .b64 da, db; setp.ne.b32 p, %114, 0; "
      "mov.b64 da, {%112, 0x40000040}; mov.b64 db, {%113, 0x40000040}; "
      "wgmma.mma_async.sync.aligned.m64n224k16.f32.bf16.bf16 {" CAKE_NUMBERS_112
      "}, da, db, p, 1, 1, 0, 0; }"
      : CAKE_NAMES_32(c, 0), CAKE_NAMES_32(c, 32), CAKE_NAMES_32(c, 64), CAKE_NAMES_8(c, 96),
        CAKE_NAMES_8(c, 104)
      : "r"(a), "r"(b), "r"(add));
}

#undef CAKE_NAMES_32
#undef CAKE_NAMES_8
#undef CAKE_NUMBERS_128
#undef CAKE_NUMBERS_112

}  // namespace cake::inline CAKE_ABI::cuda::device
