// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Encrypted objects through sessions, lanes and stores: loads give the KV that compute gives, and what
// cannot be decrypted costs its chunk and no more.
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "cake/chunk/tenant_keys.hpp"
#include "cake/loader.hpp"
#include "cake/queued.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "fault/layer_by_layer.hpp"
#include "host_device.hpp"
#include "models/engine.hpp"
#include "storage/helpers.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using fault::FaultyStorage;
using fault::Kind;
using fault::LayerByLayer;
using testing::drive;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kPatient;
using testing::kTokens;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

ChunkOptions options_of(std::initializer_list<std::uint8_t> keys, std::string salt = "tenant") {
  return {.chunk_tokens = kChunk, .salt = std::move(salt), .keys = sample::keys_of(keys)};
}

/// One prompt, the KV that it must have, and an engine that has it.
struct Prompt {
  Prompt() {
    REQUIRE(alone.prefill(tokens, {0, kTokens}));
    expected = alone.kv();
  }
  template <class S>
  SaveReport save_to(S& store, const ChunkOptions& chunks) {
    SaveReport report = save(alone, store, tokens, chunks);
    CHECK(report.status.has_value());
    return report;
  }
  std::vector<ChunkKey> names(const ChunkOptions& chunks) const {
    return prefix_chain(
        root_key(alone.fingerprint(), alone.layout(), kChunk, chunks.salt, chunks.cipher()), tokens,
        kChunk);
  }
  template <class E = ToyEngine, class S, class Sch = LoadOnlyScheduler>
  PrefillReport load(IoLanes<S>& lanes, const ChunkOptions& chunks, Sch scheduler = {}) const {
    E engine(kTokens);
    engine.clear();
    PrefillSession<E, S, Sch> session(engine, lanes, chunks, std::move(scheduler), kPatient);
    session.begin(tokens);
    PrefillReport report = drive(session, engine, tokens);
    CHECK((engine.kv() == expected));
    CHECK(report.tokens_loaded + report.tokens_computed == kTokens);
    CHECK(report.scheduler_faults == 0);
    return report;
  }
  template <class S>
  PrefillReport load_from(S& store, const ChunkOptions& chunks) const {
    IoLanes lanes(store);
    return load(lanes, chunks);
  }

  std::vector<TokenId> tokens = toy_prompt(kTokens);
  std::vector<std::byte> expected;
  ToyEngine alone{kTokens};
};

constexpr std::uint32_t kStored = kChunk * kChunks;

template <class S>
std::vector<std::byte> object_of(S& store, const ChunkKey& name) {
  const AlignedBuffer bytes(sample::look(store, name).size);
  REQUIRE(await_completion(store.read(0, name, 0, bytes.bytes())));
  return {bytes.bytes().begin(), bytes.bytes().end()};
}

/// All ways to load, whole and by layers, with the inserts here and there.
template <class S>
void check_loads(const Prompt& prompt, S& store, const ChunkOptions& chunks) {
  IoLanes lanes(store, {.threads = 3});
  CHECK(prompt.load(lanes, chunks).tokens_loaded == kStored);
  CHECK(prompt.load(lanes, chunks, LayerByLayer()).tokens_loaded == kStored);
  CHECK(prompt.load<testing::ToyEngineT<true>>(lanes, chunks).tokens_loaded == kStored);
  CHECK(prompt.load<testing::ToyEngineT<true>>(lanes, chunks, LayerByLayer()).tokens_loaded ==
        kStored);
  prompt.load(lanes, chunks, MeetInTheMiddleScheduler());
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
}

/// A toy that takes parts, so that lanes over memory read in them.
struct PartsEngine : ToyEngine {
  static constexpr EngineAbilities abilities{.inserts_parts = true};
  using ToyEngine::ToyEngine;
};

/// Memory that says that reading it is a copy.
struct CallerStore : MemoryStorage {
  static constexpr StorageAbilities abilities = [] {
    StorageAbilities can = MemoryStorage::abilities;
    can.read_on_caller = true;
    return can;
  }();
  bool reads_on_caller(std::uint32_t) { return true; }
  Status read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) {
    ++reads;
    return MemoryStorage::read(tier, key, offset, out);
  }
  std::atomic<int> reads{0};
};

struct FromDevice : ToyEngine {
  using ToyEngine::ToyEngine;
  static constexpr EngineAbilities abilities{.inserts_from_device = true};
};

/// Pinned memory with a device: its lanes may read into device memory.
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

TEST_CASE(
    "an encrypted prompt is loaded from memory, disk, pinned RAM and tiers as it was computed") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  SECTION("memory") {
    MemoryStorage store;
    CHECK(prompt.save_to(store, chunks).written == kChunks);
    CHECK(prompt.save_to(store, chunks).present == kChunks);
    check_loads(prompt, store, chunks);
  }
  SECTION("disk") {
    const sample::Directory directory;
    PosixStorage store({.directory = directory.path()});
    CHECK(prompt.save_to(store, chunks).written == kChunks);
    check_loads(prompt, store, chunks);
  }
  SECTION("RAM that lends its bytes, where objects are built") {
    HostStorage store({.capacity_bytes = 16 << 20});
    CHECK(prompt.save_to(store, chunks).written == kChunks);
    CHECK(store.stats().unverified == 0);
    check_loads(prompt, store, chunks);
  }
  SECTION("tiers") {
    HostStorage ram({.capacity_bytes = 16 << 20});
    MemoryStorage slow;
    CHECK(prompt.save_to(slow, chunks).written == kChunks);
    TieredStorage store({.promote = Promotion::on_hit}, ram, slow);
    check_loads(prompt, store, chunks);
  }
}

TEST_CASE("parts of an encrypted chunk are decrypted by the threads that read them") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  CallerStore store;
  CHECK(prompt.save_to(store, chunks).written == kChunks);
  IoLanes lanes(store, {.threads = 3, .part_bytes = 4096});
  CHECK(prompt.load<PartsEngine>(lanes, chunks).tokens_loaded == kStored);
  CHECK(store.reads >= 3 * int{kChunks});  // a layer is a part
  // Damage of any part: the chunk is computed, and erased.
  const auto names = prompt.names(chunks);
  auto object = object_of(store, names[5]);
  const ChunkGeometry geometry(prompt.alone.layout(), kChunk, Cipher::aes_256_gcm);
  for (const std::uint32_t layer : {0u, 1u, 2u}) {
    object[geometry.extent(layer, 1).begin] ^= std::byte{1};
    REQUIRE(store.erase(names[5]));
    REQUIRE(store.write(names[5], object));
    object[geometry.extent(layer, 1).begin] ^= std::byte{1};
    const PrefillReport report = prompt.load<PartsEngine>(lanes, chunks);
    CHECK(report.tokens_loaded == kStored - kChunk);
    CHECK(report.chunks[5].load_error == Errc::corrupt);
    CHECK_FALSE(sample::look(store, names[5]).stored());
  }
}

TEST_CASE("what is promoted into RAM is encrypted there, too") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  HostStorage ram({.capacity_bytes = 16 << 20});
  MemoryStorage slow;
  CHECK(prompt.save_to(slow, chunks).written == kChunks);
  TieredStorage store({.promote = Promotion::on_hit}, ram, slow);
  IoLanes lanes(store, {.threads = 2});
  CHECK(prompt.load(lanes, chunks).tokens_loaded == kStored);
  eventually([&] { return store.stats()[0].promoted >= kChunks; });
  for (const ChunkKey& name : prompt.names(chunks)) {
    CHECK(object_of(ram, name) == object_of(slow, name));
  }
  slow.clear();
  CHECK(prompt.load(lanes, chunks).tokens_loaded == kStored);
}

TEST_CASE("an encrypted prompt is brought into a faster tier before its turn") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  HostStorage ram({.capacity_bytes = 16 << 20});
  MemoryStorage slow;
  CHECK(prompt.save_to(slow, chunks).written == kChunks);
  TieredStorage store({.promote = Promotion::on_hit}, ram, slow);
  IoLanes lanes(store);
  PrefillSession<ToyEngine, decltype(store), LoadOnlyScheduler> session(
      prompt.alone, lanes, chunks, LoadOnlyScheduler(), kPatient);
  auto ticket = session.prefetch(prompt.tokens);
  CHECK(ticket.wait().read == kChunks);
  eventually([&] { return ram.stats().objects == kChunks; });
}

TEST_CASE("plain and encrypted chunks of one tenant live beside each other in one store") {
  Prompt prompt;
  MemoryStorage store;
  const ChunkOptions sealed = options_of({1});
  ChunkOptions plain = sealed;
  plain.keys = nullptr;
  CHECK(prompt.save_to(store, sealed).written == kChunks);
  CHECK(prompt.load_from(store, plain).tokens_loaded == 0);
  CHECK(store.size() == kChunks);
  CHECK(prompt.save_to(store, plain).written == kChunks);
  CHECK(store.size() == 2 * kChunks);
  CHECK(prompt.load_from(store, plain).tokens_loaded == kStored);
  CHECK(prompt.load_from(store, sealed).tokens_loaded == kStored);
}

TEST_CASE(
    "who lacks the key computes, leaves the objects alone, and writes over them when it saves") {
  Prompt prompt;
  MemoryStorage store;
  const ChunkOptions mine = options_of({1});
  const ChunkOptions other = options_of({2});  // of the same salt
  CHECK(prompt.save_to(store, mine).written == kChunks);
  const auto before = object_of(store, prompt.names(mine)[3]);
  const PrefillReport report = prompt.load_from(store, other);
  CHECK(report.status.has_value());
  CHECK(report.tokens_loaded == 0);
  CHECK(report.load_error.code() == Errc::not_found);
  CHECK(report.load_error.error().message().find("key") != std::string::npos);
  CHECK(store.size() == kChunks);
  CHECK(object_of(store, prompt.names(mine)[3]) == before);
  CHECK(prompt.load_from(store, mine).tokens_loaded == kStored);

  const SaveReport saved = prompt.save_to(store, other);
  CHECK(saved.written == kChunks);
  CHECK(prompt.save_to(store, other).present == kChunks);
  CHECK(prompt.load_from(store, other).tokens_loaded == kStored);
  CHECK(prompt.load_from(store, mine).tokens_loaded == 0);
}

TEST_CASE("a tenant's keys are rotated without a miss, until the old one is taken away") {
  Prompt prompt;
  const sample::Directory directory;
  PosixStorage store({.directory = directory.path()});
  CHECK(prompt.save_to(store, options_of({1})).written == kChunks);
  const ChunkOptions both = options_of({2, 1});
  CHECK(prompt.load_from(store, both).tokens_loaded == kStored);
  const auto names = prompt.names(both);
  for (const std::uint32_t c : {2u, 7u}) REQUIRE(store.erase(names[c]));
  CHECK(prompt.save_to(store, both).written == 2);
  CHECK(peek_chunk(object_of(store, names[2]))->key_id == both.keys->current());
  CHECK(peek_chunk(object_of(store, names[3]))->key_id == options_of({1}).keys->current());
  CHECK(prompt.load_from(store, both).tokens_loaded == kStored);
  // Those that prepare for the rotation read what others write with the new key.
  CHECK(prompt.load_from(store, options_of({1, 2})).tokens_loaded == kStored);
  const ChunkOptions last = options_of({2});
  const PrefillReport report = prompt.load_from(store, last);
  CHECK(report.chunks[2].source == Source::loaded);
  CHECK(report.chunks[7].source == Source::loaded);
  CHECK(report.tokens_loaded == 2 * kChunk);
  CHECK(prompt.save_to(store, last).written == kChunks - 2);
  CHECK(prompt.load_from(store, last).tokens_loaded == kStored);
}

TEST_CASE("two tenants with the same prompt and a store in common have nothing of each other") {
  Prompt prompt;
  MemoryStorage store;
  const ChunkOptions one = options_of({1}, "one"), two = options_of({2}, "two");
  CHECK(prompt.save_to(store, one).written == kChunks);
  const PrefillReport report = prompt.load_from(store, two);
  CHECK(report.tokens_loaded == 0);
  CHECK(report.failed_loads == 0);  // it does not even find them
  CHECK(prompt.save_to(store, two).written == kChunks);
  CHECK(store.size() == 2 * kChunks);
  CHECK(prompt.load_from(store, one).tokens_loaded == kStored);
  CHECK(prompt.load_from(store, two).tokens_loaded == kStored);
}

TEST_CASE("seeded faults of a store with encrypted objects never reach attention") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  MemoryStorage inner;
  FaultyStorage<MemoryStorage> store(inner);
  const auto names = prompt.names(chunks);
  std::mt19937_64 random(77);
  std::uint64_t faults = 0;
  for (int i = 0; i < 40; ++i) {
    store.heal();
    prompt.save_to(inner, chunks);
    REQUIRE(inner.size() == kChunks);
    for (const ChunkKey& name : names) {
      static constexpr Kind kinds[] = {Kind::error, Kind::short_read, Kind::torn_read,
                                       Kind::flipped_byte, Kind::wrong_object};
      if (random() % 3 == 0) {
        store.on_key(name, {.kind = kinds[random() % 5],
                            .position = random() % (1 << 20),
                            .other = names[random() % kChunks]});
      }
    }
    IoLanes lanes(store);
    faults += (i % 2 == 0 ? prompt.load(lanes, chunks) : prompt.load(lanes, chunks, LayerByLayer()))
                  .failed_loads;
  }
  CHECK(faults > 0);
}

TEST_CASE("an encrypted object that is damaged is computed, erased, and written again") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  MemoryStorage inner;
  FaultyStorage<MemoryStorage> store(inner);
  prompt.save_to(inner, chunks);
  const auto names = prompt.names(chunks);
  store.on_key(names[6], {.kind = Kind::flipped_byte, .position = 9000});
  const PrefillReport report = prompt.load_from(store, chunks);
  CHECK(report.tokens_loaded == kStored - kChunk);
  CHECK(report.chunks[6].load_error == Errc::corrupt);
  CHECK(inner.size() == kChunks - 1);
  CHECK(prompt.save_to(inner, chunks).written == 1);
  store.heal();
  CHECK(prompt.load_from(store, chunks).tokens_loaded == kStored);
}

TEST_CASE("prompts that share reads of encrypted chunks decrypt each for itself") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  MemoryStorage inner;
  prompt.save_to(inner, chunks);
  FaultyStorage<MemoryStorage> store(inner);
  store.on_every_read({.kind = Kind::hang});  // until both wait for it
  IoLanes lanes(store, {.threads = 1});
  ToyEngine engines[2] = {ToyEngine(kTokens), ToyEngine(kTokens)};
  using Session = PrefillSession<ToyEngine, decltype(store), LoadOnlyScheduler>;
  std::vector<std::unique_ptr<Session>> sessions;
  for (ToyEngine& engine : engines) {
    engine.clear();
    sessions.push_back(
        std::make_unique<Session>(engine, lanes, chunks, LoadOnlyScheduler(), kPatient));
    sessions.back()->begin(prompt.tokens);
    eventually([&] { return store.counts().hung != 0; });
  }
  store.heal();
  store.release();
  PrefillReport reports[2];
  std::thread other([&] { reports[1] = drive(*sessions[1], engines[1], prompt.tokens); });
  reports[0] = drive(*sessions[0], engines[0], prompt.tokens);
  other.join();
  for (int i = 0; i < 2; ++i) {
    CHECK((engines[i].kv() == prompt.expected));
    CHECK(reports[i].tokens_loaded == kStored);
  }
  CHECK(store.counts().reads < 2 * kChunks);  // some were for both
}

TEST_CASE("tiers that hold two writings of one chunk give right KV, whoever is asked") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  MemoryStorage fast, slow;
  prompt.save_to(fast, chunks);
  prompt.save_to(slow, chunks);
  const auto names = prompt.names(chunks);
  REQUIRE(object_of(fast, names[0]) != object_of(slow, names[0]));
  TieredStorage store(fast, slow);
  IoLanes lanes(store, {.threads = 3});
  // Layers of a chunk come from both: a chunk is then computed, and one copy of it goes.
  for (int i = 0; i < 3; ++i) prompt.load(lanes, chunks, LayerByLayer());
  CHECK(fast.size() + slow.size() >= kChunks);
  CHECK(prompt.load(lanes, chunks).tokens_loaded == kStored);
}

TEST_CASE("lanes that read into device memory load no encrypted chunk, and say why") {
  Prompt prompt;
  const ChunkOptions chunks = options_of({1});
  WithDevice store({.capacity_bytes = 16 << 20});
  prompt.save_to(store, chunks);
  {
    IoLanes lanes(store, {.device = true});
    REQUIRE(lanes.device() != nullptr);
    const PrefillReport report = prompt.load<FromDevice>(lanes, chunks);
    CHECK(report.status.has_value());
    CHECK(report.tokens_loaded == 0);
    CHECK(report.load_error.code() == Errc::unsupported);
    CHECK(report.load_error.error().message().find("LaneOptions::device") != std::string::npos);
  }
  IoLanes lanes(store, {.device = false});
  CHECK(prompt.load(lanes, chunks).tokens_loaded == kStored);
}

TEST_CASE(
    "windows and states are encrypted and loaded like all other KV, and the logits are equal") {
  std::uint32_t partial = 0;
  for (const models::NamedModel& named : models::all_models()) {
    INFO(named.name);
    constexpr std::uint32_t tokens = 167;
    std::vector<TokenId> prompt;
    for (std::uint32_t t = 0; t < tokens; ++t) {
      prompt.push_back(static_cast<TokenId>((t * 2654435761u) >> 9 & 63));
    }
    const ChunkOptions chunks{.chunk_tokens = 16, .keys = sample::keys_of({1})};
    MemoryStorage store;
    // An engine that has let go of old windows stores objects that hold the first layers only.
    for (const bool evicts : {true, false}) {
      models::Engine first(named.model, named.name, tokens + 1, {.evicts = evicts});
      first.clear();
      Loader saver(first, store, {.chunks = chunks}, ComputeOnlyScheduler());
      REQUIRE(saver.prefill(prompt).status);
      const SaveReport saved = saver.save(prompt);
      if (!evicts) REQUIRE(saved.status);  // of windows alone nothing may be left to store
      partial += saved.partial;
      models::Engine engine(named.model, named.name, tokens + 1);
      engine.clear();
      Loader loader(engine, store, {.chunks = chunks}, LoadOnlyScheduler());
      const PrefillReport report = loader.prefill(prompt);
      CHECK(report.status.has_value());
      CHECK(report.failed_loads == 0);
      if (!evicts) CHECK(report.tokens_loaded > 0);
      CHECK((engine.logits() == first.logits()));
    }
  }
  CHECK(partial > 0);
}

TEST_CASE("reports and errors of encrypted loads hold nothing of the keys") {
  Prompt prompt;
  MemoryStorage store;
  prompt.save_to(store, options_of({1}));
  const PrefillReport report = prompt.load_from(store, options_of({2, 3}));
  const std::string text =
      report.timeline() + report.chrome_trace() + report.load_error.error().message();
  for (const std::uint8_t number : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{3}}) {
    std::array<std::byte, 32> secret;
    sample::fill(secret, 7000 + number);
    std::string hex, raw;
    for (const std::byte b : secret) {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", std::to_integer<unsigned>(b));
      hex += digits;
      raw.push_back(static_cast<char>(b));
    }
    for (std::size_t i = 0; i + 4 <= raw.size(); i += 4) {
      CHECK(text.find(raw.substr(i, 4)) == std::string::npos);
      CHECK(text.find(hex.substr(2 * i, 8)) == std::string::npos);
    }
  }
}
