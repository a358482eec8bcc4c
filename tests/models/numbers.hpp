// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Arithmetic of the small models: fp32, one order of summation, so that a result depends on its
// inputs alone and never on how a prompt was cut into passes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace models {

using Vector = std::vector<float>;
using In = std::span<const float>;
using Out = std::span<float>;

inline float dot(In a, In b) {
  float sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// A matrix of random weights that keep the size of what they multiply.
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::size_t rows, std::size_t columns, std::uint64_t& seed)
      : columns_(columns), weights_(rows * columns) {
    const float scale = std::sqrt(3.0F / static_cast<float>(columns));
    for (float& w : weights_) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      w = scale * (static_cast<float>(seed >> 40) / 8388608.0F - 1.0F);
    }
  }
  std::size_t rows() const { return weights_.size() / columns_; }
  In row(std::size_t i) const { return In(weights_).subspan(i * columns_, columns_); }
  Vector times(In x) const {
    Vector y(rows());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = dot(row(i), x);
    return y;
  }

 private:
  std::size_t columns_ = 1;
  Vector weights_;  // [rows][columns]
};

/// Divides by the root of the mean square.
inline Vector rms_norm(In x) {
  const float scale = 1 / std::sqrt(dot(x, x) / static_cast<float>(x.size()) + 1e-5F);
  Vector y(x.begin(), x.end());
  for (float& v : y) v *= scale;
  return y;
}

inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

/// Rotates pairs (i, i + n/2) by angles that grow with the position.
inline void rotate(Out x, std::uint32_t position) {
  const std::size_t half = x.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const float frequency = std::pow(10000.0F, -static_cast<float>(i) / static_cast<float>(half));
    const float angle = static_cast<float>(position) * frequency;
    const float c = std::cos(angle), s = std::sin(angle);
    const float a = x[i], b = x[i + half];
    x[i] = a * c - b * s;
    x[i + half] = a * s + b * c;
  }
}

/// Softmax of all scores, in place.
inline void softmax(Out scores) {
  const float top = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (float& s : scores) sum += s = std::exp(s - top);
  for (float& s : scores) s /= sum;
}

}  // namespace models
