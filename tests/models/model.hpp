// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Small language models with random weights, one for each way of keeping KV: the engines that cake
// is tested with. Exact: how a prompt is cut into passes changes no bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mixer.hpp"

namespace models {

class Model {
 public:
  static constexpr std::uint32_t kWidth = 32;
  static constexpr std::uint32_t kVocabulary = 64;

  explicit Model(std::uint64_t seed) : seed_(seed), embedding_(kVocabulary, kWidth, seed_) {}

  template <class M, class... Args>
  Model& add(Args&&... args) {
    layers_.push_back({std::make_unique<M>(kWidth, std::forward<Args>(args)..., seed_),
                       Matrix(2 * kWidth, kWidth, seed_), Matrix(kWidth, 2 * kWidth, seed_)});
    return *this;
  }
  /// An attention layer that reads the KV of layer `from`.
  Model& add_sharing(const Heads& heads, std::uint32_t from) {
    layers_.push_back({std::make_unique<Attention>(kWidth, heads, 0, seed_, from),
                       Matrix(2 * kWidth, kWidth, seed_), Matrix(kWidth, 2 * kWidth, seed_)});
    return *this;
  }

  std::uint32_t n_layers() const { return static_cast<std::uint32_t>(layers_.size()); }
  const Mixer& mixer(std::uint32_t layer) const { return *layers_[layer].mixer; }
  In embedding(std::int32_t token) const {
    return embedding_.row(static_cast<std::uint32_t>(token) % kVocabulary);
  }
  /// One layer, in place.
  void run(std::uint32_t layer, Vector& x, std::uint32_t position, Memory& memory) const {
    const Layer& l = layers_[layer];
    const Vector mixed = l.mixer->mix(rms_norm(x), position, memory);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += mixed[i];
    Vector inner = l.up.times(rms_norm(x));
    for (float& v : inner) v *= sigmoid(v);
    const Vector outer = l.down.times(inner);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += outer[i];
  }
  Vector logits(In x) const { return embedding_.times(rms_norm(x)); }

 private:
  struct Layer {
    std::unique_ptr<Mixer> mixer;
    Matrix up, down;
  };
  std::uint64_t seed_;
  Matrix embedding_;
  std::vector<Layer> layers_;
};

/// What one sequence has in memory. A state is kept besides at the end of every chunk, as an engine
/// must that wants to store it.
class Sequence {
 public:
  Sequence(const Model& model, std::uint32_t max_tokens, std::uint32_t chunk_tokens)
      : model_(model), chunk_tokens_(chunk_tokens) {
    for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
      memories_.emplace_back(model.mixer(l).kept(), max_tokens);
      checkpoints_.emplace_back(max_tokens / chunk_tokens,
                                std::vector<std::byte>(memories_[l].state().size()));
    }
  }

  /// Computes tokens [begin, end) of the prompt: layer by layer, and `gate(layer)` before each. The
  /// logits of the last one are kept. False: the gate said no.
  ///
  /// Needs:   what the layers keep of the tokens below `begin` is in memory
  bool prefill(std::span<const std::int32_t> prompt, std::uint32_t begin, std::uint32_t end,
               const std::function<bool(std::uint32_t)>& gate = nullptr) {
    std::vector<Vector> xs;
    for (std::uint32_t t = begin; t < end; ++t) {
      const In x = model_.embedding(prompt[t]);
      xs.emplace_back(x.begin(), x.end());
    }
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) {
      if (gate && !gate(l)) return false;
      Memory& memory = memories_[model_.mixer(l).shares().value_or(l)];
      for (std::uint32_t t = begin; t < end; ++t) {
        model_.run(l, xs[t - begin], t, memory);
        if ((t + 1) % chunk_tokens_ == 0) save_state(l, t / chunk_tokens_);
      }
    }
    if (!xs.empty()) logits_ = model_.logits(xs.back());
    return true;
  }

  const Vector& logits() const { return logits_; }
  Memory& memory(std::uint32_t layer) { return memories_[layer]; }
  /// The state of `layer` at the end of a chunk; empty where the layer keeps none.
  std::span<std::byte> checkpoint(std::uint32_t layer, std::uint32_t chunk) {
    return checkpoints_[layer][chunk];
  }
  /// Goes on from nothing.
  void restart() {
    for (Memory& memory : memories_) std::ranges::fill(memory.state(), std::byte{0});
  }
  /// Goes on from the checkpoints of the chunk that ends at token `n`.
  void resume(std::uint32_t n) {
    if (n == 0 || n % chunk_tokens_ != 0) throw std::invalid_argument("no checkpoint there");
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) {
      const auto from = checkpoint(l, n / chunk_tokens_ - 1);
      std::copy(from.begin(), from.end(), memories_[l].state().begin());
    }
  }

 private:
  void save_state(std::uint32_t layer, std::uint32_t chunk) {
    const auto state = memories_[layer].state();
    std::copy(state.begin(), state.end(), checkpoints_[layer][chunk].begin());
  }

  const Model& model_;
  std::uint32_t chunk_tokens_;
  std::vector<Memory> memories_;                                  // [layer]
  std::vector<std::vector<std::vector<std::byte>>> checkpoints_;  // [layer][chunk] state
  Vector logits_;
};

struct NamedModel {
  std::string name;
  Model model;
};

inline constexpr std::uint32_t kWindow = 11;  // tokens; no multiple of a chunk

/// One of each kind.
inline std::vector<NamedModel> all_models() {
  std::vector<NamedModel> all;
  const auto start = [&](const char* name) -> Model& {
    all.push_back({name, Model(0x5eed + all.size())});
    return all.back().model;
  };
  const Heads plain;
  const Heads unequal{4, 2, 12, 6};
  start("plain attention").add<Attention>(plain, 0u).add<Attention>(plain, 0u);
  start("keys wider than values").add<Attention>(unequal, 0u).add<Attention>(plain, 0u);
  start("latent attention").add<LatentAttention>().add<LatentAttention>();
  start("sliding windows beside full attention")
      .add<Attention>(plain, kWindow)
      .add<Attention>(plain, 0u)
      .add<Attention>(plain, kWindow)
      .add<Attention>(plain, 0u);
  start("linear attention beside full attention")
      .add<LinearAttention>()
      .add<LinearAttention>()
      .add<Attention>(plain, 0u)
      .add<LinearAttention>();
  start("KV of eight bits with scales")
      .add<QuantisedAttention>(plain)
      .add<QuantisedAttention>(plain);
  start("layers that share KV")
      .add<Attention>(plain, 0u)
      .add<Attention>(plain, 0u)
      .add_sharing(plain, 0)
      .add_sharing(plain, 1);
  start("sliding windows alone").add<Attention>(plain, kWindow).add<Attention>(plain, 3 * kWindow);
  start("linear attention alone").add<LinearAttention>().add<LinearAttention>();
  start("linear attention, windows and full attention")
      .add<LinearAttention>()
      .add<Attention>(plain, kWindow)
      .add<Attention>(plain, 0u)
      .add<LinearAttention>()
      .add<Attention>(plain, 2 * kWindow);
  return all;
}

}  // namespace models
