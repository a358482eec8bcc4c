// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Lanes over a store that lends its bytes in place: who inserts from where, who verifies, and when a
// loan ends. A run that would wait for what never comes waits for minutes, so that the test program's
// time limit notices.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cake/chunk/digest.hpp"
#include "cake/chunk/format.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/loader.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "fault/layer_by_layer.hpp"
#include "host_device.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::ExactStaging;
using fault::FaultyStorage;
using fault::LayerByLayer;
using testing::drive;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kPatient;
using testing::kTokens;
using testing::ToyEngine;

namespace {

/// Stored in host memory.
struct Stored : testing::StoredPrompt<HostStorage> {
  explicit Stored(HostOptions options = {}) : StoredPrompt(with_room(std::move(options))) {}
  static HostOptions with_room(HostOptions options) {
    if (options.capacity_bytes == 0) options.capacity_bytes = 16 << 20;
    return options;
  }
  /// Where the store keeps a chunk; a test may damage it there.
  std::byte* at(std::uint32_t chunk) {
    const auto loan = store.borrow(0, keys[chunk], 0, object_bytes);
    return const_cast<std::byte*>(loan.value().bytes().data());
  }
};

template <class E, class S, class Sch>
PrefillReport run_on(E& engine, const Stored& stored, IoLanes<S>& lanes, Sch scheduler,
                     const SessionOptions& options = kPatient) {
  engine.clear();
  PrefillSession<E, S, Sch> session(engine, lanes, {.chunk_tokens = kChunk}, std::move(scheduler),
                                    options);
  session.begin(stored.prompt);
  PrefillReport report = drive(session, engine, stored.prompt);
  CHECK(report.scheduler_faults == 0);
  return report;
}

template <class S, class Sch>
PrefillReport run(const Stored& stored, IoLanes<S>& lanes, Sch scheduler,
                  const SessionOptions& options = kPatient) {
  ToyEngine engine(kTokens);
  PrefillReport report = run_on(engine, stored, lanes, std::move(scheduler), options);
  CHECK((engine.kv() == stored.expected));
  return report;
}

/// Notes from where it inserts.
template <bool OnCaller>
struct Watching : testing::ToyEngineT<OnCaller> {
  using Toy = testing::ToyEngineT<OnCaller>;
  using Toy::Toy;
  Status insert(const Slice& slice, const KvView& from) {
    {
      const std::lock_guard lock(mutex);
      for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
        sources.emplace_back(slice.chunk, from.k(l).data());
      }
    }
    return Toy::insert(slice, from);
  }
  std::mutex mutex;
  std::vector<std::pair<std::uint32_t, const std::byte*>> sources;
};

template <bool OnCaller>
void check_sources(Stored& stored) {
  ExactStaging staging(64 << 20);
  IoLanes lanes(stored.store, {.threads = 3, .staging = &staging});
  const auto watched = [&](auto scheduler) {
    Watching<OnCaller> engine(kTokens);
    const PrefillReport report = run_on(engine, stored, lanes, scheduler);
    CHECK(report.tokens_loaded == kChunk * kChunks);
    CHECK((engine.kv() == stored.expected));
    CHECK_FALSE(engine.foreign_insert);
    CHECK(engine.sources.size() == 3 * kChunks);
    for (const auto& [chunk, from] : engine.sources) {
      const std::byte* const object = stored.at(chunk);
      CHECK(std::uintptr_t(from) - std::uintptr_t(object) < stored.object_bytes);
    }
  };
  watched(LoadOnlyScheduler());
  watched(LayerByLayer());
  CHECK(lanes.free_staging_bytes() == lanes.staging_bytes());
  CHECK(staging.used == 0);
  eventually([&] { return stored.store.stats().in_use == 0; });
  CHECK(stored.store.stats().reads == 0);
}

}  // namespace

TEST_CASE("inserts go straight from the store's own memory, and reads take no staging memory") {
  Stored stored;
  SECTION("on the lanes") { check_sources<false>(stored); }
  SECTION("on the driving thread, which keeps the bytes for a while") {
    check_sources<true>(stored);
  }
}

TEST_CASE("what the store has verified is not verified again, unless it says so") {
  const bool again = GENERATE(false, true);
  CAPTURE(again);
  Stored stored({.verify_on_read = again});
  const ChunkGeometry geometry(stored.alone.layout(), kChunk);
  stored.at(5)[geometry.extent(1, 0).begin + 3] ^= std::byte{1};
  IoLanes lanes(stored.store);
  ToyEngine engine(kTokens);
  const PrefillReport report = run_on(engine, stored, lanes, LoadOnlyScheduler());
  if (again) {
    CHECK(report.chunks[5].load_error == Errc::corrupt);
    CHECK(report.chunks[5].source == Source::computed);
    CHECK((engine.kv() == stored.expected));
    CHECK(stored.store.stats().objects == kChunks - 1);  // gone, for the next save
    stored.save_missing();
    CHECK(run(stored, lanes, LayerByLayer()).tokens_loaded == kChunk * kChunks);
  } else {
    CHECK(report.tokens_loaded == kChunk * kChunks);
    CHECK((engine.kv() != stored.expected));
  }
}

TEST_CASE("header and tables of a lent chunk are parsed for every prompt") {
  Stored stored;
  stored.at(4)[4096 + 17] ^= std::byte{1};  // the tables
  stored.at(7)[100] ^= std::byte{1};        // a hash in the header
  IoLanes lanes(stored.store);
  const PrefillReport report = run(stored, lanes, LoadOnlyScheduler());
  CHECK(report.chunks[4].load_error == Errc::corrupt);
  CHECK(report.chunks[7].load_error == Errc::corrupt);
  CHECK(report.tokens_loaded == kChunk * (kChunks - 2));
}

namespace {

/// The first layer of a chunk comes from the first tier, the others from the second.
struct TwoCopies : LayerByLayer {
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    const auto load = LayerByLayer::next_load(view, lane, now);
    if (!load || (load->slice.layers.begin == 0) != (lane == 0)) return std::nullopt;
    return load;
  }
};

}  // namespace

TEST_CASE("a seal is no proof for bytes of an object that the tables are not of") {
  Stored stored;
  // The disk's copy of chunk 3 was computed otherwise: its tables are good, and not those in memory.
  MemoryStorage disk;
  for (const ChunkKey& key : stored.keys) {
    AlignedBuffer object(stored.object_bytes);
    REQUIRE(stored.store.read(0, key, 0, object.bytes()));
    REQUIRE(disk.write(key, object.bytes()));
  }
  const ChunkGeometry geometry(stored.alone.layout(), kChunk);
  std::vector<std::byte> object = *disk.get(stored.keys[3]);
  {
    const ConstBytes kv(object);
    ChunkWriter writer(stored.alone.layout(), kChunk);
    for (std::uint32_t l = 0; l < 3; ++l) {
      for (std::uint32_t p = 0; p < 2; ++p) {
        const auto to = writer.payload().plane(l, p);
        std::copy_n(kv.data() + geometry.extent(l, p).begin, to.size(), to.data());
      }
    }
    writer.payload().k(2)[0] ^= std::byte{1};
    const Tokens tokens(stored.prompt);
    const auto other =
        writer.finish({stored.keys[3], stored.keys[2], stored.alone.fingerprint(), tenant_tag({}),
                       3 * kChunk, tokens.subspan(3 * kChunk, kChunk), geometry});
    REQUIRE(other);
    disk.replace(stored.keys[3], {other->begin(), other->end()});
  }
  TieredStorage both(disk, stored.store);
  IoLanes lanes(both, {.threads = 1});
  const PrefillReport report = run(stored, lanes, TwoCopies());
  CHECK(report.chunks[3].load_error == Errc::corrupt);
  CHECK(report.chunks[3].source == Source::computed);
  CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
}

TEST_CASE("a chunk that the store does not lend is computed") {
  Stored stored;
  FaultyStorage storage(stored.store);
  storage.on_key(stored.keys[3], {.kind = fault::Kind::error});
  storage.on_key(stored.keys[8], {.kind = fault::Kind::flipped_byte, .position = 20'000});
  IoLanes lanes(storage);
  const PrefillReport report = run(stored, lanes, LoadOnlyScheduler());
  CHECK(report.failed_loads == 2);
  CHECK(report.chunks[3].load_error == Errc::io);
  CHECK(report.chunks[8].load_error == Errc::corrupt);
  CHECK(report.tokens_loaded == kChunk * (kChunks - 2));
}

TEST_CASE("a store that lends other bytes than it was asked for is not believed") {
  struct Short : HostStorage {
    explicit Short(HostStorage& in) : HostStorage({.capacity_bytes = 4096}), inner(in) {}
    Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
      return inner.lookup(keys);
    }
    Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                                 std::uint64_t size) {
      return inner.borrow(tier, key, offset, size - 4096);
    }
    HostStorage& inner;
  };
  Stored stored;
  Short storage(stored.store);
  IoLanes lanes(storage);
  const PrefillReport report = run(stored, lanes, LoadOnlyScheduler());
  CHECK(report.tokens_computed == kTokens);
  CHECK(report.failed_loads == kChunks);
}

TEST_CASE("a loan that hangs costs its chunk and its thread, and no more") {
  Stored stored;
  FaultyStorage storage(stored.store);
  storage.on_read(2, {.kind = fault::Kind::hang});
  IoLanes lanes(storage, {.threads = 2});
  SessionOptions options = kPatient;
  options.read_timeout = 50ms;
  CHECK(run(stored, lanes, LoadOnlyScheduler(), options).tokens_loaded == kChunk * (kChunks - 1));
  CHECK_FALSE(lanes.core().host().down(0, stored.object_bytes));
  storage.on_read(2, {.kind = fault::Kind::hang});  // now all threads
  const PrefillReport second = run(stored, lanes, LoadOnlyScheduler(), options);
  CHECK(second.tokens_loaded >= kChunk);
  CHECK(second.tokens_loaded < kChunk * kChunks);
  eventually([&] { return lanes.core().host().down(0, stored.object_bytes); });
  CHECK(run(stored, lanes, LoadOnlyScheduler(), options).tokens_computed == kTokens);
  storage.heal();
  CHECK(storage.release() == 2);
  eventually([&] { return !lanes.core().host().down(0, stored.object_bytes); });
  CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  eventually([&] { return stored.store.stats().in_use == 0; });
}

namespace {

/// A loan takes its time to end. Loans after the first one hang until release().
struct SlowEnds {
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true, .borrow = true};
  HostStorage& inner;
  std::atomic<int> loans{0};
  std::atomic<bool> released{false};
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t, const ChunkKey&, std::uint64_t, MutableBytes) {
    return Error{Errc::unsupported, 0, "it only lends"};
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) {
    const bool hangs = loans++ != 0;
    while (hangs && !released) std::this_thread::sleep_for(1ms);
    auto loan = inner.borrow(tier, key, offset, size);
    if (!loan) return loan.error();
    auto held = std::make_shared<BorrowedBytes>(std::move(*loan));
    const ConstBytes bytes = held->bytes();
    return BorrowedBytes(bytes, std::shared_ptr<const void>(bytes.data(), [held](const void*) {
                           std::this_thread::sleep_for(30ms);
                         }));
  }
};
static_assert(StorageBackend<SlowEnds>);

}  // namespace

TEST_CASE("a read that is claimed while the engine waits for nothing ends at its deadline") {
  Stored stored;
  SlowEnds storage{stored.store};
  IoLanes lanes(storage, {.threads = 1});
  SessionOptions options = kPatient;
  options.read_timeout = 50ms;
  const PrefillReport report = run(stored, lanes, LoadOnlyScheduler(), options);
  CHECK(report.tokens_loaded == kChunk);
  storage.released = true;
}

namespace {

/// Before each insert, and after it has read one half, somebody does everything to the store that
/// could take the bytes away.
struct Beset : ToyEngine {
  using ToyEngine::ToyEngine;
  Status insert(const Slice& slice, const KvView& from) {
    beset(slice.chunk);
    return ToyEngine::insert(slice, from);
  }
  std::function<void(std::uint32_t chunk)> beset;
};

}  // namespace

TEST_CASE("what is being inserted is neither evicted nor erased meanwhile") {
  const bool erases = GENERATE(false, true);
  CAPTURE(erases);
  Stored stored({.capacity_bytes = (kChunks + 1) * 20 * 4096});
  const AlignedBuffer other(stored.object_bytes);
  std::memset(other.data(), 0x5a, other.size());
  std::atomic<std::uint32_t> written{0};
  Beset engine(kTokens);
  engine.beset = [&](std::uint32_t chunk) {
    if (erases) CHECK(stored.store.erase(stored.keys[chunk]));
    // Fills the store, over all that could go, several times.
    for (int i = 0; i < 40; ++i) {
      ChunkKey key;
      std::fill(key.bytes.begin(), key.bytes.end(), std::byte{0xcc});
      const std::uint32_t number = written++;
      std::memcpy(key.bytes.data(), &number, sizeof number);
      (void)stored.store.write(key, other.bytes());
    }
  };
  IoLanes lanes(stored.store, {.threads = 2});
  const PrefillReport report = run_on(engine, stored, lanes, LoadOnlyScheduler());
  CHECK((engine.kv() == stored.expected));
  CHECK(report.tokens_loaded >= kChunk);
  CHECK(stored.store.stats().evicted > 0);
  eventually([&] { return stored.store.stats().in_use == 0; });
}

TEST_CASE("bytes that the driving thread is still to insert stay lent") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 2});
  using OnCaller = testing::ToyEngineT<true>;
  OnCaller engine(kTokens);
  engine.clear();
  PrefillSession<OnCaller, HostStorage, LoadOnlyScheduler> session(
      engine, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
  session.begin(stored.prompt);
  eventually([&] { return stored.store.stats().loans >= 2; });
  for (const ChunkKey& key : stored.keys) REQUIRE(stored.store.erase(key));
  // Over all of the memory that is free now.
  const AlignedBuffer other(1 << 20);
  std::memset(other.data(), 0x5a, other.size());
  for (std::uint8_t i = 0; i < 32; ++i) {
    ChunkKey key;
    key.bytes.fill(std::byte{i});
    (void)stored.store.write(key, other.bytes());
  }
  const PrefillReport report = drive(session, engine, stored.prompt);
  CHECK(report.tokens_loaded >= kChunk);
  CHECK((engine.kv() == stored.expected));
  eventually([&] { return stored.store.stats().in_use == 0; });
}

namespace {

struct FromDevice : ToyEngine {
  using ToyEngine::ToyEngine;
  static constexpr EngineAbilities abilities{.inserts_from_device = true};
};

struct WithDevice : HostStorage {
  using HostStorage::HostStorage;
  static constexpr StorageAbilities abilities = [] {
    StorageAbilities can = HostStorage::abilities;
    can.device_staging = true;
    return can;
  }();
  DeviceStaging* device_staging() { return &device; }
  testing::HostDevice device;
};

}  // namespace

TEST_CASE("lanes that land in device memory read instead of borrowing") {
  Stored stored;
  WithDevice storage({.capacity_bytes = 16 << 20});
  REQUIRE(save(stored.alone, storage, stored.prompt, {.chunk_tokens = kChunk}).status);
  {
    IoLanes lanes(storage, {.device = true});
    REQUIRE(lanes.device() != nullptr);
    FromDevice engine(kTokens);
    CHECK(run_on(engine, stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
    CHECK((engine.kv() == stored.expected));
    CHECK(storage.stats().loans == 0);
    CHECK(storage.stats().reads == kChunks);
  }
  IoLanes lanes(storage);
  CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  CHECK(storage.stats().loans == kChunks);
}

TEST_CASE("a lane that reads has all staging memory beside one that lends") {
  Stored stored;
  MemoryStorage disk;
  for (std::uint32_t c = 0; c < kChunks; c += 2) {
    AlignedBuffer object(stored.object_bytes);
    REQUIRE(stored.store.read(0, stored.keys[c], 0, object.bytes()));
    REQUIRE(disk.write(stored.keys[c], object.bytes()));
    REQUIRE(stored.store.erase(stored.keys[c]));
  }
  FaultyStorage held(disk);
  held.on_every_read({.kind = fault::Kind::hang});
  TieredStorage both(stored.store, held);
  ExactStaging staging(2 * stored.object_bytes);
  IoLanes lanes(both,
                {.threads = 4, .staging_bytes = 2 * stored.object_bytes, .staging = &staging});
  std::atomic<bool> two{false};
  std::jthread releaser([&] {
    for (int i = 0; i < 5'000 && !two; ++i) {
      two = held.counts().hung == 2;
      std::this_thread::sleep_for(1ms);
    }
    held.heal();
    held.release();
  });
  CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  releaser.join();
  CHECK(two);
  for (int i = 0; i < 5; ++i) {
    CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
    CHECK(run(stored, lanes, LayerByLayer()).tokens_loaded == kChunk * kChunks);
  }
  CHECK(staging.refused == 0);
}

TEST_CASE("the rate of a tier that lends is that of its inserts") {
  Stored stored;
  ToyEngine slow(kTokens, {.per_insert = 2ms});
  IoLanes lanes(stored.store, {.threads = 1});
  CHECK(run_on(slow, stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  const LinkEstimate learned = lanes.rates()[0];
  CHECK(learned.measured > 0);
  CHECK(learned.bytes_per_second < 2 * static_cast<double>(stored.object_bytes) / 2e-3);
}
