// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A warpgroup with 64 query rows of each tile: scores, softmax, output.
#pragma once

#include <cmath>

#include "cake/version.hpp"
#include "sm90_tile.cuh"
#include "src/cuda/ptx/warpgroup.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

/// Softmax of rows that come a block of scores at a time, in powers of two. With kRaisesSeldom the
/// maximum is only raised when it grew by more than 2^8, which leaves sums and weights well inside
/// their ranges.
///
/// A thread has parts of two rows, which it shares with the three lanes beside it.
template <bool kRaisesSeldom>
struct OnlineSoftmax {
  float peak[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's columns
  float shrink[2];        // what is summed up already has to be multiplied with,
  bool raised = true;     // unless this is false

  __device__ __forceinline__ void weigh(float (&scores)[64], float scale_log2) {
    if constexpr (kRaisesSeldom) raised = false;
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
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      bool grown = true;
      if constexpr (kRaisesSeldom) {
        grown = (top - peak[h]) * scale_log2 > 8.0f;  // false for -inf - -inf
        top = grown ? top : peak[h];
        raised = raised || grown;
      }
      const float base = top == -INFINITY ? 0.0f : top * scale_log2;
      shrink[h] = grown ? power_of_two(fmaf(peak[h], scale_log2, -base)) : 1.0f;
      peak[h] = top;
      even = odd = 0;
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
};

template <class T, class Tile>
class Sm90Consumer {
 public:
  __device__ Sm90Consumer(const AttentionParams& p, typename Tile::Barriers& barriers,
                          std::uint32_t base, unsigned char* shared)
      : p_(p), barriers_(barriers), base_(base), shared_(shared) {}

  __device__ void run() {
    if (me_ == Tile::kConsumers - 1) arrive_named(kTurnBarrier, 256);  // the first one's turn
    Sm90Schedule<Tile> schedule(p_);
    while (schedule.next(w_)) {
      float out[Tile::kDim / 2] = {};
      Softmax softmax;
      if (w_.begin < w_.end) attend(out, softmax);
      finish(out, softmax);
    }
  }

 private:
  using SideRing = Ring<Tile::kStages>;
  using Softmax = OnlineSoftmax<Tile::kRaisesSeldom>;

  __device__ __forceinline__ void attend(float (&out)[Tile::kDim / 2], Softmax& softmax) {
    float scores[64];
    std::uint32_t weights[8][4];
    const int group = static_cast<int>(p_.group);
    const int row = w_.row0 + me_ * 64;
    const int all_seen = w_.behind + row / group;
    const int my_row = row + warp_ * 16 + (lane_ >> 2);
    limit_[0] = w_.behind + my_row / group;
    limit_[1] = w_.behind + (my_row + 8) / group;
    const std::uint32_t q = base_ +
                            static_cast<std::uint32_t>(queries_.stage()) * Tile::kQueryBytes +
                            static_cast<std::uint32_t>(me_ * 64) * kPanelRowBytes;
    wait(&barriers_.q_full[queries_.stage()], queries_.parity());
    wait(&barriers_.k_full[keys_.stage()], keys_.parity());
    fence_products();
    issue_scores<T, Tile::kDim, Tile::kRows>(scores, q, side(Tile::kKeysAt, keys_));
    wait_products_but<0>();
    pin(scores);
    release(barriers_.k_empty, keys_);
    mask(scores, w_.end - 1);
    softmax.weigh(scores, p_.scale_log2);
    pack_weights(weights, scores);

    int block = w_.end - 2;
    for (; block >= w_.begin && block * Tile::kKeys + Tile::kKeys - 1 > all_seen; --block) {
      step<true>(out, scores, weights, softmax, q, block);
    }
    for (; block >= w_.begin; --block) step<false>(out, scores, weights, softmax, q, block);

    release(barriers_.q_empty, queries_);
    wait(&barriers_.v_full[values_.stage()], values_.parity());
    fence_products();
    issue_output<T, Tile::kDim>(out, weights, side(Tile::kValuesAt, values_));
    wait_products_but<0>();
    pin(out);
    release(barriers_.v_empty, values_);
  }

  /// Scores and softmax of `block`, and the output of the block after it, whose weights are there.
  template <bool kMasked>
  __device__ __forceinline__ void step(float (&out)[Tile::kDim / 2], float (&scores)[64],
                                       std::uint32_t (&weights)[8][4], Softmax& softmax,
                                       std::uint32_t q, int block) {
    wait(&barriers_.k_full[keys_.stage()], keys_.parity());
    sync_named(kTurnBarrier + me_, 256);
    fence_products();
    issue_scores<T, Tile::kDim, Tile::kRows>(scores, q, side(Tile::kKeysAt, keys_));
    wait(&barriers_.v_full[values_.stage()], values_.parity());
    fence_products();
    issue_output<T, Tile::kDim>(out, weights, side(Tile::kValuesAt, values_));
    arrive_named(kTurnBarrier + (me_ + 1) % Tile::kConsumers, 256);
    wait_products_but<1>();
    pin(scores);
    release(barriers_.k_empty, keys_);
    if constexpr (kMasked) mask(scores, block);
    softmax.weigh(scores, p_.scale_log2);
    wait_products_but<0>();
    pin(out);
    release(barriers_.v_empty, values_);
    pack_weights(weights, scores);
    if (!Tile::kRaisesSeldom || __any_sync(0xffffffffu, softmax.raised)) {
#pragma unroll
      for (int i = 0; i < Tile::kDim / 2; ++i) out[i] *= softmax.shrink[i / 2 % 2];
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

  __device__ std::uint32_t side(std::uint32_t at, const SideRing& ring) const {
    return base_ + at + static_cast<std::uint32_t>(ring.stage()) * Tile::kSideBytes;
  }

  /// This warpgroup no longer needs the buffer.
  template <int kStages>
  __device__ __forceinline__ void release(std::uint64_t* empty, Ring<kStages>& ring) const {
    if (threadIdx.x % 128 == 0) arrive(&empty[ring.stage()]);
    ++ring.count;
  }

  // ---- the end of a tile: divide by the sum, and out ----
  __device__ __forceinline__ void finish(float (&out)[Tile::kDim / 2], Softmax& softmax) {
    const int group = static_cast<int>(p_.group);
    const int lane = opaque(lane_);
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = softmax.sum[h];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float inverse = total > 0 ? 1.0f / total : 0.0f;
      const float softmax_lse =
          total > 0 ? softmax.peak[h] * p_.softmax_scale + logf(total) : -INFINITY;
      const int local = warp_ * 16 + h * 8 + (lane >> 2);  // of the warpgroup's rows
      const int packed = w_.row0 + me_ * 64 + local;
      const int query = w_.first_query + packed / group;
      const int head = w_.head * group + packed % group;
      if (p_.num_splits > 1) {
        if (packed < w_.rows) keep_part(out, h, inverse, softmax_lse, query, head);
        continue;
      }
#pragma unroll
      for (int j = 0; j < Tile::kDim / 8; ++j) {
        *reinterpret_cast<std::uint32_t*>(staged(local, j) + (lane & 3) * 4) =
            pack<T>(out[4 * j + 2 * h] * inverse, out[4 * j + 2 * h + 1] * inverse);
      }
      if (packed < w_.rows && p_.softmax_lse != nullptr && (lane & 3) == 0) {
        p_.softmax_lse[static_cast<std::int64_t>(head) * p_.n_queries + query] = softmax_lse;
      }
    }
    if (p_.num_splits > 1) return;
    __syncwarp();
    write_rows();
  }

  __device__ __forceinline__ void keep_part(const float (&out)[Tile::kDim / 2], int h,
                                            float inverse, float softmax_lse, int query,
                                            int head) const {
    const std::int64_t at =
        (static_cast<std::int64_t>(w_.split) * p_.n_queries + query) * p_.n_heads + head;
    if ((lane_ & 3) == 0) p_.partial_lse[at] = softmax_lse;
    if (w_.begin == w_.end) return;
    float* const to = p_.partial_out + at * Tile::kDim + (lane_ & 3) * 2;
#pragma unroll
    for (int j = 0; j < Tile::kDim / 8; ++j) {
      *reinterpret_cast<float2*>(to + j * 8) =
          make_float2(out[4 * j + 2 * h] * inverse, out[4 * j + 2 * h + 1] * inverse);
    }
  }

  /// Where piece `piece` of an output row of this warpgroup waits; a warp touches only its own
  /// rows.
  __device__ __forceinline__ unsigned char* staged(int row, int piece) const {
    return shared_ + Tile::kOutAt + me_ * 64 * Tile::kDim * 2 + row * Tile::kDim * 2 +
           ((piece ^ (row & 7)) << 4);
  }

  __device__ __forceinline__ void write_rows() const {
    constexpr int kPieces = Tile::kDim / 8;
    const int group = static_cast<int>(p_.group);
    const int lane = opaque(lane_);
#pragma unroll
    for (int i = 0; i < 16 * kPieces / 32; ++i) {
      const int index = lane + i * 32;
      const int local = warp_ * 16 + index / kPieces;
      const int piece = index % kPieces;
      const int packed = w_.row0 + me_ * 64 + local;
      if (packed >= w_.rows) continue;
      const int query = packed / group;
      T* const to = static_cast<T*>(p_.out) + (w_.first_query + query) * p_.out_token_stride +
                    (w_.head * group + packed - query * group) * p_.out_head_stride + piece * 8;
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(staged(local, piece));
    }
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
  SideRing keys_, values_;
};

}  // namespace cake::inline CAKE_ABI::cuda::device
