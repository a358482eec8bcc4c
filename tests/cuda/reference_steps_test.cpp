// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Steps in flight on the CUDA backend: behind gates, behind each other, waited for late, or moved.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cake/testing/check_engine.hpp"
#include "reference_cuda_engine.hpp"

using namespace tiny;

TEST_CASE(
    "reference model on the GPU: a gated step takes KV layer by layer, and is what an ungated one "
    "is") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(200);
  CudaBackend whole(weights);
  REQUIRE(run_range(whole, prompt, {0, 128}).has_value());
  REQUIRE(run_range(whole, prompt, {128, 200}).has_value());
  CudaBackend engine(weights);
  for (int round = 0; round < 3; ++round) {  // launched, captured, replayed
    engine.clear();
    Gate gate;
    gate.before = [&](std::uint32_t layer) {  // this layer's KV comes only now
      Buffer buffer(engine.layout(), {0, {0, 128}, {layer, layer + 1}});
      REQUIRE(whole.extract(buffer.slice, buffer.view()).has_value());
      REQUIRE(engine.insert(buffer.slice, buffer.read()).wait().has_value());
    };
    CAPTURE(round);
    REQUIRE(run_range(engine, prompt, {128, 200}, LayerGate(gate, 42)).has_value());
    CHECK(gate.layers == std::vector<std::uint32_t>{0, 1, 2});
    CHECK(logits_of(engine) == logits_of(whole));
    CHECK(same(kv_of(engine, 200), kv_of(whole, 200)));
  }
}

TEST_CASE(
    "reference model on the GPU: a wide step goes through each layer in micro-batches, with the "
    "bits "
    "of ungated steps") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(500);
  CudaBackend steps(weights);
  REQUIRE(run_range(steps, prompt, {0, 128}).has_value());
  for (std::uint32_t at = 128; at < 500; at += 96) {
    REQUIRE(run_range(steps, prompt, {at, std::min(at + 96, 500u)}).has_value());
  }
  CudaBackend engine(weights, {.max_step_tokens = 96});
  for (int round = 0; round < 3; ++round) {  // launched, captured, replayed
    engine.clear();
    Gate gate;
    gate.before = [&](std::uint32_t layer) {  // this layer's KV comes only now
      Buffer buffer(engine.layout(), {0, {0, 128}, {layer, layer + 1}});
      REQUIRE(steps.extract(buffer.slice, buffer.view()).has_value());
      REQUIRE(engine.insert(buffer.slice, buffer.read()).wait().has_value());
    };
    CAPTURE(round);
    REQUIRE(run_range(engine, prompt, {128, 500}, LayerGate(gate, 42)).has_value());
    CHECK(gate.layers == std::vector<std::uint32_t>{0, 1, 2});
    CHECK(logits_of(engine) == logits_of(steps));
    CHECK(same(kv_of(engine, 500), kv_of(steps, 500)));
  }
}

TEST_CASE("reference model on the GPU: the kit's check of wide steps finds nothing wrong") {
  CAKE_NEEDS_GPU();
  CudaBackend engine(upload(), {.max_step_tokens = 64});
  for (const std::string& failure : cake::testing::check_wide_steps(engine, prompt_of(300), 64)) {
    FAIL_CHECK(failure);
  }
}

TEST_CASE(
    "reference model on the GPU: a step whose gate closes is superseded, and can be done again") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(90);
  CudaBackend whole(weights), engine(weights);
  REQUIRE(run_range(whole, prompt, {0, 90}).has_value());
  for (int round = 0; round < 3; ++round) {
    for (const std::uint32_t closed_at : {0u, 1u, 2u}) {
      Gate gate;
      gate.closed_at = closed_at;
      CHECK(run_range(engine, prompt, {0, 90}, LayerGate(gate, 1)).code() == Errc::superseded);
      CHECK(gate.layers.size() == closed_at + 1);
      CHECK(engine.logits().empty());
      CHECK(engine.position() == 0);
    }
    REQUIRE(run_range(engine, prompt, {0, 90}).has_value());
    CHECK(logits_of(engine) == logits_of(whole));
  }
}

TEST_CASE(
    "reference model on the GPU: logits come with the pass that ends the prompt, once it was "
    "waited for") {
  CAKE_NEEDS_GPU();
  const auto prompt = prompt_of(20);
  CudaBackend engine(upload());
  REQUIRE(run_range(engine, prompt, {0, 19}).has_value());
  CHECK(engine.logits().empty());
  CHECK(engine.decode(1).code() == Errc::invalid_argument);
  {
    auto pass = engine.prefill(prompt, {19, 20});
    CHECK(engine.logits().empty());
    while (!pass.ready()) {
    }
    CHECK(pass.wait_for(std::chrono::seconds(1)));
    CHECK(engine.logits().empty());
    REQUIRE(pass.wait().has_value());
    CHECK(engine.logits().size() == 80);
  }
  { const auto dropped = engine.prefill(prompt, {19, 20}); }
  CHECK(engine.logits().empty());
  REQUIRE(run_range(engine, prompt, {19, 20}).has_value());
  CHECK(engine.logits().size() == 80);
  engine.clear();
  CHECK(engine.logits().empty());
  CHECK(run_range(engine, prompt, {19, 20}).code() == Errc::invalid_argument);  // KV is gone
}

TEST_CASE("reference model on the GPU: a prompt behind another one in flight gets its own tokens") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto first = prompt_of(256, 1), second = prompt_of(256, 2);
  CudaBackend fresh(weights), engine(weights);
  REQUIRE(run_range(fresh, first, {0, 256}).has_value());
  const auto first_logits = logits_of(fresh);
  fresh.clear();
  REQUIRE(run_range(fresh, second, {0, 256}).has_value());
  const auto second_logits = logits_of(fresh);
  for (int round = 0; round < 5; ++round) {
    auto a = engine.prefill(first, {0, 256});
    auto b = engine.prefill(second, {0, 256});
    REQUIRE(a.wait().has_value());
    CHECK(engine.logits().empty());  // another prompt was begun since
    REQUIRE(b.wait().has_value());
    CHECK(logits_of(engine) == second_logits);
  }
  REQUIRE(run_range(engine, first, {0, 256}).has_value());
  CHECK(logits_of(engine) == first_logits);
}

TEST_CASE("reference model on the GPU: backends are moved without losing anything") {
  CAKE_NEEDS_GPU();
  const auto prompt = prompt_of(30);
  CudaBackend engine(upload());
  auto pass = engine.prefill(prompt, {0, 30});
  CudaBackend moved(std::move(engine));
  REQUIRE(pass.wait().has_value());
  const TokenId next = moved.argmax();
  CHECK(next >= 0);
  CHECK(moved.decode(next).has_value());
}
