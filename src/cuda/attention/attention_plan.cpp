// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "attention_plan.hpp"

#include <algorithm>

namespace cake::inline CAKE_ABI::cuda {
namespace {

std::uint64_t tiles_of(const AttentionShape& s, std::uint32_t rows) {
  const std::uint64_t group = s.n_heads / s.n_kv_heads;
  return (s.max_seqlen_q * group + rows - 1) / rows * s.n_kv_heads * s.n_sequences;
}

/// Rows of a tile for head_dim 64 on sm_90a: three warpgroups get 1.19 times as far as two in the
/// same time (measured, see benchmarks/NOTES.md), but 128 rows may fill the device better.
std::uint32_t choose_rows(const AttentionShape& s, std::uint64_t slots) {
  const auto time = [&](std::uint32_t rows) {
    return (tiles_of(s, rows) + slots - 1) / slots * rows;
  };
  return 100 * time(192) <= 119 * time(128) ? 192 : 128;
}

/// The part of the time that the device is busy where equal tiles are each split so often.
double busy(std::uint64_t tiles, std::uint64_t slots, std::uint32_t num_splits) {
  const std::uint64_t blocks = tiles * num_splits;
  const std::uint64_t waves = (blocks + slots - 1) / slots;
  return static_cast<double>(blocks) / static_cast<double>(waves * slots);
}

/// Few tiles: the fewest splits that keep the device about as busy as the best number would.
std::uint32_t splits_that_fill(std::uint64_t tiles, std::uint64_t slots) {
  double best = 0;
  for (std::uint32_t n = 1; n <= kMaxAttentionSplits; ++n) {
    best = std::max(best, busy(tiles, slots, n));
  }
  std::uint32_t n = 1;
  while (n < kMaxAttentionSplits && busy(tiles, slots, n) < 0.85 * best) ++n;
  return n;
}

/// Many tiles: the fewest splits whose last wave is nearly full, where that of whole tiles is not.
std::uint32_t splits_that_even(std::uint64_t tiles, std::uint64_t slots) {
  constexpr std::uint32_t kMost = 4;
  for (std::uint32_t n = 2; n <= kMost; ++n) {
    const double then = busy(tiles, slots, n);
    if (then >= 0.95 && then > 1.08 * busy(tiles, slots, 1)) return n;
  }
  return 1;
}

}  // namespace

AttentionPlan plan_attention(const AttentionShape& shape, const AttentionDevice& device) {
  AttentionPlan plan;
  plan.kernel = device.sm90 ? AttentionKernel::sm90 : AttentionKernel::mma;
  const std::uint64_t slots =
      std::uint64_t{device.processors} * (device.sm90 ? 1 : kAttentionBlocksPerProcessor);
  if (device.sm90 && shape.head_dim == 64) plan.rows_of_tile = choose_rows(shape, slots);
  const std::uint64_t tiles = tiles_of(shape, plan.rows_of_tile);
  if (shape.num_splits != 0) {
    plan.num_splits = shape.num_splits;
  } else if (tiles != 0 && 10 * tiles < 8 * slots) {
    plan.num_splits = splits_that_fill(tiles, slots);
  } else if (tiles != 0 && device.sm90) {
    plan.num_splits = splits_that_even(tiles, slots);
    if (plan.num_splits > 1) plan.split_from_keys = kKeysWorthSplitting;
  }
  return plan;
}

}  // namespace cake::inline CAKE_ABI::cuda
