// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token of the known schedules, and the bound that none can beat, for given rates.
// Continuous model with perfect overlap: tokens are not quantised, a pass has no start-up cost.
// Pure arithmetic.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI {

/// Units: seconds. C(x, y) = per_token (y - x) + per_position (y^2 - x^2) is the time to compute
/// tokens x..y, and each pass takes `overhead` on top.
struct Rates {
  double per_token = 0;
  double per_position = 0;
  double load_per_token = 0;  // bytes per token / bandwidth, all lanes together
  std::uint32_t n_layers = 1;
  double overhead = 0;            // least_time() alone counts it,
  std::uint32_t step_tokens = 0;  // with passes of at most so many tokens (0: one pass)

  constexpr double compute(double x, double y) const {
    return per_token * (y - x) + per_position * (y * y - x * x);
  }
};

namespace detail {

/// Least max(rising(k), falling(k)) of all k from 0 to n, by bisection on where they cross. `at`: that k.
template <class Rising, class Falling>
double minimax(double n, Rising rising, Falling falling, double* at = nullptr) {
  double low = 0;
  double high = n;
  for (int i = 0; i < 60; ++i) {
    const double k = (low + high) / 2;
    (rising(k) < falling(k) ? low : high) = k;
  }
  if (at != nullptr) *at = low;
  return std::min({std::max(rising(low), falling(low)), std::max(rising(high), falling(high)),
                   std::max(rising(0.0), falling(0.0)), std::max(rising(n), falling(n))});
}

}  // namespace detail

/// Prefix of n stored tokens, s new ones behind it; all in seconds.
///
/// Source:  the model of "Compute Or Load KV Cache? Why Not Both?" (arXiv 2410.03065), extended by
/// the suffix
struct Bounds {
  double compute_only = 0;
  double load_only = 0;  // suffix after the last load
  double published = 0;  // both ends at once, suffix after they met
  double pipelined = 0;  // suffix pass layer by layer behind the last loads
  double lower = 0;      // no schedule is faster
  double meet = 0;       // tokens computed by the schedule `pipelined`
};

/// `s1`: tokens of the suffix's first step; 0 means the whole suffix.
inline Bounds ttft_bounds(const Rates& r, double n, double s, double s1 = 0) {
  if (s1 <= 0 || s1 > s) s1 = s;
  const double suffix = r.compute(n, n + s);
  const double first = r.compute(n, n + s1);
  const double layers = std::max<std::uint32_t>(1, r.n_layers);
  const auto load = [&](double k) { return r.load_per_token * (n - k); };
  const auto front = [&](double k) { return r.compute(0, k); };
  Bounds b;
  b.compute_only = r.compute(0, n + s);
  b.load_only = load(0) + suffix;
  b.published = detail::minimax(n, front, load) + suffix;
  b.pipelined =
      detail::minimax(
          n, [&](double k) { return front(k) + first; },
          [&](double k) { return std::max(load(k) + first / layers, load(k) / layers + first); },
          &b.meet) +
      suffix - first;
  b.lower = detail::minimax(
      n, [&](double k) { return front(k) + suffix; }, load);
  return b;
}

/// The least time in which any schedule could make tokens resident..n + s whole at these rates:
/// each of the first n is computed or loaded, both ends at once, and s more are computed. `absent`
/// of the first n can only be computed. What is computed lies lowest, where attention is cheapest,
/// in as few passes as can be.
inline double least_time(const Rates& r, double n, double s, double resident = 0,
                         double absent = 0) {
  const double most = std::max(0.0, n - resident);
  const double step = r.step_tokens == 0 ? most + s : r.step_tokens;
  const double suffix = r.compute(std::max(n, resident), std::max(n, resident) + s);
  const auto computing = [&](double k) {
    return r.overhead * std::ceil((k + s) / step) + r.compute(resident, resident + k) + suffix;
  };
  const auto loading = [&](double k) { return r.load_per_token * (most - k); };
  double low = std::clamp(absent, 0.0, most);
  double high = most;
  if (computing(low) >= loading(low)) return computing(low);
  for (int i = 0; i < 60; ++i) {
    const double k = (low + high) / 2;
    (computing(k) < loading(k) ? low : high) = k;
  }
  return std::min(std::max(computing(low), loading(low)), std::max(computing(high), loading(high)));
}

}  // namespace cake::inline CAKE_ABI
