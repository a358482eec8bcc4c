// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/cpu_backend.hpp"

#include <functional>

#include "cake/testing/check_engine.hpp"
#include "catch.hpp"
#include "tiny_engine.hpp"

using namespace tiny;

TEST_CASE("logits agree with a naive model in fp64, for every tensor type and variant") {
  std::vector<tiny::Shape> shapes(10);
  shapes[0].type = tiny::F32;
  shapes[1].type = tiny::F16;
  shapes[2].type = tiny::BF16;
  shapes[3].type = tiny::Q8_0;
  shapes[4].type = tiny::Q4_0;
  shapes[5].type = tiny::Q4_1;
  shapes[6].tied = false;
  shapes[6].linear_factor = 4.0;
  shapes[7].rope_freqs = true;
  shapes[8].rope_dimensions = 8;  // half of each head does not turn
  shapes[9].heads = 6;
  shapes[9].kv_heads = 1;
  shapes[9].head_dim = 8;
  shapes[9].rope_dimensions = 8;
  shapes[9].embd = 32;
  tiny::Shape wide;  // blocks of 256
  wide.embd = wide.ff = 256;
  wide.head_dim = wide.rope_dimensions = 64;
  for (const std::uint32_t type : {tiny::Q5_0, tiny::Q5_1, tiny::Q4_K, tiny::Q5_K, tiny::Q6_K}) {
    wide.type = type;
    shapes.push_back(wide);
  }
  wide.type = tiny::Q4_0;  // as many files are
  wide.tied = false;
  wide.output_type = tiny::Q6_K;
  shapes.push_back(wide);
  for (const tiny::Shape& shape : shapes) {
    const tiny::Model model = tiny::make(shape);
    CpuBackend engine(Weights::load(tiny::parse(model.file.finish())).value(), {.threads = 2});
    const auto prompt = prompt_of(37);
    REQUIRE(engine.prefill(prompt, {0, 37}).has_value());
    INFO("type " << shape.type << ", linear " << shape.linear_factor << ", freqs "
                 << shape.rope_freqs << ", rope " << shape.rope_dimensions << ", heads "
                 << shape.heads);
    // Longer sums in fp32 round more.
    CHECK(difference(engine.logits(), tiny::naive_logits(model, prompt)) <
          (shape.embd > 64 ? 5e-5 : 2e-5));
  }
}

TEST_CASE("decoding is prefilling one more token") {
  const auto weights = load();
  auto prompt = prompt_of(30);
  CpuBackend engine(weights, {.threads = 2});
  CHECK(engine.argmax() == -1);
  REQUIRE(engine.prefill(prompt, {0, 30}).has_value());
  for (int i = 0; i < 5; ++i) {
    const TokenId next = engine.argmax();
    prompt.push_back(next);
    REQUIRE(engine.decode(next).has_value());
    CHECK(engine.position() == prompt.size());
    CpuBackend whole(weights, {.threads = 1});
    REQUIRE(whole.prefill(prompt, {0, size_of_prompt(prompt)}).has_value());
    CHECK(difference(engine.logits(), whole.logits()) < 2e-5);
  }
}

TEST_CASE("logits do not depend on step size, threads, order or page size") {
  const auto weights = load();
  const auto prompt = prompt_of(300);
  CpuBackend whole(weights, {.threads = 1});
  REQUIRE(whole.prefill(prompt, {0, 300}).has_value());
  for (const std::uint32_t step : {1u, 7u, 64u, 128u, 299u}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const std::uint32_t page : {1u, 5u, 16u, 64u, 1000u}) {
        CpuBackend engine(weights,
                          {.threads = 1 + page % 3, .kv_order = order, .page_tokens = page});
        REQUIRE(prefill_in_steps(engine, prompt, step).has_value());
        INFO("step " << step << ", page " << page);
        REQUIRE(difference(engine.logits(), whole.logits()) < 2e-5);
      }
    }
  }
}

TEST_CASE("a pass longer than a block of rows is the same as short ones") {
  tiny::Shape shape;
  shape.context = 2048;
  const auto weights = load(shape);
  const auto prompt = prompt_of(1300);
  CpuBackend whole(weights, {.threads = 2}), steps(weights, {.threads = 2});
  REQUIRE(whole.prefill(prompt, {0, 1300}).has_value());
  REQUIRE(prefill_in_steps(steps, prompt, 100).has_value());
  CHECK(difference(whole.logits(), steps.logits()) < 2e-5);
}

TEST_CASE("a step of several micro-batches has the bits of steps of that length") {
  const auto weights = load();
  const auto prompt = prompt_of(290);
  for (const std::uint32_t length : {1u, 50u, 64u, 200u}) {
    CpuBackend steps(weights, {.threads = 2});
    CpuBackend wide(weights, {.threads = 2, .micro_batch_tokens = length});
    REQUIRE(prefill_in_steps(steps, prompt, length).has_value());
    REQUIRE(wide.prefill(prompt, {0, 290}).has_value());
    CAPTURE(length);
    CHECK(std::ranges::equal(wide.logits(), steps.logits()));
  }
}

TEST_CASE("the CPU backend passes the conformance kit's check of wide steps") {
  const auto weights = load();
  CpuBackend engine(weights, {.threads = 2, .micro_batch_tokens = 48});
  for (const std::string& failure : cake::testing::check_wide_steps(engine, prompt_of(250), 48)) {
    FAIL_CHECK(failure);
  }
}

namespace {

/// Counts questions, runs an action at one layer, and closes at another.
struct Gate final : GateSource {
  bool wait_layer(std::uint64_t step, std::uint32_t layer) override {
    steps.push_back(step);
    layers.push_back(layer);
    if (before) before(layer);
    return layer != closed_at;
  }
  std::function<void(std::uint32_t)> before;
  std::uint32_t closed_at = ~0u;
  std::vector<std::uint64_t> steps;
  std::vector<std::uint32_t> layers;
};

}  // namespace

TEST_CASE("a gated pass takes KV layer by layer as it comes") {
  const auto weights = load();
  const auto prompt = prompt_of(100);
  CpuBackend whole(weights, {.threads = 2});
  REQUIRE(whole.prefill(prompt, {0, 64}).has_value());
  REQUIRE(whole.prefill(prompt, {64, 100}).has_value());

  CpuBackend engine(weights, {.threads = 2});
  Gate gate;
  gate.before = [&](std::uint32_t layer) {  // this layer's KV comes only now
    Buffer buffer(engine.layout(), {0, {0, 64}, {layer, layer + 1}});
    REQUIRE(whole.extract(buffer.slice, buffer.view()).has_value());
    REQUIRE(engine.insert(buffer.slice, buffer.read()).has_value());
  };
  REQUIRE(engine.prefill(prompt, {64, 100}, LayerGate(gate, 42)).has_value());
  CHECK(gate.layers == std::vector<std::uint32_t>{0, 1, 2});
  CHECK(gate.steps == std::vector<std::uint64_t>{42, 42, 42});
  CHECK(std::ranges::equal(engine.logits(), whole.logits()));
}

TEST_CASE("a pass whose gate closes is superseded, and can be done again") {
  const auto weights = load();
  const auto prompt = prompt_of(50);
  CpuBackend whole(weights, {.threads = 2}), engine(weights, {.threads = 2});
  REQUIRE(whole.prefill(prompt, {0, 50}).has_value());
  for (const std::uint32_t closed_at : {0u, 1u, 2u}) {
    Gate gate;
    gate.closed_at = closed_at;
    CHECK(engine.prefill(prompt, {0, 50}, LayerGate(gate, 1)).code() == Errc::superseded);
    CHECK(gate.layers.size() == closed_at + 1);
    CHECK(engine.logits().empty());
    CHECK(engine.position() == 0);
  }
  REQUIRE(engine.prefill(prompt, {0, 50}).has_value());
  CHECK(std::ranges::equal(engine.logits(), whole.logits()));
}

TEST_CASE("there are logits only after the range that ends the prompt") {
  const auto prompt = prompt_of(20);
  CpuBackend engine(load(), {.threads = 1});
  REQUIRE(engine.prefill(prompt, {0, 19}).has_value());
  CHECK(engine.logits().empty());
  CHECK(engine.decode(1).code() == Errc::invalid_argument);
  REQUIRE(engine.prefill(prompt, {19, 20}).has_value());
  CHECK(engine.logits().size() == 80);
  engine.clear();
  CHECK(engine.logits().empty());
  CHECK(engine.prefill(prompt, {19, 20}).code() == Errc::invalid_argument);  // KV below is gone
}

TEST_CASE("pages are used again in another order after clear, with the same result") {
  const auto weights = load();
  CpuBackend engine(weights, {.threads = 1, .page_tokens = 3});
  const auto first = prompt_of(200, 1), second = prompt_of(333, 2);
  REQUIRE(engine.prefill(first, {0, 200}).has_value());
  engine.clear();
  REQUIRE(engine.reserve(333).has_value());
  REQUIRE(prefill_in_steps(engine, second, 50).has_value());
  CpuBackend fresh(weights, {.threads = 1});
  REQUIRE(prefill_in_steps(fresh, second, 50).has_value());
  CHECK(std::ranges::equal(engine.logits(), fresh.logits()));
}

TEST_CASE("wrong use is refused") {
  const auto weights = load();
  const auto prompt = prompt_of(60);
  CpuBackend engine(weights, {.threads = 1, .max_tokens = 100});
  const auto code = [&](TokenRange range) { return engine.prefill(prompt, range).code(); };
  CHECK(code({0, 61}) == Errc::invalid_argument);
  CHECK(code({5, 5}) == Errc::invalid_argument);
  CHECK(code({9, 5}) == Errc::invalid_argument);
  CHECK(code({10, 20}) == Errc::invalid_argument);  // nothing below
  CHECK(engine.prefill(prompt_of(101), {0, 10}).code() == Errc::invalid_argument);
  CHECK(engine.prefill(std::vector<TokenId>{1, 80}, {0, 2}).code() == Errc::invalid_argument);
  CHECK(engine.prefill(std::vector<TokenId>{1, -1}, {0, 2}).code() == Errc::invalid_argument);
  CHECK(engine.reserve(101).code() == Errc::invalid_argument);

  Buffer buffer(engine.layout(), {0, {0, 32}, {0, 3}});
  CHECK(engine.extract(buffer.slice, buffer.view()).code() == Errc::invalid_argument);  // not there
  REQUIRE(engine.insert(buffer.slice, buffer.read()).has_value());
  CHECK(engine.extract(buffer.slice, buffer.view()).has_value());
  CHECK(engine.insert({0, {0, 31}, {0, 3}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {90, 122}, {0, 3}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {0, 32}, {0, 4}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {0, 32}, {3, 3}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {32, 32}, {0, 3}}, buffer.read()).code() == Errc::invalid_argument);

  CHECK_THROWS_AS(CpuBackend(nullptr), Exception);
  CHECK_THROWS_AS(CpuBackend(weights, {.page_tokens = 0}), Exception);
  CHECK_THROWS_AS(CpuBackend(weights, {.max_tokens = 513}), Exception);
  CHECK_THROWS_AS(CpuBackend(weights, {.threads = 100000}), Exception);
}

TEST_CASE("a full context is refused, and the answer so far stays") {
  const auto prompt = prompt_of(62);
  CpuBackend engine(load(), {.threads = 1, .max_tokens = 64});
  REQUIRE(engine.prefill(prompt, {0, 62}).has_value());
  REQUIRE(engine.decode(1).has_value());
  REQUIRE(engine.decode(2).has_value());
  CHECK(engine.decode(3).code() == Errc::invalid_argument);
  CHECK(engine.position() == 64);
  CHECK(engine.logits().size() == 80);
}

TEST_CASE("the fingerprint is the model's, not the engine's") {
  const auto weights = load();
  const CpuBackend a(weights, {.threads = 1}), b(weights, {.threads = 2, .kv_dtype = DType::bf16});
  CHECK(a.fingerprint() == b.fingerprint());
  CHECK(a.layout() != b.layout());
  tiny::Shape other;
  other.seed = 2;
  CHECK(CpuBackend(load(other), {.threads = 1}).fingerprint() != a.fingerprint());
}

TEST_CASE("backends are moved without losing anything") {
  const auto prompt = prompt_of(10);
  CpuBackend engine(load(), {.threads = 2});
  REQUIRE(engine.prefill(prompt, {0, 10}).has_value());
  const TokenId next = engine.argmax();
  CpuBackend moved(std::move(engine));
  CHECK(moved.argmax() == next);
  CHECK(moved.decode(next).has_value());
}
