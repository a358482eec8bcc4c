// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A Llama model's weights in fp32, ready for a BLAS. Loaded once, shared by any number of backends.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/reference/config.hpp"
#include "cake/reference/gguf.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::reference {

/// One layer. Matrices that read the same input are stacked, so that each is one matrix product.
///
/// Shape:   row-major [outputs][inputs]; qkv has n_heads * head_dim rows of Q, then n_kv_heads *
///          head_dim of K, then as many of V; gate_up has n_ff rows of gate, then n_ff of up
struct LayerWeights {
  const float* attention_norm = nullptr;
  const float* qkv = nullptr;
  const float* attention_output = nullptr;
  const float* ffn_norm = nullptr;
  const float* gate_up = nullptr;
  const float* down = nullptr;
};

/// Immutable once loaded.
///
/// Thread:  Safe for concurrent use
class CAKE_API Weights {
 public:
  /// Reads the file, turns every tensor into fp32 and hashes the file. Takes 4 bytes a parameter;
  /// the file is closed again.
  ///
  /// Errors:  those of GgufFile::open and read_config; corrupt when a tensor is missing, has
  ///          another shape than the configuration says or holds what is no finite number, and when
  ///          the file is changed meanwhile; unsupported, by name, for tensor types and tensors
  ///          that this model does not know (ignoring one would give wrong answers)
  static Result<std::shared_ptr<const Weights>> load(const std::filesystem::path& path);
  /// The same from a file that is open already.
  static Result<std::shared_ptr<const Weights>> load(const GgufFile& file);

  const Config& config() const { return config_; }
  /// SHA-256 of the whole file.
  const Sha256Digest& digest() const { return digest_; }
  const std::string& name() const { return name_; }
  std::size_t bytes() const { return storage_.size(); }

  /// Shape:   [n_vocab][n_embd]
  const float* token_embedding() const { return token_embedding_; }
  const LayerWeights& layer(std::uint32_t index) const { return layers_[index]; }
  const float* output_norm() const { return output_norm_; }
  /// Shape:   [n_vocab][n_embd]; the embedding itself where the file has no output of its own
  const float* output() const { return output_; }
  /// What the angle of each pair is divided by; all 1 where the file has no rope_freqs.
  ///
  /// Shape:   [rope.dimensions / 2]
  std::span<const float> rope_factors() const { return rope_factors_; }

 private:
  class Loader;
  Weights() = default;

  Config config_;
  Sha256Digest digest_{};
  std::string name_;
  AlignedBuffer storage_;
  const float* token_embedding_ = nullptr;
  std::vector<LayerWeights> layers_;
  const float* output_norm_ = nullptr;
  const float* output_ = nullptr;
  std::vector<float> rope_factors_;
};

}  // namespace cake::inline CAKE_ABI::reference
