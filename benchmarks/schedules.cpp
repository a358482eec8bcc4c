// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token of the schedules in virtual time, each over the lower bound of any schedule,
// side by side: Llama-3.1-8B at 400 TFLOP/s, chunks of 256 tokens, 1 ms per pass.
//
//     schedules [STEP_TOKENS ...]        (default: 2048 512)
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
  spec.workers = 8;
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
    std::printf("|      n |    s | GB/s |    bound | compute |   load | published |  cake |\n");
    std::printf("|-------:|-----:|-----:|---------:|--------:|-------:|----------:|------:|\n");
    double sums[2] = {};
    double worst[2] = {};
    int rows = 0;
    for (const std::uint32_t n : {8192u, 32768u, 131072u}) {
      for (const std::uint32_t s : {128u, 1024u, 4096u}) {
        for (const double gb : {1.0, 3.0, 7.0, 12.0, 25.0, 50.0}) {
          const SimulationSpec spec = spec_of(n, s, gb, step);
          const Rates rates{kPerToken, kPerPosition, 131072 / (gb * 1e9), kLayers};
          const double bound = ttft_bounds(rates, n, s).lower;
          MeetOptions options;
          options.cost = spec.cost;
          const double published = ttft(spec, PublishedScheduler()) / bound;
          const double cake = ttft(spec, MeetInTheMiddleScheduler(options)) / bound;
          std::printf("| %6u | %4u | %4.0f | %8.1f | %7.2f | %6.2f | %9.2f | %5.2f |\n", n, s, gb,
                      bound * 1e3, ttft(spec, ComputeOnlyScheduler()) / bound,
                      ttft(spec, LoadOnlyScheduler()) / bound, published, cake);
          sums[0] += published;
          sums[1] += cake;
          worst[0] = std::max(worst[0], published);
          worst[1] = std::max(worst[1], cake);
          ++rows;
        }
      }
    }
    std::printf("\nmean: published %.3f, cake %.3f; worst: published %.2f, cake %.2f\n",
                sums[0] / rows, sums[1] / rows, worst[0], worst[1]);
  }
  return 0;
}
