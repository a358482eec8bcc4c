// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV memory that an engine owns, as cake's kernels and copies see it: pools of pages, one of K and
// one of V for each layer, and block tables that say which page holds which tokens. Descriptions
// only: nothing here allocates or frees. Values; no threads.
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

}  // namespace cake::inline CAKE_ABI::cuda
