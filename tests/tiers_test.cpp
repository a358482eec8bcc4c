// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Several tiers behind one prompt: what is wrong with one leaves the others.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 32;

/// A store whose lookups hang until they are let go.
struct HangingStorage {
  MemoryStorage inner;
  std::mutex mutex;
  std::condition_variable freed;
  bool hangs = false;
  std::atomic<int> lookups = 0;
  void let_go() {
    std::lock_guard lock(mutex);
    hangs = false;
    freed.notify_all();
  }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    std::unique_lock lock(mutex);
    ++lookups;
    freed.wait(lock, [&] { return !hangs; });
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

struct Prompt {
  std::vector<TokenId> tokens = toy_prompt(200);
  ToyEngine engine{200};
  std::vector<ChunkKey> keys =
      prefix_chain(root_key(engine.fingerprint(), engine.layout(), kChunk, {}), tokens, kChunk);
  std::vector<std::byte> expected;
  Prompt() {
    REQUIRE(engine.prefill(tokens, {0, 200}).has_value());
    expected = engine.kv();
  }
  void save_to(auto& storage) {
    REQUIRE(engine.prefill(tokens, {0, 200}).has_value());
    REQUIRE(save(engine, storage, tokens, {.chunk_tokens = kChunk}).status.has_value());
  }
  PrefillReport run(auto& storage, SessionOptions session = {.idle_timeout = 1min}) {
    engine.clear();
    Loader loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}, .session = session},
                  LoadOnlyScheduler());
    PrefillReport report = loader.prefill(tokens);
    CHECK(report.status.has_value());
    CHECK(engine.kv() == expected);
    return report;
  }
};

}  // namespace

TEST_CASE("a tier whose lookup hangs leaves what the others hold, and is not waited for again") {
  Prompt prompt;
  MemoryStorage memory;
  HangingStorage remote;
  prompt.save_to(memory);
  prompt.save_to(remote.inner);
  TieredStorage store(memory, remote);
  remote.hangs = true;
  prompt.engine.clear();
  {
    Loader loader(prompt.engine, store,
                  {.chunks = {.chunk_tokens = kChunk},
                   .session = {.idle_timeout = 1min, .lookup_timeout = 50ms}},
                  LoadOnlyScheduler());
    for (int i = 0; i < 3; ++i) {
      prompt.engine.clear();
      const PrefillReport report = loader.prefill(prompt.tokens);
      CHECK(report.tokens_loaded == 6 * kChunk);
      CHECK(report.lookup.code() == Errc::timeout);
      CHECK(report.lookup.error().message().find("tier 1") != std::string::npos);
      CHECK(prompt.engine.kv() == prompt.expected);
    }
    CHECK(remote.lookups == 1);
    remote.let_go();
  }
  CHECK(prompt.run(store).lookup.has_value());
}

TEST_CASE("an object of a wrong length in one tier is removed there, and loaded from the other") {
  Prompt prompt;
  MemoryStorage near;
  MemoryStorage far;
  prompt.save_to(near);
  prompt.save_to(far);
  const auto object = *near.get(prompt.keys[2]);
  const auto spoil = [&](MemoryStorage& tier, std::size_t bytes) {
    auto other = object;
    other.resize(bytes);
    REQUIRE(tier.erase(prompt.keys[2]).has_value());
    REQUIRE(tier.write(prompt.keys[2], other).has_value());
  };
  TieredStorage store(near, far);
  SECTION("shorter") { spoil(near, object.size() / 2); }
  SECTION("longer") { spoil(near, object.size() + 4096); }
  CHECK(prompt.run(store).tokens_loaded == 6 * kChunk);
  CHECK_FALSE(near.get(prompt.keys[2]));
  CHECK(far.get(prompt.keys[2]));
}

TEST_CASE("a damaged object of one tier leaves the good one of another") {
  Prompt prompt;
  MemoryStorage near;
  MemoryStorage far;
  prompt.save_to(near);
  prompt.save_to(far);
  auto object = *near.get(prompt.keys[5]);
  object[object.size() / 2] ^= std::byte{1};
  REQUIRE(near.erase(prompt.keys[5]).has_value());
  REQUIRE(near.write(prompt.keys[5], object).has_value());
  TieredStorage store(near, far);
  // Whichever tier the chunk is read from, the answer is right, and the good object stays.
  for (int i = 0; i < 20 && near.get(prompt.keys[5]); ++i) {
    prompt.run(store);
    CHECK(far.get(prompt.keys[5]));
  }
  if (!near.get(prompt.keys[5])) CHECK(prompt.run(store).tokens_loaded == 6 * kChunk);
}

TEST_CASE("a throttled store is asked in the way that its inner store can be") {
  using Both = TieredStorage<MemoryStorage, HangingStorage>;
  CHECK(storage_traits<Both>::abilities.lookup_tier);
  CHECK(storage_traits<ThrottledStorage<Both>>::abilities.lookup_tier);
  CHECK(storage_traits<ThrottledStorage<Both>>::abilities.erase_tier);
  CHECK_FALSE(storage_traits<ThrottledStorage<MemoryStorage>>::abilities.lookup_tier);
  CHECK(storage_traits<ThrottledStorage<MemoryStorage>>::abilities.lookup_never_blocks);
  CHECK(storage_traits<TieredStorage<MemoryStorage, MemoryStorage>>::abilities.lookup_never_blocks);
  CHECK_FALSE(storage_traits<Both>::abilities.lookup_never_blocks);
}
