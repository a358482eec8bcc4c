// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token of the schedules in virtual time, each over the lower bound of any schedule,
// side by side: Llama-3.1-8B at 400 TFLOP/s, chunks of 256 tokens, 1 ms per pass. "wide" is cake with an
// engine that takes the whole suffix in one gated step, in micro-batches of STEP_TOKENS.
//
//     schedules [STEP_TOKENS ...]        (default: 2048 512)
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "benchmarks/schedule_cells.hpp"
#include "cake/scheduler/baselines.hpp"

int main(int argc, char** argv) {
  using namespace cake;
  using namespace cake::benchmarks;
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
          const Cell cell{n, s, gb, step};
          const SimulationSpec takes_wide = cell.spec();
          SimulationSpec spec = takes_wide;
          spec.prefill.wide_gated_steps = false;
          const double bound = ttft_bounds(cell.rates(), n, s).lower;
          std::printf("| %6u | %4u | %4.0f | %8.1f | %7.2f | %6.2f | %9.2f | %5.2f | %5.2f |\n", n,
                      s, gb, bound * 1e3, ttft(spec, ComputeOnlyScheduler()) / bound,
                      ttft(spec, LoadOnlyScheduler()) / bound,
                      published.add(ttft(spec, PublishedScheduler()) / bound),
                      cake.add(ttft(spec, MeetInTheMiddleScheduler(cell.options())) / bound),
                      wide.add(ttft(takes_wide, MeetInTheMiddleScheduler(cell.options())) / bound));
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
