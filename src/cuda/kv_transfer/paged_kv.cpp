// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/paged_kv.hpp"

#include <string>
#include <utility>

#include "kv_transfer_plan.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda {

Status PagedKv::check() const {
  const auto refuse = [](std::string what) {
    return Error{Errc::invalid_argument, 0, "PagedKv: " + std::move(what)};
  };
  if (!layout.valid()) return refuse("layout has no layers, heads or head_dim");
  if (layout.dtype == DType::f32)
    return refuse("dtype is f32; pages hold bf16 or f16 (PagedPlanes describes others)");
  if (layout.head_dim % 8 != 0) return refuse("head_dim is not a multiple of 8");
  if (page_tokens < 1 || page_tokens > 256) return refuse("page_tokens: 1 to 256");
  if (strides.page % 8 != 0 || strides.token % 8 != 0 || strides.head % 8 != 0) {
    return refuse("strides must be multiples of 8 elements");
  }
  if (k.size() != layout.n_layers || v.size() != layout.n_layers) {
    return refuse("k and v need one pool for each of " + std::to_string(layout.n_layers) +
                  " layers");
  }
  for (std::size_t layer = 0; layer < k.size(); ++layer) {
    if (k[layer] == nullptr || v[layer] == nullptr) {
      return refuse("layer " + std::to_string(layer) + " has no pool");
    }
  }
  for (std::size_t i = 0; i < page_table.size(); ++i) {
    if (page_table[i] < 0 || static_cast<std::uint32_t>(page_table[i]) >= n_pages) {
      return refuse("block_table[" + std::to_string(i) + "] is " + std::to_string(page_table[i]) +
                    " of " + std::to_string(n_pages) + " pages");
    }
  }
  return {};
}

Status PagedPlanes::check() const {
  const auto refuse = [](std::string what) {
    return Error{Errc::invalid_argument, 0, "PagedPlanes: " + std::move(what)};
  };
  CAKE_TRY(transfer::check_shape(*this));
  std::size_t first = 0;
  for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
    for (std::uint32_t i = 0; i < layout.kind(l).planes.size(); ++i) {
      CAKE_TRY(transfer::check_plane(transfer::plane_at(*this, l, i, first)));
    }
    first += layout.kind(l).planes.size();
  }
  for (std::size_t t = 0; t < tables.size(); ++t) {
    for (std::size_t i = 0; i < tables[t].pages.size(); ++i) {
      const std::int32_t page = tables[t].pages[i];
      if (page == PageTable::kNoPage) continue;  // where a layer must have one, a transfer says so
      if (page < 0 || static_cast<std::uint32_t>(page) >= tables[t].n_pages) {
        return refuse("tables[" + std::to_string(t) + "].pages[" + std::to_string(i) + "] is " +
                      std::to_string(page) + " of " + std::to_string(tables[t].n_pages) + " pages");
      }
    }
  }
  return {};
}

}  // namespace cake::inline CAKE_ABI::cuda
