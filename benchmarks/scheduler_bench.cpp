// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a scheduler's decisions cost. Whole runs in virtual time around a scheduler whose calls are
// timed one by one: `ns_per_decision` is their mean, the looks ahead that some of them make
// included; `begin_us` is begin() with the first decision, which makes the first look. The clock
// itself takes 20 to 30 ns of every call, and is not taken off.
//
//     scheduler_bench --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/testing/simulation.hpp"

namespace {

using namespace cake;
using Clock = std::chrono::steady_clock;

struct Spent {
  std::uint64_t calls = 0;
  Clock::duration all{0};
  Clock::duration begin{0};
  Clock::duration worst{0};
};

/// A scheduler that notes what another one takes.
template <Scheduler S>
class Timed {
 public:
  Timed(S scheduler, Spent& spent) : scheduler_(std::move(scheduler)), spent_(&spent) {}
  void begin(const PrefillSpec& prefill) {
    const auto start = Clock::now();
    scheduler_.begin(prefill);
    spent_->begin += Clock::now() - start;
  }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    const auto start = Clock::now();
    const Step step = scheduler_.next_step(view, budget, now);
    note(start);
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    const auto start = Clock::now();
    const auto load = scheduler_.next_load(view, lane, now);
    note(start);
    return load;
  }

 private:
  void note(Clock::time_point start) {
    const auto took = Clock::now() - start;
    if (first_) {
      first_ = false;
      spent_->begin += took;
      return;
    }
    ++spent_->calls;
    spent_->all += took;
    spent_->worst = std::max(spent_->worst, took);
  }
  S scheduler_;
  Spent* spent_;
  bool first_ = true;
};

/// A long prompt whose stored chunks take about as long to load as to compute; every second one is
/// absent if `half`.
SimulationSpec spec_of(std::uint32_t chunks, bool half, std::uint32_t lanes) {
  SimulationSpec spec;
  PrefillSpec& prefill = spec.prefill;
  prefill.chunk_tokens = 16;
  prefill.n_chunks = prefill.end_chunk = chunks;
  prefill.n_tokens = chunks * prefill.chunk_tokens + 7;
  prefill.n_layers = 32;
  prefill.n_lanes = lanes;
  prefill.max_step_tokens = 2048;
  prefill.head_bytes = 8192;
  prefill.layer_bytes = 65536;
  prefill.foot_bytes = 4096;
  spec.cost = {1e-3, 4e-5, 2e-10};
  const std::uint64_t size = prefill.read_bytes({0, prefill.n_layers});
  for (std::uint32_t c = 0; c < chunks; ++c) {
    // Runs of absent chunks are one to four long.
    const bool absent = half && (c * 2654435761u >> 16 & 7) < 4 && c + 1 != chunks;
    spec.stored.push_back(absent ? StoredChunk{} : StoredChunk{size, (1u << lanes) - 1});
  }
  const double bytes = static_cast<double>(size) * chunks * (half ? 0.5 : 1);
  for (std::uint32_t l = 0; l < lanes; ++l) {
    const double rate =
        bytes / spec.cost.passes(0, prefill.n_tokens, prefill.max_step_tokens) / lanes * (l + 1.0);
    spec.links.push_back({{{Time{0}, rate}}, std::chrono::microseconds(100)});
    spec.priors.push_back({rate, std::chrono::microseconds(100), Time{0}});
  }
  return spec;
}

template <class S>
void decisions(benchmark::State& state, const S& scheduler) {
  const SimulationSpec spec =
      spec_of(static_cast<std::uint32_t>(state.range(0)), state.range(1) != 0,
              static_cast<std::uint32_t>(state.range(2)));
  Spent spent;
  std::uint64_t runs = 0;
  for (auto _ : state) {
    Spent one;
    const auto result = simulate(spec, Timed<S>(scheduler, one));
    if (!result.violation.empty()) {
      state.SkipWithError(result.violation.c_str());
      return;
    }
    ++runs;
    spent.calls += one.calls;
    spent.all += one.all;
    spent.begin += one.begin;
    spent.worst += one.worst;
    state.SetIterationTime(std::chrono::duration<double>(one.all).count());
  }
  const auto mean = [](Clock::duration d, std::uint64_t n) {
    return std::chrono::duration<double>(d).count() /
           static_cast<double>(std::max<std::uint64_t>(1, n));
  };
  state.counters["ns_per_decision"] = 1e9 * mean(spent.all, spent.calls);
  state.counters["decisions"] = static_cast<double>(spent.calls) / static_cast<double>(runs);
  state.counters["begin_us"] = 1e6 * mean(spent.begin, runs);
  state.counters["worst_us"] = 1e6 * mean(spent.worst, runs);
}

void meet_in_the_middle(benchmark::State& state) {
  MeetOptions options;
  options.cost = spec_of(1, false, 1).cost;
  decisions(state, MeetInTheMiddleScheduler(options));
}
void published(benchmark::State& state) { decisions(state, PublishedScheduler()); }

}  // namespace

#define CAKE_GRID \
  ArgNames({"chunks", "half_absent", "lanes"})->ArgsProduct({{40, 1000, 62500}, {0, 1}, {1, 3}})
BENCHMARK(meet_in_the_middle)->CAKE_GRID->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(published)->CAKE_GRID->UseManualTime()->Unit(benchmark::kMicrosecond);

BENCHMARK_MAIN();
