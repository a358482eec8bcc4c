// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token where links and device change while a prompt runs, in virtual time, over the least that
// any schedule could take which knew the change beforehand.
//
//     schedule_changes
//
// Traces: every 50 ms the link gets another rate, evenly distributed between nothing and twice the mean; 50 traces
// for each row. Changes: half of the time that the prompt would have taken has passed when the link falls to a
// tenth, when the prompt is left a quarter of the device, or when the link carries nothing any more; the last one
// over that half and the time in which all is computed.
#include <cstdint>
#include <cstdio>
#include <random>

#include "benchmarks/schedule_cells.hpp"
#include "cake/scheduler/baselines.hpp"

namespace {

using namespace cake;
using namespace cake::benchmarks;

constexpr int kTraces = 50;

/// Least TTFT of any schedule on this link and device, one pass to be started.
double clairvoyant(const Cell& cell, const SimulationSpec& spec) {
  const Rates rates = cell.rates();
  const double suffix = rates.compute(cell.n, cell.n + cell.s) + cell.cost().overhead;
  return detail::minimax(
      cell.n,
      [&](double k) {
        return to_seconds(spec.device.passed(Time{0}, rates.compute(0, k) + suffix));
      },
      [&](double k) {
        return to_seconds(spec.links[0].passed(Time{0}, kBytesPerToken * (cell.n - k)));
      });
}

std::vector<std::pair<Time, double>> random_trace(std::uint32_t seed, double mean) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> rate(0, 2 * mean);
  std::vector<std::pair<Time, double>> trace;
  for (int i = 0; i < 400; ++i) trace.emplace_back(std::chrono::milliseconds(50 * i), rate(random));
  return trace;
}

void traces(std::uint32_t step) {
  std::printf("| n | s | GB/s | published | load only | cake | cake, worst trace |\n");
  std::printf("|--:|--:|-----:|----------:|----------:|-----:|------------------:|\n");
  Ratios all, all_published;
  for (const std::uint32_t n : {8192u, 32768u, 131072u}) {
    for (const std::uint32_t s : {128u, 1024u, 4096u}) {
      for (const double gb : {3.0, 7.0, 12.0, 25.0}) {
        const Cell cell{n, s, gb, step};
        Ratios published, load, cake;
        for (int i = 0; i < kTraces; ++i) {
          SimulationSpec spec = cell.spec();
          spec.links[0].trace = random_trace(static_cast<std::uint32_t>(i), gb * 1e9);
          const double bound = clairvoyant(cell, spec);
          published.add(ttft(spec, PublishedScheduler()) / bound);
          load.add(ttft(spec, LoadOnlyScheduler()) / bound);
          cake.add(ttft(spec, MeetInTheMiddleScheduler(cell.options())) / bound);
        }
        all.add(cake.mean());
        all_published.add(published.mean());
        std::printf("| %6u | %4u | %2.0f | %.3f | %.3f | %.3f | %.2f |\n", n, s, gb,
                    published.mean(), load.mean(), cake.mean(), cake.worst());
      }
    }
  }
  std::printf(
      "\ntraces, step %u: published %.3f, cake %.3f; worst row: published %.2f, cake %.3f\n\n",
      step, all_published.mean(), all.mean(), all_published.worst(), all.worst());
}

void changes(std::uint32_t step) {
  std::printf(
      "| n | s | GB/s | link to a tenth: published | cake | device to a quarter: published | cake "
      "| "
      "link dies: published | cake |\n");
  std::printf("|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  Ratios slow_link, slow_device, dead;
  for (const std::uint32_t n : {8192u, 32768u, 131072u}) {
    for (const std::uint32_t s : {128u, 1024u, 4096u}) {
      for (const double gb : {3.0, 7.0, 12.0, 25.0}) {
        const Cell cell{n, s, gb, step};
        const SimulationSpec steady = cell.spec();
        const auto run = [&](const SimulationSpec& spec, Ratios& ratios) {
          const double bound = clairvoyant(cell, spec);
          std::printf(" %.3f |", ttft(spec, PublishedScheduler()) / bound);
          std::printf(" %.3f |",
                      ratios.add(ttft(spec, MeetInTheMiddleScheduler(cell.options())) / bound));
        };
        const Time half = from_seconds(ttft(steady, MeetInTheMiddleScheduler(cell.options())) / 2);
        std::printf("| %6u | %4u | %2.0f |", n, s, gb);
        SimulationSpec spec = steady;
        spec.links[0].trace.emplace_back(half, gb * 1e8);
        run(spec, slow_link);
        spec = steady;
        spec.device.trace.emplace_back(half, 0.25);
        run(spec, slow_device);
        spec = steady;
        spec.links[0].trace.emplace_back(half, 0);
        const double all = to_seconds(half) + ttft(steady, ComputeOnlyScheduler());
        std::printf(" %.3f |", ttft(spec, PublishedScheduler()) / all);
        std::printf(" %.3f |",
                    dead.add(ttft(spec, MeetInTheMiddleScheduler(cell.options())) / all));
        std::printf("\n");
      }
    }
  }
  std::printf(
      "\nchanges, step %u: link to a tenth %.3f, worst %.3f; device to a quarter %.3f, worst %.3f; "
      "link dies %.3f, worst %.3f\n\n",
      step, slow_link.mean(), slow_link.worst(), slow_device.mean(), slow_device.worst(),
      dead.mean(), dead.worst());
}

}  // namespace

int main() {
  for (const std::uint32_t step : {2048u, 512u}) {
    traces(step);
    changes(step);
  }
  return 0;
}
