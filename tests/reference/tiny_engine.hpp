// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What tests of the CPU backend share.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <ranges>
#include <vector>

#include "cake/reference/cpu_backend.hpp"
#include "catch.hpp"
#include "tiny_model.hpp"

namespace tiny {

using namespace cake;
using namespace cake::reference;

inline std::shared_ptr<const Weights> load(const Shape& shape = {}) {
  return Weights::load(parse(make(shape).file.finish())).value();
}

inline std::vector<TokenId> prompt_of(std::size_t size, unsigned seed = 3) {
  std::mt19937 random(seed);
  std::vector<TokenId> prompt(size);
  for (TokenId& token : prompt) token = static_cast<TokenId>(random() % 80);
  return prompt;
}

inline std::uint32_t size_of_prompt(const std::vector<TokenId>& prompt) {
  return static_cast<std::uint32_t>(prompt.size());
}

inline Status prefill_in_steps(CpuBackend& engine, const std::vector<TokenId>& prompt,
                               std::uint32_t step) {
  for (std::uint32_t at = 0; at < prompt.size(); at += step) {
    const std::uint32_t end = std::min(at + step, size_of_prompt(prompt));
    if (auto status = engine.prefill(prompt, {at, end}); !status) return status;
  }
  return {};
}

/// Largest difference, in units of the largest logit.
template <class A, class B>
double difference(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

/// Transfer memory of one slice.
struct Buffer {
  Buffer(const UniformKvLayout& layout, const Slice& s)
      : slice(s),
        run(layout.run_bytes(s.tokens.size())),
        stride(detail::align_up(run, 64)),
        bytes(2 * stride * s.layers.size()) {}
  MutableKvView view() { return {bytes.data(), slice.layers.begin, run, stride}; }
  KvView read() const { return {bytes.data(), slice.layers.begin, run, stride}; }
  Slice slice;
  std::size_t run, stride;
  std::vector<std::byte> bytes;
};

inline void fill(Buffer& buffer, unsigned seed) {
  std::mt19937 random(seed);
  for (std::byte& b : buffer.bytes) b = static_cast<std::byte>(random());
}

inline bool same(const Buffer& a, const Buffer& b) {
  for (std::uint32_t layer = a.slice.layers.begin; layer < a.slice.layers.end; ++layer) {
    if (!std::ranges::equal(a.read().k(layer), b.read().k(layer))) return false;
    if (!std::ranges::equal(a.read().v(layer), b.read().v(layer))) return false;
  }
  return true;
}

}  // namespace tiny
