// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV into and out of the CUDA backend's pages: alone, and under the loader.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stop_token>
#include <string>
#include <thread>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_engine.hpp"
#include "reference_cuda_engine.hpp"

using namespace tiny;

namespace {

/// Asks for a stop when the second step has been enqueued.
struct Stopped {
  UniformKvLayout layout() const { return engine.layout(); }
  ModelFingerprint fingerprint() const { return engine.fingerprint(); }
  CudaInsert insert(const Slice& s, const KvView& view) { return engine.insert(s, view); }
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

TEST_CASE("reference model on the GPU: KV comes back bit-equal for every order and page size") {
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
        REQUIRE(engine.insert(high.slice, high.read()).wait().has_value());
        REQUIRE(engine.insert(low.slice, low.read()).wait().has_value());
        REQUIRE(engine.extract(low.slice, low_again.view()).has_value());
        REQUIRE(engine.extract(high.slice, high_again.view()).has_value());
        REQUIRE(same(low, low_again));
        REQUIRE(same(high, high_again));
      }
    }
  }
}

TEST_CASE("reference model on the GPU: transferred KV has the layout that it declares") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(90);
  CudaBackend nhd(weights, {.kv_order = KvOrder::nhd}),
      hnd(weights, {.kv_order = KvOrder::hnd, .page_tokens = 64});
  REQUIRE(run_range(nhd, prompt, {0, 90}).has_value());
  REQUIRE(run_range(hnd, prompt, {0, 90}).has_value());
  const UniformKvLayout layout = nhd.layout();
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

TEST_CASE(
    "reference model on the GPU: KV that was loaded is KV that was saved, and gives the same "
    "logits") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t chunk : {16u, 100u, 256u}) {
      CAPTURE(to_string(order), chunk);
      const auto prompt = prompt_of(2 * chunk + 37);
      const std::uint32_t prefix = 2 * chunk < 64 ? (2 * chunk + 36) / chunk * chunk : 2 * chunk;
      const LoaderOptions options{
          .chunks = {.chunk_tokens = chunk},
          .session = {.max_step_tokens = 128, .idle_timeout = std::chrono::minutes(1)}};
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

TEST_CASE("reference model on the GPU: every schedule gives the same logits within rounding") {
  CAKE_NEEDS_GPU();
  const auto prompt = prompt_of(1500);
  MemoryStorage storage;
  CudaBackend engine(upload());
  Loader saver(engine, storage, {.chunks = {.chunk_tokens = 64}});
  REQUIRE(saver.prefill(prompt).status.has_value());
  REQUIRE(saver.save(prompt).status.has_value());
  const auto expected = logits_of(engine);
  for (int i = 0; i < 20; ++i) {
    engine.clear();
    Loader loader(engine, storage,
                  {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 256}});
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(report.status.has_value());
    CHECK(report.tokens_computed + report.tokens_loaded == 1500);
    CHECK(difference(engine.logits(), expected) < kLogitsTolerance);
  }
}

TEST_CASE(
    "reference model on the GPU: a prompt that is canceled in the middle leaves the next one "
    "right") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto prompt = prompt_of(1000, 1), next = prompt_of(900, 2);
  CudaBackend fresh(weights), engine(weights);
  MemoryStorage storage;
  Loader plain(fresh, storage,
               {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 128}},
               ComputeOnlyScheduler());
  REQUIRE(plain.prefill(next).status.has_value());
  Stopped stopped{engine, {}, 0};
  Loader loader(stopped, storage,
                {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 128}},
                ComputeOnlyScheduler());
  const PrefillReport report = loader.prefill(prompt, {.stop = stopped.stop.get_token()});
  CHECK(report.status.code() == Errc::canceled);
  CHECK(engine.logits().empty());
  Loader again(engine, storage,
               {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 128}},
               ComputeOnlyScheduler());
  REQUIRE(again.prefill(next).status.has_value());
  CHECK(logits_of(engine) == logits_of(fresh));
  CHECK(same(kv_of(engine, 900), kv_of(fresh, 900)));
}

TEST_CASE(
    "reference model on the GPU: KV that was neither computed nor inserted cannot be extracted") {
  CAKE_NEEDS_GPU();
  const auto weights = upload();
  const auto refusal = [](CudaBackend& engine, TokenRange tokens) -> std::string {
    Buffer buffer(engine.layout(), {0, tokens, {0, 3}});
    const Status status = engine.extract(buffer.slice, buffer.view());
    if (status) return "";
    CHECK(status.code() == Errc::invalid_argument);
    return status.error().context;
  };
  const auto names = [](const std::string& text, std::uint32_t token) {
    return text.find("token " + std::to_string(token) + " ") != std::string::npos;
  };
  const auto prompt = prompt_of(31);
  for (const bool cleared : {false, true}) {
    CudaBackend engine(weights, {.max_step_tokens = 16});
    REQUIRE(run_range(engine, prompt_of(200, 9), {0, 200}).has_value());
    if (cleared) engine.clear();
    REQUIRE(run_range(engine, prompt, {0, 31}).has_value());
    CHECK(refusal(engine, {0, 31}).empty());
    CHECK(names(refusal(engine, {0, 32}), 31));
    CHECK(names(refusal(engine, {20, 200}), 31));
    REQUIRE(engine.decode(engine.argmax()).has_value());
    CHECK(refusal(engine, {0, 32}).empty());
    CHECK(names(refusal(engine, {0, 33}), 32));
  }
  CudaBackend engine(weights, {.max_step_tokens = 16});
  Buffer upper(engine.layout(), {0, {0, 20}, {1, 3}}), lower(engine.layout(), {0, {2, 20}, {0, 1}});
  REQUIRE(engine.insert(upper.slice, upper.read()).wait().has_value());
  CHECK(names(refusal(engine, {0, 20}), 0));
  { const CudaInsert nobody_waits = engine.insert(lower.slice, lower.read()); }
  CHECK(refusal(engine, {2, 20}).empty());
  CHECK(names(refusal(engine, {1, 20}), 1));
  CHECK(run_range(engine, prompt, {20, 31}).code() == Errc::invalid_argument);
  // A void step leaves the layers before it, of its first pass.
  for (const std::uint32_t closed_at : {0u, 1u, 2u}) {
    engine.clear();
    REQUIRE(run_range(engine, prompt_of(31, 9), {0, 31}).has_value());
    Gate gate;
    gate.closed_at = closed_at;
    CHECK(run_range(engine, prompt, {0, 31}, LayerGate(gate, 1)).code() == Errc::superseded);
    CHECK(refusal(engine, {0, 31}).empty() == (closed_at == 0));
    Buffer computed(engine.layout(), {0, {0, 16}, {0, std::max(closed_at, 1u)}});
    CHECK(engine.extract(computed.slice, computed.view()).has_value());
    if (closed_at > 0) CHECK(names(refusal(engine, {16, 31}), 16));
  }
}

TEST_CASE("reference model on the GPU: insert and extract run beside prefill of other chunks") {
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
          !engine.insert(buffer.slice, buffer.read()).wait()) {
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

TEST_CASE("reference model on the GPU: the backend keeps the rules of the conformance kit") {
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
