// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Random numbers that are the same wherever a seed is used.
#pragma once

#include <cmath>
#include <cstdint>

#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::testing {

/// SplitMix64: equal on every platform, unlike the standard distributions.
/// Source:  Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(next() % n); }
  std::uint32_t between(std::uint32_t low, std::uint32_t high) {
    return low + below(high - low + 1);
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double p) { return unit() < p; }
  /// Between low and high, evenly in the logarithm.
  double scale(double low, double high) { return low * std::pow(high / low, unit()); }

 private:
  std::uint64_t state_;
};

}  // namespace cake::inline CAKE_ABI::testing
