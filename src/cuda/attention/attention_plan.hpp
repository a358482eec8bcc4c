// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which attention kernel runs, in what tiles, and in how many parts the keys are split. Arithmetic
// over what the host knows: not the number of keys, which lies in device memory.
#pragma once

#include <cstdint>

#include "attention_kernels.hpp"
#include "cake/cuda/attention.hpp"

namespace cake::inline CAKE_ABI::cuda {

inline constexpr std::uint32_t kMaxAttentionSplits = 32;
/// From so many keys on, a wave of tiles that is nearly empty costs more than putting splits
/// together.
inline constexpr std::uint32_t kKeysWorthSplitting = 16384;

struct AttentionDevice {
  std::uint32_t processors = 0;  // multiprocessors
  bool sm90 = false;             // runs machine code for sm_90a
};

struct AttentionPlan {
  AttentionKernel kernel = AttentionKernel::mma;
  std::uint32_t rows_of_tile = kAttentionRows;
  std::uint32_t num_splits = 1;
  std::uint32_t split_from_keys = 0;  // sequences of fewer keys stay whole
};

/// Needs:   a shape that attention() accepts, and at least one multiprocessor
AttentionPlan plan_attention(const AttentionShape& shape, const AttentionDevice& device);

}  // namespace cake::inline CAKE_ABI::cuda
