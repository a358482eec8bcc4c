// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a store says that it holds: late, never, too short, too long, in tiers that there are not,
// of other sizes. The prompt runs, the KV is right, and save() puts right what it can.
#include "cake/detail/lookup.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kChunks = 8;
constexpr std::uint32_t kTokens = kChunks * kChunk + 20;
constexpr SessionOptions kPatient{.idle_timeout = 1h, .read_timeout = 30min, .lookup_timeout = 1h};

using Answer = std::vector<StoredChunk>;

/// Changes the answers of a store, and can keep them back.
struct Teller {
  MemoryStorage inner;
  std::uint32_t n_tiers = 1;
  std::function<void(Answer&)> change;  // set while nobody asks
  std::atomic<bool> hangs{false};
  std::atomic<int> inside{0};
  std::atomic<int> erased{0};
  std::atomic<bool> lies{false};  // a read is ok and fills nothing in
  std::atomic<bool> wrong_tier{false};
  static constexpr StorageAbilities abilities{.tiers = true};
  std::uint32_t tiers() const { return n_tiers; }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    ++inside;
    while (hangs) std::this_thread::sleep_for(1ms);
    --inside;
    auto answer = inner.lookup(keys);
    if (change) change(*answer);
    return answer;
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    if (tier >= n_tiers) wrong_tier = true;
    if (lies) {  // whatever the memory held before
      std::fill(out.begin(), out.end(), std::byte{0xa5});
      return {};
    }
    return inner.read(0, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) {
    ++erased;
    return inner.erase(key);
  }
};

struct World {
  World() : prompt(toy_prompt(kTokens)) {
    ToyEngine alone(kTokens);
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    expected = alone.kv();
    REQUIRE(save(alone, storage.inner, prompt, {.chunk_tokens = kChunk}).written == kChunks);
    engine.clear();
  }
  PrefillReport run(const SessionOptions& session = kPatient, std::stop_token stop = {}) {
    engine.clear();
    Loader loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}, .session = session},
                  LoadOnlyScheduler());
    PrefillReport report = loader.prefill(prompt, {.stop = std::move(stop)});
    if (report.status) {
      CHECK(engine.kv() == expected);
      saved = loader.save(prompt);
    }
    CHECK_FALSE(storage.wrong_tier);
    return report;
  }
  std::vector<TokenId> prompt;
  std::vector<std::byte> expected;
  Teller storage;
  ToyEngine engine{kTokens};
  SaveReport saved;
};

}  // namespace

TEST_CASE("an answer that is too short, empty or too long is taken for as much as it says") {
  World world;
  for (const std::size_t length : {0u, 1u, 5u, 8u, 9u, 1000u}) {
    CAPTURE(length);
    world.storage.change = [&](Answer& answer) { answer.resize(length, {~0ull, ~0u}); };
    const PrefillReport report = world.run();
    CHECK(report.status.has_value());
    CHECK(report.tokens_loaded == kChunk * std::min<std::size_t>(length, kChunks));
    // What it does not tell is saved again, which the store has already.
    CHECK(world.saved.written + world.saved.present + world.saved.failed == kChunks);
    CHECK(world.storage.inner.size() == kChunks);
    CHECK(world.storage.erased == 0);
  }
}

TEST_CASE("tiers that no lane reads are not asked, and an object in no tier is absent") {
  World world;
  for (const std::uint32_t n_tiers : {1u, 2u}) {
    world.storage.n_tiers = n_tiers;
    world.storage.change = [&](Answer& answer) {
      for (StoredChunk& chunk : answer) chunk.tiers |= ~0u << n_tiers;
    };
    CHECK(world.run().tokens_loaded == kChunk * kChunks);
    CHECK(world.saved.present == kChunks);
    world.storage.change = [&](Answer& answer) {
      if (answer.size() < kChunks) return;  // save() asks for what it has written
      answer[2].tiers = 0;
      answer[4].tiers = ~0u << n_tiers;
    };
    const PrefillReport report = world.run();
    CHECK(report.status.has_value());
    CHECK(report.tokens_loaded == kChunk * (kChunks - 2));
    CHECK(report.chunks[2].source == Source::computed);
    CHECK(report.chunks[4].source == Source::computed);
  }
}

TEST_CASE("an object of another size is erased, computed, and stored again by save()") {
  World world;
  const std::vector<ChunkKey> keys = world.storage.inner.keys();
  for (const int bytes : {-4096, 4096}) {
    auto object = *world.storage.inner.get(keys[3]);
    const std::size_t good = object.size();
    object.resize(static_cast<std::size_t>(static_cast<std::ptrdiff_t>(good) + bytes));
    world.storage.inner.replace(keys[3], object);
    const PrefillReport report = world.run();
    CHECK(report.status.has_value());
    CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
    CHECK(world.saved.status.has_value());
    CHECK(world.saved.written == 1);
    CHECK(world.storage.inner.get(keys[3])->size() == good);
    CHECK(world.run().tokens_loaded == kChunk * kChunks);
  }
}

TEST_CASE("reads that say ok without filling anything in are found out") {
  World world;
  world.storage.lies = true;
  const PrefillReport report = world.run();
  CHECK(report.status.has_value());
  CHECK(report.tokens_loaded == 0);
  CHECK(report.failed_loads == kChunks);
}

TEST_CASE("a lookup that hangs is left at its deadline, and none piles up behind it") {
  World world;
  world.storage.hangs = true;
  SessionOptions session = kPatient;
  session.lookup_timeout = 20ms;
  {
    Loader loader(world.engine, world.storage,
                  {.chunks = {.chunk_tokens = kChunk}, .session = session});
    for (int i = 0; i < 40; ++i) {
      world.engine.clear();
      const PrefillReport report = loader.prefill(world.prompt);
      CHECK(report.status.has_value());
      CHECK(report.lookup.code() == Errc::timeout);
      CHECK(report.tokens_computed == kTokens);
      CHECK(world.engine.kv() == world.expected);
      CHECK(world.storage.inside > 0);
      CHECK(world.storage.inside <= 8);
    }
    world.storage.hangs = false;
    while (world.storage.inside > 0) std::this_thread::sleep_for(1ms);
  }
  CHECK(world.run().tokens_loaded == kChunk * kChunks);
}

TEST_CASE("a request to stop ends a prefill whose lookup hangs") {
  World world;
  world.storage.hangs = true;
  std::stop_source stop;
  std::jthread stopper([&] {
    while (world.storage.inside == 0) std::this_thread::sleep_for(1ms);
    (void)stop.request_stop();
  });
  Loader loader(world.engine, world.storage,
                {.chunks = {.chunk_tokens = kChunk}, .session = kPatient});
  const PrefillReport report = loader.prefill(world.prompt, {.stop = stop.get_token()});
  CHECK(report.status.code() == Errc::canceled);
  CHECK(world.storage.inside == 1);  // it hangs on
  world.storage.hangs = false;
}

TEST_CASE("a prompt that asked to stop before it began asks no store") {
  World world;
  world.storage.hangs = true;
  std::stop_source stop;
  (void)stop.request_stop();
  CHECK(world.run(kPatient, stop.get_token()).status.code() == Errc::canceled);
  CHECK(world.storage.inside == 0);
}
