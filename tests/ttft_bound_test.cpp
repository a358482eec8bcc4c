// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
// Expected values: t_comp, t_load, t_a, t_b and t_lb of an independent Python model of the same
// schedules (bisection there is a closed form), Llama-3.1-8B at 400 TFLOP/s.
#include "cake/ttft_bound.hpp"

#include "catch.hpp"

using namespace cake;

namespace {
Rates llama(double gigabytes_per_second) {
  return {3.489660928e-05, 6.5536e-10, 131072 / (gigabytes_per_second * 1e9), 32};
}
}  // namespace

TEST_CASE("bounds agree with an independent model") {
  struct Row {
    double n, s, gb, compute, load, published, pipelined, lower, meet;
  };
  const Row rows[] = {
      {8192, 1024, 7, 0.37726992728064, 0.20080812809069715, 0.14899584671870947,
       0.11822598955005673, 0.11723818664051665, 1957.1856931262475},
      {32768, 128, 25, 1.8571545962086398, 0.18177375338496, 0.16071503451307728,
       0.15217098154795053, 0.15189548251979926, 3803.144639078043},
      {131072, 4096, 3, 16.69058650963968, 6.5842421309986126, 4.351789932098187,
       3.7771054707132037, 3.758805359229713, 45234.33349335869},
      {8192, 4096, 50, 0.52776558133248, 0.21938692947968, 0.21790116143624072, 0.19858318163968,
       0.19791209299968, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.n, row.s, row.gb);
    const Bounds b = ttft_bounds(llama(row.gb), row.n, row.s);
    CHECK(b.compute_only == Approx(row.compute).epsilon(1e-9));
    CHECK(b.load_only == Approx(row.load).epsilon(1e-9));
    CHECK(b.published == Approx(row.published).epsilon(1e-9));
    // The closed form leaves out that one layer's loads come before the whole pass, which decides
    // where little is left to load.
    CHECK(b.pipelined <= row.pipelined * (1 + 1e-9));
    CHECK(b.pipelined == Approx(row.pipelined).epsilon(1e-5));
    CHECK(b.lower == Approx(row.lower).epsilon(1e-9));
    if (row.meet > 0) CHECK(b.meet == Approx(row.meet).margin(1e-3));
  }
}

TEST_CASE("no schedule is under the lower bound, and the published one is at most twice it") {
  for (double n : {100.0, 5e3, 2e5}) {
    for (double s : {1.0, 300.0, 9e3}) {
      for (double gb : {0.1, 3.0, 80.0}) {
        const Bounds b = ttft_bounds(llama(gb), n, s);
        CHECK(b.lower <= b.pipelined * (1 + 1e-9));
        CHECK(b.pipelined <= b.published * (1 + 1e-9));
        CHECK(b.published <= 2 * b.lower * (1 + 1e-9));
      }
    }
  }
}

TEST_CASE("the first step of a long suffix hides less than all of it") {
  const Bounds whole = ttft_bounds(llama(7), 8192, 4096);
  const Bounds steps = ttft_bounds(llama(7), 8192, 4096, 512);
  CHECK(whole.pipelined <= steps.pipelined);
  CHECK(steps.pipelined <= steps.published);
}

TEST_CASE(
    "the least time of a run is the lower bound, with what cannot be loaded and what a pass "
    "costs") {
  for (const double gb : {0.1, 3.0, 80.0}) {
    Rates r = llama(gb);
    CHECK(least_time(r, 8192, 1024) == Approx(ttft_bounds(r, 8192, 1024).lower));
    CHECK(least_time(r, 8192, 1024, 0, 8192) == Approx(r.compute(0, 9216)));
    CHECK(least_time(r, 8192, 1024, 8192) == Approx(r.compute(8192, 9216)));
    CHECK(least_time(r, 8192, 1024, 4096) <= least_time(r, 8192, 1024) * (1 + 1e-9));
    double before = 0;
    for (const double absent : {0.0, 1000.0, 5000.0, 8192.0, 1e9}) {
      CHECK(least_time(r, 8192, 1024, 0, absent) >= before);
      before = least_time(r, 8192, 1024, 0, absent);
    }
    r.overhead = 1e-3;
    const double one_pass = least_time(r, 8192, 1024);
    r.step_tokens = 256;
    CHECK(least_time(r, 8192, 1024) > one_pass);
    CHECK(least_time(r, 8192, 1024, 0, 8192) == Approx(r.compute(0, 9216) + 36 * 1e-3));
  }
}
