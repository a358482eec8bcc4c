// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Memory over a disk over a link: each tier a lane, and a prompt that is in all of them.
#include <chrono>
#include <cstdint>
#include <utility>

#include "cake/loader.hpp"
#include "cake/saver.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "storage/helpers.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::kChunk;
using testing::kChunks;
using testing::kTokens;
using testing::run_stored;
using testing::ToyEngine;

namespace {

using Stored = testing::StoredPrompt<MemoryStorage>;

}  // namespace

TEST_CASE("each of three tiers is a lane of its own, with a rate of its own") {
  Stored stored;
  HostStorage ram({.capacity_bytes = 16 << 20});
  const sample::Directory directory;
  PosixStorage disk({.directory = directory.path() / "kv"});
  MemoryStorage far;
  ThrottledStorage remote(far, {.bytes_per_second = 200e6, .latency = 1ms});
  TieredStorage store(ram, disk, remote);
  IoLanes lanes(store);
  REQUIRE(lanes.size() == 3);
  const auto first = lanes.rates();
  const auto fill = [&](auto& tier) {
    for (const ChunkKey& key : stored.keys) {
      REQUIRE(cake::await_completion(tier.write(key, *stored.store.get(key))));
    }
  };
  const auto clear = [&] {
    for (const ChunkKey& key : stored.keys) REQUIRE(store.erase(key));
  };
  // What one tier is seen to do says nothing of the others.
  auto before = first;
  const auto learned = [&] {
    CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
    std::uint32_t changed = 0;
    auto now = lanes.rates();
    for (std::uint32_t t = 0; t < 3; ++t) {
      now[t].unused = 0;  // counts the prompts that said nothing of it
      changed |= std::uint32_t{!(now[t] == before[t])} << t;
    }
    before = now;
    return changed;
  };
  fill(remote);
  CHECK(learned() == 0b100);
  clear();
  fill(disk);
  CHECK(learned() == 0b010);
  clear();
  fill(ram);
  CHECK(learned() == 0b001);
  CHECK(lanes.rates()[2].bytes_per_second <= 210e6);  // the link's, whatever the others gave
}

TEST_CASE(
    "a prompt that is saved over tiers with a policy is in all of them, and loads from each") {
  const auto policy = GENERATE(WritePolicy::through, WritePolicy::back);
  Stored stored;
  HostStorage ram({.capacity_bytes = 16 << 20});
  const sample::Directory directory;
  PosixStorage disk({.directory = directory.path() / "kv"});
  MemoryStorage far;
  ThrottledStorage remote(far, {.bytes_per_second = 500e6});
  TieredStorage store(TierOptions{.write = policy}, ram, disk, remote);
  ToyEngine engine(kTokens);
  REQUIRE(engine.prefill(stored.prompt, {0, kTokens}));
  {
    IoLanes lanes(store);
    Saver saver(lanes, {.threads = 3, .memory_bytes = 3 * stored.object_bytes});
    SaveTicket saved = saver.save(engine, stored.prompt, {.chunk_tokens = kChunk});
    CHECK(saved.wait().status);
    CHECK(saved.wait().written == kChunks);
  }
  CHECK(store.flush());
  CHECK(save(engine, store, stored.prompt, {.chunk_tokens = kChunk}).present == kChunks);
  CHECK(ram.stats().published == kChunks);
  CHECK(disk.stats().published == kChunks);
  CHECK(far.size() == kChunks);
  for (int left = 3; left > 0; --left) {
    IoLanes lanes(store);
    CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
    for (const ChunkKey& key : stored.keys) {
      REQUIRE(store.erase_tier(static_cast<std::uint32_t>(3 - left), key));
    }
  }
}
