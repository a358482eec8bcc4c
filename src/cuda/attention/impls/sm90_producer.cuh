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
#include "src/cuda/ptx/mbarrier.cuh"
#include "src/cuda/ptx/tma.cuh"
#include "src/cuda/ptx/warpgroup.cuh"

namespace cake::inline CAKE_ABI::cuda::device {

template <class T, class Tile>
class Sm90Producer {
 public:
  __device__ Sm90Producer(const AttentionParams& p, const Sm90Boxes& boxes,
                          typename Tile::Barriers& barriers, std::uint32_t base)
      : p_(p), boxes_(boxes), barriers_(barriers), base_(base) {}

  __device__ void run() {
    Sm90Schedule<Tile> schedule(p_);
    while (schedule.next(w_)) {
      hand_out();
      if (w_.begin == w_.end) continue;
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
    }
    hand_out();
  }

 private:
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
    return !Tile::kByRows && (block + 1) * Tile::kKeys <= w_.keys;
  }

  /// Where this thread's box of a block lies, if it has one, or its row where there are no boxes.
  __device__ Page find(int block) const {
    if (block < w_.begin) return {};
    if (!by_boxes(block)) return page_of(min(block * Tile::kKeys + my_row(), w_.keys - 1));
    const int row = my_box() / Tile::kPanels * boxes_.key_rows;
    return row < Tile::kKeys ? page_of(block * Tile::kKeys + row) : Page{};
  }

  /// The same, well before it is needed.
  __device__ Page look_ahead(int block) const { return Tile::kLooksAhead ? find(block) : Page{}; }

  // All warps wait for every buffer, so none of them asks for a phase that is far ahead.
  __device__ void load_keys(int block, Page page) {
    const int stage = keys_.stage();
    load_side(base_ + Tile::keys_at(stage), boxes_.k, p_.k, block, page, &barriers_.k_full[stage],
              &barriers_.k_empty[stage], keys_.parity() ^ 1);
    keys_.next();
  }
  __device__ void load_values(int block, Page page) {
    const int stage = values_.stage();
    load_side(base_ + Tile::values_at(stage), boxes_.v, p_.v, block, page, &barriers_.v_full[stage],
              &barriers_.v_empty[stage], values_.parity() ^ 1);
    values_.next();
  }
  __device__ __forceinline__ void load_side(std::uint32_t to, const CUtensorMap& map,
                                            const void* pool, int block, Page page,
                                            std::uint64_t* full, std::uint64_t* empty,
                                            std::uint32_t parity) const {
    wait(empty, parity);
    if (by_boxes(block)) {
      issue_boxes(to, map, page, full);
      return;
    }
    gather_rows(to, static_cast<const T*>(pool), block, page);
    if constexpr (Tile::kByRows) {
      arrive_after_copies(full);
    } else {
      publish(full);
    }
  }

  /// Box i is issued by warp i % 4, the bytes of all are announced by the first.
  __device__ __forceinline__ void issue_boxes(std::uint32_t to, const CUtensorMap& map, Page page,
                                              std::uint64_t* full) const {
    const int row = my_box() / Tile::kPanels * boxes_.key_rows;  // of the block
    if (tid_ == 0) arrive_expecting(full, Tile::kSideBytes);
    __syncwarp();
    if (row >= Tile::kKeys) return;
    const int panel = my_box() % Tile::kPanels;
    copy_box(to + static_cast<std::uint32_t>(panel) * Tile::kPanelBytes +
                 static_cast<std::uint32_t>(row) * kPanelRowBytes,
             map, full, CacheHint::evict_last, panel * kPanelColumns, page.row, w_.head,
             page.number);
  }
  __device__ int my_box() const { return lane_ * 4 + tid_ / 32; }

  /// Gives a tile to the consumers: its numbers, and its queries if it has keys.
  __device__ void hand_out() {
    const int stage = queries_.stage();
    std::uint64_t* const full = &barriers_.q_full[stage];
    const std::uint32_t to = base_ + static_cast<std::uint32_t>(stage) * Tile::kQueryBytes;
    wait(&barriers_.q_empty[stage], queries_.parity() ^ 1);
    if (tid_ == 0) barriers_.work[stage] = w_;
    if (!w_.any || w_.begin == w_.end) {
      if (tid_ == 0) arrive(full);
      __syncwarp();
    } else if (boxes_.queries_by_box) {
      if (tid_ == 0) {
        arrive_expecting(full, Tile::kQueryBytes);
        for (int panel = 0; panel < Tile::kPanels; ++panel) {
          copy_box(to + static_cast<std::uint32_t>(panel * Tile::kRows) * kPanelRowBytes, boxes_.q,
                   full, CacheHint::evict_first, panel * kPanelColumns, 0, w_.head,
                   w_.first_query + query_of(p_, w_.row0));
        }
      }
      __syncwarp();
    } else {
      gather_queries(to);
      publish(full);
    }
    queries_.next();
  }

  // ---- row by row: a warp takes kRowsAtOnce rows with each instruction ----
  static constexpr int kPieces = Tile::kDim / 8;
  static constexpr int kRowsAtOnce = 32 / kPieces;

  /// The row of a block that this lane looks up for its warp.
  __device__ int my_row() const {
    return (lane_ / kRowsAtOnce * 4 + tid_ / 32) * kRowsAtOnce + lane_ % kRowsAtOnce;
  }
  /// Where this thread's piece of the warp's first rows goes; those of the next instruction are
  /// 4 * kRowsAtOnce further, whole groups of eight rows.
  __device__ std::uint32_t my_place() const {
    return panel_place(tid_ / kPieces, tid_ % kPieces, Tile::kPanelBytes);
  }

  /// Rows beyond the sequence become zeros.
  __device__ __forceinline__ void gather_rows(std::uint32_t to, const T* pool, int block,
                                              Page page) const {
    const std::int64_t mine =
        w_.head * p_.head_stride + page.number * p_.page_stride + page.row * p_.token_stride;
    const int tid = opaque(tid_);
    const T* const from = pool + tid % kPieces * 8;
    const int there = w_.keys - block * Tile::kKeys - tid / kPieces;
    to += my_place();
#pragma unroll Tile::kGatherUnroll
    for (int i = 0; i < Tile::kKeys / 4 / kRowsAtOnce; ++i) {
      const std::int64_t offset =
          __shfl_sync(0xffffffffu, mine, i * kRowsAtOnce + tid % 32 / kPieces);
      copy_async(to + static_cast<std::uint32_t>(i) * 4 * kRowsAtOnce * kPanelRowBytes,
                 from + offset, i * 4 * kRowsAtOnce < there);
    }
  }

  __device__ void gather_queries(std::uint32_t to) const {
    const int group = static_cast<int>(p_.group);
    const int tid = opaque(tid_);
#pragma unroll 1
    for (int row = tid / kPieces; row < Tile::kRows; row += 4 * kRowsAtOnce) {
      const int packed = min(w_.row0 + row, w_.rows - 1);
      const int query = query_of(p_, packed);
      const T* const from = static_cast<const T*>(p_.q) +
                            (w_.first_query + query) * p_.q_token_stride +
                            (w_.head * group + packed - query * group) * p_.q_head_stride;
      copy_async(to + panel_place(row, tid % kPieces, Tile::kRows * kPanelRowBytes),
                 from + tid % kPieces * 8, w_.row0 + row < w_.rows);
    }
  }

  /// Waits for what was gathered, and tells consumers that it is there.
  __device__ void publish(std::uint64_t* full) const {
    commit_copies();
    wait_copies_but<0>();
    fence_async_proxy();
    sync_named(kProducerBarrier, 128);
    if (tid_ == 0) arrive(full);
  }

  const AttentionParams& p_;
  const Sm90Boxes& boxes_;
  typename Tile::Barriers& barriers_;
  const std::uint32_t base_;
  const int tid_ = static_cast<int>(threadIdx.x);
  const int lane_ = tid_ & 31;
  Sm90Work w_{};
  Ring<Tile::kQueryStages> queries_;
  Ring<Tile::kKeyStages> keys_;
  Ring<Tile::kValueStages> values_;
};

}  // namespace cake::inline CAKE_ABI::cuda::device
