// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the chaos program shares: how it ends on a broken rule, how it waits, what it throws.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "simulation/random_spec.hpp"

namespace cake::inline CAKE_ABI::chaos {

using testing::Random;

/// The round that runs now; a round is a pure choice of its seed, but for the timing.
inline std::atomic<std::uint64_t> current_seed{0};

/// A rule is broken: says which one, and how to try the round again.
[[noreturn]] inline void broken(const std::string& rule) {
  const auto seed = static_cast<unsigned long long>(current_seed.load());
  std::fprintf(stderr, "chaos: %s\nagain with: chaos_test --seed %llu --rounds 1\n", rule.c_str(),
               seed);
  std::abort();
}

inline void require(bool good, const char* rule) {
  if (!good) broken(rule);
}

inline void nap(std::uint32_t microseconds) {
  if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

/// Throws one of the things that code of others throws.
[[noreturn]] inline void throw_something(Random& random) {
  switch (random.below(3)) {
    case 0:
      throw std::runtime_error("chaos");
    case 1:
      throw std::bad_alloc();
    default:
      throw 42;  // NOLINT(hicpp-exception-baseclass): that is the point
  }
}

}  // namespace cake::inline CAKE_ABI::chaos
