// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the CUDA backend refuses, and that nothing breaks by it.
#include <string>

#include "reference_cuda_engine.hpp"

using namespace tiny;

TEST_CASE("reference model on the GPU: wrong use is refused") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(60);
  CudaBackend engine(weights, {.max_tokens = 100});
  const auto code = [&](TokenRange range) { return run_range(engine, prompt, range).code(); };
  CHECK(code({0, 61}) == Errc::invalid_argument);
  CHECK(code({5, 5}) == Errc::invalid_argument);
  CHECK(code({9, 5}) == Errc::invalid_argument);
  CHECK(code({10, 20}) == Errc::invalid_argument);  // nothing below
  CHECK(run_range(engine, prompt_of(101), {0, 10}).code() == Errc::invalid_argument);
  CHECK(run_range(engine, {1, 80}, {0, 2}).code() == Errc::invalid_argument);
  CHECK(run_range(engine, {1, -1}, {0, 2}).code() == Errc::invalid_argument);
  CHECK(engine.reserve(100).has_value());
  CHECK(engine.reserve(101).code() == Errc::invalid_argument);

  Buffer buffer(engine.layout(), {0, {0, 32}, {0, 3}});
  CHECK(engine.extract(buffer.slice, buffer.view()).code() == Errc::invalid_argument);  // not there
  REQUIRE(engine.insert(buffer.slice, buffer.read()).wait().has_value());
  CHECK(engine.extract(buffer.slice, buffer.view()).has_value());
  CHECK(engine.insert({0, {0, 31}, {0, 3}}, buffer.read()).wait().code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {90, 122}, {0, 3}}, buffer.read()).wait().code() ==
        Errc::invalid_argument);
  CHECK(engine.insert({0, {0, 32}, {0, 4}}, buffer.read()).wait().code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {0, 32}, {3, 3}}, buffer.read()).wait().code() == Errc::invalid_argument);

  CHECK_THROWS_AS(CudaBackend(nullptr), Exception);
  CHECK_THROWS_AS(CudaBackend(weights, {.page_tokens = 0}), Exception);
  CHECK_THROWS_AS(CudaBackend(weights, {.max_tokens = 2049}), Exception);
  tiny::Shape odd = small();
  odd.head_dim = odd.rope_dimensions = 32;
  try {
    const CudaBackend unsupported(upload(odd));
    FAIL("head_dim 32 was accepted");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::unsupported);
  }
}

TEST_CASE("reference model on the GPU: a full context is refused, and the answer so far stays") {
  CAKE_NEEDS_GPU();
  const auto prompt = prompt_of(62);
  CudaBackend engine(upload(), {.max_tokens = 64});
  REQUIRE(run_range(engine, prompt, {0, 62}).has_value());
  REQUIRE(engine.decode(1).has_value());
  REQUIRE(engine.decode(2).has_value());
  CHECK(engine.decode(3).code() == Errc::invalid_argument);
  CHECK(engine.position() == 64);
  CHECK(engine.logits().size() == 80);
}

TEST_CASE(
    "reference model on the GPU: a context that does not fit is refused with its size, and nothing "
    "breaks") {
  CAKE_NEEDS_GPU();
  Config config = llama_3_1_8b();
  config.n_layers = 2;
  config.n_vocab = 512;
  config.n_context = 1u << 30;  // 8 TiB of KV
  const auto weights = CudaWeights::random(config, 1).value();
  try {
    const CudaBackend engine(weights);
    FAIL("more memory than there is was given");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::out_of_memory);
    CHECK(e.error().context.find("bytes for KV of 1073741824 tokens") != std::string::npos);
  }
  CudaBackend engine(weights, {.max_tokens = 256});
  CHECK(run_range(engine, prompt_of(100), {0, 100}).has_value());
}
