// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// simulate FIRST COUNT: seeded prefills with faults in virtual time. Prints the first failing seed
// and exits with 1; `simulate SEED 1 trace` replays one and prints its steps, loads and timeline.
// `simulate FIRST COUNT layouts [trace]`: the same with random layouts: planes of any width, windows
// and states. `simulate FIRST COUNT [layouts] wide [trace]`: the same of engines that take wide steps.
// `simulate 0 10000 [layouts] [wide]` and more also checks the mean time of the first 10,000.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

void print(const cake::PrefillReport& report) {
  using cake::PrefillReport;
  for (const cake::StepReport& step : report.steps) {
    std::printf("step [%u,%u) %.6f-%.6f%s%s\n", step.tokens.begin, step.tokens.end,
                PrefillReport::seconds_of(step.issued), PrefillReport::seconds_of(step.ended),
                step.gated ? " gated" : "", step.voided ? " void" : "");
  }
  for (const cake::LoadReport& load : report.loads) {
    std::printf("load chunk %u layers [%u,%u) lane %u %.6f-%.6f-%.6f %s\n", load.slice.chunk,
                load.slice.layers.begin, load.slice.layers.end, load.lane,
                PrefillReport::seconds_of(load.issued), PrefillReport::seconds_of(load.landed),
                PrefillReport::seconds_of(load.resident),
                std::string(to_string(load.outcome)).c_str());
  }
  std::fputs(report.timeline().c_str(), stdout);
}

/// How long runs took beside the better baseline, and beside their limits.
class Times {
 public:
  explicit Times(cake::testing::MeanTime mean) : mean_(mean) {}

  /// False: the first 10,000 seeds are slower than they were.
  bool add(std::uint64_t first, std::uint64_t seed, const cake::testing::Against& against) {
    mean_.add(against);
    if (against.better > 0) slacks_.push_back(against.slack);
    const bool all = first == 0 && seed + 1 == cake::testing::MeanTime::kSeedsOfMean;
    if (!all || mean_.check().empty()) return true;
    std::printf("seeds 0 to %llu: %s\n", static_cast<unsigned long long>(seed),
                mean_.check().c_str());
    return false;
  }
  void print() {
    if (slacks_.empty()) return;
    std::sort(slacks_.begin(), slacks_.end());
    const auto quantile = [&](double q) {
      return slacks_[static_cast<std::size_t>(q * static_cast<double>(slacks_.size() - 1))];
    };
    std::printf(
        "TTFT over the better baseline's: geometric mean %.4f, above 1.1 in %.4f of the runs\n",
        mean_.mean(), mean_.slower());
    std::printf("limit over TTFT: least %.2f, p10 %.2f, median %.2f, p90 %.2f\n", quantile(0),
                quantile(0.1), quantile(0.5), quantile(0.9));
  }

 private:
  cake::testing::MeanTime mean_;
  std::vector<double> slacks_;
};

struct Mode {
  bool layouts = false;
  bool wide = false;
  bool trace = false;
};

cake::testing::MeanTime mean_of(const Mode& mode) {
  using cake::testing::MeanTime;
  if (mode.wide) return mode.layouts ? MeanTime::of_wide_layouts() : MeanTime::of_wide();
  return mode.layouts ? MeanTime::of_layouts() : MeanTime();
}

/// What many runs had together.
struct Sums {
  std::uint64_t events = 0;
  std::uint64_t extended = 0;
  std::uint64_t lost_loads = 0;
};

/// run(seed, against, wide) for each seed, up to the first that breaks a rule. False: one did, and it was told.
template <class Run>
bool all_keep_rules(Run run, std::uint64_t first, std::uint64_t count, const Mode& mode,
                    Times& times, Sums& sums) {
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    cake::testing::Against against;
    const cake::SimulationResult result = run(seed, &against, mode.wide);
    sums.events += result.events;
    sums.extended += result.report.chunks_extended;
    sums.lost_loads += result.lost_loads;
    if (mode.trace) print(result.report);
    if (!result.violation.empty()) {
      const auto number = static_cast<unsigned long long>(seed);
      std::printf("seed %llu: %s\nreplay: simulate %llu 1 %s%strace\n", number,
                  result.violation.c_str(), number, mode.layouts ? "layouts " : "",
                  mode.wide ? "wide " : "");
      return false;
    }
    if (!times.add(first, seed, against)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: simulate FIRST_SEED COUNT [layouts] [wide] [trace]\n");
    return 2;
  }
  const std::uint64_t first = std::strtoull(argv[1], nullptr, 10);
  const std::uint64_t count = std::strtoull(argv[2], nullptr, 10);
  Mode mode;
  for (int i = 3; i < argc; ++i) {
    mode.layouts = mode.layouts || std::string(argv[i]) == "layouts";
    mode.wide = mode.wide || std::string(argv[i]) == "wide";
    mode.trace = mode.trace || std::string(argv[i]) == "trace";
  }
  Times times{mean_of(mode)};
  Sums sums;
  if (!all_keep_rules(mode.layouts ? cake::testing::mixed_run : cake::testing::wild_run, first,
                      count, mode, times, sums)) {
    return 1;
  }
  std::printf("%llu prefills%s, %llu events, every rule kept",
              static_cast<unsigned long long>(count), mode.layouts ? " with random layouts" : "",
              static_cast<unsigned long long>(sums.events));
  if (mode.layouts) {
    std::printf(
        "; windows or states of %llu chunks read after all, %llu loaded chunks computed for want "
        "of them",
        static_cast<unsigned long long>(sums.extended),
        static_cast<unsigned long long>(sums.lost_loads));
  }
  std::printf("\n");
  times.print();
  return 0;
}
