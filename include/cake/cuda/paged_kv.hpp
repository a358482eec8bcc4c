// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV memory that an engine owns, as cake's kernels and copies see it: pools of pages, one for each
// plane of each layer, and block tables that say which page holds which tokens. PagedPlanes
// describes KV of any layout; PagedKv is the common case, K and V alike in all layers, and what
// attention reads. Descriptions only: nothing here allocates or frees. Values; no threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cake/export.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// How elements lie inside a pool of pages. Contiguous KV is one page that holds everything.
///
/// Units:   elements of the dtype, between neighbours; head_dim elements of one head are adjacent
/// Needs:   strides are multiples of 8 elements (16 bytes)
struct PageStrides {
  std::int64_t page = 0;
  std::int64_t token = 0;
  std::int64_t head = 0;

  /// Pages that hold one side only, densely packed: nhd is [page][token][head][head_dim], hnd is
  /// [page][head][token][head_dim].
  static constexpr PageStrides packed(const UniformKvLayout& layout, std::uint32_t page_tokens) {
    const std::int64_t d = layout.head_dim;
    const std::int64_t heads = layout.n_kv_heads;
    const std::int64_t page = page_tokens * heads * d;
    return layout.order == KvOrder::nhd ? PageStrides{page, heads * d, d}
                                        : PageStrides{page, d, page_tokens * d};
  }
};

/// KV of one sequence over all layers, for insert and extract.
///
/// Shape:   k[layer], v[layer]: device addresses of the pools; page_table[i], in host memory: the
///          page of tokens i * page_tokens onwards
/// Needs:   the spans outlive the description, pools and pages outlive what uses it
struct CAKE_API PagedKv {
  UniformKvLayout layout;          // dtype bf16 or f16; order is that of pages and of stored runs
  std::uint32_t page_tokens = 16;  // 1 to 256
  std::uint32_t n_pages = 0;       // of a pool
  PageStrides strides;
  std::span<void* const> k;
  std::span<void* const> v;
  std::span<const std::int32_t> page_table;

  /// Errors:  invalid_argument, naming what does not fit
  Status check() const;
};

/// Which pages of a pool hold what of one sequence. Layers that page alike share a table: those that
/// look back at everything, those with a window, those with a state.
///
/// Tokens:  pages[i] is the page of tokens i * page_tokens onwards. Where a layer has a window, an
///          entry may be kNoPage: an insert leaves its tokens out, an extract is refused. Contiguous
///          KV is one page of many tokens
/// States:  pages[i] is the page of the state behind token (i + 1) * page_tokens, so page_tokens is
///          the distance of the states that are kept. kNoPage: that one is not
struct PageTable {
  static constexpr std::int32_t kNoPage = -1;

  std::uint32_t page_tokens = 16;       // 1 to 2^31 - 1
  std::uint32_t n_pages = 0;            // of each pool that is used with this table
  std::span<const std::int32_t> pages;  // in host memory
};

/// Where one plane of one layer lies: row r of the token in slot s of page p begins at
/// base + p * page + s * token + r * row, and its row_bytes are adjacent. A state is one token in a
/// page of its own.
///
/// Units:   bytes. Any numbers will do; copies are fastest where base, strides and row_bytes are
///          multiples of 16
struct PlanePool {
  void* base = nullptr;  // device address
  std::int64_t page = 0;
  std::int64_t token = 0;
  std::int64_t row = 0;
  std::uint32_t table = 0;  // index into PagedPlanes::tables

  /// Pages that hold nothing else, densely packed in the order of the plane. Of a state: with 1 for
  /// page_tokens.
  static constexpr PlanePool packed(void* base, const KvPlane& plane, std::uint32_t page_tokens,
                                    std::uint32_t table = 0) {
    const auto token = static_cast<std::int64_t>(plane.token_bytes());
    const std::int64_t row = plane.row_bytes;
    return plane.order == KvOrder::nhd
               ? PlanePool{base, page_tokens * token, token, row, table}
               : PlanePool{base, page_tokens * token, row, page_tokens * row, table};
  }
};

/// KV of one sequence in any layout, for insert and extract: planes of any number and width, scales,
/// windows, states, layers that keep nothing.
///
/// Shape:   pools: one for each plane of layer 0, then of layer 1, and so on
/// Needs:   the spans outlive the description, pools and pages outlive what uses it
struct CAKE_API PagedPlanes {
  KvLayout layout;
  std::span<const PlanePool> pools;
  std::span<const PageTable> tables;

  /// Errors:  invalid_argument, naming what does not fit
  Status check() const;
};

}  // namespace cake::inline CAKE_ABI::cuda
