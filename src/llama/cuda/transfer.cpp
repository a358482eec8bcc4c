// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "transfer.hpp"

#include <algorithm>
#include <string>
#include <type_traits>

namespace cake::llama::gpu {

template <class View>
Status Transfer::copy(const cuda::PagedKv& kv, const Slice& slice, const View& view) {
  constexpr bool in = std::is_same_v<View, KvView>;
  const KvLayout& layout = kv.layout;
  const std::size_t element = size_of(layout.dtype);
  const std::size_t tokens = slice.tokens.size();
  const bool nhd = layout.order == KvOrder::nhd;
  // A page's part of a run is a rectangle: one row of whole tokens, or one row for each head.
  const std::size_t unit = nhd ? layout.row_bytes() : layout.head_dim * element;  // of a token
  const std::size_t height = nhd ? 1 : layout.n_kv_heads;
  const std::size_t page_pitch = static_cast<std::size_t>(kv.strides.head) * element;
  const std::lock_guard lock(mutex_);
  for (std::uint32_t layer = slice.layers.begin; layer < slice.layers.end; ++layer) {
    for (unsigned side = 0; side < 2; ++side) {
      const auto run = side == 0 ? view.k(layer) : view.v(layer);
      if (run.size() != layout.run_bytes(tokens)) {
        return Error{Errc::invalid_argument, 0,
                     "a run of " + std::to_string(run.size()) + " bytes for " +
                         std::to_string(tokens) + " tokens of " +
                         std::to_string(layout.row_bytes()) + " bytes"};
      }
      auto* const pool = static_cast<std::byte*>(side == 0 ? kv.k[layer] : kv.v[layer]);
      for (std::uint32_t t = slice.tokens.begin; t < slice.tokens.end;) {
        const std::uint32_t in_page = t % kv.page_tokens;
        const std::uint32_t count = std::min(kv.page_tokens - in_page, slice.tokens.end - t);
        const std::size_t done = t - slice.tokens.begin;
        std::byte* const page =
            pool + static_cast<std::size_t>(kv.block_table[t / kv.page_tokens] * kv.strides.page +
                                            in_page * kv.strides.token) *
                       element;
        const std::size_t width = count * unit;
        const std::size_t pitch = nhd ? width : page_pitch;
        const std::size_t run_pitch = nhd ? width : tokens * unit;
        auto* const bytes = run.data() + done * unit;
        cudaError_t code = cudaSuccess;
        if constexpr (in) {
          code = cudaMemcpy2DAsync(page, pitch, bytes, run_pitch, width, height,
                                   cudaMemcpyHostToDevice, stream_.get());
        } else {
          code = cudaMemcpy2DAsync(bytes, run_pitch, page, pitch, width, height,
                                   cudaMemcpyDeviceToHost, stream_.get());
        }
        if (auto status = cuda::to_status(code, in ? "insert" : "extract"); !status) return status;
        t += count;
      }
    }
  }
  return stream_.wait();
}

Status Transfer::insert(const cuda::PagedKv& kv, const Slice& slice, const KvView& from) {
  return copy(kv, slice, from);
}
Status Transfer::extract(const cuda::PagedKv& kv, const Slice& slice, const MutableKvView& to) {
  return copy(kv, slice, to);
}

}  // namespace cake::llama::gpu
