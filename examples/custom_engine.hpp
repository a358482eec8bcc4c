// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine of one's own, small enough to be read at once: a model with causal attention and the
// KV memory that it keeps. custom_engine.cpp and engine_driven.cpp run it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cake/engine.hpp"
#include "cake/kv_presence.hpp"

namespace cake::examples {

/// The model, of which cake knows nothing: each layer attends to all tokens so far.
class TinyModel {
 public:
  static constexpr std::size_t kLayers = 4, kWidth = 32, kVocab = 32;

  /// One layer for the tokens of `range`. `x` holds their activations, `k` and `v` this layer's KV.
  ///
  /// Shape:   x [range][kWidth], k and v [max_tokens][kWidth]
  static void layer(std::uint32_t index, TokenRange range, float* x, float* k, float* v) {
    std::vector<float> weight(range.end);
    for (std::uint32_t t = range.begin; t < range.end; ++t, x += kWidth) {
      for (std::size_t i = 0; i < kWidth; ++i) {
        k[t * kWidth + i] = x[(i + index) % kWidth];
        v[t * kWidth + i] = x[(i * 5 + index) % kWidth];
      }
      float sum = 0;
      for (std::size_t s = 0; s <= t; ++s) {
        float score = 0;
        for (std::size_t i = 0; i < kWidth; ++i) score += x[i] * k[s * kWidth + i];
        sum += weight[s] = std::exp(score / kWidth);
      }
      for (std::size_t i = 0; i < kWidth; ++i) {
        float mixed = 0;
        for (std::size_t s = 0; s <= t; ++s) mixed += weight[s] / sum * v[s * kWidth + i];
        x[i] = std::tanh(x[i] + mixed);
      }
    }
  }

  static std::vector<float> embed(Tokens tokens) {
    std::vector<float> x;
    for (const TokenId token : tokens) {
      for (std::size_t i = 0; i < kWidth; ++i) {
        x.push_back(std::sin(static_cast<float>(token + 1) * static_cast<float>(i + 1)));
      }
    }
    return x;
  }
};

// [engine]
class TinyEngine {
 public:
  explicit TinyEngine(std::uint32_t max_tokens)
      : side_(max_tokens * TinyModel::kWidth),
        kv_(2 * TinyModel::kLayers * side_),
        there_(max_tokens, TinyModel::kLayers) {}

  // The shape of the KV, and a name for everything that changes its bytes.
  UniformKvLayout layout() const {
    return {TinyModel::kLayers, 1, TinyModel::kWidth, DType::f32, KvOrder::nhd};
  }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "tiny, first edition").finish();
  }

  // Computes KV of `range`. KV below it is there, or comes layer by layer behind the gate.
  Status prefill(Tokens prompt, TokenRange range, LayerGate gate = {}) {
    std::vector<float> x = TinyModel::embed(prompt.subspan(range.begin, range.size()));
    for (std::uint32_t l = 0; l < TinyModel::kLayers; ++l) {
      if (!gate.wait(l)) return Error{Errc::superseded, 0, "prefill"};
      TinyModel::layer(l, range, x.data(), k(l), k(l) + side_);
      there_.add(range, {l, l + 1});
    }
    logits_.assign(x.end() - TinyModel::kWidth, x.end());
    return {};
  }

  // Copies loaded KV into the engine's own memory, and the other way for save().
  Status insert(const Slice& slice, const KvView& from) {
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      float* const at = k(l) + slice.tokens.begin * TinyModel::kWidth;
      std::memcpy(at, from.k(l).data(), from.k(l).size());
      std::memcpy(at + side_, from.v(l).data(), from.v(l).size());
    }
    there_.add(slice.tokens, slice.layers);
    return {};
  }
  // What nobody has written is not given out, or save() would store it.
  Status extract(const Slice& slice, const MutableKvView& to) {
    if (auto missing = there_.missing(slice.tokens, slice.layers)) return no_kv(*missing);
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const float* const at = k(l) + slice.tokens.begin * TinyModel::kWidth;
      std::memcpy(to.k(l).data(), at, to.k(l).size());
      std::memcpy(to.v(l).data(), at + side_, to.v(l).size());
    }
    return {};
  }

  const std::vector<float>& logits() const { return logits_; }

 private:
  float* k(std::size_t layer) { return kv_.data() + 2 * layer * side_; }  // V lies behind it

  std::size_t side_;           // floats of K, or of V, of one layer
  std::vector<float> kv_;      // [layer][K|V][max_tokens][kWidth]
  KvPresence there_;           // which of it was computed or inserted
  std::vector<float> logits_;  // of the last token computed
};
static_assert(ComputeBackend<TinyEngine>);
// [/engine]

}  // namespace cake::examples
