// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the conformance kit is made of.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::testing {

using Failures = std::vector<std::string>;

}  // namespace cake::inline CAKE_ABI::testing

namespace cake::inline CAKE_ABI::detail::kit {

/// Bytes that depend on a seed and on their place.
inline void fill(MutableBytes bytes, std::uint64_t seed) {
  std::uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
  for (std::byte& b : bytes) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    b = static_cast<std::byte>(x >> 32);
  }
}

inline ChunkKey key(std::uint64_t seed) {
  ChunkKey key;
  fill(key.bytes, seed + 77);
  return key;
}

inline bool same(ConstBytes a, ConstBytes b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

/// Memory for the runs of one slice.
class Runs {
 public:
  Runs(const KvLayout& layout, const Slice& slice)
      : slice_(slice),
        runs_(std::make_shared<const KvRuns>(layout, slice.tokens.size())),
        bytes_(runs_->begin(slice.layers.end) - runs_->begin(slice.layers.begin)) {}
  MutableBytes bytes() { return bytes_.bytes(); }
  MutableKvView view() { return {bytes_.data(), slice_.layers.begin, runs_}; }
  KvView const_view() const { return {bytes_.data(), slice_.layers.begin, runs_}; }

 private:
  Slice slice_;
  std::shared_ptr<const KvRuns> runs_;
  AlignedBuffer bytes_;
};

/// A gate whose layers a test opens one by one.
class ManualGate final : public GateSource {
 public:
  explicit ManualGate(std::uint32_t n_layers) : n_layers_(n_layers) {}
  bool wait_layer(std::uint64_t, std::uint32_t layer) override {
    if (layer >= n_layers_) wrong_ = true;
    if (layer < last_) wrong_ = true;  // layers are asked for in order
    last_ = layer;
    entered_ = std::max(entered_.load(), layer + 1);
    while (open_.load() <= layer) {
      if (void_.load()) return false;
      std::this_thread::yield();
    }
    asked_ = std::max(asked_.load(), layer + 1);
    return true;
  }
  void open(std::uint32_t layers) { open_ = layers; }
  void make_void() { void_ = true; }
  std::uint32_t asked() const { return asked_; }
  /// Layers that somebody waits for or has waited for.
  std::uint32_t entered() const { return entered_; }
  bool wrong() const { return wrong_; }

 private:
  std::uint32_t n_layers_;
  std::uint32_t last_ = 0;
  std::atomic<std::uint32_t> open_{0};
  std::atomic<std::uint32_t> asked_{0};
  std::atomic<std::uint32_t> entered_{0};
  std::atomic<bool> void_{false};
  std::atomic<bool> wrong_{false};
};

}  // namespace cake::inline CAKE_ABI::detail::kit
