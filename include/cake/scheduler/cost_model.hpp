// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a compute pass costs, learned from the passes that were made. Pure arithmetic; one thread at
// a time.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "cake/plan.hpp"

namespace cake {

/// Units: seconds. A pass over tokens x..y takes overhead + per_token (y - x) + per_position (y^2 -
/// x^2).
struct ComputeCost {
  double overhead = 1e-4;
  double per_token = 5e-5;
  double per_position = 1e-9;

  double pass(double x, double y) const {
    return y > x ? overhead + per_token * (y - x) + per_position * (y * y - x * x) : 0;
  }
  /// Tokens x..y in passes of at most `step` tokens.
  double passes(double x, double y, double step) const {
    if (y <= x) return 0;
    return std::ceil((y - x) / step) * overhead + per_token * (y - x) +
           per_position * (y * y - x * x);
  }
};

/// Fits the three coefficients by recursive least squares from a prior that counts as one vague
/// observation (each may be off by itself, the overhead by what 256 tokens take), with a floor
/// under the gain, so that a device that becomes busier is followed within a few passes.
///
/// Source:  Gauss's recursive least squares, as in any text on adaptive filters
class CostModel {
 public:
  explicit CostModel(const ComputeCost& prior = {}) : scale_(prior) {
    // What one pass takes whatever its size is guessed worst, often as nothing.
    scale_.overhead = std::max(prior.overhead, 256 * prior.per_token);
    if (scale_.overhead > 0) theta_[0] = prior.overhead / scale_.overhead;
    for (std::size_t i = 0; i < 3; ++i) covariance_[3 * i + i] = 1;
  }

  ComputeCost current() const {
    return {scale_.overhead * theta_[0], scale_.per_token * theta_[1],
            scale_.per_position * theta_[2]};
  }

  void observe(TokenRange tokens, double took) {
    const double x = tokens.begin;
    const double y = tokens.end;
    const std::array<double, 3> feature = {scale_.overhead, scale_.per_token * (y - x),
                                           scale_.per_position * (y * y - x * x)};
    const double predicted =
        feature[0] * theta_[0] + feature[1] * theta_[1] + feature[2] * theta_[2];
    if (!(took > 0) || !(predicted > 0)) return;
    std::array<double, 3> gain{};
    const double noise = 0.01 * predicted * predicted;  // a pass is repeatable to about a tenth
    double known = 0;  // how far off the prediction may be, by what is known
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) gain[i] += covariance_[3 * i + j] * feature[j];
    }
    for (std::size_t i = 0; i < 3; ++i) known += feature[i] * gain[i];
    // Never so sure that a device that becomes busier is not followed: every pass counts for at
    // least a quarter of what it says.
    const double spread = known + std::min(noise, 3 * known);
    if (!(spread > 0)) return;
    for (std::size_t i = 0; i < 3; ++i) {
      theta_[i] = std::max(0.001, theta_[i] + gain[i] / spread * (took - predicted));
    }
    if (known < noise / 3) return;  // sure enough
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) covariance_[3 * i + j] -= gain[i] * gain[j] / spread;
    }
  }

 private:
  ComputeCost scale_;
  std::array<double, 3> theta_ = {1, 1, 1};  // relative to the scale
  std::array<double, 9> covariance_{};       // [3][3] of theta_
};

}  // namespace cake
