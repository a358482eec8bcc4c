// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Conformance kit for schedulers: tests the rules that a concept cannot express. Needs no test
// framework.
//
//     for (const std::string& failure : cake::testing::check_scheduler<MyScheduler>([] { return MyScheduler(); }))
//       std::puts(failure.c_str());
//
// An empty list means that no tested rule was broken.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cake/detail/check_support.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/testing/simulation.hpp"

namespace cake::inline CAKE_ABI::testing {

/// Tries a scheduler in virtual time: steady and broken links, holes, faults. `make` gives a fresh
/// one.
template <Scheduler S>
Failures check_scheduler(const std::function<S()>& make, std::uint64_t runs = 200) {
  Failures failures;
  for (std::uint64_t seed = 1; seed <= runs; ++seed) {
    std::vector<std::byte> noise(16);
    detail::kit::fill(noise, seed);
    const auto pick = [&](std::size_t i, std::uint32_t n) {
      return std::to_integer<std::uint32_t>(noise[i]) % n;
    };
    SimulationSpec spec;
    spec.prefill.chunk_tokens = 32;
    spec.prefill.n_tokens = 33 + 32 * pick(0, 40) + pick(1, 32);
    spec.prefill.n_chunks = spec.prefill.end_chunk = (spec.prefill.n_tokens - 1) / 32;
    spec.prefill.n_layers = 1 + pick(2, 8);
    spec.prefill.may_gate = pick(3, 2) == 0;
    spec.prefill.max_step_tokens = 64u << pick(4, 4);
    spec.prefill.head_bytes = 8192;
    spec.prefill.layer_bytes = 65536;
    spec.prefill.foot_bytes = 4096;
    const std::uint64_t size = spec.prefill.read_bytes({0, spec.prefill.n_layers});
    const double computing =
        spec.cost.passes(0, spec.prefill.n_tokens, spec.prefill.max_step_tokens);
    SimulatedLink link;
    link.trace[0].second =
        static_cast<double>(size) * spec.prefill.end_chunk / computing * (0.1 + pick(5, 40) / 10.0);
    link.latency = std::chrono::microseconds(pick(6, 200));
    spec.links = {link};
    spec.priors = {{link.trace[0].second * (0.2 + pick(7, 20) / 10.0), link.latency, Time{0}}};
    for (std::uint32_t c = 0; c < spec.prefill.end_chunk; ++c) {
      const std::uint32_t dice = pick(8 + c % 8, 256) + c * 37;
      spec.stored.push_back({dice % 7 == 0 && c + 1 != spec.prefill.end_chunk ? 0 : size, 1});
      spec.faults.push_back(dice % 11 == 0 ? static_cast<SimulatedFault>(1 + dice % 4)
                                           : SimulatedFault::none);
    }
    const SimulationResult result = simulate(spec, make());
    if (!result.violation.empty())
      failures.push_back("scheduler, run " + std::to_string(seed) + ": " + result.violation);
  }
  return failures;
}

}  // namespace cake::inline CAKE_ABI::testing
