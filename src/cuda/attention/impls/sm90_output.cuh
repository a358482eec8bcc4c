// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The end of a tile: a warp divides its 16 rows by their sums and writes them.
#pragma once

#include <cmath>

#include "cake/version.hpp"
#include "sm90_tile.cuh"
#include "src/cuda/ptx/warpgroup.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

template <class T, class Tile>
class Sm90Output {
 public:
  /// `queries`: the rows of the warp's consumer `me`, which are no longer needed.
  __device__ Sm90Output(const AttentionParams& p, const Sm90Work& w, unsigned char* queries, int me,
                        int warp)
      : p_(p),
        w_(w),
        queries_(queries),
        first_(me * 64 + warp * 16),
        lane_(opaque(static_cast<int>(threadIdx.x) & 31)) {}

  /// Calls `release` when queries may be overwritten. That is before the output is written: the fence
  /// there waits for all writes that a warp has on their way.
  template <class Softmax, class Release>
  __device__ __forceinline__ void write(float (&out)[Tile::kDim / 2], const Softmax& softmax,
                                        const Release& release) const {
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = softmax.sum[h];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float inverse = total > 0 ? __fdividef(1.0f, total) : 0.0f;
      const int row = first_ + h * 8 + (lane_ >> 2);
      if (!w_.whole || p_.softmax_lse != nullptr) keep_lse(row, softmax.peak[h], total);
      if (w_.begin == w_.end) continue;
      if (w_.whole) {
        stage(out, h, inverse, row);
      } else {
        keep_part(out, h, inverse, row);
      }
    }
    if (w_.whole) {
      write_rows(release);
    } else {
      release();
    }
  }

 private:
  struct QueryHead {
    int query, head;
  };
  __device__ __forceinline__ QueryHead query_head(int row) const {
    const int packed = w_.row0 + row;
    const int query = query_of(p_, packed);
    return {w_.first_query + query,
            w_.head * static_cast<int>(p_.group) + packed - query * static_cast<int>(p_.group)};
  }
  __device__ __forceinline__ bool there(int row) const { return w_.row0 + row < w_.rows; }

  /// Where the part of this split lies among those of all.
  __device__ __forceinline__ std::int64_t part_at(QueryHead q) const {
    return (static_cast<std::int64_t>(w_.split) * p_.n_queries + q.query) * p_.n_heads + q.head;
  }

  /// The logarithm of a row's sum, of the whole row or of this split.
  __device__ __forceinline__ void keep_lse(int row, float peak, float total) const {
    if (!there(row) || (lane_ & 3) != 0) return;
    const QueryHead q = query_head(row);
    float* const to =
        w_.whole ? p_.softmax_lse + static_cast<std::int64_t>(q.head) * p_.n_queries + q.query
                 : p_.partial_lse + part_at(q);
    *to = total > 0 ? peak * p_.softmax_scale + logf(total) : -INFINITY;
  }

  __device__ __forceinline__ void keep_part(const float (&out)[Tile::kDim / 2], int h,
                                            float inverse, int row) const {
    if (!there(row)) return;
    float* const to = p_.partial_out + part_at(query_head(row)) * Tile::kDim + (lane_ & 3) * 2;
#pragma unroll
    for (int j = 0; j < Tile::kDim / 8; ++j) {
      *reinterpret_cast<float2*>(to + j * 8) =
          make_float2(out[4 * j + 2 * h] * inverse, out[4 * j + 2 * h + 1] * inverse);
    }
  }

  /// Puts a row together where its queries were; a warp touches only its own rows.
  __device__ __forceinline__ void stage(const float (&out)[Tile::kDim / 2], int h, float inverse,
                                        int row) const {
#pragma unroll
    for (int j = 0; j < Tile::kDim / 8; ++j) {
      *reinterpret_cast<std::uint32_t*>(staged(row, j) + (lane_ & 3) * 4) =
          pack<T>(out[4 * j + 2 * h] * inverse, out[4 * j + 2 * h + 1] * inverse);
    }
  }
  __device__ __forceinline__ unsigned char* staged(int row, int piece) const {
    return queries_ + panel_place(row, piece, Tile::kRows * kPanelRowBytes);
  }

  template <class Release>
  __device__ __forceinline__ void write_rows(const Release& release) const {
    constexpr int kPieces = Tile::kDim / 8;
    constexpr int kRowsAtOnce = 32 / kPieces;
    const int first = first_ + lane_ / kPieces;
    uint4 pieces[16 / kRowsAtOnce] = {};
    __syncwarp();
    if (w_.begin < w_.end) {
#pragma unroll
      for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
        pieces[i] =
            *reinterpret_cast<const uint4*>(staged(first + i * kRowsAtOnce, lane_ % kPieces));
      }
    }
    release();
    T* const out = static_cast<T*>(p_.out) + lane_ % kPieces * 8;
#pragma unroll
    for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
      const int row = first + i * kRowsAtOnce;
      if (!there(row)) break;
      const QueryHead q = query_head(row);
      *reinterpret_cast<uint4*>(out + q.query * p_.out_token_stride + q.head * p_.out_head_stride) =
          pieces[i];
    }
  }

  const AttentionParams& p_;
  const Sm90Work& w_;
  unsigned char* const queries_;
  const int first_;  // of the warp's rows, in the tile
  const int lane_;
};

}  // namespace cake::inline CAKE_ABI::cuda::device
