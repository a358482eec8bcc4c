// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What producer and consumers of the sm_90a attention agree on: the shape of a tile, what lies
// where in shared memory, the barriers, and which tile comes next.
#pragma once

#include <cuda.h>

#include "cake/version.hpp"
#include "src/cuda/attention/scheduler/attention_tiles.hpp"
#include "src/cuda/attention/sm90_attention.hpp"
#include "src/cuda/mma/sm90_operands.cuh"
#include "src/cuda/ptx/mbarrier.cuh"
#include "src/cuda/ptx/warpgroup.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

/// A place in a ring of kStages buffers, which is gone through again and again.
template <int kStages>
struct Ring {
  static_assert((kStages & (kStages - 1)) == 0);
  std::uint32_t count = 0;
  __device__ int stage() const { return static_cast<int>(count % kStages); }
  __device__ std::uint32_t parity() const { return count / kStages & 1; }  // of the round
};

template <int kHeadDim, int kConsumerGroups>
struct Sm90Tile {
  static constexpr int kDim = kHeadDim;
  static constexpr int kConsumers = kConsumerGroups;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kKeys = 128;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kPanels = kDim / kPanelColumns;
  static constexpr int kStages = kDim == 128 ? 2 : 4;  // of keys and of values
  static constexpr int kQueryStages = 2;
  // 65,536 registers, in units of 8 for each thread of a warpgroup.
  static constexpr int kProducerRegisters = kConsumers == 2 ? 56 : 32;
  /// Takes pages that have no boxes: the producer of three consumers has no registers for that.
  static constexpr bool kGathersBlocks = kConsumers == 2;
  static constexpr bool kLooksAhead = kConsumers == 2;  // for pages, a block before they are needed
  /// Multiplying the output takes longer than asking whether it has to be.
  static constexpr bool kRaisesSeldom = kDim == 128;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 224 : 160;

  static constexpr std::uint32_t kQueryBytes = kRows * kDim * 2;
  static constexpr std::uint32_t kSideBytes = kKeys * kDim * 2;  // of keys or values
  static constexpr std::uint32_t kKeysAt = kQueryStages * kQueryBytes;
  static constexpr std::uint32_t kValuesAt = kKeysAt + kStages * kSideBytes;
  static constexpr std::uint32_t kOutAt = kValuesAt + kStages * kSideBytes;
  static constexpr std::uint32_t kBarriersAt = kOutAt + kQueryBytes;

  /// "full": the producer's one arrival, and the bytes; "empty": one of each consumer.
  struct Barriers {
    std::uint64_t q_full[kQueryStages], q_empty[kQueryStages];
    std::uint64_t k_full[kStages], k_empty[kStages];
    std::uint64_t v_full[kStages], v_empty[kStages];

    __device__ void init() {
      for (int i = 0; i < kQueryStages; ++i) {
        init_barrier(&q_full[i], 1);
        init_barrier(&q_empty[i], kConsumers);
      }
      for (int i = 0; i < kStages; ++i) {
        init_barrier(&k_full[i], 1);
        init_barrier(&k_empty[i], kConsumers);
        init_barrier(&v_full[i], 1);
        init_barrier(&v_empty[i], kConsumers);
      }
      fence_barrier_init();
    }
  };
  static constexpr std::uint32_t kOffsetsAt = kBarriersAt + 256;  // [2][kKeys], of gathered rows
  static constexpr std::uint32_t kShared = kOffsetsAt + 2 * kKeys * sizeof(std::int64_t);
  static_assert(sizeof(Barriers) <= 256 && kShared <= 227 * 1024);
};

/// Named barriers; 0 is __syncthreads().
inline constexpr int kProducerBarrier = 1;
inline constexpr int kTurnBarrier = 2;  // of the first consumer; the others' follow

/// What a tile is in numbers of this launch.
struct Sm90Work {
  int sequence, head, split;
  int first_query;  // row of q that the sequence starts at
  int rows;         // of the sequence: queries times heads of a group
  int row0;         // of the tile
  int keys;
  int behind;      // query i of the sequence sees keys 0 .. behind + i
  int begin, end;  // blocks of keys, walked from end - 1 down to begin
};

/// Goes through the tiles of this block.
template <class Tile>
class Sm90Schedule {
 public:
  __device__ explicit Sm90Schedule(const AttentionParams& p) : p_(p) {}

  /// False: there is nothing more to do.
  __device__ bool next(Sm90Work& w) {
    const AttentionTiles tiles((p_.max_seqlen_q * p_.group + Tile::kRows - 1) / Tile::kRows,
                               p_.n_sequences * p_.n_kv_heads, p_.num_splits, pairs_of_section());
    const std::uint32_t index = AttentionTiles::turn_of(blockIdx.x, gridDim.x, turn_++);
    if (index >= tiles.count()) return false;
    const AttentionTile tile = tiles.at(index);
    w.head = static_cast<int>(tile.pair % p_.n_kv_heads);
    w.sequence = static_cast<int>(tile.pair / p_.n_kv_heads);
    w.split = static_cast<int>(tile.split);
    w.row0 = static_cast<int>(tile.row_tile) * Tile::kRows;
    measure(w);
    return true;
  }

 private:
  /// A tile beyond the rows of its sequence has no blocks.
  __device__ void measure(Sm90Work& w) const {
    const int group = static_cast<int>(p_.group);
    w.first_query = p_.cu_seqlens_q == nullptr ? 0 : uniform(p_.cu_seqlens_q[w.sequence]);
    const int queries = p_.cu_seqlens_q == nullptr
                            ? static_cast<int>(p_.n_queries)
                            : uniform(p_.cu_seqlens_q[w.sequence + 1]) - w.first_query;
    w.rows = queries * group;
    w.keys = uniform(p_.seqlens_k[w.sequence]);
    w.behind = w.keys - queries;
    const int last_seen = w.behind + (min(w.row0 + Tile::kRows, w.rows) - 1) / group;
    const int blocks = w.row0 >= w.rows || last_seen < 0 ? 0 : last_seen / Tile::kKeys + 1;
    const int num_splits = static_cast<int>(p_.num_splits);
    const int share = (blocks + num_splits - 1) / num_splits;
    w.begin = min(blocks, w.split * share);
    w.end = min(blocks, w.begin + share);
  }

  /// The first sequence stands for all of them here: this only decides an order.
  __device__ std::uint32_t pairs_of_section() const {
    constexpr std::uint32_t kCached = 32u << 20;  // of an L2 cache of 50 MiB
    const int keys = max(1, min(uniform(p_.seqlens_k[0]), 1 << 20));
    return kCached / (static_cast<std::uint32_t>(keys) * Tile::kDim * 4);
  }

  const AttentionParams& p_;
  std::uint32_t turn_ = 0;
};

}  // namespace cake::inline CAKE_ABI::cuda::device
