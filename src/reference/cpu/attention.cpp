// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Causal attention of a block of queries over all KV up to it: tile by tile with a running softmax,
// so that no row of scores is ever whole.
//
// Source:  Dao et al., FlashAttention (arXiv 2205.14135), and the online softmax of Milakov and
//          Gimelshein (arXiv 1805.02867)
#include <algorithm>
#include <chrono>
#include <limits>

#include "blas.hpp"
#include "kernels.hpp"
#include "transformer.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

// One tile's scores, queries and keys fit into a core's second-level cache (about 400 KB at 64
// elements a head), and both products are large enough for the BLAS.
constexpr std::size_t kTileQueries = 192;
constexpr std::uint32_t kTileKeys = 256;

}  // namespace

void Transformer::attention(std::uint32_t layer, std::uint32_t begin, const Block& block) {
  const auto start = std::chrono::steady_clock::now();
  const std::size_t rows = block.end - block.queries;
  const std::size_t tile_rows = std::max<std::size_t>(1, kTileQueries / group_);
  const std::size_t tiles = (rows + tile_rows - 1) / tile_rows;
  const auto n_kv_heads = static_cast<std::size_t>(config_.n_kv_heads);
  for (Tile& tile : tiles_) {  // here, where running out of memory can still be told
    tile.k.resize(std::size_t{kTileKeys} * config_.head_dim);
    tile.v.resize(std::size_t{kTileKeys} * config_.head_dim);
    tile.scores.resize(tile_rows * group_ * kTileKeys);
    tile.out.resize(tile_rows * group_ * config_.head_dim);
    tile.maximum.resize(tile_rows * group_);
    tile.sum.resize(tile_rows * group_);
  }
  pool_.run(static_cast<unsigned>(tiles * n_kv_heads), [&](unsigned task, unsigned worker) {
    // The last rows see the most keys: they come first, so that no thread ends long after others.
    const std::size_t tile = tiles - 1 - task / n_kv_heads;
    const std::size_t first = tile * tile_rows;
    attend(layer, static_cast<std::uint32_t>(task % n_kv_heads), rows, first,
           std::min(tile_rows, rows - first),
           static_cast<std::uint32_t>(begin + block.queries + first), tiles_[worker]);
  });
  profile.attention_seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Queries [first, first + count) of the block's `n_queries`, for all query heads of one KV head.
/// The first of them stands at `position` of the sequence and sees positions 0 to `position`.
void Transformer::attend(std::uint32_t layer, std::uint32_t head, std::size_t n_queries,
                         std::size_t first, std::size_t count, std::uint32_t position, Tile& tile) {
  const std::size_t size = config_.head_dim;
  const std::size_t rows = count * group_;
  const float* const queries = &queries_[(head * n_queries + first) * group_ * size];
  std::fill_n(tile.maximum.begin(), rows, -std::numeric_limits<float>::infinity());
  std::fill_n(tile.sum.begin(), rows, 0.0f);

  const auto end = static_cast<std::uint32_t>(position + count);
  for (std::uint32_t key = 0; key < end; key += kTileKeys) {
    const TokenRange range{key, std::min(key + kTileKeys, end)};
    const std::size_t keys = range.size();
    pages_.gather(layer, head, range, tile.k.data(), tile.v.data());
    blas::product_with_transpose(rows, keys, size, queries, size, tile.k.data(), size, 0.0f,
                                 tile.scores.data(), keys);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t last = position + row / group_;  // the last position that it sees
      const std::size_t seen = last < key ? 0 : std::min(keys, last - key + 1);
      float* const scores = &tile.scores[row * keys];
      std::fill(scores + seen, scores + keys, 0.0f);
      if (seen == 0) continue;
      const float factor = kernels().softmax_step(scores, seen, &tile.maximum[row], &tile.sum[row]);
      if (key != 0 && factor != 1.0f) kernels().scale(&tile.out[row * size], size, factor);
    }
    blas::product(rows, size, keys, tile.scores.data(), keys, tile.v.data(), size,
                  key == 0 ? 0.0f : 1.0f, tile.out.data(), size);
  }
  for (std::size_t row = 0; row < rows; ++row) {
    const float* const from = &tile.out[row * size];
    float* const to =
        &attended_[(first + row / group_) * q_size_ + (head * group_ + row % group_) * size];
    const float factor = 1.0f / tile.sum[row];
    for (std::size_t i = 0; i < size; ++i) to[i] = from[i] * factor;
  }
}

}  // namespace cake::inline CAKE_ABI::reference
