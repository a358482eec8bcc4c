// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token of the schedules in virtual time, each over the lower bound of any schedule,
// side by side: Llama-3.1-8B at 400 TFLOP/s, chunks of 256 tokens, 1 ms per pass. "wide" is cake with an
// engine that takes the whole suffix in one gated step, in micro-batches of STEP_TOKENS.
//
//     schedules [STEP_TOKENS ...]        (default: 2048 512)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/simulation.hpp"
#include "cake/ttft_bound.hpp"

namespace {

using namespace cake;

constexpr double kPerToken = 3.489660928e-05;
constexpr double kPerPosition = 6.5536e-10;
constexpr std::uint32_t kLayers = 32;

SimulationSpec spec_of(std::uint32_t n, std::uint32_t s, double gigabytes, std::uint32_t step) {
  SimulationSpec spec;
  PrefillSpec& prefill = spec.prefill;
  prefill.n_tokens = n + s;
  prefill.chunk_tokens = 256;
  prefill.n_chunks = (prefill.n_tokens - 1) / prefill.chunk_tokens;
  prefill.end_chunk = n / prefill.chunk_tokens;
  prefill.n_layers = kLayers;
  prefill.max_step_tokens = step;
  prefill.head_bytes = 8192;
  prefill.layer_bytes = 256ull * 4096;
  prefill.foot_bytes = 4096;
  spec.cost = {1e-3, kPerToken, kPerPosition};
  spec.links = {{{{Time{0}, gigabytes * 1e9}}, std::chrono::microseconds(50)}};
  spec.priors = {{gigabytes * 1e9, std::chrono::microseconds(50), Time{0}}};
  spec.stored.assign(prefill.end_chunk, {prefill.read_bytes({0, kLayers}), 1});
  spec.workers = prefill.reads_at_once = 8;
  return spec;
}

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

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::uint32_t> steps;
  for (int i = 1; i < argc; ++i) {
    const auto step = static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10));
    if (step == 0) {
      std::fprintf(stderr, "usage: schedules [STEP_TOKENS ...]\n");
      return 2;
    }
    steps.push_back(step);
  }
  if (steps.empty()) steps = {2048, 512};
  for (const std::uint32_t step : steps) {
    std::printf("\nstep %u; bound in ms, the others as a ratio to it\n\n", step);
    std::printf(
        "|      n |    s | GB/s |    bound | compute |   load | published |  cake |  wide |\n");
    std::printf(
        "|-------:|-----:|-----:|---------:|--------:|-------:|----------:|------:|------:|\n");
    Ratios published;
    Ratios cake;
    Ratios wide;
    for (const std::uint32_t n : {8192u, 32768u, 131072u}) {
      for (const std::uint32_t s : {128u, 1024u, 4096u}) {
        for (const double gb : {1.0, 3.0, 7.0, 12.0, 25.0, 50.0}) {
          const SimulationSpec spec = spec_of(n, s, gb, step);
          SimulationSpec takes_wide = spec;
          takes_wide.prefill.wide_gated_steps = true;
          const Rates rates{kPerToken, kPerPosition, 131072 / (gb * 1e9), kLayers};
          const double bound = ttft_bounds(rates, n, s).lower;
          MeetOptions options;
          options.cost = spec.cost;
          options.cost_is_measured = true;
          std::printf("| %6u | %4u | %4.0f | %8.1f | %7.2f | %6.2f | %9.2f | %5.2f | %5.2f |\n", n,
                      s, gb, bound * 1e3, ttft(spec, ComputeOnlyScheduler()) / bound,
                      ttft(spec, LoadOnlyScheduler()) / bound,
                      published.add(ttft(spec, PublishedScheduler()) / bound),
                      cake.add(ttft(spec, MeetInTheMiddleScheduler(options)) / bound),
                      wide.add(ttft(takes_wide, MeetInTheMiddleScheduler(options)) / bound));
        }
      }
    }
    std::printf("\nmean: published %.3f, cake %.3f; worst: published %.2f, cake %.2f\n",
                published.mean(), cake.mean(), published.worst(), cake.worst());
    std::printf("wide last pass: mean %.3f, geometric mean %.3f, worst %.2f\n", wide.mean(),
                wide.geometric_mean(), wide.worst());
  }
  return 0;
}
