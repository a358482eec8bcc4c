// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// simulate FIRST COUNT: seeded prefills with faults in virtual time. Prints the first failing seed
// and exits with 1; `simulate SEED 1 trace` replays one and prints its timeline.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cake/scheduler/meet_in_the_middle.hpp"
#include "random_spec.hpp"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: simulate FIRST_SEED COUNT [trace]\n");
    return 2;
  }
  const std::uint64_t first = std::strtoull(argv[1], nullptr, 10);
  const std::uint64_t count = std::strtoull(argv[2], nullptr, 10);
  std::uint64_t events = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const cake::SimulationSpec spec = cake::testing::wild_spec(seed);
    cake::MeetOptions options;
    // Every second prior is off by up to 30 in either direction.
    cake::testing::Random r(seed ^ 0x5eed);
    options.cost = spec.cost;
    if (r.chance(0.5)) options.cost.per_token *= r.scale(1 / 30.0, 30);
    const auto result = cake::simulate(spec, cake::MeetInTheMiddleScheduler(options));
    events += result.events;
    if (argc > 3) std::fputs(result.report.timeline().c_str(), stdout);
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
