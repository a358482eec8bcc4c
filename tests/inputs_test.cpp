// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Inputs that token ids do not describe: images, soft prompts, adapters. Two that differ share no
// KV.
#include <algorithm>
#include <optional>
#include <utility>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_engine.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 32;
constexpr TokenRange kImage{40, 200};  // placeholders

/// The ids of an image's places are all alike; its KV depends on the image, and on the adapter.
struct ImageEngine {
  explicit ImageEngine(std::size_t n) : toy(n) {}
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder()
        .add("weights", "image")
        .add("lora", names_adapter ? adapter : 0)
        .finish();
  }
  Status prefill(Tokens prompt, TokenRange range, LayerGate gate) {
    std::vector<TokenId> seen(prompt.begin(), prompt.end());
    for (std::uint32_t t = kImage.begin; t < std::min<std::size_t>(kImage.end, seen.size()); ++t) {
      seen[t] = static_cast<TokenId>(1'000'000 * image + static_cast<int>(t));
    }
    for (TokenId& id : seen) id += 7777 * adapter;
    return toy.prefill(seen, range, std::move(gate));
  }
  Status insert(const Slice& slice, const KvView& view) { return toy.insert(slice, view); }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }
  ToyEngine toy;
  int image = 1;
  int adapter = 0;
  bool names_adapter = true;
};
static_assert(ComputeBackend<ImageEngine>);

std::vector<TokenId> prompt_with_image() {
  auto prompt = toy_prompt(270);
  std::fill(prompt.begin() + kImage.begin, prompt.begin() + kImage.end, 42);
  return prompt;
}
std::vector<ExtraKey> key_of(int image) { return {{kImage, "image " + std::to_string(image)}}; }
ChunkOptions with(int image) { return {.chunk_tokens = kChunk, .extra = key_of(image)}; }

auto loader_of(ImageEngine& engine, MemoryStorage& storage) {
  return Loader(engine, storage,
                {.chunks = {.chunk_tokens = kChunk}, .session = {.idle_timeout = 1min}},
                LoadOnlyScheduler());
}

std::vector<std::byte> computed(int image, int adapter = 0) {
  const auto prompt = prompt_with_image();
  ImageEngine engine(prompt.size());
  engine.image = image;
  engine.adapter = adapter;
  REQUIRE(engine.prefill(prompt, {0, 270}, {}).has_value());
  return engine.toy.kv();
}

}  // namespace

TEST_CASE("two images share the chunks before them and no others") {
  const auto prompt = prompt_with_image();
  MemoryStorage storage;
  ImageEngine engine(prompt.size());
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt, {.chunks = with(1)}).status.has_value());
  REQUIRE(loader.save(prompt, {.chunks = with(1)}).written == 8);
  engine.toy.clear();
  engine.image = 2;
  const PrefillReport other = loader.prefill(prompt, {.chunks = with(2)});
  CHECK(other.tokens_loaded == kChunk);  // of the text before
  CHECK(engine.toy.kv() == computed(2));
  engine.toy.clear();
  engine.image = 1;
  CHECK(loader.prefill(prompt, {.chunks = with(1)}).tokens_loaded == 8 * kChunk);
  CHECK(engine.toy.kv() == computed(1));
}

TEST_CASE("KV of an image is not saved under the placeholders alone") {
  const auto prompt = prompt_with_image();
  MemoryStorage storage;
  ImageEngine engine(prompt.size());
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt, {.chunks = with(1)}).status.has_value());
  const ChunkOptions without{.chunk_tokens = kChunk};
  CHECK(loader.save(prompt, {.chunks = without}).status.code() == Errc::invalid_argument);
  CHECK(loader.save(prompt, {.chunks = with(2)}).status.code() == Errc::invalid_argument);
  CHECK(storage.size() == 0);
  // The text before it is the same for all images.
  CHECK(loader.save(Tokens(prompt).first(40), {.chunks = without}).written == 1);
  // What nothing else is said of is saved as it was prefilled.
  const SaveReport saved = loader.save(prompt);
  CHECK(saved.present == 1);
  CHECK(saved.written == 7);
}

TEST_CASE("a session takes extra keys, too") {
  const auto prompt = prompt_with_image();
  MemoryStorage storage;
  ImageEngine engine(prompt.size());
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt, {.chunks = with(1)}).status.has_value());
  REQUIRE(loader.save(prompt, {.chunks = with(1)}).written == 8);
  IoLanes lanes(storage);
  PrefillSession session(engine, lanes, {.chunk_tokens = kChunk}, LoadOnlyScheduler());
  session.begin(prompt, {.chunks = with(2)});
  CHECK(session.finish().spec.end_chunk == 1);
  session.begin(prompt, {.chunks = with(1)});
  CHECK(session.finish().spec.end_chunk == 8);
}

TEST_CASE("extra keys tell apart by range and digest, in any order, and change nothing before") {
  const ChunkKey root{};
  const auto prompt = toy_prompt(256);
  const auto keys = [&](std::vector<ExtraKey> extra) {
    return prefix_chain(root, prompt, kChunk, extra);
  };
  const auto plain = keys({});
  const auto one = keys({{{40, 50}, "a"}});
  CHECK(one[0] == plain[0]);
  CHECK(one[1] != plain[1]);
  CHECK(one[7] != plain[7]);
  CHECK(keys({{{40, 50}, "b"}})[1] != one[1]);
  CHECK(keys({{{41, 50}, "a"}})[1] != one[1]);
  CHECK(keys({{{40, 51}, "a"}})[1] != one[1]);
  CHECK(keys({{{40, 50}, "a"}, {{40, 50}, "b"}})[1] != one[1]);
  CHECK(keys({{{40, 50}, "a"}, {{100, 110}, "b"}}) == keys({{{100, 110}, "b"}, {{40, 50}, "a"}}));
  // A range that ends where a chunk begins does not touch it; one behind the tokens changes none.
  CHECK(keys({{{0, 32}, "a"}})[0] != plain[0]);
  CHECK(keys({{{256, 300}, "a"}}) == plain);
  CHECK(keys({{{32, 64}, "a"}})[0] == plain[0]);
  CHECK_THROWS_AS(keys({{{5, 5}, "a"}}), Exception);
  CHECK_THROWS_AS(keys({{{5, 6}, ""}}), Exception);
}

TEST_CASE("an engine that names its adapter shares nothing between two") {
  const auto prompt = prompt_with_image();
  MemoryStorage storage;
  ImageEngine engine(prompt.size());
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt, {.chunks = with(1)}).status.has_value());
  engine.adapter = 1;  // before the save: what is in the engine belongs to the other one
  CHECK(loader.save(prompt, {.chunks = with(1)}).status.code() == Errc::invalid_argument);
  engine.adapter = 0;
  REQUIRE(loader.save(prompt, {.chunks = with(1)}).written == 8);
  engine.adapter = 1;
  CHECK(loader.prefill(prompt, {.chunks = with(1)}).tokens_loaded == 0);
  CHECK(engine.toy.kv() == computed(1, 1));
}

TEST_CASE("the kit finds inputs and adapters that nobody tells apart") {
  const auto prompt = prompt_with_image();
  ImageEngine engine(prompt.size());
  const auto told = [&](int which) {
    engine.image = which + 1;
    return key_of(which + 1);
  };
  CHECK(testing::check_inputs(engine, prompt, told).empty());
  const auto untold = [&](int which) {
    engine.image = which + 1;
    return std::vector<ExtraKey>();
  };
  CHECK(testing::check_inputs(engine, prompt, untold).size() == 1);
  engine.image = 1;
  const auto adapters = [&](int which) {
    engine.adapter = which;
    return key_of(1);
  };
  CHECK(testing::check_inputs(engine, prompt, adapters).empty());
  engine.names_adapter = false;
  CHECK(testing::check_inputs(engine, prompt, adapters).size() == 1);
  const auto same = [&](int) { return key_of(1); };
  CHECK(testing::check_inputs(engine, prompt, same).size() == 1);  // nothing was compared
}

TEST_CASE("a fingerprint takes each value as what it is") {
  const auto of = [](auto value) { return FingerprintBuilder().add("x", value).finish(); };
  CHECK(of(0.25) != of(0.5));
  CHECK(of(1e-5) != of(1e-6));
  CHECK(of(0.25f) == of(0.25));
  CHECK(of(1) != of(1.0));
  CHECK(of(1) != of(true));
  CHECK(of(1) == of(std::uint64_t{1}));
  CHECK(of(-1) != of(~std::uint64_t{0}));
  CHECK(of(std::int8_t{-1}) == of(std::int64_t{-1}));
  CHECK(of("1") != of(1));
  CHECK(of(std::string_view("\1\0\0\0\0\0\0\0", 8)) != of(std::uint64_t{1}));
  CHECK(of(std::string("a")) == of("a"));
  const std::byte bytes[] = {std::byte{'a'}};
  CHECK(of(std::span<const std::byte>(bytes)) != of("a"));
}
