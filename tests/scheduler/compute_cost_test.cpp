// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/compute_cost.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"

using namespace cake;

TEST_CASE("passes of at most a step each pay the overhead") {
  const ComputeCost cost{1e-3, 1e-5, 1e-9};
  CHECK(cost.pass(0, 100) == Approx(1e-3 + 1e-3 + 1e-5));
  CHECK(cost.passes(0, 100, 50) == Approx(cost.pass(0, 50) + cost.pass(50, 100)));
  CHECK(cost.passes(10, 11, 50) == Approx(cost.pass(10, 11)));
  CHECK(cost.passes(5, 5, 50) == 0);
}

TEST_CASE("right priors stay as they are") {
  const ComputeCost truth{1e-3, 2e-5, 3e-9};
  ComputeCostEstimator model(truth);
  for (std::uint32_t x = 0; x < 4096; x += 256) model.observe({x, x + 256}, truth.pass(x, x + 256));
  CHECK(model.current().per_token == Approx(truth.per_token));
  CHECK(model.current().per_position == Approx(truth.per_position));
}

TEST_CASE("a device that is ten times slower than thought is known after a few passes") {
  const ComputeCost truth{2e-3, 3e-4, 4e-8};
  ComputeCostEstimator model({2e-4, 3e-5, 4e-9});
  for (std::uint32_t x = 0; x < 1024; x += 256) model.observe({x, x + 256}, truth.pass(x, x + 256));
  CHECK(model.current().pass(1024, 1280) == Approx(truth.pass(1024, 1280)).epsilon(0.2));
}

TEST_CASE("a device that becomes busier is followed") {
  const ComputeCost idle{1e-4, 1e-5, 0};
  ComputeCostEstimator model(idle);
  for (int i = 0; i < 50; ++i) model.observe({0, 256}, idle.pass(0, 256));
  for (int i = 0; i < 10; ++i) model.observe({0, 256}, 3 * idle.pass(0, 256));
  CHECK(model.current().pass(0, 256) == Approx(3 * idle.pass(0, 256)).epsilon(0.15));
}

TEST_CASE("an overhead of which the prior knew nothing is found from passes of different sizes") {
  const ComputeCost truth{3.2e-3, 17.5e-6, 0.9e-9};  // a GPU; per token as the prior says
  ComputeCostEstimator model({1e-4, 17.5e-6, 0.9e-9});
  for (int prompt = 0; prompt < 3; ++prompt) {
    model.observe({0, 1024}, truth.pass(0, 1024));
    model.observe({1024, 1792}, truth.pass(1024, 1792));
    model.observe({8192, 8320}, truth.pass(8192, 8320));
  }
  CHECK(model.current().pass(1792, 2048) == Approx(truth.pass(1792, 2048)).epsilon(0.05));
  CHECK(model.current().overhead == Approx(truth.overhead).epsilon(0.2));
}

namespace {

struct Pass {
  TokenRange tokens;
  double slower = 1;
};

/// A prompt of full steps, a last one that is smaller, and the suffix behind a loaded stretch.
const std::vector<TokenRange> kPrompt = {
    {0, 512}, {512, 1024}, {1024, 1536}, {1536, 1792}, {2176, 2231}};
const ComputeCost kTruth{0.02, 1.2e-3, 2e-7};

std::vector<ComputeCost> priors() {
  return {kTruth, {0, 6.1e-3, 0}, {}, {2e-2, 1.2e-3, 4e-7}, {1e-9, 1e-9, 1e-15}, {0, 0, 0}};
}

double far_off(const ComputeCostEstimator& model, const ComputeCost& truth, double slower = 1) {
  double most = 0;
  for (const TokenRange& t : kPrompt) {
    const double wanted = slower * truth.pass(t.begin, t.end);
    most = std::max(most, std::abs(std::log(model.current().pass(t.begin, t.end) / wanted)));
  }
  return std::exp(most);
}

ComputeCostEstimator after_passes(const ComputeCost& prior, std::size_t n, std::size_t odd_one,
                                  double slower) {
  ComputeCostEstimator model(prior);
  for (std::size_t i = 0; i < n; ++i) {
    const TokenRange t = kPrompt[i % kPrompt.size()];
    model.observe(t, kTruth.pass(t.begin, t.end) * (i == odd_one ? slower : 1));
  }
  return model;
}

}  // namespace

TEST_CASE("one slow pass does not move what is known") {
  for (const ComputeCost& prior : priors()) {
    for (const double slower : {1.5, 3.0, 10.0, 1000.0, 0.3}) {
      for (std::size_t at = 3; at < 20; ++at) {
        CAPTURE(prior.overhead, prior.per_token, prior.per_position, slower, at);
        const ComputeCostEstimator without = after_passes(prior, at + 1, ~0ull, 1);
        const ComputeCostEstimator with = after_passes(prior, at + 1, at, slower);
        CHECK(far_off(with, kTruth) < 1.8 * far_off(without, kTruth));
        CHECK(far_off(after_passes(prior, at + 15, at, slower), kTruth) < 1.35);
      }
    }
  }
}

TEST_CASE("no coefficient falls to its floor for one slow pass of another size") {
  for (const ComputeCost& prior : priors()) {
    ComputeCostEstimator model(prior);
    for (const TokenRange t : {TokenRange{0, 512}, {512, 1024}, {1024, 1536}}) {
      model.observe(t, kTruth.pass(t.begin, t.end));
    }
    model.observe({1536, 1792}, 3 * kTruth.pass(1536, 1792));
    CHECK(model.current().overhead < 0.1);
    CHECK(model.current().per_token > 0.5 * kTruth.per_token);
    CHECK(model.current().pass(0, 128) == Approx(kTruth.pass(0, 128)).epsilon(0.4));
  }
}

TEST_CASE("a first pass that was slow, as first passes are, is forgotten after some more") {
  for (const ComputeCost& prior : priors()) {
    for (const double slower : {3.0, 30.0, 1000.0}) {
      CHECK(far_off(after_passes(prior, 20, 0, slower), kTruth) < 1.35);
    }
  }
}

TEST_CASE("a device that has another speed from now on is followed after some passes") {
  for (const ComputeCost& prior : priors()) {
    for (const double slower : {3.0, 10.0, 1 / 3.0}) {
      ComputeCostEstimator model = after_passes(prior, 15, ~0ull, 1);
      for (std::size_t i = 15; i < 20; ++i) {
        const TokenRange t = kPrompt[i % kPrompt.size()];
        model.observe(t, slower * kTruth.pass(t.begin, t.end));
      }
      CHECK(far_off(model, kTruth, slower) < 1.5);
    }
  }
}

TEST_CASE("a coefficient of which the prior says that it is nothing is found") {
  for (const ComputeCost& prior :
       {ComputeCost{0, 1.2e-3, 0}, ComputeCost{1e-3, 0, 0}, ComputeCost{0, 0, 1e-9}}) {
    const ComputeCostEstimator model = after_passes(prior, 30, ~0ull, 1);
    CHECK(far_off(model, kTruth) < 1.1);
    CHECK(model.current().overhead == Approx(kTruth.overhead).epsilon(0.7));
    CHECK(model.current().per_token == Approx(kTruth.per_token).epsilon(0.2));
    CHECK(model.current().per_position == Approx(kTruth.per_position).epsilon(0.5));
  }
}

TEST_CASE("passes that are off by a tenth, each in its own way, are averaged") {
  ComputeCostEstimator model;
  std::uint32_t x = 1;
  for (std::size_t i = 0; i < 60; ++i) {
    const TokenRange t = kPrompt[i % kPrompt.size()];
    x = x * 1664525u + 1013904223u;
    model.observe(t, kTruth.pass(t.begin, t.end) * (0.9 + 0.2 * (x >> 16) / 65536.0));
    if (i > 15) CHECK(far_off(model, kTruth) < 1.3);
  }
}

TEST_CASE("small passes that cost as much as larger ones are expected to") {
  // As much as 64 tokens; as much as 300, by a kernel that only small passes take.
  for (const double smallest : {64.0, 300.0}) {
    for (const bool told : {false, true}) {
      if (told && smallest > 64) continue;
      ComputeCostEstimator model({}, told ? 64 : 1);
      const auto truth = [&](TokenRange t) {
        ComputeCost cost = kTruth;
        if (t.size() < 64) cost.smallest = smallest;
        return cost.pass(t.begin, t.end);
      };
      for (int prompt = 0; prompt < 6; ++prompt) {
        for (const TokenRange t :
             {TokenRange{0, 512}, {512, 768}, {768, 896}, {2176, 2231}, {2176, 2200}}) {
          model.observe(t, truth(t));
        }
      }
      const ComputeCost cost = model.current();
      for (const TokenRange t : {TokenRange{2176, 2231}, {2176, 2200}, {0, 512}, {512, 768}}) {
        CAPTURE(smallest, t.begin, t.end);
        CHECK(cost.pass(t.begin, t.end) == Approx(truth(t)).epsilon(0.15));
      }
    }
  }
}

TEST_CASE("two sizes of passes are met whatever shape lies between them") {
  ComputeCostEstimator model;
  for (int prompt = 0; prompt < 6; ++prompt) {  // 55 tokens cost as much as 300
    for (const std::uint32_t x : {0u, 512u, 1024u})
      model.observe({x, x + 512}, kTruth.pass(x, x + 512));
    model.observe({2176, 2231}, kTruth.pass(2000, 2300));
  }
  CHECK(model.current().pass(2176, 2231) == Approx(kTruth.pass(2000, 2300)).epsilon(0.1));
  CHECK(model.current().pass(512, 1024) == Approx(kTruth.pass(512, 1024)).epsilon(0.1));
}

TEST_CASE("the last pass of several pays for the smallest step, too") {
  ComputeCost cost{1e-3, 1e-5, 0};
  cost.smallest = 64;
  CHECK(cost.pass(0, 10) == Approx(1e-3 + 64e-5));
  CHECK(cost.passes(0, 110, 100) == Approx(cost.pass(0, 100) + cost.pass(100, 110)));
  CHECK(cost.passes(0, 200, 100) == Approx(2 * cost.pass(0, 100)));
}

TEST_CASE("no value that a cost may be given is too much for arithmetic") {
  const double inf = std::numeric_limits<double>::infinity();
  for (const double v : {0.0, -1.0, 1e-300, 1e300, inf, -inf, std::nan("")}) {
    for (const ComputeCost& prior :
         {ComputeCost{v, 1e-5, 1e-9}, {1e-3, v, 1e-9}, {1e-3, 1e-5, v}, {v, v, v, v}}) {
      for (const std::uint32_t smallest : {0u, 1u, ~0u}) {
        ComputeCostEstimator model(prior, smallest);
        for (std::size_t i = 0; i < 25; ++i) {
          const TokenRange t = kPrompt[i % kPrompt.size()];
          CHECK(std::isfinite(model.current().pass(t.begin, t.end)));
          CHECK(model.current().pass(t.begin, t.end) > 0);
          model.observe(t, kTruth.pass(t.begin, t.end));
        }
      }
    }
  }
}

TEST_CASE("nonsense is not learned from") {
  ComputeCostEstimator model;
  const ComputeCost before = model.current();
  model.observe({0, 256}, 0);
  model.observe({0, 256}, -1);
  model.observe({0, 256}, std::numeric_limits<double>::infinity());
  model.observe({0, 256}, std::nan(""));
  model.observe({256, 256}, 1);
  CHECK_FALSE(model.measured());
  CHECK(model.current().per_token == before.per_token);
}
