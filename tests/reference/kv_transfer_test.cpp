// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV into the pages of the CPU backend and out again.
#include <atomic>
#include <cstring>
#include <thread>

#include "catch.hpp"
#include "tiny_engine.hpp"

using namespace tiny;

namespace {

/// Writes random bytes as a chunk in the middle of 512 tokens, its layers in two slices, and reads
/// them again.
bool comes_back(CpuBackend& engine, std::uint32_t chunk) {
  const std::uint32_t begin = (512 - chunk) / 2;
  const TokenRange tokens{begin, begin + chunk};
  Buffer low(engine.layout(), {0, tokens, {0, 1}}), high(engine.layout(), {0, tokens, {1, 3}});
  fill(low, chunk);
  fill(high, chunk + engine.options().page_tokens);
  Buffer low_again = low, high_again = high;
  std::ranges::fill(low_again.bytes, std::byte{});
  std::ranges::fill(high_again.bytes, std::byte{});
  return engine.insert(high.slice, high.read()) && engine.insert(low.slice, low.read()) &&
         engine.extract(low.slice, low_again.view()) &&
         engine.extract(high.slice, high_again.view()) && same(low, low_again) &&
         same(high, high_again);
}

}  // namespace

TEST_CASE("what was extracted and inserted gives the same answer, bit for bit") {
  const auto weights = load();
  const auto prompt = prompt_of(200);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      const CpuOptions options{.threads = 2, .kv_dtype = dtype, .kv_order = order};
      CpuBackend saved(weights, options), loaded(weights, options);
      REQUIRE(saved.prefill(prompt, {0, 160}).has_value());
      REQUIRE(saved.prefill(prompt, {160, 200}).has_value());
      for (std::uint32_t chunk = 0; chunk < 5; ++chunk) {
        Buffer buffer(saved.layout(), {chunk, {chunk * 32, chunk * 32 + 32}, {0, 3}});
        REQUIRE(saved.extract(buffer.slice, buffer.view()).has_value());
        REQUIRE(loaded.insert(buffer.slice, buffer.read()).has_value());
      }
      REQUIRE(loaded.prefill(prompt, {160, 200}).has_value());
      CHECK(std::ranges::equal(saved.logits(), loaded.logits()));
    }
  }
}

TEST_CASE("KV comes back bit-equal for every dtype, order, chunk and page size") {
  const auto weights = load();
  std::size_t checked = 0;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (std::uint32_t page = 1; page <= 64; ++page) {
        CpuBackend engine(
            weights, {.threads = 1, .kv_dtype = dtype, .kv_order = order, .page_tokens = page});
        for (const std::uint32_t chunk : {16u, 17u, 32u, 63u, 64u, 100u, 128u, 256u, 511u, 512u}) {
          REQUIRE(comes_back(engine, chunk));
          ++checked;
        }
      }
    }
  }
  CHECK(checked == 3 * 2 * 64 * 10);
}

TEST_CASE("KV comes back bit-equal for every chunk size from 16 to 512") {
  const auto weights = load();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (std::uint32_t first = 0; first < 16; ++first) {
        CpuBackend engine(
            weights,
            {.threads = 1, .kv_dtype = dtype, .kv_order = order, .page_tokens = 4 * first + 3});
        for (std::uint32_t chunk = 16 + first; chunk <= 512; chunk += 16)
          REQUIRE(comes_back(engine, chunk));
      }
    }
  }
}

TEST_CASE("transferred KV has the layout that it declares") {
  // The same KV through two engines that differ in order alone: element by element the same.
  const auto weights = load();
  const auto prompt = prompt_of(40);
  CpuBackend nhd(weights, {.threads = 1, .kv_order = KvOrder::nhd});
  CpuBackend hnd(weights, {.threads = 1, .kv_order = KvOrder::hnd, .page_tokens = 7});
  REQUIRE(nhd.prefill(prompt, {0, 40}).has_value());
  REQUIRE(hnd.prefill(prompt, {0, 40}).has_value());
  const KvLayout layout = nhd.layout();
  Buffer a(layout, {0, {3, 36}, {0, 3}}), b(hnd.layout(), a.slice);
  REQUIRE(nhd.extract(a.slice, a.view()).has_value());
  REQUIRE(hnd.extract(b.slice, b.view()).has_value());
  const std::size_t n = 33, head_bytes = layout.head_dim * size_of(layout.dtype);
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t h = 0; h < layout.n_kv_heads; ++h) {
        const std::size_t from = (t * layout.n_kv_heads + h) * head_bytes,
                          to = (h * n + t) * head_bytes;
        REQUIRE(std::memcmp(a.read().k(layer).data() + from, b.read().k(layer).data() + to,
                            head_bytes) == 0);
        REQUIRE(std::memcmp(a.read().v(layer).data() + from, b.read().v(layer).data() + to,
                            head_bytes) == 0);
      }
    }
  }
  CHECK(std::ranges::any_of(a.bytes, [](std::byte x) { return x != std::byte{}; }));
}

TEST_CASE("insert and extract run beside prefill of other chunks") {
  tiny::Shape shape;
  shape.context = 2048;
  const auto weights = load(shape);
  const auto prompt = prompt_of(1024);
  const CpuOptions options{.threads = 2, .page_tokens = 8};
  CpuBackend whole(weights, options), engine(weights, options);
  REQUIRE(prefill_in_steps(whole, prompt, 64).has_value());

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
    if (!engine.prefill(prompt, {at, at + 64})) good = false;
  }
  first.join();
  second.join();
  CHECK(good);
  // Chunk 15 holds the end of the prompt; its last step gives the logits.
  REQUIRE(engine.prefill(prompt, {960, 1024}).has_value());
  CHECK(std::ranges::equal(engine.logits(), whole.logits()));
}
