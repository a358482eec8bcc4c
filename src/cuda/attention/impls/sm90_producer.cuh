// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The warpgroup that brings queries, keys and values. Whole blocks of keys come as boxes of the
// bulk copy engine; the four warps share them. The last keys of a sequence come row by row through
// all four warps: rows beyond them become zeros, so that nothing which lies there is ever read. The
// same way takes every block where pages are no multiple of eight tokens, and queries whose group
// does not divide the rows of a tile.
#pragma once

#include "cake/version.hpp"
#include "sm90_tile.cuh"
#include "src/cuda/ptx/tma.cuh"
#include "src/cuda/ptx/warpgroup.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

template <class T, class Tile>
class Sm90Producer {
 public:
  __device__ Sm90Producer(const AttentionParams& p, const Sm90Boxes& boxes,
                          typename Tile::Barriers& barriers, std::uint32_t base,
                          std::int64_t* offsets)
      : p_(p), boxes_(boxes), barriers_(barriers), base_(base), offsets_(offsets) {}

  __device__ void run() {
    Sm90Schedule<Tile> schedule(p_);
    while (schedule.next(w_)) {
      if (w_.begin == w_.end) continue;
      load_queries();
      // Keys go one block ahead of values, as consumers want them.
      Page page = find(w_.end - 1);
      Page ahead = look_ahead(w_.end - 2);
      load_keys(w_.end - 1, page);
      for (int block = w_.end - 1; block > w_.begin; --block) {
        const Page next = Tile::kLooksAhead ? ahead : find(block - 1);
        ahead = look_ahead(block - 2);
        load_keys(block - 1, next);
        load_values(block, page);
        page = next;
      }
      load_values(w_.begin, page);
      publish();
    }
  }

 private:
  using SideRing = Ring<Tile::kStages>;
  struct Page {
    int number, row;
  };

  __device__ Page page_of(int key) const {
    if (p_.page_tokens == 0) return {w_.sequence, key};
    const auto k = static_cast<std::uint32_t>(key);
    const std::uint32_t slot = (__umulhi(k, p_.page_multiplier) + k) >> p_.page_shift;
    return {p_.page_table[w_.sequence * p_.table_stride + slot],
            static_cast<int>(k - slot * p_.page_tokens)};
  }

  __device__ bool by_boxes(int block) const {
    return !gathers_blocks() && (block + 1) * Tile::kKeys <= w_.keys;
  }
  __device__ bool gathers_blocks() const { return Tile::kGathersBlocks && boxes_.key_rows == 0; }

  /// Where this thread's box of a block lies, if it has one.
  __device__ Page find(int block) const {
    const int row = (lane_ * 4 + tid_ / 32) / Tile::kPanels * boxes_.key_rows;
    const bool mine = block >= w_.begin && by_boxes(block) && row < Tile::kKeys;
    return mine ? page_of(block * Tile::kKeys + row) : Page{};
  }

  /// The same, well before it is needed.
  __device__ Page look_ahead(int block) const { return Tile::kLooksAhead ? find(block) : Page{}; }

  // All warps wait for every buffer, so none of them asks for a phase that is far ahead.
  __device__ void load_keys(int block, Page page) {
    const int stage = keys_.stage();
    const std::uint32_t to = base_ + Tile::kKeysAt + stage * Tile::kSideBytes;
    if (by_boxes(block)) {
      issue_boxes(to, boxes_.k, page, &barriers_.k_full[stage], &barriers_.k_empty[stage],
                  keys_.parity() ^ 1);
    } else {
      note_rows(block);
      wait(&barriers_.k_empty[stage], keys_.parity() ^ 1);
      gather_side(to, static_cast<const T*>(p_.k), block);
      publish_later(&barriers_.k_full[stage]);
    }
    ++keys_.count;
  }
  __device__ void load_values(int block, Page page) {
    const int stage = values_.stage();
    const std::uint32_t to = base_ + Tile::kValuesAt + stage * Tile::kSideBytes;
    if (by_boxes(block)) {
      issue_boxes(to, boxes_.v, page, &barriers_.v_full[stage], &barriers_.v_empty[stage],
                  values_.parity() ^ 1);
    } else {
      wait(&barriers_.v_empty[stage], values_.parity() ^ 1);
      gather_side(to, static_cast<const T*>(p_.v), block);
      publish_later(&barriers_.v_full[stage]);
    }
    ++values_.count;
  }

  /// Box i is issued by warp i % 4, the bytes of all are announced by the first.
  __device__ __forceinline__ void issue_boxes(std::uint32_t to, const CUtensorMap& map, Page page,
                                              std::uint64_t* full, std::uint64_t* empty,
                                              std::uint32_t parity) const {
    const int box = lane_ * 4 + tid_ / 32;
    const int row = box / Tile::kPanels * boxes_.key_rows;  // of the block
    const int panel = box % Tile::kPanels;
    const bool mine = row < Tile::kKeys;
    wait(empty, parity);
    if (tid_ == 0) arrive_expecting(full, Tile::kSideBytes);
    __syncwarp();
    if (!mine) return;
    copy_box(to + static_cast<std::uint32_t>(panel * Tile::kKeys + row) * kPanelRowBytes, map, full,
             CacheHint::evict_last, panel * kPanelColumns, page.row, w_.head, page.number);
  }

  __device__ void load_queries() {
    const int stage = queries_.stage();
    std::uint64_t* const full = &barriers_.q_full[stage];
    std::uint64_t* const empty = &barriers_.q_empty[stage];
    const std::uint32_t to = base_ + static_cast<std::uint32_t>(stage) * Tile::kQueryBytes;
    const int group = static_cast<int>(p_.group);
    if (boxes_.queries_by_box) {
      wait(empty, queries_.parity() ^ 1);
      if (tid_ == 0) {
        arrive_expecting(full, Tile::kQueryBytes);
        for (int panel = 0; panel < Tile::kPanels; ++panel) {
          copy_box(to + static_cast<std::uint32_t>(panel * Tile::kRows) * kPanelRowBytes, boxes_.q,
                   full, CacheHint::evict_first, panel * kPanelColumns, 0, w_.head,
                   w_.first_query + w_.row0 / group);
        }
      }
      __syncwarp();
    } else {
      wait(empty, queries_.parity() ^ 1);
      gather<Tile::kRows>(to, [&](int row) {
        const int packed = min(w_.row0 + row, w_.rows - 1);
        const int query = packed / group;
        return Row{static_cast<const T*>(p_.q) + (w_.first_query + query) * p_.q_token_stride +
                       (w_.head * group + packed - query * group) * p_.q_head_stride,
                   w_.row0 + row < w_.rows};
      });
      publish_later(full);
    }
    ++queries_.count;
  }

  // ---- row by row ----
  struct Row {
    const T* from;
    bool there;
  };

  /// Notes where this block's rows of keys and values lie, one row by each thread. Where every
  /// block is gathered, looks up the next one's pages meanwhile.
  __device__ void note_rows(int block) {
    const bool known = gathers_blocks() && block != w_.end - 1;
    const Page page = known ? ahead_ : page_of(min(block * Tile::kKeys + tid_, w_.keys - 1));
    offsets_[block % 2 * Tile::kKeys + tid_] =
        w_.head * p_.head_stride + page.number * p_.page_stride + page.row * p_.token_stride;
    if (gathers_blocks() && block > w_.begin) {
      ahead_ = page_of((block - 1) * Tile::kKeys + tid_);
    }
    sync_named(kProducerBarrier, 128);
  }
  __device__ void gather_side(std::uint32_t to, const T* pool, int block) const {
    const std::int64_t* const offsets = offsets_ + block % 2 * Tile::kKeys;
    const int there = w_.keys - block * Tile::kKeys;
    gather<Tile::kKeys>(to, [&](int row) { return Row{pool + offsets[row], row < there}; });
  }

  /// Rows that are not there become zeros. All threads of the warpgroup take part.
  template <int kRows, class Find>
  __device__ void gather(std::uint32_t to, Find find) const {
    constexpr int kPieces = Tile::kDim / 8;
    constexpr int kRowsAtOnce = 128 / kPieces;
    constexpr int kUnroll = Tile::kGathersBlocks ? 8 : 1;
    const int tid = opaque(tid_);
    const int piece = tid % kPieces;
#pragma unroll kUnroll
    for (int row = tid / kPieces; row < kRows; row += kRowsAtOnce) {
      const Row found = find(row);
      copy_async(to + panel_place(row, piece, kRows * kPanelRowBytes), found.from + piece * 8,
                 found.there);
    }
    commit_copies();
  }

  /// Tells consumers that what was gathered last is there, once it is. Where every block is
  /// gathered that waits for the next one, which is then on its way meanwhile.
  __device__ void publish_later(std::uint64_t* full) {
    if (gathers_blocks()) {
      if (unpublished_ != nullptr) publish_all_but<1>();
      unpublished_ = full;
    } else {
      unpublished_ = full;
      publish();
    }
  }
  __device__ void publish() {
    if (unpublished_ != nullptr) publish_all_but<0>();
    unpublished_ = nullptr;
  }
  template <int kNewest>
  __device__ void publish_all_but() const {
    wait_copies_but<kNewest>();
    fence_async_proxy();
    sync_named(kProducerBarrier, 128);
    if (tid_ == 0) arrive(unpublished_);
  }

  const AttentionParams& p_;
  const Sm90Boxes& boxes_;
  typename Tile::Barriers& barriers_;
  const std::uint32_t base_;
  std::int64_t* const offsets_;
  const int tid_ = static_cast<int>(threadIdx.x);
  const int lane_ = tid_ & 31;
  Sm90Work w_{};
  Ring<Tile::kQueryStages> queries_;
  SideRing keys_, values_;
  std::uint64_t* unpublished_ = nullptr;
  Page ahead_{};
};

}  // namespace cake::inline CAKE_ABI::cuda::device
