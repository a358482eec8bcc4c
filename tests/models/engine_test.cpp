// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every kind of KV through the whole of cake: computed, loaded, and both at once, the logits are
// the same to the bit.
#include "engine.hpp"

#include <cstring>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "catch.hpp"

using namespace std::chrono_literals;

namespace {

using models::Engine;
using models::Model;

constexpr std::uint32_t kChunk = 16;    // tokens
constexpr std::uint32_t kTokens = 167;  // ten chunks and a rest

std::vector<cake::TokenId> prompt() {
  std::vector<cake::TokenId> tokens;
  for (std::uint32_t t = 0; t < kTokens; ++t) {
    tokens.push_back(static_cast<cake::TokenId>((t * 2654435761u) >> 9 & 63));
  }
  return tokens;
}

/// Each model whose KV can be stored, computed and saved by one engine.
template <class F>
void for_each_saved(F&& f) {
  for (const auto& [name, model] : models::all_models()) {
    if (models::has_states(model)) continue;
    INFO(name);
    cake::MemoryStorage storage;
    Engine first(model, name, kTokens);
    first.clear();
    cake::Loader saver(first, storage, {.chunks = {.chunk_tokens = kChunk}});
    REQUIRE(saver.prefill(prompt()).status);
    REQUIRE(saver.save(prompt()).written == kTokens / kChunk);
    f(Engine(model, name, kTokens), storage, first.logits());
  }
}

bool same_bits(const models::Vector& a, const models::Vector& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

template <class S, class Sch>
cake::PrefillReport run(Engine& engine, S& storage, Sch scheduler) {
  engine.clear();
  cake::Loader loader(engine, storage,
                      {.chunks = {.chunk_tokens = kChunk}, .session = {.idle_timeout = 1min}},
                      scheduler);
  return loader.prefill(prompt());
}

TEST_CASE("KV of every kind that one engine saved gives another one the same logits") {
  for_each_saved([](Engine engine, cake::MemoryStorage& storage, const models::Vector& logits) {
    const auto computed = run(engine, storage, cake::ComputeOnlyScheduler());
    CHECK(computed.tokens_loaded == 0);
    CHECK(same_bits(engine.logits(), logits));

    const auto loaded = run(engine, storage, cake::LoadOnlyScheduler());
    CHECK(loaded.tokens_loaded == kTokens / kChunk * kChunk);
    CHECK(same_bits(engine.logits(), logits));
    const std::uint64_t object = cake::ChunkGeometry(engine.layout(), kChunk).object_bytes();
    CHECK(loaded.bytes_read == kTokens / kChunk * object);

    cake::ThrottledStorage slow(storage, cake::LinkOptions{.bytes_per_second = 5e6});
    const auto both = run(engine, slow, cake::MeetInTheMiddleScheduler());
    CHECK(both.status);
    CHECK(both.tokens_loaded + both.tokens_computed == kTokens);
    CHECK(same_bits(engine.logits(), logits));
  });
}

TEST_CASE("chunks that are missing among KV of any kind are computed") {
  for_each_saved([](Engine engine, cake::MemoryStorage& storage, const models::Vector& logits) {
    const cake::ChunkKey root = cake::root_key(engine.fingerprint(), engine.layout(), kChunk, {});
    const auto keys = cake::prefix_chain(root, prompt(), kChunk);
    for (const std::size_t lost : {0, 3, 4, 8}) REQUIRE(storage.erase(keys[lost]));
    const auto report = run(engine, storage, cake::LoadOnlyScheduler());
    CHECK(report.tokens_loaded == 6 * kChunk);
    CHECK(same_bits(engine.logits(), logits));
  });
}

TEST_CASE("layers of any size come one by one through little staging memory") {
  for_each_saved([](Engine engine, cake::MemoryStorage& storage, const models::Vector& logits) {
    const cake::ChunkGeometry geometry(engine.layout(), kChunk);
    const std::uint64_t ends =
        geometry.object_bytes() - (geometry.payload_end() - geometry.head_bytes());
    engine.clear();
    cake::Loader loader(engine, storage,
                        {.chunks = {.chunk_tokens = kChunk},
                         .lanes = {.staging_bytes = ends + geometry.largest_layer()},
                         .session = {.idle_timeout = 1min}},
                        cake::LoadOnlyScheduler());
    const auto report = loader.prefill(prompt());
    CHECK(report.tokens_loaded == kTokens / kChunk * kChunk);
    CHECK(same_bits(engine.logits(), logits));
  });
}

}  // namespace
