// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention over tensor cores, for compute capability 8.0 and later. A block takes 128 query rows
// of one KV head (packed: the heads of a group are rows beside each other, so that keys are read
// once for all of them) and walks the keys from the last block of them to the first. Softmax is
// taken on the way: a running maximum, which is only raised when it grew by more than 2^8, and a
// running sum.
#pragma once

#include <cmath>

#include "attention_kernels.hpp"
#include "src/cuda/mma/mma_sync.cuh"
#include "src/cuda/runtime/kernel_shared_memory.hpp"

namespace cake::inline CAKE_ABI::cuda::device {

/// Shapes of one kernel. Four warps, each with 32 rows, so that what it loads of K and V serves two
/// products.
template <int kDim>
struct Tile {
  static constexpr int kThreads = 128;
  static constexpr int kRows = kAttentionRows;
  static constexpr int kKeys = 64;
  static constexpr int kChunks = kDim / 8;  // 16-byte pieces of a row
  static constexpr int kRowBytes = kDim * 2;
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kSideBytes = kKeys * kRowBytes;  // of K or V
  static constexpr int kShared =
      kQueryBytes + 2 * kSideBytes + 2 * kKeys * static_cast<int>(sizeof(std::int64_t));
};

/// Where piece `chunk` of a row lies: pieces change places by the row, so that eight rows of one
/// column lie in eight different banks.
template <int kDim>
__device__ inline std::uint32_t place(int row, int chunk) {
  return static_cast<std::uint32_t>(row * Tile<kDim>::kRowBytes + ((chunk ^ (row & 7)) << 4));
}

template <class T, int kDim>
__global__ void __launch_bounds__(Tile<kDim>::kThreads, kAttentionBlocksPerProcessor)
    attention_mma(const __grid_constant__ AttentionParams p) {
  using Shape = Tile<kDim>;
  constexpr int kKeys = Shape::kKeys;
  extern __shared__ __align__(1024) unsigned char shared[];
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid & 31;
  const int warp = tid >> 5;

  // ---- what this block does ----
  const int head = static_cast<int>(blockIdx.x % p.n_kv_heads);
  const int sequence = static_cast<int>(blockIdx.x / p.n_kv_heads);
  const int group = static_cast<int>(p.group);
  const int first_query = p.cu_seqlens_q == nullptr ? 0 : p.cu_seqlens_q[sequence];
  const int queries = p.cu_seqlens_q == nullptr ? static_cast<int>(p.n_queries)
                                                : p.cu_seqlens_q[sequence + 1] - first_query;
  const int keys = p.seqlens_k[sequence];
  const int rows = queries * group;
  const int row0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * Shape::kRows;  // long ones first
  if (row0 >= rows) return;
  const int behind = keys - queries;  // query i sees keys 0 .. behind + i
  const int last_seen = behind + (min(row0 + Shape::kRows, rows) - 1) / group;
  const int all_seen = behind + row0 / group;
  const int blocks = last_seen < 0 ? 0 : last_seen / kKeys + 1;
  const int num_splits = static_cast<int>(p.num_splits);
  const int share = (blocks + num_splits - 1) / num_splits;
  const int begin = min(blocks, static_cast<int>(blockIdx.z) * share);
  const int end = min(blocks, begin + share);

  const std::uint32_t q_at = shared_address(shared);
  const std::uint32_t k_at = q_at + Shape::kQueryBytes;
  const std::uint32_t v_at = k_at + Shape::kSideBytes;
  auto* const row_offsets =
      reinterpret_cast<std::int64_t*>(shared + Shape::kQueryBytes + 2 * Shape::kSideBytes);

  // ---- ways of the data ----
  // Rows of keys are found through shared memory, noted one block ahead; contiguous KV is one page
  // for each sequence.
  const auto page_number = [&](int key) {
    const auto k = static_cast<std::uint32_t>(key);
    return static_cast<int>((__umulhi(k, p.page_multiplier) + k) >> p.page_shift);
  };
  const auto page_of = [&](int key) {
    if (p.page_tokens == 0 || key >= keys) return sequence;
    return p.page_table[sequence * p.table_stride + page_number(key)];
  };
  const auto note_offset = [&](int block, int page) {
    const int key = block * kKeys + tid;
    const int row =
        p.page_tokens == 0 ? key : key - page_number(key) * static_cast<int>(p.page_tokens);
    row_offsets[(block & 1) * kKeys + tid] = page * p.page_stride + row * p.token_stride;
  };
  constexpr int kRowsAtOnce = Shape::kThreads / Shape::kChunks;
  const int my_row = tid / Shape::kChunks;
  const int my_chunk = tid % Shape::kChunks;
  const std::uint32_t my_place = place<kDim>(my_row, my_chunk);
  const auto load_side = [&](std::uint32_t to, const void* pool, int block) {
    const T* const from = static_cast<const T*>(pool) + head * p.head_stride + my_chunk * 8;
    int key = block * kKeys + my_row;
    to += my_place;
#pragma unroll
    for (int i = 0; i < kKeys / kRowsAtOnce; ++i) {
      copy_async(to, from + row_offsets[(block & 1) * kKeys + i * kRowsAtOnce + my_row],
                 key < keys);
      to += kRowsAtOnce * Shape::kRowBytes;
      key += kRowsAtOnce;
    }
  };

  // ---- queries, once ----
#pragma unroll
  for (int i = 0; i < Shape::kRows * Shape::kChunks / Shape::kThreads; ++i) {
    const int index = tid + i * Shape::kThreads;
    const int row = index / Shape::kChunks;
    const int chunk = index % Shape::kChunks;
    const int packed = row0 + row;
    const bool there = packed < rows;
    const int query = there ? packed / group : 0;
    const int member = there ? packed - query * group : 0;
    const T* const from = static_cast<const T*>(p.q) + (first_query + query) * p.q_token_stride +
                          (head * group + member) * p.q_head_stride + chunk * 8;
    copy_async(q_at + place<kDim>(row, chunk), from, there);
  }
  if (tid < kKeys && end > begin) note_offset(end - 1, page_of((end - 1) * kKeys + tid));
  __syncthreads();
  if (end > begin) load_side(k_at, p.k, end - 1);
  commit_copies();

  float out[2][kDim / 8][4] = {};
  float peak[2][2];  // [16 rows][upper, lower 8 of them]
  float sum[2][2] = {};
#pragma unroll
  for (int m = 0; m < 2; ++m) peak[m][0] = peak[m][1] = -INFINITY;

  const std::uint32_t swizzle = static_cast<std::uint32_t>(lane & 7);
  const std::uint32_t q_row =
      q_at + static_cast<std::uint32_t>((warp * 32 + (lane & 15)) * Shape::kRowBytes);
  const std::uint32_t q_turn = (static_cast<std::uint32_t>(lane >> 4) ^ swizzle) << 4;
  const std::uint32_t k_row =
      k_at + static_cast<std::uint32_t>(((lane & 7) + ((lane >> 4) << 3)) * Shape::kRowBytes);
  const std::uint32_t k_turn = ((static_cast<std::uint32_t>(lane >> 3) & 1) ^ swizzle) << 4;
  const std::uint32_t v_row = v_at + static_cast<std::uint32_t>((lane & 15) * Shape::kRowBytes);
  const std::uint32_t v_turn = q_turn;

  for (int block = end - 1; block >= begin; --block) {
    int next_page = 0;
    if (tid < kKeys && block > begin) next_page = page_of((block - 1) * kKeys + tid);
    wait_copies_but<0>();
    __syncthreads();  // K is there, and V is no longer needed
    load_side(v_at, p.v, block);
    commit_copies();

    float score[2][kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      std::uint32_t a[2][4];
      load_matrices(a[0], q_row + (q_turn ^ static_cast<std::uint32_t>(d << 5)));
      load_matrices(a[1],
                    q_row + 16 * Shape::kRowBytes + (q_turn ^ static_cast<std::uint32_t>(d << 5)));
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        std::uint32_t b[4];
        load_matrices(b, k_row + static_cast<std::uint32_t>(n * 16 * Shape::kRowBytes) +
                             (k_turn ^ static_cast<std::uint32_t>(d << 5)));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply<T>(score[m][2 * n], a[m], b[0], b[1]);
          multiply<T>(score[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }

    if (block * kKeys + kKeys - 1 > all_seen) {
      const int column = block * kKeys + (lane & 3) * 2;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = row0 + warp * 32 + m * 16 + h * 8 + (lane >> 2);
          const int limit = all_seen - row0 / group + row / group;  // last key that it sees
#pragma unroll
          for (int n = 0; n < kKeys / 8; ++n) {
            if (column + n * 8 > limit) score[m][n][2 * h] = -INFINITY;
            if (column + n * 8 + 1 > limit) score[m][n][2 * h + 1] = -INFINITY;
          }
        }
      }
    }

    // ---- softmax ----
    float top[2][2];
    bool grown = false;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float t = peak[m][h];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          t = fmaxf(t, fmaxf(score[m][n][2 * h], score[m][n][2 * h + 1]));
        }
        t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, 1));
        t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, 2));
        top[m][h] = t;
        grown = grown || (t - peak[m][h]) * p.scale_log2 > 8.0f;
      }
    }
    if (__any_sync(0xffffffffu, grown)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float shrink =
              top[m][h] == -INFINITY ? 1.0f : power_of_two((peak[m][h] - top[m][h]) * p.scale_log2);
          peak[m][h] = top[m][h];
          sum[m][h] *= shrink;
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            out[m][n][2 * h] *= shrink;
            out[m][n][2 * h + 1] *= shrink;
          }
        }
      }
    }
    std::uint32_t weight[2][kKeys / 16][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float base = peak[m][h] == -INFINITY ? 0.0f : peak[m][h] * p.scale_log2;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          const float low = power_of_two(fmaf(score[m][n][2 * h], p.scale_log2, -base));
          const float high = power_of_two(fmaf(score[m][n][2 * h + 1], p.scale_log2, -base));
          sum[m][h] += low + high;
          weight[m][n / 2][(n & 1) * 2 + h] = pack<T>(low, high);
        }
      }
    }

    if (tid < kKeys && block > begin) note_offset(block - 1, next_page);
    wait_copies_but<0>();
    __syncthreads();  // V is there, and K is no longer needed
    if (block > begin) load_side(k_at, p.k, block - 1);
    commit_copies();

#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        std::uint32_t b[4];
        load_matrices_transposed(b, v_row + static_cast<std::uint32_t>(n * 16 * Shape::kRowBytes) +
                                        (v_turn ^ static_cast<std::uint32_t>(d << 5)));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply<T>(out[m][2 * d], weight[m][n], b[0], b[1]);
          multiply<T>(out[m][2 * d + 1], weight[m][n], b[2], b[3]);
        }
      }
    }
  }
  wait_copies_but<0>();

  // ---- the end: divide by the sum, and out through the rows of Q, which are the warp's own ----
  if (end == begin) __syncthreads();  // Q may still have been on its way for other threads
  __syncwarp();
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = sum[m][h];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float inverse = total > 0 ? 1.0f / total : 0.0f;
      const float softmax_lse = total > 0 ? peak[m][h] * p.softmax_scale + logf(total) : -INFINITY;
      const int local = warp * 32 + m * 16 + h * 8 + (lane >> 2);
      const int packed = row0 + local;
      const bool there = packed < rows;
      const int query = first_query + packed / group;
      const int q_head = head * group + packed % group;
      if (num_splits > 1) {
        if (!there) continue;
        const std::int64_t at =
            (static_cast<std::int64_t>(blockIdx.z) * p.n_queries + query) * p.n_heads + q_head;
        float* const to = p.partial_out + at * kDim + (lane & 3) * 2;
        if (end > begin) {
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            *reinterpret_cast<float2*>(to + n * 8) =
                make_float2(out[m][n][2 * h] * inverse, out[m][n][2 * h + 1] * inverse);
          }
        }
        if ((lane & 3) == 0) p.partial_lse[at] = softmax_lse;
      } else {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          *reinterpret_cast<std::uint32_t*>(shared + place<kDim>(local, n) + (lane & 3) * 4) =
              pack<T>(out[m][n][2 * h] * inverse, out[m][n][2 * h + 1] * inverse);
        }
        if (there && p.softmax_lse != nullptr && (lane & 3) == 0) {
          p.softmax_lse[static_cast<std::int64_t>(q_head) * p.n_queries + query] = softmax_lse;
        }
      }
    }
  }
  if (num_splits > 1) return;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < Shape::kChunks; ++i) {
    const int index = lane + i * 32;
    const int local = warp * 32 + index / Shape::kChunks;
    const int chunk = index % Shape::kChunks;
    const int packed = row0 + local;
    if (packed >= rows) continue;
    T* const to = static_cast<T*>(p.out) + (first_query + packed / group) * p.out_token_stride +
                  (head * group + packed % group) * p.out_head_stride + chunk * 8;
    *reinterpret_cast<uint4*>(to) =
        *reinterpret_cast<const uint4*>(shared + place<kDim>(local, chunk));
  }
}

template <class T, int kDim>
cudaError_t launch(const AttentionParams& p, cudaStream_t stream) {
  constexpr auto kKernel = attention_mma<T, kDim>;
  if (const cudaError_t code = allow_shared_memory<kKernel>(Tile<kDim>::kShared);
      code != cudaSuccess) {
    return code;
  }
  const std::uint32_t tiles = (p.max_seqlen_q * p.group + kAttentionRows - 1) / kAttentionRows;
  const dim3 grid(p.n_kv_heads * p.n_sequences, tiles, p.num_splits);
  kKernel<<<grid, Tile<kDim>::kThreads, Tile<kDim>::kShared, stream>>>(p);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_any(const AttentionParams& p, cudaStream_t stream) {
  return p.head_dim == 64 ? launch<T, 64>(p, stream) : launch<T, 128>(p, stream);
}

}  // namespace cake::inline CAKE_ABI::cuda::device
