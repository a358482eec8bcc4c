// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts of the shape of Llama-3.1-8B on a device of 400 TFLOP/s, chunks of 256 tokens and 1 ms per
// pass: what schedules, schedule_grid and schedule_changes run in virtual time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/simulation.hpp"
#include "cake/ttft_bound.hpp"
#include "tests/simulation/large_spec.hpp"

namespace cake::benchmarks {

inline constexpr double kBytesPerToken = 131072;
inline constexpr double kPassSeconds = 1e-3;
inline constexpr std::chrono::microseconds kLinkLatency{50};

/// One prompt: n stored tokens, s new ones, one link, passes of `step` tokens at most, and a share of
/// the device.
struct Cell {
  std::uint32_t n = 0;
  std::uint32_t s = 0;
  double gigabytes = 0;  // a second
  std::uint32_t step = 0;
  double share = 1;

  double per_token() const { return 3.489660928e-05 / share; }
  double per_position() const { return 6.5536e-10 / share; }
  ComputeCost cost() const { return {kPassSeconds / share, per_token(), per_position()}; }
  Rates rates() const {
    return {.per_token = per_token(),
            .per_position = per_position(),
            .load_per_token = kBytesPerToken / (gigabytes * 1e9),
            .n_layers = 32};
  }
  SimulationSpec spec() const {
    SimulationSpec spec = testing::large_spec(n, s, step, 8);
    spec.cost = cost();
    spec.links = {{{{Time{0}, gigabytes * 1e9}}, kLinkLatency}};
    spec.priors = {{gigabytes * 1e9, kLinkLatency, Time{0}}};
    return spec;
  }
  MeetOptions options() const {
    MeetOptions options;
    options.cost = cost();
    options.cost_is_measured = true;
    return options;
  }
};

/// Ends the program when a rule was broken.
template <class S>
double ttft(const SimulationSpec& spec, S scheduler) {
  const SimulationResult result = simulate(spec, std::move(scheduler));
  if (!result.violation.empty()) {
    std::fprintf(stderr, "%s\n", result.violation.c_str());
    std::exit(1);
  }
  return to_seconds(result.report.ttft);
}

/// Ratios to the bound of one schedule.
class Ratios {
 public:
  double add(double ratio) {
    sum_ += ratio;
    log_sum_ += std::log(ratio);
    worst_ = std::max(worst_, ratio);
    ++n_;
    return ratio;
  }
  double mean() const { return sum_ / n_; }
  double geometric_mean() const { return std::exp(log_sum_ / n_); }
  double worst() const { return worst_; }

 private:
  double sum_ = 0;
  double log_sum_ = 0;
  double worst_ = 0;
  int n_ = 0;
};

}  // namespace cake::benchmarks
