// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What tests of the CUDA backend share: a small model, ways to run it, and what comes of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "cake/detail/admission.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "reference/tiny_engine.hpp"
#include "tests/cuda/device_data.hpp"
#include "tests/cuda/gpu.hpp"

namespace tiny {

using cake::testing::bf16_value;

/// What the tests run unless they say otherwise: weights that bf16 holds exactly.
inline tiny::Shape small() {
  tiny::Shape shape;
  shape.type = tiny::BF16;
  shape.head_dim = shape.rope_dimensions = 64;
  shape.embd = 128;
  shape.ff = 192;
  shape.context = 2048;
  return shape;
}

inline std::shared_ptr<const CudaWeights> upload(const tiny::Shape& shape = small()) {
  return CudaWeights::upload(*load(shape)).value();
}

/// Enqueues all steps, then waits for them.
inline Status run_in_steps(CudaBackend& engine, const std::vector<TokenId>& prompt,
                           std::uint32_t step) {
  std::deque<CudaPass> running;
  for (std::uint32_t at = 0; at < prompt.size(); at += step) {
    running.push_back(engine.prefill(prompt, {at, std::min(at + step, size_of_prompt(prompt))}));
    if (running.size() < 2 && at + step < prompt.size()) continue;
    if (auto status = running.front().wait(); !status) return status;
    running.pop_front();
  }
  while (!running.empty()) {
    if (auto status = running.front().wait(); !status) return status;
    running.pop_front();
  }
  return {};
}

inline Status run_range(CudaBackend& engine, const std::vector<TokenId>& prompt, TokenRange range,
                        LayerGate gate = {}) {
  return engine.prefill(prompt, range, gate).wait();
}

template <class Engine>
Buffer kv_of(Engine& engine, std::uint32_t n_tokens) {
  Buffer buffer(engine.layout(), {0, {0, n_tokens}, {0, engine.layout().n_layers}});
  engine.extract(buffer.slice, buffer.view()).value();
  return buffer;
}

inline std::vector<float> logits_of(const CudaBackend& engine) {
  return {engine.logits().begin(), engine.logits().end()};
}

/// ||a - b|| / ||b|| of bf16 numbers; infinite where a is no number.
inline double distance(ConstBytes a, ConstBytes b) {
  REQUIRE(a.size() == b.size());
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i + 1 < a.size(); i += 2) {
    std::uint16_t x;
    std::uint16_t y;
    std::memcpy(&x, a.data() + i, 2);
    std::memcpy(&y, b.data() + i, 2);
    const double difference = double{bf16_value(x)} - double{bf16_value(y)};
    error += difference * difference;
    norm += double{bf16_value(y)} * double{bf16_value(y)};
  }
  const double relative = std::sqrt(error / norm);
  return std::isnan(relative) ? HUGE_VAL : relative;
}

/// Counts questions, runs an action at one layer, and closes at another.
struct Gate final : GateSource {
  bool wait_layer(std::uint64_t, std::uint32_t layer) override {
    layers.push_back(layer);
    if (before) before(layer);
    return layer != closed_at;
  }
  std::function<void(std::uint32_t)> before;
  std::uint32_t closed_at = ~0u;
  std::vector<std::uint32_t> layers;
};

// Rounding to bf16 at the same places on the host puts KV off by up to 0.020 (fourth layer) and
// logits by up to 0.088 on these models; a mistake puts them off by about 1.
inline constexpr double kKvTolerance = 0.03;      // relative, of a layer's K or V
inline constexpr double kLogitsTolerance = 0.15;  // of the largest logit

}  // namespace tiny
