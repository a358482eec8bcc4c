// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/format.hpp"

#include "cake/chunk/digest.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI {

bool ChunkGeometry::fits(const KvLayout& layout, std::uint64_t chunk_tokens) {
  const bool known = layout.dtype <= DType::bf16 && layout.order <= KvOrder::hnd;
  if (!known || !layout.valid() || chunk_tokens == 0) return false;
  if (layout.n_layers > kMaxLayers || layout.n_kv_heads > kMaxHeads ||
      layout.head_dim > kMaxHeadDim || chunk_tokens > kMaxTokens) {
    return false;
  }
  // At the limits this is below 2^63, so it cannot overflow.
  const std::uint64_t payload =
      std::uint64_t{layout.n_layers} * 2 *
      detail::align_up(layout.run_bytes(static_cast<std::size_t>(chunk_tokens)));
  return payload <= kMaxObjectBytes;
}

ChunkGeometry::ChunkGeometry(const KvLayout& layout, std::uint32_t chunk_tokens)
    : layout_(layout), chunk_tokens_(chunk_tokens) {
  if (!fits(layout, chunk_tokens)) {
    throw Exception({Errc::invalid_argument, 0,
                     "no stored chunk has " + std::to_string(chunk_tokens) + " tokens, " +
                         std::to_string(layout.n_layers) + " layers, " +
                         std::to_string(layout.n_kv_heads) + " KV heads of " +
                         std::to_string(layout.head_dim)});
  }
  run_bytes_ = layout.run_bytes(chunk_tokens);
  run_stride_ = detail::align_up(run_bytes_);
  head_bytes_ = detail::align_up(tables_end());
}

std::uint64_t ChunkGeometry::digests_per_extent() const {
  return (run_stride_ + kDigestBlock - 1) / kDigestBlock;
}

ByteRange ChunkGeometry::extent(std::uint32_t layer, std::uint32_t side) const {
  const std::uint64_t begin = head_bytes_ + (2 * std::uint64_t{layer} + side) * run_stride_;
  return {begin, begin + run_stride_};
}

ByteRange ChunkGeometry::read_range(LayerRange layers) const {
  ByteRange range{extent(layers.begin, 0).begin, extent(layers.end, 0).begin};
  if (layers.empty()) return {range.begin, range.begin};
  if (layers.begin == 0) range.begin = 0;
  if (layers.end == layout_.n_layers) range.end = object_bytes();
  return range;
}

}  // namespace cake::inline CAKE_ABI
