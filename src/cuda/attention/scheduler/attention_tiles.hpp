// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which tile a block of a persistent grid takes next. A tile is some query rows of one (sequence,
// KV head) pair and one split of its keys. Plain arithmetic, the same on the host and the device.
//
// Source: FlashAttention-3 (heads in sections that fit L2, long tiles first) and the longest
// processing time rule; going through every second wave backwards instead of an atomic counter is
// ours: the order is then known, and no counter has to be reset.
#pragma once

#include <cstdint>

#include "cake/version.hpp"

#ifdef __CUDACC__
#define CAKE_ANYWHERE __host__ __device__
#else
#define CAKE_ANYWHERE
#endif

namespace cake::inline CAKE_ABI::cuda {

struct AttentionTile {
  std::uint32_t pair = 0;  // sequence * n_kv_heads + KV head
  std::uint32_t split = 0;
  std::uint32_t row_tile = 0;  // of the sequence: rows row_tile * rows of a tile onwards
};

/// Every (pair, split, row tile) once. Pairs come in equal sections whose keys and values fit the L2
/// cache together; within one the last row tiles, which see most keys, come first. Without `alike`,
/// tiles that are many times as long as others, sections alternate their direction, so that long
/// and short ones do not meet in one wave where a section ends.
class AttentionTiles {
 public:
  CAKE_ANYWHERE AttentionTiles(std::uint32_t row_tiles, std::uint32_t pairs,
                               std::uint32_t num_splits, std::uint32_t pairs_of_section,
                               bool alike = false)
      : row_tiles_(row_tiles), pairs_(pairs), splits_(num_splits), alike_(alike) {
    section_ = pairs_of_section < 1 ? 1 : pairs_of_section > pairs ? pairs : pairs_of_section;
    section_ = divide_up(pairs, divide_up(pairs, section_));
  }

  CAKE_ANYWHERE std::uint32_t count() const { return row_tiles_ * pairs_ * splits_; }

  /// How many of `blocks` blocks take tiles. Tiles alike that come in whole waves of fewer blocks go
  /// to those alone: it takes no longer, and each block gets a long one for each short one.
  CAKE_ANYWHERE std::uint32_t busy_blocks(std::uint32_t blocks) const {
    if (!alike_ || count() == 0) return blocks;
    const std::uint32_t even = divide_up(count(), divide_up(count(), blocks));
    return count() % even == 0 ? even : blocks;
  }

  /// Needs:   index < count()
  CAKE_ANYWHERE AttentionTile at(std::uint32_t index) const {
    const std::uint32_t of_section = section_ * row_tiles_ * splits_;
    const std::uint32_t section = index / of_section;
    const std::uint32_t first = section * section_;
    const std::uint32_t rest = pairs_ - first;
    const std::uint32_t here = rest < section_ ? rest : section_;
    index %= of_section;
    AttentionTile tile;
    tile.pair = first + index % here;
    index /= here;
    tile.split = index % splits_;
    const std::uint32_t later = divide_up(pairs_, section_) - 1 - section;  // sections
    const std::uint32_t place = index / splits_;
    tile.row_tile = alike_ || later % 2 == 0 ? row_tiles_ - 1 - place : place;
    return tile;
  }

  /// The index of what block `block` of `blocks` takes in its turn `turn`; count() or more:
  /// nothing, and nothing later either. Odd turns go backwards, so that a block with a long tile
  /// gets a short one next.
  CAKE_ANYWHERE static std::uint32_t turn_of(std::uint32_t block, std::uint32_t blocks,
                                             std::uint32_t turn) {
    return turn * blocks + (turn % 2 == 0 ? block : blocks - 1 - block);
  }

 private:
  CAKE_ANYWHERE static std::uint32_t divide_up(std::uint32_t a, std::uint32_t b) {
    return (a + b - 1) / b;
  }

  std::uint32_t row_tiles_, pairs_, splits_, section_;
  bool alike_;
};

}  // namespace cake::inline CAKE_ABI::cuda
