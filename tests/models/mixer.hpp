// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a layer of a model does with the tokens before: one class for each way that models of today
// keep what they need of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "numbers.hpp"

namespace models {

/// What one layer keeps of a prompt. Bytes per token in each plane, or one state for all tokens.
struct Kept {
  std::vector<std::uint32_t> planes;  // bytes per token
  std::uint32_t window = 0;           // tokens that are looked back at, itself included; 0: all
  std::uint32_t state_bytes = 0;
};

/// The bytes that one layer keeps of one sequence.
class Memory {
 public:
  Memory() = default;
  Memory(const Kept& kept, std::uint32_t max_tokens) : kept_(kept), state_(kept.state_bytes) {
    for (const std::uint32_t bytes : kept.planes) {
      planes_.emplace_back(std::size_t{bytes} * max_tokens);
    }
  }
  const Kept& kept() const { return kept_; }
  std::span<std::byte> plane(std::size_t i) { return planes_[i]; }
  std::span<std::byte> state() { return state_; }

  template <class T>
  std::span<T> row(std::size_t plane, std::uint32_t token) {
    const std::size_t bytes = kept_.planes[plane];
    return {reinterpret_cast<T*>(planes_[plane].data() + token * bytes), bytes / sizeof(T)};
  }
  Out state_numbers() {
    return {reinterpret_cast<float*>(state_.data()), state_.size() / sizeof(float)};
  }

 private:
  Kept kept_;
  std::vector<std::vector<std::byte>> planes_;  // [plane][token][bytes]
  std::vector<std::byte> state_;
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  virtual Kept kept() const = 0;
  /// Adds the token to `memory` and returns what the layer makes of it. Tokens come in order.
  virtual Vector mix(In x, std::uint32_t position, Memory& memory) const = 0;
  /// The layer whose memory it reads; none: its own.
  virtual std::optional<std::uint32_t> shares() const { return std::nullopt; }
};

/// First token that `position` looks back at.
inline std::uint32_t first_seen(std::uint32_t position, std::uint32_t window) {
  return window == 0 || position + 1 < window ? 0 : position + 1 - window;
}

struct Heads {
  std::uint32_t query = 4;  // a multiple of kv
  std::uint32_t kv = 2;
  std::uint32_t key_width = 8;
  std::uint32_t value_width = 8;
};

/// Softmax attention of grouped heads; keys and values may differ in width. `keys` and `values`
/// give one head's row of one token.
template <class Keys, class Values>
Vector attend(const Heads& heads, In query, std::uint32_t position, std::uint32_t window,
              Keys&& keys, Values&& values) {
  const std::uint32_t first = first_seen(position, window);
  const float scale = 1 / std::sqrt(static_cast<float>(heads.key_width));
  Vector out(std::size_t{heads.query} * heads.value_width);
  Vector scores(position + 1 - first);
  for (std::uint32_t h = 0; h < heads.query; ++h) {
    const std::uint32_t group = h / (heads.query / heads.kv);
    const In q = query.subspan(std::size_t{h} * heads.key_width, heads.key_width);
    for (std::uint32_t t = first; t <= position; ++t)
      scores[t - first] = scale * dot(q, keys(t, group));
    softmax(scores);
    float* const o = out.data() + std::size_t{h} * heads.value_width;
    for (std::uint32_t t = first; t <= position; ++t) {
      const auto value = values(t, group);
      for (std::uint32_t d = 0; d < heads.value_width; ++d) o[d] += scores[t - first] * value[d];
    }
  }
  return out;
}

/// Attention with planes of keys and of values. With `from` it computes none and reads those of an
/// earlier layer.
class Attention : public Mixer {
 public:
  Attention(std::uint32_t width, const Heads& heads, std::uint32_t window, std::uint64_t& seed,
            std::optional<std::uint32_t> from = std::nullopt)
      : heads_(heads),
        window_(window),
        from_(from),
        query_(std::size_t{heads.query} * heads.key_width, width, seed),
        key_(std::size_t{heads.kv} * heads.key_width, width, seed),
        value_(std::size_t{heads.kv} * heads.value_width, width, seed),
        out_(width, std::size_t{heads.query} * heads.value_width, seed) {}

  Kept kept() const override {
    if (from_) return {};
    return {{static_cast<std::uint32_t>(key_.rows() * sizeof(float)),
             static_cast<std::uint32_t>(value_.rows() * sizeof(float))},
            window_,
            0};
  }
  std::optional<std::uint32_t> shares() const override { return from_; }

  Vector mix(In x, std::uint32_t position, Memory& memory) const override {
    if (!from_) {
      Vector key = key_.times(x);
      for (std::uint32_t h = 0; h < heads_.kv; ++h)
        rotate(head(key, h, heads_.key_width), position);
      const Vector value = value_.times(x);
      std::copy(key.begin(), key.end(), memory.row<float>(0, position).begin());
      std::copy(value.begin(), value.end(), memory.row<float>(1, position).begin());
    }
    Vector query = query_.times(x);
    for (std::uint32_t h = 0; h < heads_.query; ++h) {
      rotate(head(query, h, heads_.key_width), position);
    }
    return out_.times(attend(
        heads_, query, position, window_,
        [&](std::uint32_t t, std::uint32_t h) {
          return head(memory.row<float>(0, t), h, heads_.key_width);
        },
        [&](std::uint32_t t, std::uint32_t h) {
          return head(memory.row<float>(1, t), h, heads_.value_width);
        }));
  }

 private:
  static Out head(Out all, std::uint32_t h, std::uint32_t width) {
    return all.subspan(std::size_t{h} * width, width);
  }
  Heads heads_;
  std::uint32_t window_;
  std::optional<std::uint32_t> from_;
  Matrix query_, key_, value_, out_;
};

/// Multi-head latent attention: one plane, which holds the latent of keys and values, and the
/// rotated part of the key that all heads share.
///
/// Source:  DeepSeek-V2 (arXiv 2405.04434), section 2.1
class LatentAttention : public Mixer {
 public:
  LatentAttention(std::uint32_t width, std::uint64_t& seed)
      : query_(kHeads * (kWidth + kRotated), width, seed),
        latent_(kLatent, width, seed),
        rotated_(kRotated, width, seed),
        key_(kHeads * kWidth, kLatent, seed),
        value_(kHeads * kWidth, kLatent, seed),
        out_(width, kHeads * kWidth, seed) {}

  Kept kept() const override { return {{(kLatent + kRotated) * sizeof(float)}, 0, 0}; }

  Vector mix(In x, std::uint32_t position, Memory& memory) const override {
    const Out row = memory.row<float>(0, position);
    const Vector latent = rms_norm(latent_.times(x));
    Vector rotated = rotated_.times(x);
    rotate(rotated, position);
    std::copy(latent.begin(), latent.end(), row.begin());
    std::copy(rotated.begin(), rotated.end(), row.begin() + kLatent);

    Vector query = query_.times(x);
    Vector mixed(kHeads * kWidth);
    Vector scores(position + 1);
    const float scale = 1 / std::sqrt(static_cast<float>(kWidth + kRotated));
    for (std::uint32_t h = 0; h < kHeads; ++h) {
      const Out q = Out(query).subspan(h * (kWidth + kRotated), kWidth + kRotated);
      rotate(q.subspan(kWidth), position);
      // The query in the space of the latents, so that no key is ever made.
      Vector seen(kLatent);
      for (std::uint32_t d = 0; d < kWidth; ++d) {
        const In weights = key_.row(h * kWidth + d);
        for (std::uint32_t i = 0; i < kLatent; ++i) seen[i] += q[d] * weights[i];
      }
      for (std::uint32_t t = 0; t <= position; ++t) {
        const In kept = memory.row<float>(0, t);
        scores[t] = scale * (dot(seen, kept.first(kLatent)) +
                             dot(q.subspan(kWidth), kept.subspan(kLatent)));
      }
      softmax(scores);
      Vector sum(kLatent);
      for (std::uint32_t t = 0; t <= position; ++t) {
        const In kept = memory.row<float>(0, t);
        for (std::uint32_t i = 0; i < kLatent; ++i) sum[i] += scores[t] * kept[i];
      }
      for (std::uint32_t d = 0; d < kWidth; ++d) {
        mixed[h * kWidth + d] = dot(value_.row(h * kWidth + d), sum);
      }
    }
    return out_.times(mixed);
  }

 private:
  static constexpr std::uint32_t kHeads = 4, kWidth = 8, kLatent = 12, kRotated = 4;
  Matrix query_, latent_, rotated_, key_, value_, out_;
};

/// Attention over keys and values of eight bits, with one scale for each head and token: four
/// planes.
class QuantisedAttention : public Mixer {
 public:
  QuantisedAttention(std::uint32_t width, const Heads& heads, std::uint64_t& seed)
      : heads_(heads),
        query_(std::size_t{heads.query} * heads.key_width, width, seed),
        key_(std::size_t{heads.kv} * heads.key_width, width, seed),
        value_(std::size_t{heads.kv} * heads.value_width, width, seed),
        out_(width, std::size_t{heads.query} * heads.value_width, seed) {}

  Kept kept() const override {
    const auto scales = static_cast<std::uint32_t>(heads_.kv * sizeof(float));
    return {{static_cast<std::uint32_t>(key_.rows()), scales,
             static_cast<std::uint32_t>(value_.rows()), scales},
            0,
            0};
  }

  Vector mix(In x, std::uint32_t position, Memory& memory) const override {
    keep(key_.times(x), heads_.key_width, memory, 0, position);
    keep(value_.times(x), heads_.value_width, memory, 2, position);
    return out_.times(attend(
        heads_, query_.times(x), position, 0,
        [&](std::uint32_t t, std::uint32_t h) { return read(memory, 0, t, h, heads_.key_width); },
        [&](std::uint32_t t, std::uint32_t h) {
          return read(memory, 2, t, h, heads_.value_width);
        }));
  }

 private:
  void keep(In x, std::uint32_t width, Memory& memory, std::size_t plane,
            std::uint32_t position) const {
    const auto row = memory.row<std::int8_t>(plane, position);
    for (std::uint32_t h = 0; h < heads_.kv; ++h) {
      const In head = x.subspan(std::size_t{h} * width, width);
      float most = 1e-6F;
      for (const float v : head) most = std::max(most, std::abs(v));
      const float scale = most / 127;
      memory.row<float>(plane + 1, position)[h] = scale;
      for (std::uint32_t d = 0; d < width; ++d) {
        row[std::size_t{h} * width + d] = static_cast<std::int8_t>(std::lround(head[d] / scale));
      }
    }
  }
  static Vector read(Memory& memory, std::size_t plane, std::uint32_t token, std::uint32_t h,
                     std::uint32_t width) {
    const auto row = memory.row<std::int8_t>(plane, token).subspan(std::size_t{h} * width, width);
    const float scale = memory.row<float>(plane + 1, token)[h];
    Vector x(width);
    for (std::uint32_t d = 0; d < width; ++d) x[d] = scale * static_cast<float>(row[d]);
    return x;
  }
  Heads heads_;
  Matrix query_, key_, value_, out_;
};

/// Linear attention with a gate and the delta rule: one state for all tokens so far.
///
/// Source:  Gated DeltaNet (arXiv 2412.06464), equation 10
class LinearAttention : public Mixer {
 public:
  LinearAttention(std::uint32_t width, std::uint64_t& seed)
      : query_(kHeads * kWidth, width, seed),
        key_(kHeads * kWidth, width, seed),
        value_(kHeads * kWidth, width, seed),
        gates_(2 * kHeads, width, seed),
        out_(width, kHeads * kWidth, seed) {}

  Kept kept() const override { return {{}, 0, kHeads * kWidth * kWidth * sizeof(float)}; }

  Vector mix(In x, std::uint32_t, Memory& memory) const override {
    const Vector query = query_.times(x), value = value_.times(x), gates = gates_.times(x);
    const Vector keys = key_.times(x);
    Vector mixed(kHeads * kWidth);
    for (std::uint32_t h = 0; h < kHeads; ++h) {
      const Out state = memory.state_numbers().subspan(h * kWidth * kWidth, kWidth * kWidth);
      In key = In(keys).subspan(h * kWidth, kWidth);
      const float length = std::sqrt(dot(key, key)) + 1e-6F;
      const float keep = sigmoid(gates[2 * h] + 2), learn = sigmoid(gates[2 * h + 1]);
      for (std::uint32_t d = 0; d < kWidth; ++d) {  // a row: what keys give for one value
        const Out row = state.subspan(d * kWidth, kWidth);
        for (float& s : row) s *= keep;
        const float said = dot(row, key) / length;
        const float change = learn * (value[h * kWidth + d] - said) / length;
        for (std::uint32_t i = 0; i < kWidth; ++i) row[i] += change * key[i];
        mixed[h * kWidth + d] = dot(row, In(query).subspan(h * kWidth, kWidth));
      }
    }
    return out_.times(mixed);
  }

 private:
  static constexpr std::uint32_t kHeads = 2, kWidth = 8;
  Matrix query_, key_, value_, gates_, out_;
};

}  // namespace models
