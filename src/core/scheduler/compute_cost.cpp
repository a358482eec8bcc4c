// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/compute_cost.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace cake::inline CAKE_ABI {

ComputeCostEstimator::ComputeCostEstimator(const ComputeCost& prior, std::uint32_t smallest_step) {
  const ComputeCost cost = prior.checked();
  smallest_ =
      std::max(cost.smallest, std::clamp(static_cast<double>(smallest_step), 1.0, kMostTokens));
  // What one pass takes whatever its size is guessed worst, often as nothing; and a coefficient
  // that is said to be nothing may be something.
  scale_[1] = std::max({cost.per_token, cost.overhead / 256, 4096 * cost.per_position});
  scale_[0] = std::max(cost.overhead, 256 * scale_[1]);
  scale_[2] = std::max(cost.per_position, scale_[1] / 65536);
  theta_ = {cost.overhead / scale_[0], cost.per_token / scale_[1], cost.per_position / scale_[2]};
  belief_ = theta_;
}

void ComputeCostEstimator::observe(TokenRange tokens, double took) {
  if (tokens.empty() || !(took > 0) || !std::isfinite(took)) return;
  const double expected = current().pass(tokens.begin, tokens.end);
  const bool exact = std::abs(took - expected) < kExact * expected;
  if (exact && n_ != 0 && odd_in_a_row_ == 0 && (++exact_ & 3) != 0) return;  // nothing new
  const Seen pass{tokens, static_cast<float>(took), ++age_};
  if (n_ == 0) {  // nothing is known but the shape that was guessed
    if (!exact) scale_by(std::exp(off(pass)));
    known_ |= 1u << size_class(pass);
    keep(pass);
    return;
  }
  const double by = exact ? 0 : off(pass);
  const std::uint32_t size = 1u << size_class(pass);
  keep(pass);
  if (exact) {
    odd_in_a_row_ = 0;
    known_ |= size;
  } else if (std::abs(by) <= kOdd || explained()) {
    odd_in_a_row_ = 0;
    known_ |= size;
    refit();
  } else {
    note_odd(by, (known_ & size) != 0);
    refit();
  }
}

std::uint32_t ComputeCostEstimator::size_class(const Seen& pass) {
  return static_cast<std::uint32_t>(std::bit_width(pass.tokens.size() | 1u)) - 1;  // none is empty
}

/// What each coefficient adds to a pass at its scale.
ComputeCostEstimator::Three ComputeCostEstimator::feature(const Seen& pass, double smallest) const {
  return {scale_[0], scale_[1] * std::max(pass.end() - pass.begin(), smallest),
          scale_[2] * (pass.end() * pass.end() - pass.begin() * pass.begin())};
}

double ComputeCostEstimator::dot(const Three& a, const Three& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

double ComputeCostEstimator::off(const Seen& pass, const Three& theta, double smallest) const {
  return std::log(pass.took / std::max(1e-300, dot(feature(pass, smallest), theta)));
}

void ComputeCostEstimator::scale_by(double factor) {
  ++version_;
  for (double& scale : scale_) scale = std::clamp(scale * factor, 1e-200, 1e9);
}

/// All passes that were seen lie on one line, with coefficients that a few passes may change so
/// far: nothing was odd, the guess was wrong. Not when the last pass is the only one that the
/// guess does not explain.
bool ComputeCostEstimator::explained() {
  std::size_t n_odd = 0;
  for (std::size_t i = 0; i < n_; ++i) n_odd += std::abs(off(seen_[i])) > kOdd;
  if (n_odd < 2 && n_ + exact_ > 2) return false;
  std::array<double, kPasses> weight{};
  weight.fill(1);
  const Three theta = solve(weight, smallest_, 0);
  if (!explains(weight, theta, smallest_, 0)) return false;
  for (std::size_t j = 0; j < 3 && n_ < 5; ++j) {
    if (theta[j] < belief_[j] / 4 || theta[j] > belief_[j] + 1.5) return false;
  }
  theta_ = theta;
  ++version_;
  return true;
}

/// `known`: passes of its size were as expected before.
void ComputeCostEstimator::note_odd(double by, bool known) {
  const double alike = std::max(kOdd, std::abs(by) / 3);
  if (odd_in_a_row_ != 0 && std::abs(by - last_odd_) < alike) {
    odd_known_ = odd_known_ && known;
    if (++odd_in_a_row_ > (odd_known_ ? 1u : 2u)) change_speed(by);
  } else {
    odd_in_a_row_ = 1;
    odd_known_ = known;
  }
  last_odd_ = by;
}

/// The last passes, off by a like factor, show a device of another speed.
void ComputeCostEstimator::change_speed(double by) {
  const double milder = std::abs(by) < std::abs(last_odd_) ? by : last_odd_;
  scale_by(std::exp(milder));
  belief_ = theta_;
  n_ = static_cast<std::size_t>(
      std::remove_if(seen_.begin(), seen_.begin() + static_cast<std::ptrdiff_t>(n_),
                     [this](const Seen& s) { return s.age + odd_in_a_row_ <= age_; }) -
      seen_.begin());
  odd_in_a_row_ = 0;
}

/// In place of the one of its size that lies nearest, so that all positions stay known.
void ComputeCostEstimator::keep(const Seen& pass) {
  std::size_t same = 0;
  std::size_t nearest = 0;
  std::size_t oldest = 0;
  double least = 1e300;
  for (std::size_t i = 0; i < n_; ++i) {
    if (seen_[i].age < seen_[oldest].age) oldest = i;
    if (size_class(seen_[i]) != size_class(pass)) continue;
    ++same;
    const double distance = std::abs(seen_[i].end() - pass.end());
    if (distance < least || (distance <= least && seen_[i].age < seen_[nearest].age)) {
      least = distance;
      nearest = i;
    }
  }
  if (same >= kPerSize) {
    seen_[nearest] = pass;
  } else if (n_ == kPasses) {
    seen_[oldest] = pass;
  } else {
    seen_[n_++] = pass;
  }
}

void ComputeCostEstimator::refit() {
  std::array<double, kPasses> weight{};
  weigh(weight);
  const Three all = solve(weight, smallest_, 0);
  double smallest = smallest_;
  Three best = all;
  if (!explains(weight, all, smallest_, 0)) {
    smallest = 1;
    if (smallest_ > 1) best = solve(weight, 1, 0);
    if (smallest_ <= 1 || !explains(weight, best, 1, 0)) find_smallest(weight, best, smallest);
  }
  theta_ = best;
  smallest_ = smallest;
  ++version_;
  for (std::size_t j = 0; j < 3; ++j) belief_[j] += 0.2 * (theta_[j] - belief_[j]);
}

/// An odd pass counts when it is not alone: most of the recent ones of its size are like it.
void ComputeCostEstimator::weigh(std::array<double, kPasses>& weight) const {
  std::array<double, kPasses> offs{};
  for (std::size_t i = 0; i < n_; ++i) offs[i] = off(seen_[i]);
  for (std::size_t i = 0; i < n_; ++i) {
    weight[i] = 1;
    if (std::abs(offs[i]) <= kOdd) continue;
    std::size_t like = 0;
    std::size_t unlike = 0;
    for (std::size_t j = 0; j < n_; ++j) {
      if (size_class(seen_[j]) != size_class(seen_[i])) continue;
      ++(std::abs(offs[j] - offs[i]) < kOdd ? like : unlike);
    }
    weight[i] = like >= 2 && like > unlike ? 1 : 0;
  }
}

/// Passes of classes from `from` on decide.
ComputeCostEstimator::Three ComputeCostEstimator::solve(const std::array<double, kPasses>& weight,
                                                        double smallest, std::uint32_t from) const {
  std::array<Three, 3> a{};
  Three b{};
  for (std::size_t j = 0; j < 3; ++j) {
    a[j][j] = kPenalty;
    b[j] = kPenalty * belief_[j];
  }
  for (std::size_t i = 0; i < n_; ++i) {
    if (weight[i] <= 0 || size_class(seen_[i]) < from) continue;
    const Three f = feature(seen_[i], smallest);
    const double t = seen_[i].took;
    for (std::size_t j = 0; j < 3; ++j) {
      b[j] += f[j] / t;
      for (std::size_t k = 0; k < 3; ++k) a[j][k] += f[j] / t * (f[k] / t);
    }
  }
  // Above a floor: theta = floor + z, z >= 0. The best of the sets of coefficients that are free.
  Three floor{};
  for (std::size_t j = 0; j < 3; ++j) floor[j] = std::max(belief_[j] / 20, 1e-4);
  for (std::size_t j = 0; j < 3; ++j) b[j] -= dot(a[j], floor);
  Three best{};
  double least = 0;
  for (unsigned free = 7; free != 0; --free) {
    const Three z = solve_free(a, b, free);
    const double value = z[0] * (dot(a[0], z) / 2 - b[0]) + z[1] * (dot(a[1], z) / 2 - b[1]) +
                         z[2] * (dot(a[2], z) / 2 - b[2]);
    if (z[0] < 0 || z[1] < 0 || z[2] < 0 || !(value < least)) continue;
    least = value;
    best = z;
    if (free == 7) break;  // nothing is lower than the lowest point of all
  }
  for (std::size_t j = 0; j < 3; ++j) best[j] += floor[j];
  return best;
}

/// Solves a z = b by elimination, with z zero where a bit of `free` is not set.
ComputeCostEstimator::Three ComputeCostEstimator::solve_free(std::array<Three, 3> a, Three b,
                                                             unsigned free) {
  for (std::size_t j = 0; j < 3; ++j) {
    if ((free >> j & 1) != 0) continue;
    for (std::size_t k = 0; k < 3; ++k) a[j][k] = a[k][j] = 0;
    a[j][j] = 1;
    b[j] = 0;
  }
  for (std::size_t j = 0; j < 3; ++j) {  // positive definite: no pivoting
    for (std::size_t i = j + 1; i < 3; ++i) {
      const double by = a[i][j] / a[j][j];
      for (std::size_t k = j; k < 3; ++k) a[i][k] -= by * a[j][k];
      b[i] -= by * b[j];
    }
  }
  Three z{};
  for (std::size_t j = 3; j-- > 0;) {
    double sum = b[j];
    for (std::size_t k = j + 1; k < 3; ++k) sum -= a[j][k] * z[k];
    z[j] = sum / a[j][j];
  }
  return z;
}

/// No pass that counts is off by half as much as an odd one.
bool ComputeCostEstimator::explains(const std::array<double, kPasses>& weight, const Three& theta,
                                    double smallest, std::uint32_t from) const {
  static const double most = std::exp(kOdd / 2);
  for (std::size_t i = 0; i < n_; ++i) {
    if (weight[i] <= 0 || size_class(seen_[i]) < from) continue;
    const double expected = dot(feature(seen_[i], smallest), theta);
    if (!(seen_[i].took <= most * expected && expected <= most * seen_[i].took)) return false;
  }
  return true;
}

/// Small passes do not lie on a line with larger ones of several sizes.
void ComputeCostEstimator::find_smallest(const std::array<double, kPasses>& weight, Three& theta,
                                         double& smallest) const {
  std::uint32_t sizes = 0;
  for (std::size_t i = 0; i < n_; ++i) {
    if (weight[i] > 0) sizes |= 1u << size_class(seen_[i]);
  }
  while (std::popcount(sizes) > 2) {
    sizes &= sizes - 1;
    const auto from = static_cast<std::uint32_t>(std::countr_zero(sizes));
    const Three larger = solve(weight, 1, from);
    if (!explains(weight, larger, 1, from)) continue;
    double implied = kMostTokens;
    for (std::size_t i = 0; i < n_; ++i) {
      if (weight[i] <= 0 || size_class(seen_[i]) >= from) continue;
      const Three f = feature(seen_[i], 1);
      implied = std::min(implied, seen_[i].end() - seen_[i].begin() +
                                      (seen_[i].took - dot(f, larger)) / (scale_[1] * larger[1]));
    }
    if (implied < std::exp2(from)) return;  // small ones are not dearer: no shape that we know
    theta = larger;
    smallest = implied;
    return;
  }
}

ComputeCostEstimator ComputeCostEstimator::learned(const ComputeCostEstimator& known) const {
  if (known.age_ == handed_out_) return *this;  // nobody else has taught it anything
  std::array<Seen, kPasses> mine{};
  std::size_t n = 0;
  for (std::size_t i = 0; i < n_; ++i) {
    if (seen_[i].age > handed_out_) mine[n++] = seen_[i];
  }
  std::sort(mine.begin(), mine.begin() + n,
            [](const Seen& a, const Seen& b) { return a.age < b.age; });
  ComputeCostEstimator both = known;
  for (std::size_t i = 0; i < n; ++i) both.observe(mine[i].tokens, mine[i].took);
  return both;
}

std::vector<double> ComputeCostEstimator::numbers() const {
  std::vector<double> all;
  for (const Three& three : {scale_, theta_, belief_}) {
    all.insert(all.end(), three.begin(), three.end());
  }
  all.insert(all.end(), {smallest_, static_cast<double>(exact_), static_cast<double>(known_),
                         static_cast<double>(odd_in_a_row_), last_odd_, odd_known_ ? 1.0 : 0.0,
                         static_cast<double>(age_)});
  for (std::size_t i = 0; i < n_; ++i) {
    all.insert(all.end(), {seen_[i].begin(), seen_[i].end(), static_cast<double>(seen_[i].took),
                           static_cast<double>(seen_[i].age)});
  }
  return all;
}

std::optional<ComputeCostEstimator> ComputeCostEstimator::of_numbers(
    std::span<const double> numbers) {
  constexpr std::size_t kFixed = 16;
  const std::size_t n = numbers.size() < kFixed ? 0 : (numbers.size() - kFixed) / 4;
  if (numbers.size() < kFixed || (numbers.size() - kFixed) % 4 != 0 || n == 0 || n > kPasses) {
    return std::nullopt;
  }
  const auto within = [](double v, double low, double high) { return v >= low && v <= high; };
  const auto whole = [&](double v) { return within(v, 0, 4294967295.0) && v == std::floor(v); };
  const double* at = numbers.data();
  for (std::size_t i = 0; i < 9; ++i) {
    if (!within(at[i], i < 3 ? 1e-200 : 0, i < 3 ? 1e9 : 1e200)) return std::nullopt;
  }
  if (!within(at[9], 1, kMostTokens) || !whole(at[10]) || !whole(at[11]) || !whole(at[12]) ||
      !within(at[13], -1e4, 1e4) || !(at[14] == 0 || at[14] == 1) || !whole(at[15])) {
    return std::nullopt;
  }
  ComputeCostEstimator made;
  for (std::size_t i = 0; i < 3; ++i) {
    made.scale_[i] = at[i];
    made.theta_[i] = at[3 + i];
    made.belief_[i] = at[6 + i];
  }
  made.smallest_ = at[9];
  made.exact_ = static_cast<std::uint32_t>(at[10]);
  made.known_ = static_cast<std::uint32_t>(at[11]);
  made.odd_in_a_row_ = static_cast<std::uint32_t>(at[12]);
  made.last_odd_ = at[13];
  made.odd_known_ = at[14] != 0;
  made.age_ = static_cast<std::uint32_t>(at[15]);
  for (at += kFixed; made.n_ < n; at += 4) {
    const bool sane = whole(at[0]) && whole(at[1]) && at[0] < at[1] && within(at[2], 1e-30, 1e30) &&
                      whole(at[3]) && at[3] <= numbers[15];
    if (!sane) return std::nullopt;
    made.seen_[made.n_++] = {{static_cast<std::uint32_t>(at[0]), static_cast<std::uint32_t>(at[1])},
                             static_cast<float>(at[2]),
                             static_cast<std::uint32_t>(at[3])};
  }
  return made;
}

}  // namespace cake::inline CAKE_ABI
