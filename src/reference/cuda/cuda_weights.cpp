// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/cuda_weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "kernels.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kStagedFloats = std::size_t{16} << 20;

Status check(const Config& c) {
  const auto refuse = [](Errc code, std::string what) {
    return Error{code, 0, "weights for CUDA: " + std::move(what)};
  };
  if (c.n_layers == 0 || c.n_heads == 0 || c.n_kv_heads == 0 || c.head_dim == 0 || c.n_embd == 0 ||
      c.n_ff == 0 || c.n_vocab == 0) {
    return refuse(Errc::invalid_argument, "layers, heads, widths and vocabulary must not be 0");
  }
  if (c.n_heads % c.n_kv_heads != 0) {
    return refuse(Errc::invalid_argument, "n_heads is not a multiple of n_kv_heads");
  }
  if (c.rope.dimensions % 2 != 0 || c.rope.dimensions > c.head_dim) {
    return refuse(Errc::invalid_argument, "rope.dimensions must be even and at most head_dim");
  }
  if (c.n_embd % 8 != 0 || c.n_ff % 8 != 0 || c.head_dim % 8 != 0) {
    return refuse(Errc::unsupported, "n_embd, n_ff and head_dim must be multiples of 8; they are " +
                                         std::to_string(c.n_embd) + ", " + std::to_string(c.n_ff) +
                                         " and " + std::to_string(c.head_dim));
  }
  if (c.n_embd > cuda_impl::kMaxNormWidth) {
    return refuse(Errc::unsupported, "n_embd is above " + std::to_string(cuda_impl::kMaxNormWidth));
  }
  return {};
}

}  // namespace

/// Walks over all tensors twice: once to add up the room, once to fill it.
class CudaWeights::Builder {
 public:
  struct Tensor {
    std::size_t count = 0;
    std::size_t inputs = 0;  // of a matrix; 1 for the embedding, 0 for the weights of a norm
    const float* host = nullptr;
  };
  /// Writes a tensor to the device.
  using Fill = std::function<cudaError_t(void* to, const Tensor&)>;

  Builder(CudaWeights& weights, const Weights* host) : weights_(weights), host_(host) {}

  Status build(const Fill& fill) {
    walk();
    try {
      weights_.storage_ = cuda::DeviceBuffer(used_);
    } catch (const Exception& e) {
      return Error{e.error().code, e.error().native,
                   std::to_string(used_) + " bytes of weights: " + e.error().context};
    }
    fill_ = &fill;
    used_ = 0;
    walk();
    return status_;
  }

 private:
  void walk() {
    const Config& c = weights_.config_;
    const std::size_t embd = c.n_embd;
    const std::size_t q = std::size_t{c.n_heads} * c.head_dim;
    const std::size_t kv = std::size_t{c.n_kv_heads} * c.head_dim;
    const std::size_t vocabulary = c.n_vocab * embd;
    weights_.layers_.resize(c.n_layers);
    weights_.token_embedding_ = place({vocabulary, 1, host_ ? host_->token_embedding() : nullptr});
    for (std::uint32_t i = 0; i < c.n_layers; ++i) {
      const LayerWeights from = host_ ? host_->layer(i) : LayerWeights{};
      CudaLayerWeights& to = weights_.layers_[i];
      to.attention_norm = norm({embd, 0, from.attention_norm});
      to.qkv = place({(q + 2 * kv) * embd, embd, from.qkv});
      to.attention_output = place({q * embd, q, from.attention_output});
      to.ffn_norm = norm({embd, 0, from.ffn_norm});
      to.gate_up = place({2 * c.n_ff * embd, embd, from.gate_up});
      to.down = place({c.n_ff * embd, c.n_ff, from.down});
    }
    weights_.output_norm_ = norm({embd, 0, host_ ? host_->output_norm() : nullptr});
    const bool tied = host_ && host_->output() == host_->token_embedding();
    weights_.output_ = tied ? weights_.token_embedding_
                            : place({vocabulary, embd, host_ ? host_->output() : nullptr});
  }

  const void* place(const Tensor& tensor) { return put(tensor, 2); }
  const float* norm(const Tensor& tensor) { return static_cast<const float*>(put(tensor, 4)); }

  const void* put(const Tensor& tensor, std::size_t element_bytes) {
    std::byte* to = nullptr;
    if (fill_ != nullptr) {
      to = weights_.storage_.as<std::byte>() + used_;
      if (status_) status_ = cuda::to_status((*fill_)(to, tensor), "fill a weight tensor");
    }
    used_ += detail::align_up(tensor.count * element_bytes, kAlignment);
    return to;
  }

  CudaWeights& weights_;
  const Weights* host_;
  const Fill* fill_ = nullptr;
  std::size_t used_ = 0;
  Status status_;
};

Result<std::shared_ptr<const CudaWeights>> CudaWeights::upload(const Weights& from) {
  CAKE_TRY(cuda::usable());
  CAKE_TRY(check(from.config()));
  const std::shared_ptr<CudaWeights> weights(new CudaWeights);
  weights->config_ = from.config();
  weights->digest_ = from.digest();
  weights->name_ = from.name();
  weights->rope_factors_.assign(from.rope_factors().begin(), from.rope_factors().end());
  try {
    const cuda::Stream stream;
    const cuda::DeviceBuffer staging(kStagedFloats * sizeof(float));
    const Builder::Fill fill = [&](void* to, const Builder::Tensor& tensor) {
      for (std::size_t done = 0; done < tensor.count; done += kStagedFloats) {
        const std::size_t count = std::min(kStagedFloats, tensor.count - done);
        void* const landing = tensor.inputs == 0
                                  ? static_cast<void*>(static_cast<float*>(to) + done)
                                  : staging.data();
        // Not page-locked: the call returns when the source was read, in stream order.
        if (const cudaError_t code =
                cudaMemcpyAsync(landing, tensor.host + done, count * sizeof(float),
                                cudaMemcpyHostToDevice, stream.get());
            code != cudaSuccess) {
          return code;
        }
        if (tensor.inputs == 0) continue;
        if (const cudaError_t code = cuda_impl::round_to_bf16(
                static_cast<std::uint16_t*>(to) + done, staging.as<float>(), count, stream.get());
            code != cudaSuccess) {
          return code;
        }
      }
      return cudaSuccess;
    };
    CAKE_TRY(Builder(*weights, &from).build(fill));
    CAKE_TRY(stream.wait());
  } catch (const Exception& e) {
    return e.error();
  }
  return std::shared_ptr<const CudaWeights>(weights);
}

Result<std::shared_ptr<const CudaWeights>> CudaWeights::random(const Config& config,
                                                               std::uint64_t seed) {
  CAKE_TRY(check(config));
  CAKE_TRY(cuda::usable());
  const std::shared_ptr<CudaWeights> weights(new CudaWeights);
  weights->config_ = config;
  weights->name_ = config.name + ", random weights";
  weights->rope_factors_.assign(config.rope.dimensions / 2, 1.0f);
  const std::uint64_t numbers[] = {config.n_layers, config.n_heads,        config.n_kv_heads,
                                   config.head_dim, config.n_embd,         config.n_ff,
                                   config.n_vocab,  config.rope.dimensions};
  const double reals[] = {config.rope.base, config.rope.linear_factor, config.rms_epsilon};
  weights->digest_ = Sha256()
                         .update("cake random weights, version 1")
                         .field("shape", std::as_bytes(std::span(numbers)))
                         .field("reals", std::as_bytes(std::span(reals)))
                         .field("seed", std::as_bytes(std::span(&seed, 1)))
                         .finish();
  try {
    const cuda::Stream stream;
    std::uint64_t number = 0;  // of the tensor: each has a seed of its own
    const Builder::Fill fill = [&](void* to, const Builder::Tensor& tensor) {
      const std::uint64_t own = seed * 0x9e3779b97f4a7c15ull + ++number;
      if (tensor.inputs == 0) {
        return cuda_impl::fill(static_cast<float*>(to), tensor.count, 1.0f, stream.get());
      }
      const auto deviation = static_cast<float>(1 / std::sqrt(static_cast<double>(tensor.inputs)));
      return cuda_impl::fill_normal_bf16(to, tensor.count, deviation, own, stream.get());
    };
    CAKE_TRY(Builder(*weights, nullptr).build(fill));
    CAKE_TRY(stream.wait());
  } catch (const Exception& e) {
    return e.error();
  }
  return std::shared_ptr<const CudaWeights>(weights);
}

Config llama_3_1_8b() {
  Config c;
  c.name = "Llama-3.1-8B";
  c.n_layers = 32;
  c.n_heads = 32;
  c.n_kv_heads = 8;
  c.head_dim = 128;
  c.n_embd = 4096;
  c.n_ff = 14336;
  c.n_vocab = 128256;
  c.n_context = 131072;
  c.rms_epsilon = 1e-5f;
  c.rope.dimensions = 128;
  c.rope.base = 500000;
  return c;
}

}  // namespace cake::inline CAKE_ABI::reference
