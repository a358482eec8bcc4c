// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "backend_options.hpp"
#include "cake/cuda/attention.hpp"
#include "src/core/try.hpp"
#include "swiglu_product.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {
namespace {

constexpr std::size_t kBf16 = 2;

cuda::AttentionShape attention_shape(const Config& c, std::uint32_t queries) {
  cuda::AttentionShape shape;
  shape.n_heads = c.n_heads;
  shape.n_kv_heads = c.n_kv_heads;
  shape.head_dim = c.head_dim;
  shape.dtype = DType::bf16;
  shape.n_queries = queries;
  shape.max_seqlen_q = queries;
  return shape;
}

/// Most workspace that attention takes for a step of any size.
std::size_t attention_workspace(const Config& c, std::uint32_t max_rows) {
  std::size_t most = 0;
  for (std::uint32_t rows = 1; rows <= max_rows; ++rows) {
    most = std::max(most, cuda::attention_workspace_bytes(attention_shape(c, rows)).value());
  }
  return most;
}

cuda::DeviceBuffer scratch(std::size_t bytes, const char* what) {
  try {
    return cuda::DeviceBuffer(bytes);
  } catch (const Exception& e) {
    throw Exception({e.error().code, e.error().native,
                     std::to_string(bytes) + " bytes for " + what + ": " + e.error().context});
  }
}

}  // namespace

Model::Model(const CudaWeights& weights, const KvPool& pool, const CudaOptions& options,
             cudaStream_t stream)
    : weights_(weights),
      config_(weights.config()),
      pool_(pool),
      f32_residual_(options.residual == DType::f32),
      max_rows_(options.max_step_tokens),
      sm90_processors_(sm90_processors() ? *sm90_processors() : 0),
      q_size_(std::size_t{config_.n_heads} * config_.head_dim),
      kv_size_(std::size_t{config_.n_kv_heads} * config_.head_dim),
      qkv_stride_(q_size_ + 2 * kv_size_),
      tokens_(options.max_tokens * sizeof(std::int32_t)),
      host_logits_(config_.n_vocab * sizeof(float)),
      step_(scratch(sizeof(StepState), "a step")),
      rope_table_(
          scratch(std::size_t{options.max_tokens} * config_.rope.dimensions / 2 * sizeof(float2),
                  "the RoPE table")),
      x_(scratch(
          std::size_t{residual_tokens(options)} * config_.n_embd * (f32_residual_ ? 4 : kBf16),
          "the residual stream")),
      normed_(scratch(std::size_t{max_rows_} * config_.n_embd * kBf16, "activations")),
      qkv_(scratch(std::size_t{max_rows_} * qkv_stride_ * kBf16, "activations")),
      attended_(scratch(std::size_t{max_rows_} * q_size_ * kBf16, "activations")),
      gate_up_(scratch(std::size_t{max_rows_} * 2 * config_.n_ff * kBf16, "activations")),
      product_(scratch(std::size_t{max_rows_} * config_.n_ff * kBf16, "activations")),
      logits_(scratch(config_.n_vocab * sizeof(float), "logits")),
      workspace_(scratch(attention_workspace(config_, max_rows_), "the workspace of attention")) {
  const std::uint32_t half = config_.rope.dimensions / 2;
  std::vector<float> inverse_frequency(half);
  for (std::size_t i = 0; i < half; ++i) {  // as the CPU backend has them
    const double frequency =
        std::pow(config_.rope.base, -2.0 * static_cast<double>(i) / double{2.0 * half});
    inverse_frequency[i] = static_cast<float>(frequency / config_.rope.linear_factor /
                                              double{weights.rope_factors()[i]});
  }
  if (half == 0) return;
  const cuda::DeviceBuffer frequencies(half * sizeof(float));
  cuda::throw_unless_ok(cudaMemcpyAsync(frequencies.data(), inverse_frequency.data(),
                                        frequencies.size(), cudaMemcpyHostToDevice, stream),
                        "the RoPE table");
  cuda::throw_unless_ok(rope_table(rope_table_.as<float2>(), frequencies.as<float>(),
                                   options.max_tokens, half, stream),
                        "the RoPE table");
  cuda::throw_unless_ok(cudaStreamSynchronize(stream), "the RoPE table");
}

void* Model::x_row(std::uint32_t row) const {
  return x_.as<std::byte>() + std::size_t{row} * config_.n_embd * (f32_residual_ ? 4 : kBf16);
}

void* Model::qkv_at(std::uint32_t row, std::size_t column) const {
  return qkv_.as<std::byte>() + (row * qkv_stride_ + column) * kBf16;
}

Status Model::did(Part part, Status status, cudaStream_t stream) {
  if (!status || marks == nullptr) return status;
  try {
    marks->push_back({part, cuda::Event(true)});
  } catch (const Exception& e) {
    return e.error();
  }
  return marks->back().event.record(stream);
}

Status Model::product(const Product& p, cudaStream_t stream) {
  if (tuning_) return gemm_.tune(p, stream);
  return did(Part::gemm, gemm_.run(p, stream), stream);
}

Status Model::place(std::uint32_t begin, std::uint32_t rows, cudaStream_t stream) {
  const StepState state{static_cast<std::int32_t>(begin), static_cast<std::int32_t>(begin + rows)};
  return cuda::to_status(set_step(step_.as<StepState>(), state, stream),
                         "copy the positions of a step to the device");
}

Status Model::embed(const StepShape& step, cudaStream_t stream) {
  return did(Part::elementwise,
             cuda::to_status(cuda_impl::embed(tokens_.device<std::int32_t>(), step_.as<StepState>(),
                                              weights_.token_embedding(), x_row(step.first),
                                              f32_residual_, step.rows, config_.n_embd, stream),
                             "look up embeddings"),
             stream);
}

Status Model::norm(const float* weight, std::uint32_t first, std::uint32_t rows,
                   cudaStream_t stream) {
  return did(Part::elementwise,
             cuda::to_status(rms_norm(normed_.data(), x_row(first), f32_residual_, weight, rows,
                                      config_.n_embd, config_.rms_epsilon, stream),
                             "RMSNorm"),
             stream);
}

/// Queries of rows `first` and on; their results start at row 0 of attended_.
Status Model::attend(std::uint32_t layer, std::uint32_t first, std::uint32_t rows,
                     cudaStream_t stream) {
  const cuda::PagedKv& kv = pool_.description();
  cuda::AttentionArgs args;
  args.shape = attention_shape(config_, rows);
  args.q = qkv_at(first, 0);
  args.q_token_stride = static_cast<std::int64_t>(qkv_stride_);
  args.q_head_stride = config_.head_dim;
  args.out = attended_.data();
  args.out_token_stride = static_cast<std::int64_t>(q_size_);
  args.out_head_stride = config_.head_dim;
  args.k = kv.k[layer];
  args.v = kv.v[layer];
  args.strides = kv.strides;
  args.page_tokens = kv.page_tokens;
  args.page_table = pool_.device_table();
  args.table_stride = kv.n_pages;
  args.seqlens_k = &step_.as<StepState>()->n_keys;
  args.workspace = workspace_.data();
  args.workspace_bytes = workspace_.size();
  return did(Part::attention, cuda::attention(args, stream), stream);
}

/// Of the first rows of normed_, into product_.
Status Model::swiglu(const void* gate_up, std::uint32_t rows, cudaStream_t stream) {
  const std::uint32_t embd = config_.n_embd;
  const std::uint32_t ff = config_.n_ff;
  if (swiglu_product_takes(ff, embd) && swiglu_product_suits(rows, ff, sm90_processors_)) {
    return did(Part::gemm,
               swiglu_product({normed_.data(), gate_up, product_.data(), rows, ff, embd}, stream),
               stream);
  }
  if (auto s = product({rows, 2 * ff, embd, normed_.data(), embd, gate_up, gate_up_.data(),
                        std::int64_t{2} * ff, false, false},
                       stream);
      !s) {
    return s;
  }
  return did(
      Part::elementwise,
      cuda::to_status(silu_product(product_.data(), gate_up_.data(), rows, ff, stream), "SwiGLU"),
      stream);
}

Status Model::layer(std::uint32_t index, const StepShape& step, cudaStream_t stream) {
  const CudaLayerWeights& w = weights_.layer(index);
  const std::uint32_t rows = step.rows;
  const std::uint32_t embd = config_.n_embd;
  const std::uint32_t ff = config_.n_ff;
  const auto q_size = static_cast<std::uint32_t>(q_size_);
  const auto kv_size = static_cast<std::uint32_t>(kv_size_);
  const auto stride = static_cast<std::int64_t>(qkv_stride_);
  // Nothing reads what the last layer makes of a token, other than of the prompt's last one.
  const bool last = index + 1 == config_.n_layers;
  const std::uint32_t queries = !last ? rows : step.ends ? 1 : 0;
  const std::uint32_t skipped = rows - queries;
  const auto row_of = [&](const cuda::DeviceBuffer& buffer, std::uint32_t row,
                          std::uint32_t width) {
    return static_cast<const void*>(buffer.as<std::byte>() + std::size_t{row} * width * kBf16);
  };

  CAKE_TRY(norm(w.attention_norm, step.first, rows, stream));
  if (queries == rows) {
    if (auto s = product({rows, q_size + 2 * kv_size, embd, normed_.data(), embd, w.qkv,
                          qkv_.data(), stride, false, false},
                         stream);
        !s) {
      return s;
    }
  } else {
    const void* const kv_weight =
        static_cast<const std::byte*>(w.qkv) + q_size_ * std::size_t{embd} * kBf16;
    if (auto s = product({rows, 2 * kv_size, embd, normed_.data(), embd, kv_weight,
                          qkv_at(0, q_size_), stride, false, false},
                         stream);
        !s) {
      return s;
    }
    if (queries != 0) {
      if (auto s = product({queries, q_size, embd, row_of(normed_, skipped, embd), embd, w.qkv,
                            qkv_at(skipped, 0), stride, false, false},
                           stream);
          !s) {
        return s;
      }
    }
  }

  const cuda::PagedKv& kv = pool_.description();
  RopeArgs rope;
  rope.qkv = qkv_.data();
  rope.step = step_.as<StepState>();
  rope.table = rope_table_.as<float2>();
  rope.k = kv.k[index];
  rope.v = kv.v[index];
  rope.strides = kv.strides;
  rope.page_table = pool_.device_table();
  rope.page_tokens = kv.page_tokens;
  rope.rows = rows;
  rope.first_query = skipped;
  rope.n_heads = config_.n_heads;
  rope.n_kv_heads = config_.n_kv_heads;
  rope.head_dim = config_.head_dim;
  rope.rope_dimensions = config_.rope.dimensions;
  if (!tuning_) {
    CAKE_TRY(did(Part::elementwise,
                 cuda::to_status(rope_and_store(rope, stream), "RoPE and KV write"), stream));
  }
  if (queries == 0) return {};

  if (!tuning_) {
    CAKE_TRY(attend(index, skipped, queries, stream));
  }
  void* const x = x_row(step.first + skipped);
  if (auto s = product({queries, embd, q_size, attended_.data(), q_size, w.attention_output, x,
                        embd, f32_residual_, true},
                       stream);
      !s) {
    return s;
  }
  CAKE_TRY(norm(w.ffn_norm, step.first + skipped, queries, stream));
  CAKE_TRY(swiglu(w.gate_up, queries, stream));
  return product({queries, embd, ff, product_.data(), ff, w.down, x, embd, f32_residual_, true},
                 stream);
}

Status Model::output(const StepShape& step, cudaStream_t stream) {
  CAKE_TRY(norm(weights_.output_norm(), step.first + step.rows - 1, 1, stream));
  if (auto s = product({1, config_.n_vocab, config_.n_embd, normed_.data(), config_.n_embd,
                        weights_.output(), logits_.data(), config_.n_vocab, true, false},
                       stream);
      !s) {
    return s;
  }
  return did(Part::elementwise,
             cuda::to_status(copy_floats(host_logits_.device<float>(), logits_.as<float>(),
                                         config_.n_vocab, stream),
                             "copy logits to the host"),
             stream);
}

Status Model::run(const StepShape& step, cudaStream_t stream) {
  CAKE_TRY(embed(step, stream));
  for (std::uint32_t i = 0; i < config_.n_layers; ++i) {
    CAKE_TRY(layer(i, step, stream));
  }
  return step.ends ? output(step, stream) : Status();
}

Status Model::tune(const StepShape& step, cudaStream_t stream) {
  // How long a product takes depends on its numbers: zeros are faster than what is met in use.
  std::uint64_t seed = 0;
  for (const cuda::DeviceBuffer* buffer : {&x_, &attended_, &gate_up_, &product_}) {
    CAKE_TRY(cuda::to_status(
        fill_normal_bf16(buffer->data(), buffer->size() / kBf16, 1.0f, ++seed, stream),
        "fill a buffer with random numbers"));
  }
  tuning_ = true;
  Status status = layer(0, step, stream);
  if (status && config_.n_layers > 1) status = layer(config_.n_layers - 1, step, stream);
  if (status && step.ends) status = output(step, stream);
  tuning_ = false;
  return status;
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
