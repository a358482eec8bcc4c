// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts over tiers with policies, behind real lanes: what a load brought from a slow tier is in the
// fast one afterwards, and loads and saves are as without.
#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "cake/loader.hpp"
#include "cake/saver.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "fault/held_storage.hpp"
#include "fault/layer_by_layer.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::ExactStaging;
using fault::FaultyStorage;
using fault::HeldStorage;
using fault::LayerByLayer;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kTokens;
using testing::run_stored;
using testing::ToyEngine;

namespace {

constexpr TierOptions kPromotes{.promote = Promotion::on_hit};

using Stored = testing::StoredPrompt<MemoryStorage>;

std::uint64_t reads(const std::vector<TierStats>& stats) {
  std::uint64_t n = 0;
  for (const TierStats& one : stats) n += one.reads;
  return n;
}

/// A lane offers the last chunk when the prompt may be done already.
template <class S>
void wait_for_promotions(S& store, std::uint64_t n) {
  eventually([&] { return store.stats()[0].promoted >= n; });
  CHECK(store.flush());
  CHECK(store.stats()[0].promoted == n);
}

template <class E>
void check_promotion() {
  Stored stored;
  HostStorage ram({.capacity_bytes = 16 << 20});
  ExactStaging staging(64 << 20);
  TieredStorage store(kPromotes, ram, stored.store);
  IoLanes lanes(store, {.threads = 2, .staging = &staging});
  CHECK(run_stored<E>(stored, lanes).tokens_loaded == kChunk * kChunks);
  wait_for_promotions(store, kChunks);
  CHECK(ram.stats().objects == kChunks);
  CHECK(ram.stats().unverified == 0);
  CHECK(store.stats()[1].reads == kChunks);  // once each, and not again to promote them
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
  stored.store.clear();
  CHECK(run_stored<E>(stored, lanes).tokens_loaded == kChunk * kChunks);
  CHECK(store.stats()[1].reads == kChunks);
  CHECK(store.stats()[0].promoted == kChunks);
}

}  // namespace

TEST_CASE("a chunk that was read from the disk is in RAM afterwards") {
  SECTION("inserted by the lanes") { check_promotion<ToyEngine>(); }
  SECTION("inserted by the driving thread") { check_promotion<testing::ToyEngineT<true>>(); }
}

TEST_CASE("a chunk that several tiers have is read from one of them") {
  Stored stored;
  HostStorage ram({.capacity_bytes = 16 << 20});
  MemoryStorage remote;
  for (const ChunkKey& key : stored.keys) {
    REQUIRE(ram.write(key, *stored.store.get(key)));
    REQUIRE(remote.write(key, *stored.store.get(key)));
  }
  TieredStorage store(kPromotes, ram, stored.store, remote);
  IoLanes lanes(store);
  CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
  CHECK(reads(store.stats()) == kChunks);
  CHECK(store.flush());
  CHECK(store.stats()[0].promoted == 0);  // all there
  CHECK(store.stats()[0].hits == kChunks);
  CHECK(store.stats()[2].hits == kChunks);
}

TEST_CASE("a chunk that is damaged in a slow tier does not get into a fast one") {
  Stored stored;
  MemoryStorage ram;
  FaultyStorage disk(stored.store);
  disk.on_key(stored.keys[3], {.kind = fault::Kind::flipped_byte, .position = 20'000});
  disk.on_key(stored.keys[5], {.kind = fault::Kind::torn_read});
  disk.on_key(stored.keys[7], {.kind = fault::Kind::wrong_object, .other = stored.keys[6]});
  disk.on_key(stored.keys[9], {.kind = fault::Kind::error});
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store);
  CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * (kChunks - 4));
  wait_for_promotions(store, kChunks - 4);
  CHECK(store.stats()[0].dropped == 0);  // they were not even offered
  for (std::uint32_t c = 0; c < kChunks; ++c) {
    const bool bad = c == 3 || c == 5 || c == 7 || c == 9;
    CAPTURE(c);
    CHECK(ram.get(stored.keys[c]).has_value() == !bad);
    if (!bad) CHECK(ram.get(stored.keys[c]) == stored.store.get(stored.keys[c]));
  }
}

TEST_CASE("what was read in slices of layers is not promoted") {
  Stored stored;
  MemoryStorage ram;
  TieredStorage store(kPromotes, ram, stored.store);
  IoLanes lanes(store);
  CHECK(run_stored(stored, lanes, LayerByLayer()).tokens_loaded == kChunk * kChunks);
  CHECK(store.flush());
  CHECK(ram.size() == 0);
  CHECK(store.stats()[0].dropped == 0);
}

TEST_CASE("a fast tier that hangs holds up neither loads nor more than a part of the memory") {
  Stored stored;
  HeldStorage ram;
  TieredStorage store(kPromotes, ram, stored.store);
  ram.hold();
  const std::uint64_t budget = GENERATE(2u, 3u, 8u) * stored.object_bytes;
  ExactStaging staging(budget);
  std::optional<IoLanes<decltype(store)>> lanes;
  lanes.emplace(store, LaneOptions{.threads = 2, .staging_bytes = budget, .staging = &staging});
  for (int i = 0; i < 3; ++i) {
    CHECK(run_stored(stored, *lanes).tokens_loaded == kChunk * kChunks);
  }
  const auto held = [&] { return lanes->staging_bytes() - lanes->free_staging_bytes(); };
  eventually([&] { return held() <= std::max(budget / 4, stored.object_bytes); });
  CHECK(store.stats()[0].dropped > 0);
  std::thread releaser([&] {
    ram.wait_for_writes(1);
    ram.let_go();
  });
  lanes.reset();  // the store gives back what it was lent first
  CHECK(staging.used == 0);
  releaser.join();
  CHECK(ram.size() > 0);  // what was being promoted
}

TEST_CASE("loads and write-back go on beside each other, over a store that throttles all of it") {
  Stored stored;
  HostStorage ram({.capacity_bytes = 16 << 20});
  MemoryStorage far;
  TieredStorage store(TierOptions{.write = WritePolicy::back, .promote = Promotion::on_hit}, ram,
                      stored.store, far);
  ThrottledStorage slow(store, {.bytes_per_second = 1e9});
  IoLanes lanes(slow);
  Saver saver(lanes);
  ToyEngine engine(kTokens);
  REQUIRE(engine.prefill(stored.prompt, {0, kTokens}));
  std::optional<SaveTicket> ticket;
  for (int i = 0; i < 3; ++i) {
    ticket.emplace(saver.save(engine, stored.prompt, {.chunk_tokens = kChunk}));
    CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
    CHECK(ticket->wait().status);
    wait_for_promotions(store, kChunks * static_cast<unsigned>(i + 1));
    CHECK(ram.stats().objects == kChunks);
    for (const ChunkKey& key : stored.keys) REQUIRE(ram.erase(key));
  }
}

namespace {

/// Keeps what it is offered until it is let go.
struct Keeping {
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true, .promote = true};
  MemoryStorage& inner;
  std::mutex mutex;
  std::vector<BorrowedBytes> kept;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
  void promote(std::uint32_t, const ChunkKey&, BorrowedBytes object) noexcept {
    const std::lock_guard lock(mutex);
    if (!object.bytes().empty()) kept.push_back(std::move(object));
  }
};
static_assert(StorageBackend<Keeping>);

}  // namespace

TEST_CASE("the end of the lanes waits for what the store was lent") {
  Stored stored;
  Keeping store{stored.store, {}, {}};
  ExactStaging staging(64 << 20);
  std::optional<IoLanes<Keeping>> lanes;
  lanes.emplace(store, LaneOptions{.staging = &staging});
  CHECK(run_stored(stored, *lanes).tokens_loaded == kChunk * kChunks);
  eventually([&] {
    const std::lock_guard lock(store.mutex);
    return !store.kept.empty();
  });
  std::atomic<bool> ended{false};
  std::thread end([&] {
    lanes.reset();
    ended = true;
  });
  std::this_thread::sleep_for(200ms);
  CHECK_FALSE(ended);
  std::vector<BorrowedBytes> kept;
  {
    const std::lock_guard lock(store.mutex);
    kept.swap(store.kept);
  }
  kept.clear();
  end.join();
  CHECK(staging.used == 0);
}
