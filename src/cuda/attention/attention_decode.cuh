// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention of few queries over many keys, for compute capability 8.0 and later: as fast as K and V
// can be read. A block walks its share of all tiles (attention_decode_work.hpp) with several tiles
// on their way to shared memory, also across the end of a sequence or head. The heads of a group
// are rows beside each other, so that keys are read once for all of them. Up to 16 rows: each of
// four warps takes a quarter of a tile's keys, and their results are put together in the end; up to
// 64: each takes 16 rows and all keys. The idea of shares without regard to where sequences end is
// Stream-K's (Osama et al., 2023).
#pragma once

#include <cmath>

#include "attention_decode_work.hpp"
#include "attention_kernels.hpp"
#include "src/cuda/mma/mma_sync.cuh"
#include "src/cuda/runtime/dependent_launch.cuh"

namespace cake::inline CAKE_ABI::cuda::decode {

using device::shared_address;

/// Shared memory of one block: a ring of sides (the K or the V of a tile), where rows of keys lie,
/// and what is needed to put results of warps together.
template <int kDim>
struct Room {
  static constexpr int kThreads = 128;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kKeys = static_cast<int>(kTileKeys);
  static constexpr int kChunks = kDim / 8;  // 16-byte pieces of a row
  static constexpr int kRowBytes = kDim * 2;
  static constexpr int kSideBytes = kKeys * kRowBytes;
  static constexpr int kAhead = kDim == 128 ? 2 : 4;  // tiles on their way
  static constexpr int kSides = 2 * kAhead + 1;
  static constexpr int kNotes = kDim == 128 ? 4 : 8;  // a power of two above kAhead + 1
  static constexpr int kColumns = 32;                 // of a result, put together at once
  static constexpr int kPitch = kColumns + 8;         // floats, against bank conflicts

  unsigned char ring[kSides][kSideBytes];
  float merged[kWarps][16][kPitch];
  float2 stats[kWarps][16];  // peak and sum
  std::int64_t notes[kNotes][kKeys];
};

/// Where piece `chunk` of a row lies: pieces change places by the row, so that eight rows of one
/// column lie in eight different banks.
template <int kDim>
__device__ inline std::uint32_t place(int row, int chunk) {
  return static_cast<std::uint32_t>(row * Room<kDim>::kRowBytes + ((chunk ^ (row & 7)) << 4));
}

// ---- the row of tiles ----

/// Past L1: a kernel that started early might find there what another step left.
__device__ inline int keys_of(const AttentionParams& p, int sequence) {
  return __ldcg(p.seqlens_k + sequence);
}
__device__ inline int first_query_of(const AttentionParams& p, int sequence) {
  return p.cu_seqlens_q == nullptr ? 0 : __ldcg(p.cu_seqlens_q + sequence);
}
__device__ inline int queries_of(const AttentionParams& p, int sequence) {
  return p.cu_seqlens_q == nullptr ? static_cast<int>(p.n_queries)
                                   : first_query_of(p, sequence + 1) - first_query_of(p, sequence);
}
__device__ inline std::uint32_t tiles_of(const AttentionParams& p, int sequence) {
  return tiles_of(queries_of(p, sequence), keys_of(p, sequence));
}

/// Of sequences [0, end), all heads. Called by whole warps.
__device__ inline std::uint64_t tiles_before(const AttentionParams& p, int end) {
  std::uint64_t sum = 0;
  for (int s = static_cast<int>(threadIdx.x & 31); s < end; s += 32) sum += tiles_of(p, s);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  return sum * p.n_kv_heads;
}

/// A tile: which keys of whom.
struct Cursor {
  int sequence = 0;
  int head = 0;
  std::uint32_t tile = 0;   // of its sequence and head,
  std::uint32_t tiles = 0;  // which have so many
  int keys = 0;             // of the sequence

  __device__ void enter(const AttentionParams& p) {
    keys = keys_of(p, sequence);
    tiles = tiles_of(queries_of(p, sequence), keys);
  }
  /// To the next tile of the row.
  __device__ void advance(const AttentionParams& p) {
    if (++tile < tiles) return;
    tile = 0;
    if (++head < static_cast<int>(p.n_kv_heads)) return;
    head = 0;
    while (++sequence < static_cast<int>(p.n_sequences)) {
      enter(p);
      if (tiles != 0) return;
    }
  }
};

/// Tile number `at` of the row. Called by whole warps.
__device__ inline Cursor find(const AttentionParams& p, std::uint64_t at) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int n = static_cast<int>(p.n_sequences);
  Cursor cursor;
  for (int first = 0; first < n; first += 32) {
    const std::uint64_t own =
        first + lane < n ? std::uint64_t{tiles_of(p, first + lane)} * p.n_kv_heads : 0;
    std::uint64_t end = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const std::uint64_t other = __shfl_up_sync(~0u, end, offset);
      if (lane >= offset) end += other;
    }
    const unsigned behind = __ballot_sync(~0u, at < end);
    if (behind != 0) {
      const int holder = __ffs(static_cast<int>(behind)) - 1;
      cursor.sequence = first + holder;
      cursor.enter(p);
      at -= __shfl_sync(~0u, end - own, holder);
      const std::uint64_t head = quotient(at, cursor.tiles);
      cursor.head = static_cast<int>(head);
      cursor.tile = static_cast<std::uint32_t>(at - head * cursor.tiles);
      return cursor;
    }
    at -= __shfl_sync(~0u, end, 31);
  }
  return cursor;
}

// ---- ways of the data ----

/// The page of a thread's key in a tile; keys that do not exist are looked up nowhere.
__device__ inline int page_of(const AttentionParams& p, const Cursor& c, int key) {
  if (p.page_tokens == 0 || key >= c.keys) return c.sequence;
  const auto k = static_cast<std::uint32_t>(key);
  const std::uint32_t number = (__umulhi(k, p.page_multiplier) + k) >> p.page_shift;
  return p.page_table[c.sequence * p.table_stride + number];
}
/// Elements from the start of a pool to that key's row; -1 where there is no such key.
__device__ inline std::int64_t row_of(const AttentionParams& p, const Cursor& c, int key,
                                      int page) {
  if (key >= c.keys) return -1;
  const auto k = static_cast<std::uint32_t>(key);
  const std::uint32_t number = (__umulhi(k, p.page_multiplier) + k) >> p.page_shift;
  const std::uint32_t row = p.page_tokens == 0 ? k : k - number * p.page_tokens;
  return page * p.page_stride + row * p.token_stride + c.head * p.head_stride;
}

/// Enqueues the copies of one side; rows without a key become zeros.
template <class T, int kDim>
__device__ inline void load_side(unsigned char* to, const void* pool, const std::int64_t* notes) {
  using Space = Room<kDim>;
  constexpr int kRowsAtOnce = Space::kThreads / Space::kChunks;
  const int row = static_cast<int>(threadIdx.x) / Space::kChunks;
  const int chunk = static_cast<int>(threadIdx.x) % Space::kChunks;
  const T* const from = static_cast<const T*>(pool) + chunk * 8;
  std::uint32_t at = shared_address(to) + place<kDim>(row, chunk);
#pragma unroll
  for (int i = 0; i < Space::kKeys / kRowsAtOnce; ++i) {
    const std::int64_t offset = notes[row + i * kRowsAtOnce];
    device::copy_async(at, from + (offset < 0 ? 0 : offset), offset >= 0);
    at += kRowsAtOnce * Space::kRowBytes;
  }
}

// ---- what a warp does with a tile ----

/// 16 rows of one warp: queries, and what they have come to so far.
template <class T, int kDim>
struct Rows {
  std::uint32_t q[kDim / 16][4];
  float out[kDim / 8][4];
  float peak[2];  // of the upper and the lower 8 rows
  float sum[2];

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0;
    peak[0] = peak[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  /// Rows first_row and on of a sequence and KV head; zeros beyond them.
  __device__ void load(const AttentionParams& p, const Cursor& c, int first_row) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int group = static_cast<int>(p.group);
    const int rows = queries_of(p, c.sequence) * group;
    const int begin = first_query_of(p, c.sequence);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + h * 8 + (lane >> 2);
      const int query = begin + row / group;
      const auto* const from = reinterpret_cast<const std::uint32_t*>(
          static_cast<const T*>(p.q) + query * p.q_token_stride +
          (c.head * group + row % group) * p.q_head_stride);
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          q[d][2 * side + h] = row < rows ? from[d * 8 + side * 4 + (lane & 3)] : 0;
        }
      }
    }
  }
};

/// Scores of kKeys keys from first_key on, by the K of a tile in shared memory.
template <class T, int kDim, int kKeys>
__device__ inline void take_scores(float (&score)[kKeys / 8][4], const Rows<T, kDim>& rows,
                                   const unsigned char* side, int first_key) {
  const auto lane = static_cast<std::uint32_t>(threadIdx.x & 31);
  const std::uint32_t row = shared_address(side) + (static_cast<std::uint32_t>(first_key) +
                                                    (lane & 7) + ((lane >> 4) << 3)) *
                                                       Room<kDim>::kRowBytes;
  const std::uint32_t turn = (((lane >> 3) & 1) ^ (lane & 7)) << 4;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0;
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      std::uint32_t b[4];
      device::load_matrices(b, row + static_cast<std::uint32_t>(n * 16 * Room<kDim>::kRowBytes) +
                                   (turn ^ static_cast<std::uint32_t>(d << 5)));
      device::multiply<T>(score[2 * n], rows.q[d], b[0], b[1]);
      device::multiply<T>(score[2 * n + 1], rows.q[d], b[2], b[3]);
    }
  }
}

/// Hides keys from the queries before them. `column` is the key of score[0][0], `limit` the last
/// key that the upper and the lower rows see.
template <int kKeys>
__device__ inline void mask(float (&score)[kKeys / 8][4], int column, const int (&limit)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      if (column + n * 8 > limit[h]) score[n][2 * h] = -INFINITY;
      if (column + n * 8 + 1 > limit[h]) score[n][2 * h + 1] = -INFINITY;
    }
  }
}

/// Scores to weights of values; raises the running peak, and shrinks what was summed under the old
/// one.
template <class T, int kDim, int kKeys>
__device__ inline void take_weights(std::uint32_t (&weight)[kKeys / 16][4],
                                    const float (&score)[kKeys / 8][4], Rows<T, kDim>& rows,
                                    float scale_log2) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top = rows.peak[h];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      top = fmaxf(top, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const bool grown = top > rows.peak[h];
    if (__any_sync(~0u, grown)) {
      const float shrink = grown ? device::power_of_two((rows.peak[h] - top) * scale_log2) : 1.0f;
      rows.peak[h] = top;
      rows.sum[h] *= shrink;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        rows.out[n][2 * h] *= shrink;
        rows.out[n][2 * h + 1] *= shrink;
      }
    }
    const float base = top == -INFINITY ? 0.0f : top * scale_log2;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      const float low = device::power_of_two(fmaf(score[n][2 * h], scale_log2, -base));
      const float high = device::power_of_two(fmaf(score[n][2 * h + 1], scale_log2, -base));
      rows.sum[h] += low + high;
      weight[n / 2][(n & 1) * 2 + h] = device::pack<T>(low, high);
    }
  }
}

/// Adds kKeys weighted values from first_key on.
template <class T, int kDim, int kKeys>
__device__ inline void add_values(Rows<T, kDim>& rows, const std::uint32_t (&weight)[kKeys / 16][4],
                                  const unsigned char* side, int first_key) {
  const auto lane = static_cast<std::uint32_t>(threadIdx.x & 31);
  const std::uint32_t row =
      shared_address(side) +
      (static_cast<std::uint32_t>(first_key) + (lane & 15)) * Room<kDim>::kRowBytes;
  const std::uint32_t turn = ((lane >> 4) ^ (lane & 7)) << 4;
#pragma unroll
  for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      std::uint32_t b[4];
      device::load_matrices_transposed(
          b, row + static_cast<std::uint32_t>(n * 16 * Room<kDim>::kRowBytes) +
                 (turn ^ static_cast<std::uint32_t>(d << 5)));
      device::multiply<T>(rows.out[2 * d], weight[n], b[0], b[1]);
      device::multiply<T>(rows.out[2 * d + 1], weight[n], b[2], b[3]);
    }
  }
}

// ---- results ----

/// Where results of a sequence and KV head go: a part of them, or all.
struct Target {
  bool whole = false;
  std::uint64_t part = 0;  // else: block * kPartsOfBlock + 0 or 1
};

/// Writes four columns of one row.
template <class T, int kDim>
__device__ inline void write(const AttentionParams& p, const Cursor& c, const Target& target,
                             int rows_of_part, int row, int column, float4 value) {
  if (!target.whole) {
    float* const to = p.partial_out + (target.part * rows_of_part + row) * kDim + column;
    *reinterpret_cast<float4*>(to) = value;
    return;
  }
  const int group = static_cast<int>(p.group);
  const int query = first_query_of(p, c.sequence) + row / group;
  T* const to = static_cast<T*>(p.out) + query * p.out_token_stride +
                (c.head * group + row % group) * p.out_head_stride + column;
  *reinterpret_cast<uint2*>(to) =
      make_uint2(device::pack<T>(value.x, value.y), device::pack<T>(value.z, value.w));
}
__device__ inline void write_lse(const AttentionParams& p, const Cursor& c, const Target& target,
                                 int rows_of_part, int row, float softmax_lse) {
  if (!target.whole) {
    p.partial_lse[target.part * rows_of_part + row] = softmax_lse;
  } else if (p.softmax_lse != nullptr) {
    const int group = static_cast<int>(p.group);
    const int query = first_query_of(p, c.sequence) + row / group;
    p.softmax_lse[std::int64_t{c.head * group + row % group} * p.n_queries + query] = softmax_lse;
  }
}

/// What a warp's sums count for beside those of the warps with other keys of the same rows. Writes
/// the logarithms of whole sums.
template <class T, int kDim, int kRowWarps>
__device__ inline void share_of(float (&share)[2], const Rows<T, kDim>& rows, Room<kDim>& room,
                                const AttentionParams& p, const Cursor& c, const Target& target) {
  const int warp = static_cast<int>(threadIdx.x >> 5);
  const int lane = static_cast<int>(threadIdx.x & 31);
  float total[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    total[h] = rows.sum[h];
    total[h] += __shfl_xor_sync(~0u, total[h], 1);
    total[h] += __shfl_xor_sync(~0u, total[h], 2);
    if ((lane & 3) == 0) {
      room.stats[warp][h * 8 + (lane >> 2)] = make_float2(rows.peak[h], total[h]);
    }
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = h * 8 + (lane >> 2);
    float peak = -INFINITY;
    float all = 0;
    for (int w = warp % kRowWarps; w < Room<kDim>::kWarps; w += kRowWarps) {
      peak = fmaxf(peak, room.stats[w][row].x);
    }
    for (int w = warp % kRowWarps; w < Room<kDim>::kWarps; w += kRowWarps) {
      const float2 other = room.stats[w][row];
      if (other.x != -INFINITY) {
        all += other.y * device::power_of_two((other.x - peak) * p.scale_log2);
      }
    }
    const bool seen = rows.peak[h] != -INFINITY;
    share[h] = seen ? device::power_of_two((rows.peak[h] - peak) * p.scale_log2) / all : 0.0f;
    const int packed = warp * 16 + row;
    if (warp < kRowWarps && (lane & 3) == 0 &&
        packed < queries_of(p, c.sequence) * static_cast<int>(p.group)) {
      write_lse(p, c, target, 16 * kRowWarps, packed,
                all > 0 ? peak * p.softmax_scale + logf(all) : -INFINITY);
    }
  }
}

/// Puts the warps' sums together, some columns at a time, and writes them.
template <class T, int kDim, int kRowWarps>
__device__ inline void finish(const Rows<T, kDim>& rows, Room<kDim>& room, const AttentionParams& p,
                              const Cursor& c, const Target& target) {
  using Space = Room<kDim>;
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid >> 5;
  const int lane = tid & 31;
  const int n_rows = queries_of(p, c.sequence) * static_cast<int>(p.group);
  float share[2];
  share_of<T, kDim, kRowWarps>(share, rows, room, p, c, target);
#pragma unroll
  for (int first = 0; first < kDim; first += Space::kColumns) {
#pragma unroll
    for (int n = 0; n < Space::kColumns / 8; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float* const own = &rows.out[first / 8 + n][2 * h];
        *reinterpret_cast<float2*>(
            &room.merged[warp][h * 8 + (lane >> 2)][n * 8 + (lane & 3) * 2]) =
            make_float2(own[0] * share[h], own[1] * share[h]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRowWarps; ++i) {  // warp i had rows 16 i and on, and others their keys
      const int row = tid / (Space::kColumns / 4);
      const int column = tid % (Space::kColumns / 4) * 4;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = i; w < Space::kWarps; w += kRowWarps) {
        const float4 part = *reinterpret_cast<const float4*>(&room.merged[w][row][column]);
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
      }
      if (i * 16 + row < n_rows) {
        write<T, kDim>(p, c, target, 16 * kRowWarps, i * 16 + row, first + column, sum);
      }
    }
    __syncthreads();
  }
}

// ---- the kernel ----

/// Keeps tiles on their way, kAhead of them in front of the one that is used.
template <class T, int kDim>
struct Feed {
  using Space = Room<kDim>;
  Room<kDim>& room;
  const AttentionParams& p;
  Cursor noted;  // first tile that was not noted
  std::uint32_t tiles;
  std::uint32_t tile = 0;  // the one that is used
  int side = 0;            // of the ring: the next one to be used
  int page = 0;            // of this thread's key in `noted`

  __device__ int key() const {
    return static_cast<int>(noted.tile) * Space::kKeys + static_cast<int>(threadIdx.x);
  }
  __device__ bool has(int ahead) const { return tile + static_cast<std::uint32_t>(ahead) < tiles; }

  __device__ void start() {
#pragma unroll
    for (int t = 0; t <= Space::kAhead; ++t) {
      if (!has(t)) break;
      if (threadIdx.x < Space::kKeys) {
        room.notes[t][threadIdx.x] = row_of(p, noted, key(), page_of(p, noted, key()));
      }
      noted.advance(p);
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < Space::kAhead; ++t) {
      if (has(t)) load_side<T, kDim>(room.ring[2 * t], p.k, room.notes[t]);
      device::commit_copies();
      if (has(t)) load_side<T, kDim>(room.ring[2 * t + 1], p.v, room.notes[t]);
      device::commit_copies();
    }
  }

  /// At the start of a tile, so that the answer is there at its end.
  __device__ void look_up() {
    if (threadIdx.x < Space::kKeys && has(Space::kAhead + 1)) page = page_of(p, noted, key());
  }
  /// K of a tile, then its V; the side that was used before it is no longer needed.
  __device__ const unsigned char* next(const void* pool) {
    device::wait_copies_but<Space::kSides - 2>();
    __syncthreads();
    if (has(Space::kAhead)) {
      const int free = side == 0 ? Space::kSides - 1 : side - 1;
      load_side<T, kDim>(room.ring[free], pool, room.notes[(tile + Space::kAhead) % Space::kNotes]);
    }
    device::commit_copies();
    const unsigned char* const now = room.ring[side];
    side = side + 1 == Space::kSides ? 0 : side + 1;
    return now;
  }
  /// At the end of a tile.
  __device__ void note() {
    if (has(Space::kAhead + 1)) {
      if (threadIdx.x < Space::kKeys) {
        room.notes[(tile + Space::kAhead + 1) % Space::kNotes][threadIdx.x] =
            row_of(p, noted, key(), page);
      }
      noted.advance(p);
    }
    ++tile;
  }
};

template <class T, int kDim, int kRowWarps>
__global__ void __launch_bounds__(Room<kDim>::kThreads, kBlocksPerProcessor)
    attention_decode(const __grid_constant__ AttentionParams p) {
  constexpr int kOwnKeys = Room<kDim>::kKeys * kRowWarps / Room<kDim>::kWarps;  // in each tile
  extern __shared__ __align__(1024) unsigned char shared[];
  auto& room = *reinterpret_cast<Room<kDim>*>(shared);
  const int warp = static_cast<int>(threadIdx.x >> 5);
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int first_row = warp % kRowWarps * 16;
  const int first_key = warp / kRowWarps * kOwnKeys;

  device::wait_for_primary();
  const Shares shares(tiles_before(p, static_cast<int>(p.n_sequences)), gridDim.x);
  const std::uint64_t begin = shares.begin(blockIdx.x);
  const auto tiles = static_cast<std::uint32_t>(shares.begin(blockIdx.x + 1) - begin);
  device::let_dependents_start();
  if (tiles == 0) return;
  Cursor now = find(p, begin);
  Feed<T, kDim> feed{room, p, now, tiles};
  feed.start();

  Rows<T, kDim> rows;
  Target target{false, std::uint64_t{blockIdx.x} * kPartsOfBlock};
  std::uint32_t from = now.tile;  // where the share of this sequence and head begins
  int behind = 0;                 // query i sees keys 0 .. behind + i
  while (feed.has(0)) {
    if (now.tile == from) {
      rows.clear();
      rows.load(p, now, first_row);
      behind = now.keys - queries_of(p, now.sequence);
    }
    feed.look_up();
    float score[kOwnKeys / 8][4];
    take_scores<T, kDim, kOwnKeys>(score, rows, feed.next(p.k), first_key);
    const int key = static_cast<int>(now.tile) * Room<kDim>::kKeys;
    if (key + Room<kDim>::kKeys - 1 > behind) {
      const int row = first_row + (lane >> 2);
      const int group = static_cast<int>(p.group);
      const int limit[2] = {behind + row / group, behind + (row + 8) / group};
      mask<kOwnKeys>(score, key + first_key + (lane & 3) * 2, limit);
    }
    std::uint32_t weight[kOwnKeys / 16][4];
    take_weights<T, kDim, kOwnKeys>(weight, score, rows, p.scale_log2);
    add_values<T, kDim, kOwnKeys>(rows, weight, feed.next(p.v), first_key);
    feed.note();
    const bool ends = now.tile + 1 == now.tiles;
    if (ends || !feed.has(0)) {
      target.whole = ends && from == 0;
      finish<T, kDim, kRowWarps>(rows, room, p, now, target);
      target.part = std::uint64_t{blockIdx.x} * kPartsOfBlock + 1;
      from = 0;
    }
    now.advance(p);
  }
  device::wait_copies_but<0>();
}

inline constexpr int kCombineWarps = 8;

/// Which parts a row has.
struct Parts {
  std::uint64_t holder = 0;  // block of the first one
  std::uint32_t second = 0;  // whether that one's share began before the row's sequence and head
  int count = 0;

  __device__ Parts(const AttentionParams& p, const Cursor& c, std::uint32_t blocks) {
    const Shares shares(tiles_before(p, static_cast<int>(p.n_sequences)), blocks);
    if (c.tiles == 0) return;
    const std::uint64_t first =
        tiles_before(p, c.sequence) + static_cast<std::uint64_t>(c.head) * c.tiles;
    holder = shares.holder(first);
    second = shares.begin(holder) == first ? 0 : 1;
    count = static_cast<int>(shares.holder(first + c.tiles - 1) - holder) + 1;
  }
  __device__ std::uint64_t number(int i) const {
    return (holder + static_cast<std::uint64_t>(i)) * kPartsOfBlock + (i == 0 ? second : 0);
  }
};

/// Parts of one row, put together in order.
template <int kOwn>
struct Sum {
  float peak = -INFINITY;  // logarithm, natural
  float weight = 0;
  float value[kOwn] = {};

  __device__ void add(float softmax_lse, float other_weight, const float (&other)[kOwn]) {
    if (softmax_lse == -INFINITY) return;  // of no keys
    const float top = fmaxf(peak, softmax_lse);
    const float shrink = expf(peak - top);
    const float grow = expf(softmax_lse - top);
    peak = top;
    weight = weight * shrink + other_weight * grow;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) value[j] = value[j] * shrink + other[j] * grow;
  }
};

/// Puts the parts of a row together: a block for each sequence, KV head and row. Rows that one
/// block of attention_decode had to itself are finished.
template <class T, int kDim>
__global__ void __launch_bounds__(kCombineWarps * 32)
    combine_parts(const __grid_constant__ AttentionParams p, std::uint32_t blocks, int part_rows) {
  constexpr int kOwn = kDim / 32;  // columns of a lane
  constexpr int kAtOnce = 5;       // parts whose numbers are on their way
  __shared__ float sums[kCombineWarps][kDim];
  __shared__ float2 weights[kCombineWarps];
  const int warp = static_cast<int>(threadIdx.x >> 5);
  const int lane = static_cast<int>(threadIdx.x & 31);
  device::let_dependents_start();
  Cursor c;
  c.sequence = static_cast<int>(blockIdx.x / p.n_kv_heads);
  c.head = static_cast<int>(blockIdx.x % p.n_kv_heads);
  c.enter(p);
  const int row = static_cast<int>(blockIdx.y);
  const bool there = row < queries_of(p, c.sequence) * static_cast<int>(p.group);
  const Parts parts(p, c, blocks);
  device::wait_for_primary();  // also where nothing is to be done
  if (!there || parts.count <= 1) return;
  Sum<kOwn> own;
  for (int first = warp; first < parts.count; first += kAtOnce * kCombineWarps) {
    float softmax_lse[kAtOnce];
    float value[kAtOnce][kOwn];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int part = first + i * kCombineWarps;
      if (part < parts.count) {
        const std::uint64_t at = parts.number(part) * static_cast<std::uint64_t>(part_rows) +
                                 static_cast<std::uint64_t>(row);
        softmax_lse[i] = p.partial_lse[at];
#pragma unroll
        for (int j = 0; j < kOwn; ++j) value[i][j] = p.partial_out[at * kDim + lane * kOwn + j];
      } else {
        softmax_lse[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) own.add(softmax_lse[i], 1.0f, value[i]);
  }
#pragma unroll
  for (int j = 0; j < kOwn; ++j) sums[warp][lane * kOwn + j] = own.value[j];
  if (lane == 0) weights[warp] = make_float2(own.peak, own.weight);
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x) * 4;
  if (column >= kDim) return;
  Sum<4> all;
#pragma unroll
  for (int w = 0; w < kCombineWarps; ++w) {
    const float4 part = *reinterpret_cast<const float4*>(&sums[w][column]);
    all.add(weights[w].x, weights[w].y, {part.x, part.y, part.z, part.w});
  }
  const float inverse = all.weight > 0 ? 1.0f / all.weight : 0.0f;
  write<T, kDim>(p, c, {true, 0}, part_rows, row, column,
                 make_float4(all.value[0] * inverse, all.value[1] * inverse, all.value[2] * inverse,
                             all.value[3] * inverse));
  if (threadIdx.x == 0) {
    write_lse(p, c, {true, 0}, part_rows, row,
              all.weight > 0 ? all.peak + logf(all.weight) : -INFINITY);
  }
}

}  // namespace cake::inline CAKE_ABI::cuda::decode
