// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The loops between the matrix products. One source, compiled for each instruction set that is
// worth it; kernels() picks at run time.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::reference {

struct Kernels {
  const char* name;
  /// out = x / rms(x) * weight.
  void (*rms_norm)(float* out, const float* x, const float* weight, size_t n, float epsilon);
  /// out = gate * sigmoid(gate) * up; out may be gate or up.
  void (*silu_product)(float* out, const float* gate, const float* up, size_t n);
  /// Turns the pairs (2i, 2i+1) of one head by the angle whose cosine and sine stand at 2i and
  /// 2i+1, and multiplies all by `scale`; out may be x.
  void (*rotate)(float* out, const float* x, const float* cos_sin, size_t n, float scale);
  /// One row of scores, in units of log2: scores become 2^(score - new maximum); `maximum` and
  /// `sum` are carried from tile to tile. Returns what earlier tiles have to be multiplied by.
  float (*softmax_step)(float* scores, size_t n, float* maximum, float* sum);
  /// x *= factor.
  void (*scale)(float* x, size_t n, float factor);
  void (*from_f16)(float* out, const uint16_t* in, size_t n);
  void (*from_bf16)(float* out, const uint16_t* in, size_t n);
  void (*to_f16)(uint16_t* out, const float* in, size_t n);
  void (*to_bf16)(uint16_t* out, const float* in, size_t n);
};

const Kernels& kernels();

}  // namespace cake::inline CAKE_ABI::reference
