// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine for tests: KV that is a function of all tokens so far, computed from KV at several places
// below, so that a byte that is wrong, or not there yet, shows in what is computed from it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/kv_presence.hpp"

namespace cake::inline CAKE_ABI::testing {

struct ToyOptions {
  UniformKvLayout layout{3, 2, 8, DType::f32, KvOrder::nhd};
  std::chrono::microseconds per_token{0};  // of computing
  std::chrono::microseconds per_insert{0};
};

/// Shape:   kv is [token][layer][K|V][row_bytes]; nhd only
template <bool OnCaller = false>
class ToyEngineT {
 public:
  static constexpr EngineAbilities abilities{.insert_on_caller = OnCaller};

  explicit ToyEngineT(std::size_t n_tokens, ToyOptions options = {})
      : options_(options),
        kv_(n_tokens * options.layout.bytes_per_token()),
        there_(static_cast<std::uint32_t>(n_tokens), options.layout.n_layers),
        owner_(std::this_thread::get_id()) {}

  UniformKvLayout layout() const { return options_.layout; }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "toy").finish();
  }

  Status prefill(Tokens prompt, TokenRange range, LayerGate gate = {}) {
    const UniformKvLayout& l = options_.layout;
    if (range.end * l.bytes_per_token() > kv_.size())
      return Error{Errc::invalid_argument, 0, "toy: too long"};
    if (fail_at >= range.begin && fail_at < range.end)
      return Error{Errc::device, 7, "toy: device lost"};
    for (std::uint32_t layer = 0; layer < l.n_layers; ++layer) {
      if (!gate.wait(layer)) return Error{Errc::superseded, 0, "toy"};
      for (std::uint32_t t = range.begin; t < range.end; ++t) {
        std::uint64_t seed =
            0x9e3779b97f4a7c15ull * static_cast<std::uint64_t>(prompt[t] + 1) + layer;
        seed ^= attend(t, layer, seed);
        for (std::uint32_t side = 0; side < 2; ++side) {
          for (std::size_t b = 0; b < l.row_bytes(); b += 8) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            std::memcpy(row(t, layer, side) + b, &seed, 8);
          }
        }
      }
      there_.add(range, {layer, layer + 1});
      if (options_.per_token.count() > 0) {
        std::this_thread::sleep_for(options_.per_token * range.size() / l.n_layers);
      }
    }
    ++steps;
    if (range.end == prompt.size()) logits_ = true;
    return {};
  }

  Status insert(const Slice& slice, const KvView& from) {
    if (OnCaller && std::this_thread::get_id() != owner_) foreign_insert = true;
    if (options_.per_insert.count() > 0) std::this_thread::sleep_for(options_.per_insert);
    if (fail_inserts) return Error{Errc::device, 0, "toy: insert"};
    const std::size_t bytes = options_.layout.row_bytes();
    for (std::uint32_t layer = slice.layers.begin; layer < slice.layers.end; ++layer) {
      for (std::uint32_t t = slice.tokens.begin; t < slice.tokens.end; ++t) {
        const std::size_t at = (t - slice.tokens.begin) * bytes;
        std::memcpy(row(t, layer, 0), from.k(layer).data() + at, bytes);
        std::memcpy(row(t, layer, 1), from.v(layer).data() + at, bytes);
      }
    }
    there_.add(slice.tokens, slice.layers);
    ++inserts;
    return {};
  }

  Status extract(const Slice& slice, const MutableKvView& to) {
    if (auto missing = there_.missing(slice.tokens, slice.layers)) return no_kv(*missing);
    const std::size_t bytes = options_.layout.row_bytes();
    for (std::uint32_t layer = slice.layers.begin; layer < slice.layers.end; ++layer) {
      for (std::uint32_t t = slice.tokens.begin; t < slice.tokens.end; ++t) {
        const std::size_t at = (t - slice.tokens.begin) * bytes;
        std::memcpy(to.k(layer).data() + at, row(t, layer, 0), bytes);
        std::memcpy(to.v(layer).data() + at, row(t, layer, 1), bytes);
      }
    }
    return {};
  }

  void clear() {
    std::memset(kv_.data(), 0xee, kv_.size());
    there_.clear();
    logits_ = false;
    steps = 0;
    inserts = 0;
  }
  const std::vector<std::byte>& kv() const { return kv_; }
  bool has_logits() const { return logits_; }

  std::uint32_t fail_at = ~0u;  // computing this token fails
  std::atomic<bool> fail_inserts{false};
  std::atomic<bool> foreign_insert{false};
  std::atomic<int> steps{0};
  std::atomic<int> inserts{0};

 private:
  /// Of KV of this layer at the token before, halfway down, and at three places that `seed` chooses.
  std::uint64_t attend(std::uint32_t t, std::uint32_t layer, std::uint64_t seed) {
    std::uint64_t sum = 0;
    const auto add = [&](std::uint32_t token, std::uint32_t side) {
      std::uint64_t value;
      std::memcpy(&value, row(token, layer, side), sizeof value);
      sum = sum * 31 + value;
    };
    if (t == 0) return sum;
    add(t - 1, 1);
    add(t / 2, 0);
    for (int i = 0; i < 3; ++i) add(static_cast<std::uint32_t>((seed >> (16 * i) & 0xffff) % t), 1);
    return sum;
  }
  std::byte* row(std::uint32_t token, std::uint32_t layer, std::uint32_t side) {
    const UniformKvLayout& l = options_.layout;
    return kv_.data() + ((std::size_t{token} * l.n_layers + layer) * 2 + side) * l.row_bytes();
  }
  ToyOptions options_;
  std::vector<std::byte> kv_;
  KvPresence there_;
  std::thread::id owner_;
  bool logits_ = false;
};

using ToyEngine = ToyEngineT<false>;
static_assert(ComputeBackend<ToyEngine> && PrefillsGated<ToyEngine>);

inline std::vector<TokenId> toy_prompt(std::size_t n, TokenId seed = 1) {
  std::vector<TokenId> tokens(n);
  std::uint32_t x = static_cast<std::uint32_t>(seed);
  for (TokenId& t : tokens) {
    x = x * 1664525 + 1013904223;
    t = static_cast<TokenId>(x >> 12);
  }
  return tokens;
}

}  // namespace cake::inline CAKE_ABI::testing
