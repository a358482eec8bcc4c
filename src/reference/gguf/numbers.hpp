// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// 16-bit floats to fp32 and back, in integer arithmetic, so that every machine and every vector
// width gives the same bits. This header is compiled for several instruction sets, so nothing in it
// may have external linkage: the linker would keep one version for all of them.
#pragma once

#include <stdint.h>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

[[maybe_unused]] inline float bf16_to_f32(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

/// Rounds to nearest, ties to even. NaN stays NaN.
[[maybe_unused]] inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u : rounded);
}

[[maybe_unused]] inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu);
  // Moved into fp32's fields the exponent is 112 too small; for subnormals a multiplication sets
  // that right as well, since fp32 holds them as normal numbers.
  const float scaled = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
  const uint32_t finite = __builtin_bit_cast(uint32_t, scaled);
  const uint32_t special = 0x7f800000u | (magnitude << 13);
  return __builtin_bit_cast(float, sign | (magnitude >= 0x7c00u ? special : finite));
}

/// Rounds to nearest, ties to even; what is too large becomes infinity. NaN stays NaN.
[[maybe_unused]] inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: round away the 13 bits that f16 does not have, then move the exponent by 112.
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // Subnormal results are multiples of 2^-24, which is the last place of numbers next to 0.5.
  const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, shifted) - 0x3f000000u;
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  if (magnitude >= 0x47800000u) result = 0x7c00u;
  if (magnitude > 0x7f800000u) result = 0x7e00u;
  return static_cast<uint16_t>(sign | result);
}

}  // namespace
}  // namespace cake::inline CAKE_ABI::reference
