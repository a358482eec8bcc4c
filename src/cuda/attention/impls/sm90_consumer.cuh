// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A warpgroup with 64 query rows of each tile: scores, softmax, output.
#pragma once

#include <cmath>
#include <type_traits>

#include "cake/version.hpp"
#include "sm90_output.cuh"
#include "sm90_tile.cuh"
#include "src/cuda/ptx/warpgroup.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

/// Softmax of rows that come a block of scores at a time, in powers of two. The maximum is only
/// raised when it grew by more than 2^8, which leaves sums and weights well inside their ranges.
///
/// A thread has parts of two rows, which it shares with the three lanes beside it.
struct OnlineSoftmax {
  float peak[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's columns
  float shrink[2];        // what is summed up already has to be multiplied with,
  bool raised;            // unless this is false

  __device__ __forceinline__ void weigh(float (&scores)[64], float scale_log2) {
    raised = false;
    float tops[2];
    largest_positive(tops, scores);
    if (__any_sync(0xffffffffu, fminf(tops[0], tops[1]) < 0)) largest(tops, scores);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool grown = (tops[h] - peak[h]) * scale_log2 > 8.0f;  // false for -inf - -inf
      const float top = grown ? tops[h] : peak[h];
      raised = raised || grown;
      const float base = top == -INFINITY ? 0.0f : top * scale_log2;
      shrink[h] = grown ? power_of_two(fmaf(peak[h], scale_log2, -base)) : 1.0f;
      peak[h] = top;
      float even = 0;
      float odd = 0;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        float& low = scores[4 * j + 2 * h];
        float& high = scores[4 * j + 2 * h + 1];
        low = power_of_two(fmaf(low, scale_log2, -base));
        high = power_of_two(fmaf(high, scale_log2, -base));
        even += low;
        odd += high;
      }
      sum[h] = fmaf(sum[h], shrink[h], even + odd);
    }
  }

 private:
  /// The largest score of each row, and its maximum so far.
  __device__ __forceinline__ void largest(float (&tops)[2], const float (&scores)[64]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float even = fmaxf(scores[2 * h], peak[h]);
      float odd = scores[2 * h + 1];
#pragma unroll
      for (int j = 1; j < 16; ++j) {
        even = fmaxf(even, scores[4 * j + 2 * h]);
        odd = fmaxf(odd, scores[4 * j + 2 * h + 1]);
      }
      float top = fmaxf(even, odd);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      tops[h] = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    }
  }

  /// The same where it is positive, something negative where it is not. Positive numbers compare as
  /// their bits do as integers, negative ones are below them; and of integers the device has a
  /// maximum of three, which takes half as many instructions.
  __device__ __forceinline__ void largest_positive(float (&tops)[2],
                                                   const float (&scores)[64]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto bits = [&](int i) { return __float_as_int(scores[i / 2 * 4 + 2 * h + i % 2]); };
      int even = __vimax3_s32(__float_as_int(peak[h]), bits(0), bits(1));
      int odd = __vimax3_s32(bits(2), bits(3), bits(4));
#pragma unroll
      for (int i = 5; i < 29; i += 4) {
        even = __vimax3_s32(even, bits(i), bits(i + 1));
        odd = __vimax3_s32(odd, bits(i + 2), bits(i + 3));
      }
      even = __vimax3_s32(even, bits(29), bits(30));
      int top = __vimax3_s32(even, odd, bits(31));
      top = max(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = max(top, __shfl_xor_sync(0xffffffffu, top, 2));
      tops[h] = __int_as_float(top);
    }
  }
};

template <class T, class Tile>
class Sm90Consumer {
 public:
  __device__ Sm90Consumer(const AttentionParams& p, typename Tile::Barriers& barriers,
                          std::uint32_t base, unsigned char* shared)
      : p_(p), barriers_(barriers), base_(base), shared_(shared) {}

  __device__ void run() {
    if (me_ == Tile::kConsumers - 1) arrive_named(kTurnBarrier, 256);  // the first one's turn
    while (next()) {
      float out[Tile::kDim / 2] = {};
      OnlineSoftmax softmax;
      if (w_.begin < w_.end) attend(out, softmax);
      const Sm90Output<T, Tile> output(p_, w_, shared_ + queries_.stage() * Tile::kQueryBytes, me_,
                                       warp_);
      output.write(out, softmax, [this] { release_queries(); });
    }
  }

 private:
  /// 64 rows of queries: in registers, or where they lie in shared memory.
  using Queries = std::conditional_t<Tile::kQueriesInRegisters, std::uint32_t[Tile::kDim / 16][4],
                                     std::uint32_t>;

  /// Waits for the next tile. False: there are no more.
  __device__ __forceinline__ bool next() {
    const int stage = queries_.stage();
    wait(&barriers_.q_full[stage], queries_.parity());
    const Sm90Work& work = barriers_.work[stage];
    w_ = {.any = uniform(work.any),
          .head = uniform(work.head),
          .split = uniform(work.split),
          .whole = uniform(work.whole),
          .first_query = uniform(work.first_query),
          .rows = uniform(work.rows),
          .row0 = uniform(work.row0),
          .behind = uniform(work.behind),
          .begin = uniform(work.begin),
          .end = uniform(work.end)};
    return w_.any != 0;
  }

  __device__ __forceinline__ void attend(float (&out)[Tile::kDim / 2], OnlineSoftmax& softmax) {
    float scores[64];
    std::uint32_t weights[8][4];
    const int row = w_.row0 + me_ * 64;
    const int all_seen = w_.behind + query_of(p_, row);
    const int my_row = row + warp_ * 16 + (lane_ >> 2);
    limit_[0] = w_.behind + query_of(p_, my_row);
    limit_[1] = w_.behind + query_of(p_, my_row + 8);
    const std::uint32_t q = base_ +
                            static_cast<std::uint32_t>(queries_.stage()) * Tile::kQueryBytes +
                            static_cast<std::uint32_t>(me_ * 64) * kPanelRowBytes;
    wait_side(&barriers_.k_full[keys_.stage()], keys_.parity());
    Queries queries;
    if constexpr (Tile::kQueriesInRegisters) {
      load_queries<Tile::kDim, Tile::kRows>(queries, q);
    } else {
      queries = q;
    }
    fence_products();
    issue(scores, queries, key_side());
    wait_products_but<0>();
    pin(scores);
    release(barriers_.k_empty, keys_);
    mask(scores, w_.end - 1);
    softmax.weigh(scores, p_.scale_log2);
    pack_weights(weights, scores);

    int block = w_.end - 2;
    for (; block >= w_.begin && block * Tile::kKeys + Tile::kKeys - 1 > all_seen; --block) {
      step<true>(out, scores, weights, softmax, queries, block);
    }
    for (; block >= w_.begin; --block) step<false>(out, scores, weights, softmax, queries, block);

    wait_side(&barriers_.v_full[values_.stage()], values_.parity());
    fence_products();
    issue_output<T, Tile::kDim>(out, weights, value_side());
    wait_products_but<0>();
    pin(out);
    release(barriers_.v_empty, values_);
  }

  /// Scores and softmax of `block`, and the output of the block after it, whose weights are there.
  template <bool kMasked>
  __device__ __forceinline__ void step(float (&out)[Tile::kDim / 2], float (&scores)[64],
                                       std::uint32_t (&weights)[8][4], OnlineSoftmax& softmax,
                                       const Queries& queries, int block) {
    wait_side(&barriers_.k_full[keys_.stage()], keys_.parity());
    sync_named(kTurnBarrier + me_, 256);
    fence_products();
    issue(scores, queries, key_side());
    wait_side(&barriers_.v_full[values_.stage()], values_.parity());
    fence_products();
    issue_output<T, Tile::kDim>(out, weights, value_side());
    arrive_named(kTurnBarrier + (me_ + 1) % Tile::kConsumers, 256);
    wait_products_but<1>();
    pin(scores);
    release(barriers_.k_empty, keys_);
    if constexpr (kMasked) mask(scores, block);
    softmax.weigh(scores, p_.scale_log2);
    if constexpr (Tile::kWeighsFirst) keep_before(softmax.sum[0] + softmax.sum[1], base_);
    wait_products_but<0>();
    pin(out);
    release(barriers_.v_empty, values_);
    pack_weights(weights, scores);
    if (__any_sync(0xffffffffu, softmax.raised)) {
#pragma unroll
      for (int i = 0; i < Tile::kDim / 2; ++i) out[i] *= softmax.shrink[i / 2 % 2];
    }
  }

  __device__ __forceinline__ static void issue(float (&scores)[64], const Queries& queries,
                                               std::uint32_t keys) {
    if constexpr (Tile::kQueriesInRegisters) {
      issue_scores<T, Tile::kDim>(scores, queries, keys);
    } else {
      issue_scores<T, Tile::kDim, Tile::kRows>(scores, queries, keys);
    }
  }

  __device__ __forceinline__ void mask(float (&scores)[64], int block) const {
    const int column = block * Tile::kKeys + (lane_ & 3) * 2;
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      if (column + i / 4 * 8 + i % 2 > limit_[i / 2 % 2]) scores[i] = -INFINITY;
    }
  }

  __device__ __forceinline__ static void pack_weights(std::uint32_t (&weights)[8][4],
                                                      const float (&scores)[64]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) weights[i / 4][i % 4] = pack<T>(scores[2 * i], scores[2 * i + 1]);
  }

  __device__ std::uint32_t key_side() const { return base_ + Tile::keys_at(keys_.stage()); }
  __device__ std::uint32_t value_side() const { return base_ + Tile::values_at(values_.stage()); }

  /// What other threads gathered was written by ordinary means.
  __device__ __forceinline__ void wait_side(std::uint64_t* full, std::uint32_t parity) const {
    wait(full, parity);
    if constexpr (Tile::kByRows) fence_async_proxy();
  }

  /// This warpgroup no longer needs the buffer.
  template <int kStages>
  __device__ __forceinline__ void release(std::uint64_t* empty, Ring<kStages>& ring) const {
    arrive_where(threadIdx.x % 128 == 0, &empty[ring.stage()]);
    ring.next();
  }

  /// A warp's queries, in whose place its output was put together.
  __device__ __forceinline__ void release_queries() {
    fence_async_proxy();
    __syncwarp();
    if (lane_ == 0) arrive(&barriers_.q_empty[queries_.stage()]);
    queries_.next();
  }

  const AttentionParams& p_;
  typename Tile::Barriers& barriers_;
  const std::uint32_t base_;
  unsigned char* const shared_;
  const int me_ = uniform(static_cast<int>(threadIdx.x) / 128 - 1);  // which consumer
  const int warp_ = static_cast<int>(threadIdx.x) / 32 % 4;
  const int lane_ = static_cast<int>(threadIdx.x) & 31;
  Sm90Work w_{};
  int limit_[2] = {};  // last key that each of this thread's two rows sees
  Ring<Tile::kQueryStages> queries_;
  Ring<Tile::kKeyStages> keys_;
  Ring<Tile::kValueStages> values_;
};

}  // namespace cake::inline CAKE_ABI::cuda::device
