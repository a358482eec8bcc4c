// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The CUDA backend on small models: against the CPU backend, and against itself by other ways.
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <stop_token>
#include <string>

#include "cake/llama/cuda_backend.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing.hpp"
#include "llama/tiny_engine.hpp"
#include "tests/cuda/device_data.hpp"
#include "tests/cuda/gpu.hpp"

using namespace tiny;
using cake::testing::bf16_value;

namespace {

/// What the tests run unless they say otherwise: weights that bf16 holds exactly.
tiny::Shape small() {
  tiny::Shape shape;
  shape.type = tiny::BF16;
  shape.head_dim = shape.rope_dimensions = 64;
  shape.embd = 128;
  shape.ff = 192;
  shape.context = 2048;
  return shape;
}

std::shared_ptr<const CudaWeights> upload(const tiny::Shape& shape = small()) {
  return CudaWeights::upload(*load(shape)).value();
}

/// Enqueues all steps, then waits for them.
Status run_in_steps(CudaBackend& engine, const std::vector<TokenId>& prompt, std::uint32_t step) {
  std::deque<CudaPass> running;
  for (std::uint32_t at = 0; at < prompt.size(); at += step) {
    running.push_back(engine.prefill(prompt, {at, std::min(at + step, size_of_prompt(prompt))}));
    if (running.size() < 2 && at + step < prompt.size()) continue;
    if (auto status = running.front().wait(); !status) return status;
    running.pop_front();
  }
  while (!running.empty()) {
    if (auto status = running.front().wait(); !status) return status;
    running.pop_front();
  }
  return {};
}

Status run_range(CudaBackend& engine, const std::vector<TokenId>& prompt, TokenRange range,
                 LayerGate gate = {}) {
  return engine.prefill(prompt, range, gate).wait();
}

template <class Engine>
Buffer kv_of(Engine& engine, std::uint32_t n_tokens) {
  Buffer buffer(engine.layout(), {0, {0, n_tokens}, {0, engine.layout().n_layers}});
  engine.extract(buffer.slice, buffer.view()).value();
  return buffer;
}

std::vector<float> logits_of(const CudaBackend& engine) {
  return {engine.logits().begin(), engine.logits().end()};
}

/// ||a - b|| / ||b|| of bf16 numbers; infinite where a is no number.
double distance(ConstBytes a, ConstBytes b) {
  REQUIRE(a.size() == b.size());
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i + 1 < a.size(); i += 2) {
    std::uint16_t x;
    std::uint16_t y;
    std::memcpy(&x, a.data() + i, 2);
    std::memcpy(&y, b.data() + i, 2);
    const double difference = double{bf16_value(x)} - double{bf16_value(y)};
    error += difference * difference;
    norm += double{bf16_value(y)} * double{bf16_value(y)};
  }
  const double relative = std::sqrt(error / norm);
  return std::isnan(relative) ? HUGE_VAL : relative;
}

/// Counts questions, runs an action at one layer, and closes at another.
struct Gate final : GateSource {
  bool wait_layer(std::uint64_t, std::uint32_t layer) override {
    layers.push_back(layer);
    if (before) before(layer);
    return layer != closed_at;
  }
  std::function<void(std::uint32_t)> before;
  std::uint32_t closed_at = ~0u;
  std::vector<std::uint32_t> layers;
};

// Rounding to bf16 at the same places on the host puts KV off by up to 0.020 (fourth layer) and
// logits by up to 0.088 on these models; a mistake puts them off by about 1.
constexpr double kKvTolerance = 0.03;      // relative, of a layer's K or V
constexpr double kLogitsTolerance = 0.15;  // of the largest logit

void compare_with_cpu(const tiny::Shape& shape, const CudaOptions& options, std::uint32_t step) {
  const auto weights = load(shape);
  CpuBackend cpu(weights, {.threads = 2, .kv_dtype = DType::bf16, .kv_order = options.kv_order});
  CudaBackend gpu(CudaWeights::upload(*weights).value(), options);
  const auto prompt = prompt_of(301);
  REQUIRE(prefill_in_steps(cpu, prompt, 301).has_value());
  REQUIRE(run_in_steps(gpu, prompt, step).has_value());
  CAPTURE(shape.heads, shape.kv_heads, shape.head_dim, shape.rope_dimensions, shape.rope_freqs,
          shape.linear_factor, shape.tied, to_string(options.kv_order), options.page_tokens,
          to_string(options.residual), options.shuffle_pages, step);
  const Buffer expected = kv_of(cpu, 301);
  const Buffer got = kv_of(gpu, 301);
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

TEST_CASE("llama on the GPU: KV and logits agree with the CPU backend") {
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

TEST_CASE("llama on the GPU: step sizes change the answer by rounding only") {
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

TEST_CASE("llama on the GPU: a range longer than a pass is the same as its passes") {
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

TEST_CASE("llama on the GPU: captured steps give what launched ones give, bit for bit") {
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

TEST_CASE("llama on the GPU: graphs that were dropped for others are captured again") {
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

TEST_CASE("llama on the GPU: the same steps give the same bits, in any pages, every time") {
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

TEST_CASE("llama on the GPU: a prepared backend forgets KV and keeps its answer within rounding") {
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

TEST_CASE("llama on the GPU: a gated step takes KV layer by layer, and is what an ungated one is") {
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
      REQUIRE(engine.insert(buffer.slice, buffer.read()).has_value());
    };
    CAPTURE(round);
    REQUIRE(run_range(engine, prompt, {128, 200}, LayerGate(gate, 42)).has_value());
    CHECK(gate.layers == std::vector<std::uint32_t>{0, 1, 2});
    CHECK(logits_of(engine) == logits_of(whole));
    CHECK(same(kv_of(engine, 200), kv_of(whole, 200)));
  }
}

TEST_CASE("llama on the GPU: a step whose gate closes is superseded, and can be done again") {
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

TEST_CASE("llama on the GPU: decoding is prefilling one more token") {
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
    "llama on the GPU: logits come with the pass that ends the prompt, once it was waited for") {
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

TEST_CASE("llama on the GPU: a prompt behind another one in flight gets its own tokens") {
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

TEST_CASE("llama on the GPU: wrong use is refused") {
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
  REQUIRE(engine.insert(buffer.slice, buffer.read()).has_value());
  CHECK(engine.extract(buffer.slice, buffer.view()).has_value());
  CHECK(engine.insert({0, {0, 31}, {0, 3}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {90, 122}, {0, 3}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {0, 32}, {0, 4}}, buffer.read()).code() == Errc::invalid_argument);
  CHECK(engine.insert({0, {0, 32}, {3, 3}}, buffer.read()).code() == Errc::invalid_argument);

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

TEST_CASE("llama on the GPU: a full context is refused, and the answer so far stays") {
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

TEST_CASE("llama on the GPU: KV comes back bit-equal for every order and page size") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t page : {1u, 3u, 16u, 64u, 256u}) {
      CudaBackend engine(weights, {.kv_order = order, .page_tokens = page, .shuffle_pages = 3});
      for (const std::uint32_t chunk : {16u, 17u, 256u, 511u}) {
        CAPTURE(to_string(order), page, chunk);
        const std::uint32_t begin = (512 - chunk) / 2;
        const TokenRange tokens{begin, begin + chunk};
        Buffer low(engine.layout(), {0, tokens, {0, 1}}),
            high(engine.layout(), {0, tokens, {1, 3}});
        fill(low, chunk);
        fill(high, chunk + page);
        Buffer low_again = low, high_again = high;
        std::ranges::fill(low_again.bytes, std::byte{});
        std::ranges::fill(high_again.bytes, std::byte{});
        REQUIRE(engine.insert(high.slice, high.read()).has_value());
        REQUIRE(engine.insert(low.slice, low.read()).has_value());
        REQUIRE(engine.extract(low.slice, low_again.view()).has_value());
        REQUIRE(engine.extract(high.slice, high_again.view()).has_value());
        REQUIRE(same(low, low_again));
        REQUIRE(same(high, high_again));
      }
    }
  }
}

TEST_CASE("llama on the GPU: transferred KV has the layout that it claims") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(90);
  CudaBackend nhd(weights, {.kv_order = KvOrder::nhd}),
      hnd(weights, {.kv_order = KvOrder::hnd, .page_tokens = 64});
  REQUIRE(run_range(nhd, prompt, {0, 90}).has_value());
  REQUIRE(run_range(hnd, prompt, {0, 90}).has_value());
  const KvLayout layout = nhd.layout();
  Buffer a(layout, {0, {3, 86}, {0, 3}}), b(hnd.layout(), a.slice);
  REQUIRE(nhd.extract(a.slice, a.view()).has_value());
  REQUIRE(hnd.extract(b.slice, b.view()).has_value());
  const std::size_t n = 83, head_bytes = layout.head_dim * size_of(layout.dtype);
  std::size_t wrong = 0;
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t h = 0; h < layout.n_kv_heads; ++h) {
        const std::size_t from = (t * layout.n_kv_heads + h) * head_bytes;
        const std::size_t to = (h * n + t) * head_bytes;
        wrong += std::memcmp(a.read().k(layer).data() + from, b.read().k(layer).data() + to,
                             head_bytes) != 0;
        wrong += std::memcmp(a.read().v(layer).data() + from, b.read().v(layer).data() + to,
                             head_bytes) != 0;
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("llama on the GPU: KV that was loaded is KV that was saved, and gives the same logits") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t chunk : {16u, 100u, 256u}) {
      CAPTURE(to_string(order), chunk);
      const auto prompt = prompt_of(2 * chunk + 37);
      const std::uint32_t prefix = 2 * chunk < 64 ? (2 * chunk + 36) / chunk * chunk : 2 * chunk;
      const LoaderOptions options{.chunk_tokens = chunk,
                                  .max_step_tokens = 128,
                                  .session = {.patience = std::chrono::minutes(1)}};
      MemoryStorage storage;
      CudaBackend first(weights, {.kv_order = order, .page_tokens = 16, .shuffle_pages = 1});
      Loader saver(first, storage, options, ComputeOnlyScheduler());
      REQUIRE(saver.prefill(prompt).status.has_value());
      REQUIRE(saver.save(prompt).status.has_value());
      CudaBackend second(weights, {.kv_order = order, .page_tokens = 64, .shuffle_pages = 2});
      Loader loader(second, storage, options, LoadOnlyScheduler());
      const PrefillReport report = loader.prefill(prompt);
      REQUIRE(report.status.has_value());
      CHECK(report.tokens_loaded == prefix);
      CHECK(same(kv_of(first, prefix), kv_of(second, prefix)));
      CHECK(difference(second.logits(), first.logits()) < kLogitsTolerance);
    }
  }
}

TEST_CASE("llama on the GPU: every schedule gives the same logits within rounding") {
  CAKE_NEEDS_GPU();
  const auto prompt = prompt_of(1500);
  MemoryStorage storage;
  CudaBackend engine(upload());
  Loader saver(engine, storage, {.chunk_tokens = 64});
  REQUIRE(saver.prefill(prompt).status.has_value());
  REQUIRE(saver.save(prompt).status.has_value());
  const auto expected = logits_of(engine);
  for (int i = 0; i < 20; ++i) {
    engine.clear();
    Loader loader(engine, storage, {.chunk_tokens = 64, .max_step_tokens = 256});
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(report.status.has_value());
    CHECK(report.tokens_computed + report.tokens_loaded == 1500);
    CHECK(difference(engine.logits(), expected) < kLogitsTolerance);
  }
}

namespace {

/// Asks for a stop when the second step has been enqueued.
struct Stopped {
  KvLayout layout() const { return engine.layout(); }
  ModelFingerprint fingerprint() const { return engine.fingerprint(); }
  Status insert(const Slice& s, const KvView& view) { return engine.insert(s, view); }
  Status extract(const Slice& s, const MutableKvView& view) { return engine.extract(s, view); }
  CudaPass prefill(Tokens prompt, TokenRange range, LayerGate gate) {
    auto pass = engine.prefill(prompt, range, gate);
    if (++steps == 2) stop.request_stop();
    return pass;
  }
  CudaBackend& engine;
  std::stop_source stop;
  int steps = 0;
};

}  // namespace

TEST_CASE("llama on the GPU: a prompt that is canceled in the middle leaves the next one right") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(1000, 1), next = prompt_of(900, 2);
  CudaBackend fresh(weights), engine(weights);
  MemoryStorage storage;
  Loader plain(fresh, storage, {.chunk_tokens = 64, .max_step_tokens = 128},
               ComputeOnlyScheduler());
  REQUIRE(plain.prefill(next).status.has_value());
  Stopped stopped{engine, {}, 0};
  Loader loader(stopped, storage, {.chunk_tokens = 64, .max_step_tokens = 128},
                ComputeOnlyScheduler());
  const PrefillReport report = loader.prefill(prompt, {.stop = stopped.stop.get_token()});
  CHECK(report.status.code() == Errc::canceled);
  CHECK(engine.logits().empty());
  Loader again(engine, storage, {.chunk_tokens = 64, .max_step_tokens = 128},
               ComputeOnlyScheduler());
  REQUIRE(again.prefill(next).status.has_value());
  CHECK(logits_of(engine) == logits_of(fresh));
  CHECK(same(kv_of(engine, 900), kv_of(fresh, 900)));
}

TEST_CASE("llama on the GPU: insert and extract run beside prefill of other chunks") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(1024);
  CudaBackend whole(weights), engine(weights);
  REQUIRE(run_in_steps(whole, prompt, 64).has_value());
  std::atomic<bool> good{true};
  const auto lane = [&](std::uint32_t parity) {  // chunks from the back, two lanes by turns
    for (std::uint32_t chunk = 15; chunk >= 8; --chunk) {
      if (chunk % 2 != parity) continue;
      Buffer buffer(engine.layout(), {chunk, {chunk * 64, chunk * 64 + 64}, {0, 3}});
      if (!whole.extract(buffer.slice, buffer.view()) ||
          !engine.insert(buffer.slice, buffer.read())) {
        good = false;
      }
    }
  };
  std::thread first(lane, 0u), second(lane, 1u);
  for (std::uint32_t at = 0; at < 512; at += 64) {
    if (!run_range(engine, prompt, {at, at + 64})) good = false;
  }
  first.join();
  second.join();
  CHECK(good);
  REQUIRE(run_range(engine, prompt, {960, 1024}).has_value());
  CHECK(logits_of(engine) == logits_of(whole));
}

TEST_CASE("llama on the GPU: the backend keeps the rules of the conformance kit") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(60);
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    CudaBackend engine(weights, {.kv_order = order, .page_tokens = 8, .shuffle_pages = 4});
    std::string failures;
    for (const std::string& failure : cake::testing::check(engine, prompt)) {
      failures += failure + "\n";
    }
    CAPTURE(failures);
    CHECK(failures.empty());
  }
}

TEST_CASE(
    "llama on the GPU: a context that does not fit is refused with its size, and nothing breaks") {
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

TEST_CASE(
    "llama on the GPU: random weights keep activations finite, and depend on the seed alone") {
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

TEST_CASE("llama on the GPU: the fingerprint tells weights and numerics apart") {
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

TEST_CASE("llama on the GPU: the profile adds up to the whole, and the backend goes on") {
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

TEST_CASE("llama on the GPU: backends are moved without losing anything") {
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
