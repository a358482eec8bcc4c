// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Included once per instruction set, with CAKE_KERNELS naming the table. Everything is local to the
// including file and nothing of the standard library is used, so that no function compiled for a
// newer processor can end up in code that runs on an older one.
#include <math.h>
#include <string.h>

#include "kernels.hpp"
#include "numbers.hpp"

namespace cake::llama {
namespace {

/// 2^x for x <= 128; 0 below -126. Relative error below 2e-7.
inline float exp2_fast(float x) {
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which then stands in the low
  // bits of the sum.
  constexpr float kRound = 12582912.0f;
  const float clamped = x < -126.0f ? -126.0f : x;
  const float shifted = clamped + kRound;
  const float t = (clamped - (shifted - kRound)) * 0.693147180559945f;  // in [-ln2/2, ln2/2]
  const float power = __builtin_bit_cast(
      float, (__builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kRound) + 127)
                 << 23);
  float sum = 1.0f / 5040;  // Taylor; the next term is below 6e-9
  sum = sum * t + 1.0f / 720;
  sum = sum * t + 1.0f / 120;
  sum = sum * t + 1.0f / 24;
  sum = sum * t + 1.0f / 6;
  sum = sum * t + 0.5f;
  sum = sum * t + 1.0f;
  sum = sum * t + 1.0f;
  return x < -126.0f ? 0.0f : sum * power;
}

/// e^x for x <= 88, 0 below -87. The product with log2(e) is split, so that large arguments lose
/// nothing.
inline float exp_fast(float x) {
  constexpr float kRound = 12582912.0f;
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504088896f + kRound;
  const float whole = shifted - kRound;
  const float t = (clamped - whole * 0.693145751953125f) - whole * 1.42860682030941723e-6f;
  const float power = __builtin_bit_cast(
      float, (__builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kRound) + 127)
                 << 23);
  float sum = 1.0f / 5040;
  sum = sum * t + 1.0f / 720;
  sum = sum * t + 1.0f / 120;
  sum = sum * t + 1.0f / 24;
  sum = sum * t + 1.0f / 6;
  sum = sum * t + 0.5f;
  sum = sum * t + 1.0f;
  sum = sum * t + 1.0f;
  return x < -87.0f ? 0.0f : sum * power;
}

void rms_norm(float* __restrict out, const float* __restrict x, const float* __restrict weight,
              size_t n, float epsilon) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (size_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(n) + epsilon);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void silu_product(float* out, const float* gate, const float* up, size_t n) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) {
    const float x = gate[i];
    const float negated = -x > 87.0f ? 87.0f : -x;  // e^87 still fits; the quotient is then 0
    out[i] = x / (1.0f + exp_fast(negated)) * up[i];
  }
}

void rotate(float* out, const float* x, const float* cos_sin, size_t n, float scale) {
#pragma omp simd
  for (size_t i = 0; i < n; i += 2) {
    const float a = x[i];
    const float b = x[i + 1];
    out[i] = (a * cos_sin[i] - b * cos_sin[i + 1]) * scale;
    out[i + 1] = (a * cos_sin[i + 1] + b * cos_sin[i]) * scale;
  }
}

float softmax_step(float* __restrict scores, size_t n, float* maximum, float* sum) {
  float largest = *maximum;
#pragma omp simd reduction(max : largest)
  for (size_t i = 0; i < n; ++i) largest = scores[i] > largest ? scores[i] : largest;
  float added = 0;
#pragma omp simd reduction(+ : added)
  for (size_t i = 0; i < n; ++i) {
    const float weight = exp2_fast(scores[i] - largest);
    scores[i] = weight;
    added += weight;
  }
  const float factor = exp2_fast(*maximum - largest);
  *maximum = largest;
  *sum = *sum * factor + added;
  return factor;
}

void scale_all(float* __restrict x, size_t n, float factor) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

void from_f16(float* __restrict out, const uint16_t* __restrict in, size_t n) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] = f16_to_f32(in[i]);
}
void from_bf16(float* __restrict out, const uint16_t* __restrict in, size_t n) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] = bf16_to_f32(in[i]);
}
void to_f16(uint16_t* __restrict out, const float* __restrict in, size_t n) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] = f32_to_f16(in[i]);
}
void to_bf16(uint16_t* __restrict out, const float* __restrict in, size_t n) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) out[i] = f32_to_bf16(in[i]);
}

}  // namespace

extern const Kernels CAKE_KERNELS;
const Kernels CAKE_KERNELS = {CAKE_KERNELS_NAME, rms_norm, silu_product, rotate, softmax_step,
                              scale_all,         from_f16, from_bf16,    to_f16, to_bf16};

}  // namespace cake::llama
