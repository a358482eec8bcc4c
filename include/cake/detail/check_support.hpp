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

/// The same layers, of which those outside `layers` keep nothing.
inline KvLayout only(const KvLayout& layout, LayerRange layers) {
  KvLayout some{layout.n_layers, layout.kinds, layout.kind_of};
  some.kind_of.resize(layout.n_layers);
  for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
    if (l >= layers.begin && l < layers.end) continue;
    some.kind_of[l] = static_cast<std::uint16_t>(layout.kinds.size());
  }
  some.kinds.emplace_back();
  return some;
}

/// Layers have windows or states.
inline bool is_limited(const KvLayout& layout) {
  for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
    if (layout.kind(l).reach() != KvLayerKind::kAll) return true;
  }
  return false;
}
inline constexpr char kLimited[] =
    "layout: it has windows or states, which check_windows_and_states() checks";

/// Memory for the runs of one slice.
class Runs {
 public:
  Runs(const KvLayout& layout, const Slice& slice)
      : runs_(std::make_shared<const KvRuns>(only(layout, slice.layers), slice.tokens.size())),
        bytes_(runs_->begin_at(runs_->n_layers())) {}
  MutableBytes bytes() { return bytes_.bytes(); }
  MutableKvView view() { return {bytes_.data(), runs_->layer_at(0), runs_}; }
  KvView const_view() const { return {bytes_.data(), runs_->layer_at(0), runs_}; }
  /// Takes all that `from` has of a layer.
  void copy_layer(std::uint32_t layer, const Runs& from) {
    for (std::uint32_t p = 0; p < runs_->n_planes(layer); ++p) {
      const auto to = view().plane(layer, p);
      std::memcpy(to.data(), from.const_view().plane(layer, p).data(), to.size());
    }
  }

 private:
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
