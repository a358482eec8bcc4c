// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "transformer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "blas.hpp"
#include "kernels.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

/// Adds the seconds of its life to a sum.
class Timer {
 public:
  explicit Timer(double& sum) : sum_(sum) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  double& sum_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void grow(std::vector<float>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

Transformer::Transformer(const Weights& weights, KvPages& pages, ThreadPool& pool,
                         std::size_t block_rows)
    : weights_(weights),
      config_(weights.config()),
      pages_(pages),
      pool_(pool),
      block_rows_(block_rows),
      group_(config_.n_heads / config_.n_kv_heads),
      q_size_(std::size_t{config_.n_heads} * config_.head_dim),
      kv_size_(std::size_t{config_.n_kv_heads} * config_.head_dim),
      tiles_(pool.size()) {
  const auto dimensions = static_cast<double>(config_.rope.dimensions);
  for (std::size_t i = 0; i < config_.rope.dimensions / 2; ++i) {
    const double frequency =
        std::pow(config_.rope.base, -2.0 * static_cast<double>(i) / dimensions);
    inverse_frequency_.push_back(static_cast<float>(frequency / config_.rope.linear_factor /
                                                    double{weights.rope_factors()[i]}));
  }
}

Status Transformer::run(Tokens tokens, std::uint32_t begin, const LayerGate& gate, float* logits) {
  const Timer timer(profile.total_seconds);
  const std::size_t rows = tokens.size();
  const TokenRange range{begin, begin + static_cast<std::uint32_t>(rows)};
  const std::size_t block_rows = std::min(rows, block_rows_);
  grow(x_, rows * config_.n_embd);
  grow(cos_sin_, rows * config_.rope.dimensions);
  grow(normed_, block_rows * config_.n_embd);
  grow(qkv_, block_rows * (q_size_ + 2 * kv_size_));
  grow(queries_, block_rows * q_size_);
  grow(attended_, block_rows * q_size_);
  grow(gate_up_, block_rows * 2 * config_.n_ff);

  embed(tokens, begin);
  for (std::uint32_t layer = 0; layer < config_.n_layers; ++layer) {
    if (!gate.wait(layer)) {
      return Error{Errc::superseded, 0, "the step was void at layer " + std::to_string(layer)};
    }
    if (!gate.always_open()) {
      if (const auto missing = pages_.presence().missing({0, begin}, {layer, layer + 1})) {
        return no_kv_below(begin, *missing);
      }
    }
    // From here on the layers behind this one belong to whatever was there before, if anything.
    if (layer == 0) pages_.presence().forget(range);
    const bool last = layer + 1 == config_.n_layers;
    for (std::size_t first = 0; first < rows; first += block_rows_) {
      const std::size_t end = std::min(first + block_rows_, rows);
      // Nothing reads what the last layer makes of a token, other than of the prompt's last one.
      const std::size_t queries = !last ? first : logits != nullptr && end == rows ? rows - 1 : end;
      forward(layer, begin, {first, end, queries});
    }
    pages_.presence().add(range, {layer, layer + 1});
  }
  if (logits != nullptr) output(rows - 1, logits);
  return {};
}

void Transformer::embed(Tokens tokens, std::uint32_t begin) {
  const std::size_t dimensions = config_.rope.dimensions;
  for_rows(0, tokens.size(), [&](std::size_t row) {
    std::memcpy(&x_[row * config_.n_embd],
                weights_.token_embedding() + static_cast<std::size_t>(tokens[row]) * config_.n_embd,
                config_.n_embd * sizeof(float));
    const auto position = static_cast<float>(begin + row);
    float* const cos_sin = &cos_sin_[row * dimensions];
    for (std::size_t i = 0; i < dimensions / 2; ++i) {
      // The angle is a product of two fp32 numbers, as where the models were trained.
      const double angle{position * inverse_frequency_[i]};
      cos_sin[2 * i] = static_cast<float>(std::cos(angle));
      cos_sin[2 * i + 1] = static_cast<float>(std::sin(angle));
    }
  });
}

void Transformer::forward(std::uint32_t layer, std::uint32_t begin, const Block& block) {
  const LayerWeights& w = weights_.layer(layer);
  const std::size_t embd = config_.n_embd;
  const std::size_t stride = q_size_ + 2 * kv_size_;
  const std::size_t rows = block.end - block.first;
  const std::size_t queries = block.end - block.queries;

  normalise(w.attention_norm, block.first, block.end);
  if (queries == rows) {
    linear(rows, stride, embd, normed_.data(), embd, w.qkv, 0.0f, qkv_.data(), stride);
  } else {
    linear(rows, 2 * kv_size_, embd, normed_.data(), embd, w.qkv + q_size_ * embd, 0.0f,
           qkv_.data() + q_size_, stride);
    if (queries == 0) return store_kv(layer, begin, block);
    const std::size_t skipped = rows - queries;
    linear(queries, q_size_, embd, &normed_[skipped * embd], embd, w.qkv, 0.0f,
           &qkv_[skipped * stride], stride);
  }
  store_kv(layer, begin, block);
  attention(layer, begin, block);
  linear(queries, embd, q_size_, attended_.data(), q_size_, w.attention_output, 1.0f,
         &x_[block.queries * embd], embd);
  feed_forward(w, block);
}

/// Turns K and Q by their positions, puts K and V into their pages and Q into the order of
/// attention: by KV head, so that the query heads that share one are neighbours. Q also takes on
/// the scale of the scores, in units of log2.
void Transformer::store_kv(std::uint32_t layer, std::uint32_t begin, const Block& block) {
  const std::size_t head = config_.head_dim;
  const std::size_t dimensions = config_.rope.dimensions;
  const std::size_t n_queries = block.end - block.queries;
  const auto scale = static_cast<float>(1.44269504088896 / std::sqrt(static_cast<double>(head)));
  for_rows(block.first, block.end, [&](std::size_t row) {
    float* const q = &qkv_[(row - block.first) * (q_size_ + 2 * kv_size_)];
    float* const k = q + q_size_;
    const float* const cos_sin = &cos_sin_[row * dimensions];
    for (std::size_t h = 0; h < config_.n_kv_heads; ++h) {
      kernels().rotate(k + h * head, k + h * head, cos_sin, dimensions, 1.0f);
    }
    pages_.store(layer, static_cast<std::uint32_t>(begin + row), k, k + kv_size_);
    if (row < block.queries) return;
    for (std::size_t h = 0; h < config_.n_heads; ++h) {
      float* const to =
          &queries_[((h / group_ * n_queries + row - block.queries) * group_ + h % group_) * head];
      kernels().rotate(to, q + h * head, cos_sin, dimensions, scale);
      for (std::size_t i = dimensions; i < head; ++i) to[i] = q[h * head + i] * scale;
    }
  });
}

void Transformer::feed_forward(const LayerWeights& w, const Block& block) {
  const std::size_t embd = config_.n_embd;
  const std::size_t ff = config_.n_ff;
  const std::size_t rows = block.end - block.queries;
  normalise(w.ffn_norm, block.queries, block.end);
  split(rows, ff, embd, 2, [&](std::size_t r0, std::size_t r1, std::size_t c0, std::size_t c1) {
    const float* const in = &normed_[r0 * embd];
    float* const gate = &gate_up_[r0 * 2 * ff + c0];
    float* const up = gate + ff;
    blas::product_with_transpose(r1 - r0, c1 - c0, embd, in, embd, w.gate_up + c0 * embd, embd,
                                 0.0f, gate, 2 * ff);
    blas::product_with_transpose(r1 - r0, c1 - c0, embd, in, embd, w.gate_up + (ff + c0) * embd,
                                 embd, 0.0f, up, 2 * ff);
    for (std::size_t r = 0; r < r1 - r0; ++r) {
      kernels().silu_product(gate + r * 2 * ff, gate + r * 2 * ff, up + r * 2 * ff, c1 - c0);
    }
  });
  linear(rows, embd, ff, gate_up_.data(), 2 * ff, w.down, 1.0f, &x_[block.queries * embd], embd);
}

void Transformer::output(std::size_t row, float* logits) {
  normalise(weights_.output_norm(), row, row + 1);
  linear(1, config_.n_vocab, config_.n_embd, normed_.data(), config_.n_embd, weights_.output(),
         0.0f, logits, config_.n_vocab);
}

void Transformer::normalise(const float* weight, std::size_t first, std::size_t end) {
  const std::size_t embd = config_.n_embd;
  for_rows(first, end, [&](std::size_t row) {
    kernels().rms_norm(&normed_[(row - first) * embd], &x_[row * embd], weight, embd,
                       config_.rms_epsilon);
  });
}

void Transformer::linear(std::size_t rows, std::size_t outputs, std::size_t inputs, const float* in,
                         std::size_t in_stride, const float* weight, float beta, float* out,
                         std::size_t out_stride) {
  split(rows, outputs, inputs, 1,
        [&](std::size_t r0, std::size_t r1, std::size_t c0, std::size_t c1) {
          blas::product_with_transpose(r1 - r0, c1 - c0, inputs, in + r0 * in_stride, in_stride,
                                       weight + c0 * inputs, inputs, beta,
                                       out + r0 * out_stride + c0, out_stride);
        });
}

template <class Body>
void Transformer::split(std::size_t rows, std::size_t columns, std::size_t inputs,
                        unsigned products, const Body& body) {
  const Timer timer(profile.gemm_seconds);
  profile.gemm_flops += 2.0 * static_cast<double>(rows * columns * inputs * products);
  // Some parts per thread, so that one which the system takes off its core for a while does not
  // hold up the rest. The BLAS copies a part's rows of both factors into its own order, so of all
  // grids the one with the smallest parts and, among equals, the squarest parts wins. Columns are
  // cut at multiples of 16, which is what kernels take at a time.
  const auto part = [](std::size_t total, std::size_t parts, std::size_t unit) {
    return ((total + parts - 1) / parts + unit - 1) / unit * unit;
  };
  const std::size_t parts = pool_.size() == 1 ? 1 : 4 * std::size_t{pool_.size()};
  std::size_t best_rows = rows;
  std::size_t best_columns = columns;
  double best = -1;
  for (std::size_t row_parts = 1; row_parts <= parts; ++row_parts) {
    if (parts % row_parts != 0) continue;
    const std::size_t r = part(rows, row_parts, 4);
    const std::size_t c = part(columns, parts / row_parts, 16);
    const double cost = static_cast<double>(r * c) + 48.0 * static_cast<double>(r + c);
    if (best < 0 || cost < best) {
      best = cost;
      best_rows = r;
      best_columns = c;
    }
  }
  const std::size_t across = (columns + best_columns - 1) / best_columns;
  const std::size_t down = (rows + best_rows - 1) / best_rows;
  pool_.run(static_cast<unsigned>(across * down), [&](unsigned task, unsigned) {
    const std::size_t r = task / across * best_rows;
    const std::size_t c = task % across * best_columns;
    body(r, std::min(r + best_rows, rows), c, std::min(c + best_columns, columns));
  });
}

template <class Body>
void Transformer::for_rows(std::size_t first, std::size_t end, const Body& body) {
  const std::size_t rows = end - first;
  const std::size_t tasks = rows < 8 ? 1 : pool_.size();
  pool_.run(static_cast<unsigned>(tasks), [&](unsigned task, unsigned) {
    for (std::size_t r = first + rows * task / tasks; r < first + rows * (task + 1) / tasks; ++r) {
      body(r);
    }
  });
}

}  // namespace cake::inline CAKE_ABI::reference
