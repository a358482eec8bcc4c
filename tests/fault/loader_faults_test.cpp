// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What goes wrong below the loader, end to end: the KV stays right, and the report says what
// happened.
#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "cake/chunk/format.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "faulty_storage.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::FaultyStorage;
using fault::Kind;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kChunks = 12;
constexpr std::size_t kTokens = kChunk * kChunks + 20;

struct World {
  std::vector<TokenId> prompt = toy_prompt(kTokens);
  MemoryStorage inner;
  FaultyStorage<MemoryStorage> storage{inner};
  ToyEngine engine{kTokens};
  std::vector<std::byte> expected;
  std::vector<ChunkKey> keys;
  std::uint32_t repaired = 0;  // chunks that the last run's end stored again

  World() {
    Loader loader(engine, inner, {.chunks = {.chunk_tokens = kChunk}});
    REQUIRE(loader.prefill(prompt).status.has_value());
    expected = engine.kv();
    REQUIRE(loader.save(prompt).status.has_value());
    keys =
        prefix_chain(root_key(engine.fingerprint(), engine.layout(), kChunk, {}), prompt, kChunk);
    REQUIRE(keys.size() == kChunks);
  }
  /// Runs with a new loader; the KV must be right whatever happened.
  template <class Sch>
  PrefillReport run(Sch scheduler) {
    engine.clear();
    // A busy machine may let the lanes' threads wait: compute does not step in meanwhile.
    Loader loader(engine, storage,
                  {.chunks = {.chunk_tokens = kChunk}, .session = {.idle_timeout = 1min}},
                  std::move(scheduler));
    PrefillReport report = loader.prefill(prompt);
    CHECK(report.status.has_value());
    CHECK(report.scheduler_faults == 0);
    CHECK(report.tokens_computed + report.tokens_loaded == kTokens);
    CHECK(engine.kv() == expected);
    CHECK(engine.has_logits());
    // What was found damaged is gone from the store, and saving puts it right.
    Loader saver(engine, inner, {.chunks = {.chunk_tokens = kChunk}});
    const SaveReport saved = saver.save(prompt);
    CHECK(saved.status.has_value());
    repaired = saved.written;
    return report;
  }
  PrefillReport load_only() { return run(LoadOnlyScheduler()); }
  PrefillReport meet() { return run(MeetInTheMiddleScheduler()); }
};

std::set<std::uint32_t> computed_chunks(const PrefillReport& report) {
  std::set<std::uint32_t> set;
  for (std::uint32_t c = 0; c < report.chunks.size(); ++c) {
    if (report.chunks[c].source == Source::computed) set.insert(c);
  }
  return set;
}

}  // namespace

TEST_CASE("chunks that are missing at head, middle or tail are computed") {
  for (const std::set<std::uint32_t>& missing : {std::set<std::uint32_t>{0},
                                                 {0, 1, 2},
                                                 {5},
                                                 {4, 5, 8},
                                                 {11},
                                                 {10, 11},
                                                 {0, 5, 11},
                                                 {1, 3, 5, 7, 9}}) {
    World world;
    for (const std::uint32_t c : missing) REQUIRE(world.inner.erase(world.keys[c]).has_value());
    const PrefillReport report = world.load_only();
    std::set<std::uint32_t> holes = missing;
    for (std::uint32_t c = kChunks; c-- > report.spec.end_chunk;)
      holes.erase(c);  // these count as suffix
    CHECK(computed_chunks(report) == holes);
    CHECK(report.chunks_recomputed == holes.size());
    CHECK(report.failed_loads == 0);
    for (const std::uint32_t c : holes) CHECK(report.chunks[c].load_error == Errc::not_found);
    for (const std::uint32_t c : missing) REQUIRE(world.inner.erase(world.keys[c]).has_value());
    world.meet();
  }
}

TEST_CASE("a store that holds nothing, or cannot be asked, costs nothing but the loads") {
  World world;
  world.storage.fail_lookups(Error{Errc::io, 5, "store is down"});
  const PrefillReport report = world.meet();
  CHECK(report.tokens_loaded == 0);
  CHECK(report.lookup.code() == Errc::io);
  CHECK(report.lookup.error().message().find("store is down") != std::string::npos);
  world.storage.heal();
  CHECK(world.load_only().tokens_loaded == kChunks * kChunk);
  MemoryStorage empty;
  world.engine.clear();
  Loader loader(world.engine, empty, {.chunks = {.chunk_tokens = kChunk}});
  CHECK(loader.prefill(world.prompt).tokens_loaded == 0);
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("a failed, short, torn or corrupt read is computed instead, and the report says why") {
  const std::pair<Kind, Errc> kinds[] = {{Kind::error, Errc::io},
                                         {Kind::short_read, Errc::io},
                                         {Kind::torn_read, Errc::corrupt},
                                         {Kind::flipped_byte, Errc::corrupt},
                                         {Kind::wrong_object, Errc::mismatch}};
  for (const auto& [kind, why] : kinds) {
    for (const std::uint32_t c : {0u, 6u, 11u}) {
      World world;
      CAPTURE(static_cast<int>(kind), c);
      world.storage.on_key(
          world.keys[c], {.kind = kind, .position = 9000, .other = world.keys[(c + 1) % kChunks]});
      const PrefillReport report = world.load_only();
      CHECK(computed_chunks(report) == std::set<std::uint32_t>{c});
      CHECK(report.chunks_recomputed == 1);
      CHECK(report.failed_loads == 1);
      CHECK(world.repaired == (why == Errc::io ? 0 : 1));
      CHECK(report.chunks[c].load_error == why);
      world.meet();
      world.storage.heal();
      CHECK(world.load_only().tokens_loaded == kChunks * kChunk);
    }
  }
}

TEST_CASE("a seeded sample of flipped bytes anywhere in an object never reaches attention") {
  World world;
  const std::uint64_t size = ChunkGeometry(world.engine.layout(), kChunk).object_bytes();
  std::uint64_t x = 12345;
  for (int i = 0; i < 150; ++i) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    world.storage.heal();
    world.storage.on_key(world.keys[7], {.kind = Kind::flipped_byte,
                                         .position = (x >> 20) % size,
                                         .flip = static_cast<std::uint8_t>(1u << (x >> 60 & 7))});
    const PrefillReport report = world.load_only();
    REQUIRE(computed_chunks(report) == std::set<std::uint32_t>{7});
    REQUIRE(report.chunks[7].load_error != Errc::ok);
  }
}

TEST_CASE("another tenant's, model's or layout's object under the right name is refused") {
  World world;
  MemoryStorage foreign;
  ToyEngine other(kTokens);
  Loader loader(other, foreign, {.chunks = {.chunk_tokens = kChunk, .salt = "other tenant"}});
  REQUIRE(loader.prefill(world.prompt).status.has_value());
  REQUIRE(loader.save(world.prompt).status.has_value());
  const auto names = prefix_chain(
      root_key(other.fingerprint(), other.layout(), kChunk, "other tenant"), world.prompt, kChunk);
  for (const std::uint32_t c : {2u, 11u}) {
    AlignedBuffer object(ChunkGeometry(other.layout(), kChunk).object_bytes());
    REQUIRE(foreign.read(0, names[c], 0, object.bytes()).has_value());
    REQUIRE(world.inner.erase(world.keys[c]).has_value());
    REQUIRE(world.inner.write(world.keys[c], object.bytes()).has_value());
  }
  const PrefillReport report = world.load_only();
  CHECK(computed_chunks(report) == std::set<std::uint32_t>{2, 11});
  CHECK(report.chunks[2].load_error == Errc::mismatch);
  CHECK(report.chunks[11].load_error == Errc::mismatch);
  CHECK(world.repaired == 2);
  CHECK(world.load_only().tokens_loaded == kChunks * kChunk);
}

TEST_CASE("an object of another size under the right name is not even read") {
  World world;
  AlignedBuffer half(ChunkGeometry(world.engine.layout(), kChunk).object_bytes() / 2);
  std::fill(half.bytes().begin(), half.bytes().end(), std::byte{0});
  REQUIRE(world.inner.erase(world.keys[4]).has_value());
  REQUIRE(world.inner.write(world.keys[4], half.bytes()).has_value());
  const PrefillReport report = world.load_only();
  CHECK(computed_chunks(report) == std::set<std::uint32_t>{4});
  CHECK(report.chunks[4].bytes == 0);
}

TEST_CASE("a read that hangs past its deadline is computed instead") {
  World world;
  MeetOptions hasty;
  hasty.deadline_floor = 5ms;
  hasty.deadline_factor = 2;
  for (const std::uint32_t c : {0u, 5u, 11u}) {
    world.storage.heal();
    world.storage.on_key(world.keys[c], {.kind = Kind::hang}, 1);
    world.engine.clear();
    {
      Loader loader(world.engine, world.storage, {.chunks = {.chunk_tokens = kChunk}},
                    MeetInTheMiddleScheduler(hasty));
      const PrefillReport report = loader.prefill(world.prompt);
      CHECK(report.status.has_value());
      CHECK(report.chunks[c].source == Source::computed);
      CHECK(world.engine.kv() == world.expected);
      world.storage.release();  // the loader's end waits for every read
    }
  }
}

TEST_CASE("everything hangs at once, and the prompt is computed") {
  World world;
  world.storage.on_every_read({.kind = Kind::hang});
  world.engine.clear();
  Loader loader(world.engine, world.storage, {.chunks = {.chunk_tokens = kChunk}});
  const PrefillReport report = loader.prefill(world.prompt);
  CHECK(report.status.has_value());
  CHECK(report.tokens_computed == kTokens);
  CHECK(world.engine.kv() == world.expected);
  world.storage.heal();
  world.storage.release();
}

TEST_CASE("random faults on every chunk, seeded") {
  World world;
  std::uint64_t x = 99;
  const auto dice = [&](std::uint32_t n) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<std::uint32_t>(x >> 33) % n;
  };
  for (int i = 0; i < 100; ++i) {
    world.storage.heal();
    for (const ChunkKey& key : world.keys) {
      static constexpr Kind kinds[] = {Kind::error, Kind::short_read, Kind::torn_read,
                                       Kind::flipped_byte, Kind::wrong_object};
      if (dice(3) == 0)
        world.storage.on_key(key, {.kind = kinds[dice(5)],
                                   .position = dice(1 << 20),
                                   .other = world.keys[dice(kChunks)]});
    }
    if (i % 2 == 0) {
      world.load_only();
    } else {
      world.meet();
    }
  }
}

TEST_CASE("a store that cannot be written to fails the save, and only that") {
  World world;
  MemoryStorage inner;
  FaultyStorage storage(inner);
  storage.fail_writes(Error{Errc::out_of_memory, 28, "disk full"});
  Loader loader(world.engine, storage, {.chunks = {.chunk_tokens = kChunk}});
  REQUIRE(loader.prefill(world.prompt).status.has_value());
  const SaveReport full = loader.save(world.prompt);
  CHECK(full.status.code() == Errc::out_of_memory);
  CHECK(full.written == 0);
  CHECK(inner.size() == 0);
  storage.heal();
  storage.fail_writes(Error{Errc::out_of_memory, 28, "disk full"}, world.keys[5]);
  const SaveReport part = loader.save(world.prompt);
  CHECK(part.status.code() == Errc::out_of_memory);
  CHECK(part.written == 5);
  storage.heal();
  const SaveReport rest = loader.save(world.prompt);
  CHECK(rest.status.has_value());
  CHECK(rest.present == 5);
  CHECK(rest.written == kChunks - 5);
}
