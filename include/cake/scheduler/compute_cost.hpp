// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a compute pass costs, learned from the passes that were made. Pure arithmetic; one thread at
// a time.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cake/export.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// Units: seconds. A pass over tokens x..y takes overhead + per_token (y - x) + per_position (y^2 -
/// x^2); one of fewer than `smallest` tokens pays for so many.
struct ComputeCost {
  double overhead = 1e-4;
  double per_token = 5e-5;
  double per_position = 1e-9;
  double smallest = 1;  // tokens

  double pass(double x, double y) const {
    return y > x ? overhead + per_token * std::max(y - x, smallest) + per_position * (y * y - x * x)
                 : 0;
  }
  /// Tokens x..y in passes of at most `step` tokens.
  double passes(double x, double y, double step) const {
    if (y <= x) return 0;
    const double n = std::ceil((y - x) / step);
    const double last = y - x - (n - 1) * step;  // tokens of the last one
    return n * overhead + per_token * (y - x + std::max(0.0, smallest - last)) +
           per_position * (y * y - x * x);
  }

  /// Every pass takes `factor` times as long.
  ComputeCost slower(double factor) const {
    return {overhead * factor, per_token * factor, per_position * factor, smallest};
  }

  /// In the range that arithmetic can stand. Anything that is no number, and a cost of nothing at
  /// all, means that nothing is known.
  ComputeCost checked() const {
    const auto sane = [](double v) { return v >= 0 ? std::min(v, 1e6) : 0.0; };
    ComputeCost c = {sane(overhead), sane(per_token), sane(per_position),
                     smallest >= 1 ? std::min(smallest, 4096.0) : 1.0};
    if (c.overhead <= 0 && c.per_token <= 0 && c.per_position <= 0) c = ComputeCost();
    return c;
  }
};

/// Learns the cost from passes: a weighted least squares fit over some recent passes of every size,
/// held to the prior's shape by a weak penalty, no coefficient below a twentieth of what is
/// believed.
///
/// A pass that is far off what is known says nothing by itself: the machine may have been busy. Two
/// in a row that are off by one factor, of sizes that were as expected before (three of any size),
/// are a device of another speed: what was seen before is converted to it. Otherwise an odd pass
/// goes into the fit when most of the recent ones of its size agree with it. When small passes cost
/// more than a line through the larger ones says, they pay for a smallest number of tokens.
///
/// Source:  weighted least squares with outliers left out, as in any text on robust regression
class CAKE_API ComputeCostEstimator {
 public:
  explicit ComputeCostEstimator(const ComputeCost& prior = {}, std::uint32_t smallest_step = 1);

  ComputeCost current() const {
    return {scale_[0] * theta_[0], scale_[1] * theta_[1], scale_[2] * theta_[2], smallest_};
  }
  /// Whether a pass was observed: else all is as it was said to be.
  bool measured() const { return n_ != 0; }
  /// The last pass took far more or less than what is known says: another one will tell which of the two was odd.
  bool in_doubt() const { return odd_in_a_row_ != 0; }

  /// Another number for every change.
  std::uint64_t version() const { return version_; }

  void observe(TokenRange tokens, double took);

  /// A session begins with a copy of this one.
  void hand_out() { handed_out_ = age_; }
  /// What the next session should start from, when `known` is what sessions that ended meanwhile have left:
  /// the passes that were observed since hand_out() count beside theirs.
  ComputeCostEstimator learned(const ComputeCostEstimator& known) const;

  /// All that is known, as numbers for a file.
  std::vector<double> numbers() const;
  /// None: they are not what numbers() gives.
  static std::optional<ComputeCostEstimator> of_numbers(std::span<const double> numbers);

 private:
  using Three = std::array<double, 3>;
  struct Seen {
    TokenRange tokens;
    float took = 0;  // seconds
    std::uint32_t age = 0;
    double begin() const { return tokens.begin; }
    double end() const { return tokens.end; }
  };
  static constexpr double kOdd = 0.25;  // of the logarithm of took over expected
  static constexpr double kExact = 0.02;
  static constexpr double kPenalty = 0.002;  // a coefficient off by its scale is a pass off by 4 %
  static constexpr double kMostTokens = 4096;  // of a smallest step
  static constexpr std::size_t kPerSize = 6;   // passes of one size that are kept
  static constexpr std::size_t kPasses = 36;

  static std::uint32_t size_class(const Seen& pass);
  Three feature(const Seen& pass, double smallest) const;
  static double dot(const Three& a, const Three& b);
  /// Logarithm of what a pass took over what it should.
  double off(const Seen& pass) const { return off(pass, theta_, smallest_); }
  double off(const Seen& pass, const Three& theta, double smallest) const;
  void scale_by(double factor);
  bool explained();
  void note_odd(double by, bool known);
  void change_speed(double by);
  void keep(const Seen& pass);
  void refit();
  void weigh(std::array<double, kPasses>& weight) const;
  Three solve(const std::array<double, kPasses>& weight, double smallest, std::uint32_t from) const;
  static Three solve_free(std::array<Three, 3> a, Three b, unsigned free);
  bool explains(const std::array<double, kPasses>& weight, const Three& theta, double smallest,
                std::uint32_t from) const;
  void find_smallest(const std::array<double, kPasses>& weight, Three& theta,
                     double& smallest) const;

  Three scale_{};
  Three theta_{};   // relative to the scale
  Three belief_{};  // where the penalty pulls to
  double smallest_ = 1;
  std::uint64_t version_ = 0;
  std::array<Seen, kPasses> seen_{};
  std::size_t n_ = 0;
  std::uint32_t age_ = 0;
  std::uint32_t handed_out_ = 0;  // age then
  std::uint32_t exact_ = 0;       // passes that told nothing new
  std::uint32_t known_ = 0;       // bit set of size classes of which a pass was as expected
  std::uint32_t odd_in_a_row_ = 0;
  double last_odd_ = 0;     // how far the last pass was off
  bool odd_known_ = false;  // the odd ones in a row are of known sizes
};

}  // namespace cake::inline CAKE_ABI
