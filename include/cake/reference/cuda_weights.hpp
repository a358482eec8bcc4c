// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A Llama model's weights in bf16 on a GPU, stacked for matrix products. Loaded once, shared by any
// number of backends on the same device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cake/cuda/runtime.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/reference/config.hpp"
#include "cake/reference/weights.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::reference {

/// One layer, addresses of the device. Matrices that read the same input are stacked, so that each
/// is one matrix product; the weights of norms stay fp32.
///
/// Shape:   as LayerWeights
struct CudaLayerWeights {
  const float* attention_norm = nullptr;
  const void* qkv = nullptr;
  const void* attention_output = nullptr;
  const float* ffn_norm = nullptr;
  const void* gate_up = nullptr;
  const void* down = nullptr;
};

/// Immutable once made.
///
/// Thread:  Safe for concurrent use
class CAKE_API CudaWeights {
 public:
  /// Copies weights to the current device, rounded to bf16 (nearest, ties to even).
  ///
  /// Errors:  unsupported as cuda::usable(); unsupported when n_embd, n_ff or head_dim is not a
  ///          multiple of 8; out_of_memory, device
  static Result<std::shared_ptr<const CudaWeights>> upload(const Weights& weights);
  /// Normal random weights of a standard deviation that keeps activations finite, made on the
  /// device: equal seeds give equal weights on every device. For measurements and tests of shapes
  /// whose real weights are not at hand.
  ///
  /// Errors:  as upload(); invalid_argument for a shape that makes no sense
  static Result<std::shared_ptr<const CudaWeights>> random(const Config& config,
                                                           std::uint64_t seed);

  const Config& config() const { return config_; }
  /// Of the file that they were read from; of shape and seed when they are random.
  const Sha256Digest& digest() const { return digest_; }
  const std::string& name() const { return name_; }
  std::size_t bytes() const { return storage_.size(); }

  /// Shape:   [n_vocab][n_embd]
  const void* token_embedding() const { return token_embedding_; }
  const CudaLayerWeights& layer(std::uint32_t index) const { return layers_[index]; }
  const float* output_norm() const { return output_norm_; }
  /// Shape:   [n_vocab][n_embd]; the embedding itself where the model ties them
  const void* output() const { return output_; }
  /// In host memory; as Weights::rope_factors().
  const std::vector<float>& rope_factors() const { return rope_factors_; }

 private:
  class Builder;
  CudaWeights() = default;

  Config config_;
  Sha256Digest digest_{};
  std::string name_;
  cuda::DeviceBuffer storage_;
  const void* token_embedding_ = nullptr;
  std::vector<CudaLayerWeights> layers_;
  const float* output_norm_ = nullptr;
  const void* output_ = nullptr;
  std::vector<float> rope_factors_;
};

/// The shape of Llama-3.1-8B, for random(): 32 layers of 32 query and 8 KV heads of 128, 4096 wide,
/// 14336 in the feed-forward part, 128256 tokens of vocabulary, 131072 of context.
///
/// Source:  config.json of meta-llama/Llama-3.1-8B
CAKE_API Config llama_3_1_8b();

}  // namespace cake::inline CAKE_ABI::reference
