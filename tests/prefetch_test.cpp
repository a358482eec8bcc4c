// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts that wait are brought into RAM, behind real lanes; and prompts that run then find them there.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cake/loader.hpp"
#include "cake/queued.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kTokens;
using testing::run_stored;
using testing::ToyEngine;

namespace {

constexpr TierOptions kPromotes{.promote = Promotion::on_hit};
const ChunkOptions kAs{.chunk_tokens = kChunk};
using Stored = testing::StoredPrompt<MemoryStorage>;

/// Its reads wait while they are held.
class HeldReads {
 public:
  explicit HeldReads(MemoryStorage& inner) : inner_(inner) {}
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner_.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    std::unique_lock lock(mutex_);
    keys_.push_back(key);
    changed_.notify_all();
    changed_.wait(lock, [&] { return !held_; });
    return inner_.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner_.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner_.erase(key); }

  void hold(bool held = true) {
    const std::lock_guard lock(mutex_);
    held_ = held;
    changed_.notify_all();
  }
  /// Of the reads that have begun, once there are so many.
  std::vector<ChunkKey> begun(std::size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return keys_.size() >= n; });
    return keys_;
  }

 private:
  MemoryStorage& inner_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ChunkKey> keys_;
  bool held_ = false;
};

/// A session of another sequence, which asks for a prompt that waits.
template <class S>
PrefetchTicket prefetch(const Stored& stored, IoLanes<S>& lanes, const PrefetchOptions& how = {}) {
  ToyEngine engine(kTokens);
  return PrefillSession(engine, lanes, kAs).prefetch(stored.prompt, how);
}

bool adds_up(const PrefetchReport& r) {
  return r.stored == r.there + r.read + r.by_others + r.failed + r.left;
}

std::size_t objects(const MemoryStorage& store) { return store.size(); }

}  // namespace

TEST_CASE("the chunks of a prompt that waits are in RAM when it begins") {
  Stored stored;
  HostStorage ram({.capacity_bytes = 16 << 20});
  TieredStorage store(kPromotes, ram, stored.store);
  IoLanes lanes(store);
  const PrefetchTicket ticket = prefetch(stored, lanes);
  const PrefetchReport report = ticket.wait();
  CHECK(ticket.ready());
  CHECK(report.status);
  CHECK(report.stored == kChunks);
  CHECK(report.read == kChunks);
  CHECK(report.bytes_read == kChunks * stored.object_bytes);
  CHECK(adds_up(report));
  eventually([&] { return store.stats()[0].promoted == kChunks; });
  CHECK(store.stats()[1].reads == kChunks);
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
  stored.store.clear();  // else its lane may bring some as well
  CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
  CHECK(store.stats()[1].reads == kChunks);

  const PrefetchReport again = prefetch(stored, lanes).wait();
  CHECK(again.there == kChunks);
  CHECK(again.read == 0);
  CHECK(adds_up(again));
}

TEST_CASE(
    "only what lies in slower tiers is read, the last chunks first, and no more than is asked "
    "for") {
  Stored stored;
  MemoryStorage ram;
  REQUIRE(ram.write(stored.keys[10], *stored.store.get(stored.keys[10])));
  REQUIRE(stored.store.erase(stored.keys[8]));
  HeldReads disk(stored.store);
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store);
  const PrefetchTicket ticket =
      prefetch(stored, lanes, {.most_bytes = 3 * stored.object_bytes + 1, .reads_at_once = 1});
  const PrefetchReport report = ticket.wait();
  CHECK(report.status);
  CHECK(report.stored == kChunks - 1);
  CHECK(report.there == 1);
  CHECK(report.read == 3);
  CHECK(report.left == kChunks - 5);
  CHECK(adds_up(report));
  CHECK(disk.begun(3) == std::vector<ChunkKey>{stored.keys[11], stored.keys[9], stored.keys[7]});
  eventually([&] { return objects(ram) == 4; });
}

TEST_CASE("a prefetch that is stopped reads no more, and nobody waits for its reads") {
  Stored stored;
  MemoryStorage ram;
  HeldReads disk(stored.store);
  disk.hold();
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store);
  std::stop_source stop;
  std::optional<PrefetchTicket> ticket = prefetch(stored, lanes, {.stop = stop.get_token()});
  CHECK(disk.begun(2).size() == 2);
  CHECK_FALSE(ticket->ready());
  CHECK(ticket->report().left == kChunks);
  SECTION("by its ticket") { ticket->request_stop(); }
  SECTION("by the caller's token") { stop.request_stop(); }
  const PrefetchReport report = ticket->wait();
  CHECK(report.status.code() == Errc::canceled);
  CHECK(report.left == kChunks);
  CHECK(report.read == 0);
  CHECK(adds_up(report));
  ticket.reset();
  disk.hold(false);
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
  CHECK(disk.begun(2).size() == 2);
  CHECK(objects(ram) == 0);
  CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("a prefetch ends with its ticket") {
  Stored stored;
  MemoryStorage ram;
  HeldReads disk(stored.store);
  disk.hold();
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store);
  {
    PrefetchTicket first = prefetch(stored, lanes);
    CHECK(disk.begun(2).size() == 2);
    first = prefetch(stored, lanes);  // ends the first one, and begins another
    CHECK_FALSE(first.ready());
  }
  disk.hold(false);
  CHECK(lanes.state().prompts == 0);
  CHECK(run_stored(stored, lanes).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("a prefetch waits while a prompt loads, and its chunks are read once for both") {
  Stored stored;
  MemoryStorage ram;
  HeldReads disk(stored.store);
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store, {.threads = 2});
  disk.hold();
  SECTION("the prompt was first") {
    ToyEngine engine(kTokens);
    PrefillSession session(engine, lanes, kAs, LoadOnlyScheduler(), testing::kPatient);
    session.begin(stored.prompt);
    CHECK(disk.begun(2).size() == 2);
    const PrefetchTicket ticket = prefetch(stored, lanes);
    disk.hold(false);
    CHECK(testing::drive(session, engine, stored.prompt).tokens_loaded == kChunk * kChunks);
    const PrefetchReport report = ticket.wait();
    CHECK(report.by_others == kChunks);  // also those that it was reading when the prefetch came
    CHECK(report.read == 0);
    CHECK(adds_up(report));
  }
  SECTION("the prefetch was first") {
    const PrefetchTicket ticket = prefetch(stored, lanes);
    CHECK(disk.begun(2).size() == 2);
    ToyEngine engine(kTokens);
    PrefillSession session(engine, lanes, kAs, LoadOnlyScheduler(), testing::kPatient);
    session.begin(stored.prompt);
    disk.hold(false);
    CHECK(testing::drive(session, engine, stored.prompt).tokens_loaded == kChunk * kChunks);
    const PrefetchReport report = ticket.wait();
    CHECK(report.read >= 2);
    CHECK(report.read + report.by_others == kChunks);
    CHECK(adds_up(report));
  }
  CHECK(disk.begun(kChunks).size() == kChunks);
  eventually([&] { return objects(ram) == kChunks; });
}

TEST_CASE("chunks that are damaged or cannot be read are counted, and get nowhere") {
  Stored stored;
  MemoryStorage ram;
  fault::FaultyStorage disk(stored.store);
  disk.on_key(stored.keys[3], {.kind = fault::Kind::flipped_byte, .position = 20'000});
  disk.on_key(stored.keys[7], {.kind = fault::Kind::wrong_object, .other = stored.keys[6]});
  disk.on_key(stored.keys[9], {.kind = fault::Kind::error});
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store);
  const PrefetchReport report = prefetch(stored, lanes).wait();
  CHECK(report.status);
  CHECK(report.failed == 3);
  CHECK(report.read == kChunks - 3);
  CHECK_FALSE(report.load_error);
  CHECK(adds_up(report));
  eventually([&] { return objects(ram) == kChunks - 3; });
  for (const std::uint32_t c : {3u, 7u, 9u}) {
    CHECK_FALSE(ram.get(stored.keys[c]).has_value());
    CHECK(stored.store.get(stored.keys[c]).has_value());  // for the prompt to find
  }
}

TEST_CASE("where nothing is promoted a prefetch reads nothing, and says what to do") {
  Stored stored;
  MemoryStorage ram;
  const auto refused = [&](auto& store, std::uint64_t staging) {
    IoLanes lanes(store, {.staging_bytes = staging});
    const PrefetchReport report = prefetch(stored, lanes).wait();
    CHECK(report.left + report.there == kChunks);
    CHECK(report.status.code() == (report.left == 0 ? Errc::ok : Errc::unsupported));
    CHECK(adds_up(report));
    return report.status ? std::string() : report.status.error().context;
  };
  TieredStorage never(ram, stored.store);
  CHECK(refused(never, 64 << 20).find("Promotion::on_hit") != std::string::npos);
  TieredStorage second(TierOptions{.promote = Promotion::on_second_hit}, ram, stored.store);
  CHECK(refused(second, 64 << 20).find("Promotion::on_hit") != std::string::npos);
  TieredStorage promotes(kPromotes, ram, stored.store);
  CHECK(refused(promotes, stored.object_bytes / 2).find("staging_bytes") != std::string::npos);
  CHECK(refused(stored.store, 64 << 20).empty());  // its only tier is the fastest one
  CHECK(objects(ram) == 0);
}

TEST_CASE("a store behind a throttle promotes, too, and a tier that lends needs no prefetch") {
  Stored stored;
  MemoryStorage ram;
  TieredStorage tiers(kPromotes, ram, stored.store);
  ThrottledStorage store(tiers, LinkOptions());
  IoLanes lanes(store);
  CHECK(prefetch(stored, lanes).wait().read == kChunks);
  eventually([&] { return objects(ram) == kChunks; });

  HostStorage lends({.capacity_bytes = 16 << 20});
  for (const ChunkKey& key : stored.keys) REQUIRE(lends.write(key, *stored.store.get(key)));
  MemoryStorage empty;
  TieredStorage slower(kPromotes, empty, lends);
  IoLanes others(slower);
  CHECK(prefetch(stored, others).wait().there == kChunks);
}

TEST_CASE("a prefetch that is stopped before it begins asks for nothing") {
  Stored stored;
  MemoryStorage ram;
  TieredStorage store(kPromotes, ram, stored.store);
  IoLanes lanes(store);
  std::stop_source stop;
  stop.request_stop();
  const PrefetchReport report = prefetch(stored, lanes, {.stop = stop.get_token()}).wait();
  CHECK(report.status.code() == Errc::canceled);
  CHECK(report.stored == 0);
  CHECK(store.stats()[1].hits == 0);
}

TEST_CASE("a prefetch of what no store holds is over at once") {
  Stored stored;
  MemoryStorage ram;
  MemoryStorage disk;
  TieredStorage store(kPromotes, ram, disk);
  IoLanes lanes(store);
  const PrefetchTicket ticket = prefetch(stored, lanes);
  CHECK(ticket.ready());
  CHECK(ticket.wait().stored == 0);
  CHECK(ticket.wait().status);
}
