// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Answers of the CUDA backend on small models: against the CPU backend, for any step size, and what
// else tells one model from another.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "reference_cuda_engine.hpp"
#include "src/reference/cuda/swiglu_product.hpp"

using namespace tiny;

namespace {

void compare_with_cpu(const tiny::Shape& shape, const CudaOptions& options, std::uint32_t step,
                      std::uint32_t tokens = 301) {
  const auto weights = load(shape);
  CpuBackend cpu(weights, {.threads = 2, .kv_dtype = DType::bf16, .kv_order = options.kv_order});
  CudaBackend gpu(CudaWeights::upload(*weights).value(), options);
  const auto prompt = prompt_of(tokens);
  REQUIRE(prefill_in_steps(cpu, prompt, tokens).has_value());
  REQUIRE(run_in_steps(gpu, prompt, step).has_value());
  CAPTURE(shape.heads, shape.kv_heads, shape.head_dim, shape.rope_dimensions, shape.rope_freqs,
          shape.linear_factor, shape.tied, to_string(options.kv_order), options.page_tokens,
          to_string(options.residual), options.shuffle_pages, step);
  const Buffer expected = kv_of(cpu, tokens);
  const Buffer got = kv_of(gpu, tokens);
  double worst = 0;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    const double k = distance(got.read().k(layer), expected.read().k(layer));
    const double v = distance(got.read().v(layer), expected.read().v(layer));
    CAPTURE(layer, k, v);
    CHECK(std::max(k, v) < kKvTolerance);
    worst = std::max({worst, k, v});
  }
  REQUIRE(gpu.logits().size() == cpu.logits().size());
  const double logits = difference(gpu.logits(), cpu.logits());
  CHECK(logits < kLogitsTolerance);
  std::printf("d %u, %u/%u heads, residual %s: KV off by %.4f, logits by %.4f\n", shape.head_dim,
              shape.heads, shape.kv_heads, std::string(to_string(options.residual)).c_str(), worst,
              logits);
}

}  // namespace

TEST_CASE("reference model on the GPU: KV and logits agree with the CPU backend") {
  CAKE_NEEDS_GPU();
  compare_with_cpu(small(), {}, 301);
  compare_with_cpu(small(), {.residual = DType::f32}, 301);
  compare_with_cpu(small(), {.kv_order = KvOrder::hnd, .page_tokens = 16, .shuffle_pages = 5}, 100);
  compare_with_cpu(small(), {.page_tokens = 1, .shuffle_pages = 6}, 64);
  tiny::Shape shape = small();
  shape.tied = false;
  shape.linear_factor = 4.0;
  compare_with_cpu(shape, {}, 301);
  shape = small();
  shape.rope_freqs = true;
  compare_with_cpu(shape, {}, 128);
  shape = small();
  shape.rope_dimensions = 32;  // half of each head does not turn
  compare_with_cpu(shape, {}, 301);
  shape = small();
  shape.heads = 9;
  shape.kv_heads = 3;
  shape.embd = 576;
  compare_with_cpu(shape, {}, 150);
  shape = small();
  shape.head_dim = shape.rope_dimensions = 128;
  shape.heads = 8;
  shape.kv_heads = 1;
  shape.layers = 4;
  compare_with_cpu(shape, {.kv_order = KvOrder::hnd}, 301);
  shape = small();
  shape.layers = 1;
  compare_with_cpu(shape, {}, 50);
  shape = small();
  shape.type = tiny::Q4_1;  // rounded to bf16
  compare_with_cpu(shape, {}, 301);
}

TEST_CASE(
    "reference model on the GPU: SwiGLU within its products agrees with the CPU backend, too") {
  CAKE_NEEDS_GPU();
  tiny::Shape shape = small();
  shape.ff = 44 * 128;  // three tiles of rows fill 132 multiprocessors
  REQUIRE(cuda_impl::swiglu_product_suits(380, shape.ff, 132));
  compare_with_cpu(shape, {}, 380, 380);
  compare_with_cpu(shape, {.residual = DType::f32}, 380, 380);
}

TEST_CASE("reference model on the GPU: step sizes change the answer by rounding only") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(700);
  CudaBackend whole(weights);
  REQUIRE(run_range(whole, prompt, {0, 700}).has_value());
  const Buffer expected = kv_of(whole, 700);
  for (const std::uint32_t step : {1u, 7u, 64u, 128u, 512u, 699u}) {
    CudaBackend engine(weights);
    REQUIRE(run_in_steps(engine, prompt, step).has_value());
    CAPTURE(step);
    const Buffer got = kv_of(engine, 700);
    for (std::uint32_t layer = 0; layer < 3; ++layer) {
      CAPTURE(layer);
      CHECK(distance(got.read().k(layer), expected.read().k(layer)) < kKvTolerance);
      CHECK(distance(got.read().v(layer), expected.read().v(layer)) < kKvTolerance);
    }
    CHECK(difference(engine.logits(), whole.logits()) < kLogitsTolerance);
  }
}

TEST_CASE("reference model on the GPU: a range longer than a pass is the same as its passes") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(300);
  CudaBackend steps(weights), cut(weights, {.max_step_tokens = 128});
  REQUIRE(run_in_steps(steps, prompt, 128).has_value());
  REQUIRE(run_range(cut, prompt, {0, 300}).has_value());
  CHECK(logits_of(cut) == logits_of(steps));
  CHECK(same(kv_of(cut, 300), kv_of(steps, 300)));
  cut.clear();
  Gate gate;
  REQUIRE(run_range(cut, prompt, {0, 300}, LayerGate(gate, 1)).has_value());
  CHECK(gate.layers == std::vector<std::uint32_t>{0, 1, 2});
  CHECK(logits_of(cut) == logits_of(steps));
}

TEST_CASE("reference model on the GPU: decoding is prefilling one more token") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  auto prompt = prompt_of(60);
  CudaBackend engine(weights);
  CHECK(engine.argmax() == -1);
  REQUIRE(run_range(engine, prompt, {0, 60}).has_value());
  CHECK(engine.position() == 60);
  for (int i = 0; i < 8; ++i) {
    const TokenId next = engine.argmax();
    prompt.push_back(next);
    REQUIRE(engine.decode(next).has_value());
    CHECK(engine.position() == prompt.size());
    CudaBackend whole(weights);
    REQUIRE(run_range(whole, prompt, {0, size_of_prompt(prompt)}).has_value());
    CHECK(difference(engine.logits(), whole.logits()) < kLogitsTolerance);
  }
}

TEST_CASE(
    "reference model on the GPU: random weights keep activations finite, and depend on the seed "
    "alone") {
  CAKE_NEEDS_GPU();
  Config config = llama_3_1_8b();
  config.n_layers = 6;
  config.n_vocab = 4096;
  const auto run = [&](std::uint64_t seed) {
    CudaBackend engine(CudaWeights::random(config, seed).value(), {.max_tokens = 1024});
    REQUIRE(run_in_steps(engine, prompt_of(777), 512).has_value());
    return logits_of(engine);
  };
  const auto logits = run(1);
  CHECK(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }));
  double squares = 0;
  for (const float x : logits) squares += double{x} * double{x};
  const double deviation = std::sqrt(squares / static_cast<double>(logits.size()));
  CAPTURE(deviation);
  CHECK(deviation > 0.5);  // a normed row times rows of norm 1
  CHECK(deviation < 2);
  CHECK(run(1) == logits);
  CHECK(run(2) != logits);
  CHECK(CudaWeights::random(config, 1).value()->digest() !=
        CudaWeights::random(config, 2).value()->digest());
}

TEST_CASE("reference model on the GPU: the fingerprint tells weights and numerics apart") {
  CAKE_NEEDS_GPU();
  const auto weights = load(small());
  const auto on_gpu = CudaWeights::upload(*weights).value();
  const CudaBackend a(on_gpu), b(on_gpu, {.kv_order = KvOrder::hnd, .page_tokens = 16}),
      c(on_gpu, {.residual = DType::f32});
  CHECK(a.fingerprint() == b.fingerprint());
  CHECK(a.layout() != b.layout());
  CHECK(a.fingerprint() != c.fingerprint());
  CHECK(a.fingerprint() != CpuBackend(weights, {.threads = 1}).fingerprint());
}

TEST_CASE("reference model on the GPU: the profile adds up to the whole, and the backend goes on") {
  CAKE_NEEDS_GPU();
  const auto prompt = prompt_of(400);
  CudaBackend engine(upload());
  REQUIRE(run_range(engine, prompt, {0, 300}).has_value());
  const auto profile = engine.profile(prompt, {300, 400});
  REQUIRE(profile.has_value());
  CHECK(profile->gemm_seconds > 0);
  CHECK(profile->attention_seconds > 0);
  CHECK(profile->elementwise_seconds > 0);
  CHECK(profile->total_seconds ==
        Approx(profile->gemm_seconds + profile->attention_seconds + profile->elementwise_seconds));
  CHECK(engine.logits().empty());
  REQUIRE(run_range(engine, prompt, {300, 400}).has_value());
  CHECK(engine.logits().size() == 80);
  CHECK(engine.profile(prompt, {300, 401}).error().code == Errc::invalid_argument);
}
