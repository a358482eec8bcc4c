// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Vectors to the device and back, and bf16 numbers on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cake/cuda/runtime.hpp"
#include "src/reference/gguf/numbers.hpp"
#include "tests/catch.hpp"

namespace cake::inline CAKE_ABI::testing {

template <class T>
cuda::DeviceBuffer to_device(const std::vector<T>& from) {
  cuda::DeviceBuffer buffer(from.size() * sizeof(T));
  REQUIRE(cudaMemcpy(buffer.data(), from.data(), buffer.size(), cudaMemcpyHostToDevice) ==
          cudaSuccess);
  return buffer;
}

template <class T>
std::vector<T> to_host(const cuda::DeviceBuffer& buffer) {
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  std::vector<T> out(buffer.size() / sizeof(T));
  REQUIRE(cudaMemcpy(out.data(), buffer.data(), buffer.size(), cudaMemcpyDeviceToHost) ==
          cudaSuccess);
  return out;
}

inline constexpr double kHalfUlp = 1.0 / 256;  // of a bf16 number, relative, at most

inline float bf16_value(std::uint16_t bits) { return reference::bf16_to_f32(bits); }

inline std::vector<double> values_of(const std::vector<std::uint16_t>& bits) {
  std::vector<double> out;
  for (const std::uint16_t b : bits) out.push_back(double{bf16_value(b)});
  return out;
}
inline std::vector<double> values_of(const std::vector<float>& numbers) {
  return {numbers.begin(), numbers.end()};
}

inline std::vector<float> normal_floats(std::size_t count, unsigned seed, double deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<float> out(count);
  for (float& x : out) x = static_cast<float>(normal(random));
  return out;
}

inline std::vector<std::uint16_t> normal_bf16(std::size_t count, unsigned seed,
                                              double deviation = 1) {
  std::vector<std::uint16_t> out;
  for (const float x : normal_floats(count, seed, deviation)) {
    out.push_back(reference::f32_to_bf16(x));
  }
  return out;
}

/// Largest |a - b| / (|b| + floor); infinite where a is no number.
template <class A>
double worst_relative(const A& a, const std::vector<double>& b, double floor) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double error = std::abs(static_cast<double>(a[i]) - b[i]) / (std::abs(b[i]) + floor);
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  return worst;
}

}  // namespace cake::inline CAKE_ABI::testing
