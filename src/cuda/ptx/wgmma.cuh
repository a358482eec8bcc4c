// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Matrix products of a warpgroup, for sm_90a: 64 rows times 16 deep times 64 or 128 columns, with
// 16-bit operands and fp32 sums. They run on their own; what they read and write must not be
// touched between fence_products() and wait_products(). libcu++ has none of these.
//
// Layout of the sums in a thread: lane 4r + q of warp w has rows 16w + r and 16w + r + 8; number
// 4j + 2h + e is row r + 8h of column 8j + 2q + e.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::cuda::device {

/// Before the first product, and after registers of one were touched.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Returns when all but the newest kNewest groups are done.
template <int kNewest>
__device__ inline void wait_products_but() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
}

/// Keeps the compiler from moving what touches these registers across this point.
template <int kCount>
__device__ inline void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

/// Keeps what makes `x` in front of a wait for products that comes next. The compiler would move it
/// behind the wait; but it does not move a write to shared memory there, and this is one, if `x` is
/// negative. That must never be so.
__device__ inline void keep_before(float x, std::uint32_t shared_memory) {
  asm volatile(
      "{ .reg .pred negative; setp.lt.f32 negative, %0, 0f00000000;\n"
      "@negative st.shared.f32 [%1], %0; }" ::"f"(x),
      "r"(shared_memory)
      : "memory");
}

// The operands of the instructions below: lists of registers, by number and by name.
// clang-format off
#define CAKE_NUMBERS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CAKE_NUMBERS_64 CAKE_NUMBERS_32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CAKE_NAMES_8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define CAKE_NAMES_32(d, i) CAKE_NAMES_8(d, i), CAKE_NAMES_8(d, i + 8), \
  CAKE_NAMES_8(d, i + 16), CAKE_NAMES_8(d, i + 24)
#define CAKE_NAMES_64(d) CAKE_NAMES_32(d, 0), CAKE_NAMES_32(d, 32)

// Descriptors are given as their lower halves. The upper halves are all alike: the 128-byte swizzle,
// and 1,024 bytes between groups of eight rows.
#define CAKE_UPPER "0x40000040"
// c = a b, or c += a b: a is K-major and b [column][depth] in shared memory, both by descriptor.
#define CAKE_PRODUCT_SHARED(name) \
  asm volatile("{ .reg .pred p; .reg .b64 da, db; setp.ne.b32 p, %66, 0; " \
    "mov.b64 da, {%64, " CAKE_UPPER "}; mov.b64 db, {%65, " CAKE_UPPER "}; " \
    "wgmma.mma_async.sync.aligned.m64n128k16.f32." name "." name " {" CAKE_NUMBERS_64 "}, " \
    "da, db, p, 1, 1, 0, 0; }" : CAKE_NAMES_64(c) : "r"(a), "r"(b), "r"(add))
// c += a b: a is in registers and b [depth][column] in shared memory.
#define CAKE_PRODUCT_REGISTERS_64(name) \
  asm volatile("{ .reg .b64 db; mov.b64 db, {%36, " CAKE_UPPER "}; " \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name \
    " {" CAKE_NUMBERS_32 "}, {%32, %33, %34, %35}, db, 1, 1, 1, 1; }" \
    : CAKE_NAMES_32(c, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b))
#define CAKE_PRODUCT_REGISTERS_128(name) \
  asm volatile("{ .reg .b64 db; mov.b64 db, {%68, " CAKE_UPPER "}; " \
    "wgmma.mma_async.sync.aligned.m64n128k16.f32." name "." name \
    " {" CAKE_NUMBERS_64 "}, {%64, %65, %66, %67}, db, 1, 1, 1, 1; }" \
    : CAKE_NAMES_64(c) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b))
// c = a b, or c += a b: a is in registers and b [column][depth] in shared memory.
#define CAKE_PRODUCT_MIXED(name) \
  asm volatile("{ .reg .pred p; .reg .b64 db; setp.ne.b32 p, %69, 0; " \
    "mov.b64 db, {%68, " CAKE_UPPER "}; " \
    "wgmma.mma_async.sync.aligned.m64n128k16.f32." name "." name " {" CAKE_NUMBERS_64 "}, " \
    "{%64, %65, %66, %67}, db, p, 1, 1, 0; }" \
    : CAKE_NAMES_64(c) \
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(add))
// clang-format on

/// c = a b where `add` is 0, c += a b otherwise: a is [row][depth] and b [column][depth], both in
/// shared memory.
template <class T>
__device__ inline void product_shared(float (&c)[64], std::uint32_t a, std::uint32_t b, int add);
template <>
__device__ inline void product_shared<__nv_bfloat16>(float (&c)[64], std::uint32_t a,
                                                     std::uint32_t b, int add) {
  CAKE_PRODUCT_SHARED("bf16");
}
template <>
__device__ inline void product_shared<__half>(float (&c)[64], std::uint32_t a, std::uint32_t b,
                                              int add) {
  CAKE_PRODUCT_SHARED("f16");
}

/// The same, with a in registers: 16 columns of its rows as load_matrices() brings them.
template <class T>
__device__ inline void product_mixed(float (&c)[64], const std::uint32_t (&a)[4], std::uint32_t b,
                                     int add);
template <>
__device__ inline void product_mixed<__nv_bfloat16>(float (&c)[64], const std::uint32_t (&a)[4],
                                                    std::uint32_t b, int add) {
  CAKE_PRODUCT_MIXED("bf16");
}
template <>
__device__ inline void product_mixed<__half>(float (&c)[64], const std::uint32_t (&a)[4],
                                             std::uint32_t b, int add) {
  CAKE_PRODUCT_MIXED("f16");
}

/// c += a b: a in registers (as the sums lie, rounded and packed in pairs), b [depth][column] in
/// shared memory.
template <class T>
__device__ inline void product_registers(float (&c)[32], const std::uint32_t (&a)[4],
                                         std::uint32_t b);
template <class T>
__device__ inline void product_registers(float (&c)[64], const std::uint32_t (&a)[4],
                                         std::uint32_t b);
template <>
__device__ inline void product_registers<__nv_bfloat16>(float (&c)[32], const std::uint32_t (&a)[4],
                                                        std::uint32_t b) {
  CAKE_PRODUCT_REGISTERS_64("bf16");
}
template <>
__device__ inline void product_registers<__nv_bfloat16>(float (&c)[64], const std::uint32_t (&a)[4],
                                                        std::uint32_t b) {
  CAKE_PRODUCT_REGISTERS_128("bf16");
}
template <>
__device__ inline void product_registers<__half>(float (&c)[32], const std::uint32_t (&a)[4],
                                                 std::uint32_t b) {
  CAKE_PRODUCT_REGISTERS_64("f16");
}
template <>
__device__ inline void product_registers<__half>(float (&c)[64], const std::uint32_t (&a)[4],
                                                 std::uint32_t b) {
  CAKE_PRODUCT_REGISTERS_128("f16");
}

#undef CAKE_UPPER
#undef CAKE_PRODUCT_SHARED
#undef CAKE_PRODUCT_MIXED
#undef CAKE_PRODUCT_REGISTERS_64
#undef CAKE_PRODUCT_REGISTERS_128
#undef CAKE_NAMES_64
#undef CAKE_NAMES_32
#undef CAKE_NAMES_8
#undef CAKE_NUMBERS_64
#undef CAKE_NUMBERS_32

}  // namespace cake::inline CAKE_ABI::cuda::device
