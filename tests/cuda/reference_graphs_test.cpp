// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Steps as graphs: captured, replayed, dropped and prepared steps give what launched ones give.
#include <cstdint>
#include <vector>

#include "reference_cuda_engine.hpp"

using namespace tiny;

TEST_CASE("reference model on the GPU: captured steps give what launched ones give, bit for bit") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  CudaBackend launched(weights, {.max_graphs = 0}), captured(weights);
  for (int round = 0; round < 4; ++round) {  // launched, captured, replayed at other positions
    const auto prompt = prompt_of(64 * 5 + 17, static_cast<unsigned>(round));
    launched.clear();
    captured.clear();
    REQUIRE(run_in_steps(launched, prompt, 64).has_value());
    REQUIRE(run_in_steps(captured, prompt, 64).has_value());
    CAPTURE(round);
    REQUIRE(logits_of(captured) == logits_of(launched));
    REQUIRE(same(kv_of(captured, size_of_prompt(prompt)), kv_of(launched, size_of_prompt(prompt))));
    for (int i = 0; i < 3; ++i) {
      const TokenId next = launched.argmax();
      REQUIRE(launched.decode(next).has_value());
      REQUIRE(captured.decode(next).has_value());
      REQUIRE(logits_of(captured) == logits_of(launched));
    }
  }
}

TEST_CASE("reference model on the GPU: graphs that were dropped for others are captured again") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(300);
  CudaBackend launched(weights, {.max_graphs = 0}), captured(weights, {.max_graphs = 2});
  for (int round = 0; round < 3; ++round) {
    launched.clear();
    captured.clear();
    std::vector<CudaPass> passes;  // all in flight, among them those of graphs that are gone
    std::uint32_t at = 0;
    for (const std::uint32_t size : {5u, 6u, 7u, 5u, 6u, 7u, 50u, 5u, 209u}) {
      passes.push_back(captured.prefill(prompt, {at, at + size}));
      REQUIRE(run_range(launched, prompt, {at, at + size}).has_value());
      at += size;
    }
    REQUIRE(at == 300);
    for (CudaPass& pass : passes) REQUIRE(pass.wait().has_value());
    CAPTURE(round);
    CHECK(logits_of(captured) == logits_of(launched));
    CHECK(same(kv_of(captured, 300), kv_of(launched, 300)));
  }
}

TEST_CASE(
    "reference model on the GPU: the same steps give the same bits, in any pages, every time") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(500);
  CudaBackend engine(weights), other(weights, {.page_tokens = 64, .shuffle_pages = 11});
  REQUIRE(run_in_steps(engine, prompt, 128).has_value());
  const auto logits = logits_of(engine);
  const Buffer kv = kv_of(engine, 500);
  for (int round = 0; round < 3; ++round) {
    engine.clear();
    REQUIRE(run_in_steps(engine, prompt, 128).has_value());
    CHECK(logits_of(engine) == logits);
    CHECK(same(kv_of(engine, 500), kv));
  }
  REQUIRE(run_in_steps(other, prompt, 128).has_value());
  CHECK(logits_of(other) == logits);
  CHECK(same(kv_of(other, 500), kv));
}

TEST_CASE(
    "reference model on the GPU: a prepared backend forgets KV and keeps its answer within "
    "rounding") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(300);
  CudaBackend plain(weights), prepared(weights);
  REQUIRE(run_in_steps(plain, prompt, 128).has_value());
  REQUIRE(run_in_steps(prepared, prompt, 128).has_value());
  const std::vector<std::uint32_t> sizes = {128, 44, 1};
  REQUIRE(prepared.prepare(sizes).has_value());
  CHECK(prepared.logits().empty());
  CHECK(run_range(prepared, prompt, {128, 256}).code() == Errc::invalid_argument);
  for (int round = 0; round < 2; ++round) {
    REQUIRE(run_in_steps(prepared, prompt, 128).has_value());
    CHECK(difference(prepared.logits(), plain.logits()) < kLogitsTolerance);
    prepared.clear();
  }
  const std::vector<std::uint32_t> too_many = {4096};
  CHECK(prepared.prepare(too_many).code() == Errc::invalid_argument);
  const std::vector<std::uint32_t> none = {0};
  CHECK(prepared.prepare(none).code() == Errc::invalid_argument);
}
