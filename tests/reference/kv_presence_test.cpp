// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV that was never computed or inserted cannot be taken out of an engine.
#include <string>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "tiny_engine.hpp"

using namespace tiny;

namespace {

/// What extract says of all layers of a range: "" where it is there.
std::string extract(CpuBackend& engine, TokenRange tokens) {
  Buffer buffer(engine.layout(), {0, tokens, {0, engine.layout().n_layers}});
  const Status status = engine.extract(buffer.slice, buffer.view());
  if (status) return "";
  CHECK(status.code() == Errc::invalid_argument);
  return status.error().context;
}
bool names(const std::string& text, std::uint32_t token) {
  return text.find("token " + std::to_string(token) + " ") != std::string::npos;
}

/// Opens some layers and voids the step at the next one.
struct ClosingGate final : GateSource {
  explicit ClosingGate(std::uint32_t layers) : open(layers) {}
  bool wait_layer(std::uint64_t, std::uint32_t layer) override { return layer < open; }
  std::uint32_t open;
};

/// An engine that still holds the KV of another prompt in its pages.
CpuBackend used_engine(std::uint32_t page_tokens) {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = page_tokens});
  REQUIRE(engine.prefill(prompt_of(200, 9), {0, 200}).has_value());
  return engine;
}

}  // namespace

TEST_CASE("a token that was sampled and not decoded has no KV") {
  for (const std::uint32_t page : {1u, 7u, 16u, 64u, 1000u}) {
    for (const bool cleared : {false, true}) {
      CAPTURE(page, cleared);
      CpuBackend engine = used_engine(page);
      if (cleared) engine.clear();
      const auto prompt = prompt_of(31);
      REQUIRE(engine.prefill(prompt, {0, 31}).has_value());
      CHECK(extract(engine, {0, 31}).empty());
      CHECK(names(extract(engine, {0, 32}), 31));
      CHECK(names(extract(engine, {31, 32}), 31));
      CHECK(names(extract(engine, {20, 200}), 31));
      REQUIRE(engine.decode(engine.argmax()).has_value());
      CHECK(extract(engine, {0, 32}).empty());
      CHECK(names(extract(engine, {0, 33}), 32));
    }
  }
}

TEST_CASE("saving a prompt with the token that was sampled last stores nothing of its chunk") {
  const auto weights = load();
  cake::MemoryStorage storage;
  CpuBackend engine(weights, {.threads = 1});
  REQUIRE(engine.prefill(prompt_of(200, 9), {0, 200}).has_value());
  engine.clear();
  auto tokens = prompt_of(63);
  cake::Loader loader(engine, storage, {.chunks = {.chunk_tokens = 32}});
  REQUIRE(loader.prefill(tokens).status.has_value());
  tokens.push_back(engine.argmax());
  const cake::SaveReport saved = loader.save(tokens);
  CHECK(saved.status.code() == Errc::invalid_argument);
  CHECK(saved.written <= 1);
  const auto keys =
      prefix_chain(root_key(engine.fingerprint(), engine.layout(), 32, {}), tokens, 32);
  REQUIRE(keys.size() == 2);
  CHECK(!storage.lookup(keys).value()[1].stored());
  REQUIRE(engine.decode(tokens.back()).has_value());
  CHECK(loader.save(tokens).status.has_value());
  CHECK(storage.lookup(keys).value()[1].stored());
}

TEST_CASE("steps in any order leave holes where nothing was computed") {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
  const auto prompt = prompt_of(60);
  REQUIRE(engine.reserve(60).has_value());  // pages, and nothing in them
  CHECK(names(extract(engine, {0, 60}), 0));
  REQUIRE(engine.prefill(prompt, {0, 5}).has_value());
  CHECK(extract(engine, {0, 5}).empty());
  CHECK(names(extract(engine, {0, 6}), 5));
  // A step above a hole is refused, though the page is there.
  const Status above = engine.prefill(prompt, {7, 20});
  CHECK(above.code() == Errc::invalid_argument);
  CHECK(names(above.error().context, 5));
  CHECK(names(extract(engine, {7, 20}), 7));
  REQUIRE(engine.prefill(prompt, {5, 60}).has_value());
  CHECK(extract(engine, {0, 60}).empty());
}

TEST_CASE("inserted tokens are there when all their layers are") {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
  const auto insert = [&](TokenRange tokens, LayerRange layers) {
    Buffer buffer(engine.layout(), {0, tokens, layers});
    fill(buffer, tokens.begin + layers.begin);
    REQUIRE(engine.insert(buffer.slice, buffer.read()).has_value());
  };
  insert({10, 30}, {1, 3});
  CHECK(names(extract(engine, {10, 30}), 10));
  Buffer two(engine.layout(), {0, {10, 30}, {1, 3}});
  CHECK(engine.extract(two.slice, two.view()).has_value());  // these layers are
  insert({12, 30}, {0, 1});
  CHECK(names(extract(engine, {10, 30}), 10));
  CHECK(extract(engine, {12, 30}).empty());
  insert({10, 12}, {0, 1});
  CHECK(extract(engine, {10, 30}).empty());
  CHECK(names(extract(engine, {9, 30}), 9));
  CHECK(names(extract(engine, {10, 31}), 30));
  insert({0, 10}, {0, 2});
  CHECK(engine.prefill(prompt_of(60), {30, 60}).code() == Errc::invalid_argument);
  insert({0, 10}, {2, 3});
  CHECK(engine.prefill(prompt_of(60), {30, 60}).has_value());
}

TEST_CASE("an insert that is refused makes nothing present") {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
  Buffer buffer(engine.layout(), {0, {0, 32}, {0, 3}});
  CHECK(!engine.insert({0, {0, 31}, {0, 3}}, buffer.read()));
  CHECK(!engine.insert({0, {0, 32}, {0, 4}}, buffer.read()));
  CHECK(names(extract(engine, {0, 32}), 0));
}

TEST_CASE("of a void step only the layers that it computed are there") {
  const auto prompt = prompt_of(50);
  for (const std::uint32_t open : {0u, 1u, 2u}) {
    for (const bool used : {false, true}) {
      CAPTURE(open, used);
      CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
      if (used) {
        REQUIRE(engine.prefill(prompt_of(50, 9), {0, 50}).has_value());
      }
      ClosingGate gate(open);
      CHECK(engine.prefill(prompt, {0, 50}, LayerGate(gate, 1)).code() == Errc::superseded);
      // A mixture of two prompts' layers is nobody's KV; where nothing was written, the old is.
      const bool untouched = used && open == 0;
      CHECK(extract(engine, {0, 50}).empty() == untouched);
      Buffer computed(engine.layout(), {0, {0, 50}, {0, std::max(open, 1u)}});
      CHECK(engine.extract(computed.slice, computed.view()).has_value() == (open > 0 || untouched));
      REQUIRE(engine.prefill(prompt, {0, 50}).has_value());
      CHECK(extract(engine, {0, 50}).empty());
    }
  }
}

TEST_CASE("a gate that opens over KV that is not there ends the step with an error") {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
  const auto prompt = prompt_of(50);
  REQUIRE(engine.prefill(prompt, {0, 20}).has_value());
  ClosingGate open(3);
  const Status status = engine.prefill(prompt, {30, 50}, LayerGate(open, 1));
  CHECK(status.code() == Errc::invalid_argument);
  CHECK(names(status.error().context, 20));
  CHECK(names(extract(engine, {30, 50}), 30));
  CHECK(engine.logits().empty());
}

TEST_CASE("a step that is refused changes nothing of what is there") {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
  const auto prompt = prompt_of(50);
  REQUIRE(engine.prefill(prompt, {0, 50}).has_value());
  auto wrong = prompt;
  wrong[3] = 80;  // no such token
  CHECK(!engine.prefill(wrong, {0, 10}));
  CHECK(!engine.prefill(prompt, {0, 51}));
  CHECK(!engine.decode(-1));
  CHECK(extract(engine, {0, 50}).empty());
}

TEST_CASE("a shorter prompt ends what is there, and clear ends all of it") {
  CpuBackend engine(load(), {.threads = 1, .page_tokens = 16});
  REQUIRE(engine.prefill(prompt_of(120, 4), {0, 120}).has_value());
  const auto shorter = prompt_of(40, 4);
  REQUIRE(engine.prefill(shorter, {39, 40}).has_value());
  CHECK(extract(engine, {0, 40}).empty());
  CHECK(names(extract(engine, {0, 41}), 40));
  CHECK(names(extract(engine, {100, 120}), 100));
  REQUIRE(engine.decode(1).has_value());
  CHECK(extract(engine, {0, 41}).empty());
  // KV that comes from the back before anything is computed stays.
  engine.clear();
  CHECK(names(extract(engine, {0, 40}), 0));
  Buffer back(engine.layout(), {0, {64, 96}, {0, 3}});
  REQUIRE(engine.insert(back.slice, back.read()).has_value());
  REQUIRE(engine.prefill(prompt_of(100, 4), {0, 64}).has_value());
  CHECK(extract(engine, {0, 96}).empty());
  CHECK(names(extract(engine, {0, 100}), 96));
}

TEST_CASE("pages that are used again hold nothing of the prompt before") {
  for (const std::uint32_t page : {3u, 16u}) {
    CpuBackend engine = used_engine(page);
    engine.clear();
    REQUIRE(engine.reserve(200).has_value());
    CHECK(names(extract(engine, {0, 200}), 0));
    REQUIRE(engine.prefill(prompt_of(10), {0, 10}).has_value());
    for (std::uint32_t end = 11; end < 40; ++end) CHECK(names(extract(engine, {0, end}), 10));
  }
}
