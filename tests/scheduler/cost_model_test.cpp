// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/cost_model.hpp"

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
  CostModel model(truth);
  for (std::uint32_t x = 0; x < 4096; x += 256) model.observe({x, x + 256}, truth.pass(x, x + 256));
  CHECK(model.current().per_token == Approx(truth.per_token));
  CHECK(model.current().per_position == Approx(truth.per_position));
}

TEST_CASE("a device that is ten times slower than thought is known after a few passes") {
  const ComputeCost truth{2e-3, 3e-4, 4e-8};
  CostModel model({2e-4, 3e-5, 4e-9});
  for (std::uint32_t x = 0; x < 1024; x += 256) model.observe({x, x + 256}, truth.pass(x, x + 256));
  CHECK(model.current().pass(1024, 1280) == Approx(truth.pass(1024, 1280)).epsilon(0.2));
}

TEST_CASE("a device that becomes busier is followed") {
  const ComputeCost idle{1e-4, 1e-5, 0};
  CostModel model(idle);
  for (int i = 0; i < 50; ++i) model.observe({0, 256}, idle.pass(0, 256));
  for (int i = 0; i < 10; ++i) model.observe({0, 256}, 3 * idle.pass(0, 256));
  CHECK(model.current().pass(0, 256) == Approx(3 * idle.pass(0, 256)).epsilon(0.15));
}

TEST_CASE("an overhead of which the prior knew nothing is found from passes of different sizes") {
  const ComputeCost truth{3.2e-3, 17.5e-6, 0.9e-9};  // a GPU; per token as the prior says
  CostModel model({1e-4, 17.5e-6, 0.9e-9});
  for (int prompt = 0; prompt < 3; ++prompt) {
    model.observe({0, 1024}, truth.pass(0, 1024));
    model.observe({1024, 1792}, truth.pass(1024, 1792));
    model.observe({8192, 8320}, truth.pass(8192, 8320));
  }
  CHECK(model.current().pass(1792, 2048) == Approx(truth.pass(1792, 2048)).epsilon(0.05));
  CHECK(model.current().overhead == Approx(truth.overhead).epsilon(0.2));
}

TEST_CASE("nonsense is not learned from") {
  CostModel model;
  const ComputeCost before = model.current();
  model.observe({0, 256}, 0);
  model.observe({0, 256}, -1);
  CHECK(model.current().per_token == before.per_token);
}
