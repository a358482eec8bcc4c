// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One forward pass of a Llama model over pages of KV.
#pragma once

#include <memory>
#include <vector>

#include "cake/engine.hpp"
#include "cake/reference/cpu_backend.hpp"
#include "cake/reference/weights.hpp"
#include "kv_pages.hpp"
#include "thread_pool.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Thread:  Requires external synchronization; KvPages says what may run beside it
class Transformer {
 public:
  /// Scratch is for `block_rows` rows, which pass through a layer together: enough that packing
  /// weights for the BLAS is a small part of a product, few enough that it stays small for any prompt.
  Transformer(const Weights& weights, KvPages& pages, ThreadPool& pool, std::size_t block_rows);

  /// Computes KV of `tokens` at positions begin, begin + 1, ... Pages are there already. Writes the
  /// last token's logits where `logits` is not null; otherwise the last layer stops at K and V.
  /// What was there of these tokens is forgotten with the first layer, and each layer noted when it
  /// is whole.
  ///
  /// Errors:  superseded, when the gate says so; invalid_argument, when it opened and KV below the
  ///          tokens is not there
  Status run(Tokens tokens, std::uint32_t begin, const LayerGate& gate, float* logits);

  CpuProfile profile;

 private:
  /// Rows of this pass that go through a layer together.
  struct Block {
    std::size_t first = 0;    // rows of x_
    std::size_t end = 0;      //
    std::size_t queries = 0;  // rows from here on go on past K and V
  };
  struct Tile;

  void embed(Tokens tokens, std::uint32_t begin);
  void forward(std::uint32_t layer, std::uint32_t begin, const Block& block);
  void store_kv(std::uint32_t layer, std::uint32_t begin, const Block& block);
  void attention(std::uint32_t layer, std::uint32_t begin, const Block& block);
  void attend(std::uint32_t layer, std::uint32_t head, std::size_t n_queries, std::size_t first,
              std::size_t count, std::uint32_t position, Tile& tile);
  void feed_forward(const LayerWeights& w, const Block& block);
  void output(std::size_t row, float* logits);
  void normalise(const float* weight, std::size_t first, std::size_t end);

  /// out[rows][outputs] = in[rows][inputs] * weight[outputs][inputs]^T + beta * out, over the pool.
  void linear(std::size_t rows, std::size_t outputs, std::size_t inputs, const float* in,
              std::size_t in_stride, const float* weight, float beta, float* out,
              std::size_t out_stride);
  /// Calls body(first row, end, first column, end) for the parts of a product of rows x
  /// columns, one per thread. `inputs` and `products` are what one element of it takes.
  template <class Body>
  void split(std::size_t rows, std::size_t columns, std::size_t inputs, unsigned products,
             const Body& body);
  /// Calls body(row) for each row, over the pool.
  template <class Body>
  void for_rows(std::size_t first, std::size_t end, const Body& body);

  const Weights& weights_;
  const Config& config_;
  KvPages& pages_;
  ThreadPool& pool_;
  const std::size_t block_rows_;
  const std::size_t group_;               // query heads per KV head
  const std::size_t q_size_;              // n_heads * head_dim
  const std::size_t kv_size_;             // n_kv_heads * head_dim
  std::vector<float> inverse_frequency_;  // [rope.dimensions / 2]

  std::vector<float> x_;        // [rows][n_embd], the residual stream
  std::vector<float> cos_sin_;  // [rows][rope.dimensions]
  // Of one block:
  std::vector<float> normed_;    // [rows][n_embd]
  std::vector<float> qkv_;       // [rows][q_size + 2 kv_size]
  std::vector<float> queries_;   // [n_kv_heads][rows][group][head_dim]
  std::vector<float> attended_;  // [rows][q_size]
  std::vector<float> gate_up_;   // [rows][2 n_ff]; the product of both replaces the first half
  std::vector<Tile> tiles_;      // per thread
};

/// Scratch of one thread for one tile of attention.
struct Transformer::Tile {
  std::vector<float> k, v;          // [keys][head_dim]
  std::vector<float> scores;        // [queries][keys]
  std::vector<float> out;           // [queries][head_dim]
  std::vector<float> maximum, sum;  // [queries]
};

}  // namespace cake::inline CAKE_ABI::reference
