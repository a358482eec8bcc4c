// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token over the lower bound, over a whole grid in virtual time: prompts of 2 k to 1 M stored
// tokens and 1 to 8,192 new ones, links of 0.3 to 100 GB/s, and a share of the device from 1 down to 1/20.
// The bound knows that one pass has to be started, and nothing of chunks, passes and latency besides.
//
//     schedule_grid [--cells] [STEP_TOKENS ...]      (default: 512 2048 8192; --cells: a line for each)
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "benchmarks/schedule_cells.hpp"
#include "cake/scheduler/baselines.hpp"

namespace {

using namespace cake;
using namespace cake::benchmarks;

/// Least TTFT of any schedule that starts at least one pass.
double bound_of(const Cell& cell) {
  const Rates rates = cell.rates();
  const double suffix = rates.compute(cell.n, cell.n + cell.s) + cell.cost().overhead;
  return detail::minimax(
      cell.n, [&](double k) { return rates.compute(0, k) + suffix; },
      [&](double k) { return rates.load_per_token * (cell.n - k); });
}

/// What one share and step come to.
struct Summary {
  Ratios published, narrow, cake;       // from 8 k on
  Ratios short_ones;                    // cake, 2 k
  double over_better = 0;               // worst, of the better baseline
  Cell worst, worst_short, worst_over;  // where
};

void add(Summary& sum, const Cell& cell, bool lines) {
  const SimulationSpec wide = cell.spec();
  SimulationSpec narrow = wide;
  narrow.prefill.wide_gated_steps = false;
  const double bound = bound_of(cell);
  const double better =
      std::min(ttft(narrow, ComputeOnlyScheduler()), ttft(narrow, LoadOnlyScheduler())) / bound;
  const double published = ttft(narrow, PublishedScheduler()) / bound;
  const double without = ttft(narrow, MeetInTheMiddleScheduler(cell.options())) / bound;
  const double with = ttft(wide, MeetInTheMiddleScheduler(cell.options())) / bound;
  const bool small = cell.n < 8192;
  Ratios& ratios = small ? sum.short_ones : sum.cake;
  if (with > ratios.worst()) (small ? sum.worst_short : sum.worst) = cell;
  ratios.add(with);
  if (!small) {
    sum.published.add(published);
    sum.narrow.add(without);
  }
  if (std::max(with, without) / better > sum.over_better) {
    sum.over_better = std::max(with, without) / better;
    sum.worst_over = cell;
  }
  if (lines) {
    std::printf(
        "%7u %5u %5.1f %5u %5.3f: bound %10.2f ms, better baseline %6.3f, published %6.3f, cake "
        "%6.3f, "
        "wide %6.3f\n",
        cell.n, cell.s, cell.gigabytes, cell.step, cell.share, bound * 1e3, better, published,
        without, with);
  }
}

void print(const char* what, double ratio, const Cell& cell) {
  std::printf(" %s %.3f (%u + %u, %g GB/s)", what, ratio, cell.n, cell.s, cell.gigabytes);
}

}  // namespace

int main(int argc, char** argv) {
  bool lines = false;
  std::vector<std::uint32_t> steps;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--cells") {
      lines = true;
      continue;
    }
    steps.push_back(static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10)));
    if (steps.back() == 0) {
      std::fprintf(stderr, "usage: schedule_grid [--cells] [STEP_TOKENS ...]\n");
      return 2;
    }
  }
  if (steps.empty()) steps = {512, 2048, 8192};
  for (const std::uint32_t step : steps) {
    for (const double share : {1.0, 0.5, 0.25, 0.125, 0.05}) {
      Summary sum;
      for (const std::uint32_t n : {2048u, 8192u, 32768u, 131072u, 1048576u}) {
        for (const std::uint32_t s : {1u, 128u, 1024u, 4096u, 8192u}) {
          for (const double gb : {0.3, 1.0, 3.0, 7.0, 12.0, 25.0, 50.0, 100.0}) {
            add(sum, {n, s, gb, step, share}, lines);
          }
        }
      }
      std::printf(
          "step %u, share %g: published %.3f, worst %.2f; cake %.3f, worst %.2f; wide %.3f,", step,
          share, sum.published.geometric_mean(), sum.published.worst(), sum.narrow.geometric_mean(),
          sum.narrow.worst(), sum.cake.geometric_mean());
      print("worst", sum.cake.worst(), sum.worst);
      print("; 2 k: worst", sum.short_ones.worst(), sum.worst_short);
      print("; over the better baseline", sum.over_better, sum.worst_over);
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  return 0;
}
