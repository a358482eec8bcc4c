// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// simulate FIRST COUNT: seeded prefills with faults in virtual time. Prints the first failing seed
// and exits with 1; `simulate SEED 1 trace` replays one and prints its steps, loads and timeline.
#include <cstdio>
#include <cstdlib>

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

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: simulate FIRST_SEED COUNT [trace]\n");
    return 2;
  }
  const std::uint64_t first = std::strtoull(argv[1], nullptr, 10);
  const std::uint64_t count = std::strtoull(argv[2], nullptr, 10);
  std::uint64_t events = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const cake::SimulationResult result = cake::testing::wild_run(seed);
    events += result.events;
    if (argc > 3) print(result.report);
    if (!result.violation.empty()) {
      std::printf("seed %llu: %s\nreplay: simulate %llu 1 trace\n",
                  static_cast<unsigned long long>(seed), result.violation.c_str(),
                  static_cast<unsigned long long>(seed));
      return 1;
    }
  }
  std::printf("%llu prefills, %llu events, every rule kept\n",
              static_cast<unsigned long long>(count), static_cast<unsigned long long>(events));
  return 0;
}
