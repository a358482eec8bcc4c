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
class Ring {
 public:
  __device__ int stage() const { return stage_; }
  __device__ std::uint32_t parity() const { return parity_; }  // of the round
  __device__ void next() {
    ++stage_;
    if (stage_ < kStages) return;
    stage_ = 0;
    parity_ ^= 1;
  }

 private:
  int stage_ = 0;
  std::uint32_t parity_ = 0;
};

/// How keys and values come to shared memory.
enum class KeysBy {
  boxes,  // of the bulk copy engine
  rows,   // one by one, where pages have no boxes
};

/// What a tile is in numbers of this launch. The producer finds it and leaves it for consumers.
struct Sm90Work {
  int any;  // 0: there are no more tiles, and nothing below counts
  int sequence, head, split;
  int whole;        // its keys are not split; splits but the first have no rows then
  int first_query;  // row of q that the sequence starts at
  int rows;         // of the sequence: queries times heads of a group
  int row0;         // of the tile
  int keys;
  int behind;      // query i of the sequence sees keys 0 .. behind + i
  int begin, end;  // blocks of keys, walked from end - 1 down to begin
};

template <int kHeadDim, int kConsumerGroups, KeysBy kKeysBy>
struct Sm90Tile {
  static constexpr int kDim = kHeadDim;
  static constexpr int kConsumers = kConsumerGroups;
  static constexpr bool kByRows = kKeysBy == KeysBy::rows;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kKeys = 128;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kPanels = kDim / kPanelColumns;
  static constexpr int kKeyStages = kDim == 128 ? 2 : 4;
  static constexpr int kValueStages = kDim == 128 ? 3 : 4;
  static constexpr int kQueryStages = 2;
  /// The softmax of a block ends before the output of the block behind it is waited for, whose
  /// values are then needed for longer.
  static constexpr bool kWeighsFirst = kDim == 128;
  /// Scores are products of queries in registers, so that shared memory is read a fifth less.
  static constexpr bool kQueriesInRegisters = kDim == 128 && !kByRows;
  // What warpgroups have at the start and trade: 168 registers for each thread of three of them,
  // 128 for each of four. A sum above that would wait forever.
  static constexpr int kAllRegisters = kConsumers == 2 ? 3 * 168 : 4 * 128;
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : kQueriesInRegisters ? 232 : 224;
  static constexpr int kProducerRegisters = kAllRegisters - kConsumers * kConsumerRegisters;
  /// Pages are looked up a block before they are needed.
  static constexpr bool kLooksAhead = kConsumers == 2;
  static constexpr int kGatherUnroll = kProducerRegisters >= 56 ? 8 : 2;

  static constexpr std::uint32_t kQueryBytes = kRows * kDim * 2;
  static constexpr std::uint32_t kSideBytes = kKeys * kDim * 2;  // of keys or values
  static constexpr std::uint32_t kPanelBytes = kKeys * kPanelRowBytes;
  static constexpr std::uint32_t kKeysAt = kQueryStages * kQueryBytes;
  static constexpr std::uint32_t kValuesAt = kKeysAt + kKeyStages * kSideBytes;
  static constexpr std::uint32_t kBarriersAt = kValuesAt + kValueStages * kSideBytes;
  __device__ static std::uint32_t keys_at(int stage) {
    return kKeysAt + static_cast<std::uint32_t>(stage) * kSideBytes;
  }
  __device__ static std::uint32_t values_at(int stage) {
    return kValuesAt + static_cast<std::uint32_t>(stage) * kSideBytes;
  }

  /// What each stage of queries belongs to, and barriers. "full": the producer's one arrival, and the
  /// bytes, or one of each of its threads for rows that they copied; "empty": one of each consumer,
  /// of queries one of each of its warps.
  struct Barriers {
    Sm90Work work[kQueryStages];  // q_full says that it is there
    std::uint64_t q_full[kQueryStages], q_empty[kQueryStages];
    std::uint64_t k_full[kKeyStages], k_empty[kKeyStages];
    std::uint64_t v_full[kValueStages], v_empty[kValueStages];

    __device__ void init() {
      constexpr std::uint32_t kFull = kByRows ? 128 : 1;
      for (int i = 0; i < kQueryStages; ++i) {
        init_barrier(&q_full[i], 1);
        init_barrier(&q_empty[i], 4 * kConsumers);
      }
      for (int i = 0; i < kKeyStages; ++i) {
        init_barrier(&k_full[i], kFull);
        init_barrier(&k_empty[i], kConsumers);
      }
      for (int i = 0; i < kValueStages; ++i) {
        init_barrier(&v_full[i], kFull);
        init_barrier(&v_empty[i], kConsumers);
      }
      fence_barrier_init();
    }
  };
  static constexpr std::uint32_t kShared = kBarriersAt + 256;
  static_assert(sizeof(Barriers) <= 256 && kShared <= 227 * 1024);
};

/// Named barriers; 0 is __syncthreads().
inline constexpr int kProducerBarrier = 1;
inline constexpr int kTurnBarrier = 2;  // of the first consumer; the others' follow

/// The query of packed row `row`, in whose group its head is the row's remainder.
__device__ inline int query_of(const AttentionParams& p, int row) {
  const auto r = static_cast<std::uint32_t>(row);
  return static_cast<int>((__umulhi(r, p.group_multiplier) + r) >> p.group_shift);
}

/// Goes through the tiles of this block.
template <class Tile>
class Sm90Schedule {
 public:
  __device__ explicit Sm90Schedule(const AttentionParams& p) : p_(p) {}

  /// False: there is nothing more to do.
  __device__ bool next(Sm90Work& w) {
    // The first sequence stands for all of them here: this only decides an order.
    const int keys = max(1, min(uniform(p_.seqlens_k[0]), 1 << 20));
    const bool alike = keys >= 2 * static_cast<int>(p_.max_seqlen_q);
    const AttentionTiles tiles((p_.max_seqlen_q * p_.group + Tile::kRows - 1) / Tile::kRows,
                               p_.n_sequences * p_.n_kv_heads, p_.num_splits,
                               pairs_of_section(keys), alike);
    const std::uint32_t blocks = tiles.busy_blocks(gridDim.x);
    const std::uint32_t index = AttentionTiles::turn_of(blockIdx.x, blocks, turn_++);
    w.any = blockIdx.x < blocks && index < tiles.count();
    if (!w.any) return false;
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
    w.whole = p_.num_splits == 1 || w.keys < static_cast<int>(p_.split_from_keys);
    if (w.whole && w.split > 0) w.rows = 0;
    const int last_seen = w.behind + query_of(p_, min(w.row0 + Tile::kRows, w.rows) - 1);
    const int blocks = w.row0 >= w.rows || last_seen < 0 ? 0 : last_seen / Tile::kKeys + 1;
    const int num_splits = w.whole ? 1 : static_cast<int>(p_.num_splits);
    const int share = (blocks + num_splits - 1) / num_splits;
    w.begin = min(blocks, w.split * share);
    w.end = min(blocks, w.begin + share);
  }

  __device__ static std::uint32_t pairs_of_section(int keys) {
    constexpr std::uint32_t kCached = 32u << 20;  // of an L2 cache of 50 MiB
    return kCached / (static_cast<std::uint32_t>(keys) * Tile::kDim * 4);
  }

  const AttentionParams& p_;
  std::uint32_t turn_ = 0;
};

}  // namespace cake::inline CAKE_ABI::cuda::device
