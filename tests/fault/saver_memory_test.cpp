// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The k-th allocation on a saver's threads fails, for every k that a save reaches: each chunk is
// stored or counted as failed, and the next save is whole. With failing_new.cpp, so it is a program
// of its own.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/saver.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "fault/failing_new.hpp"
#include "toy_engine.hpp"

namespace {

const std::thread::id tester = std::this_thread::get_id();
thread_local int inside_of_others = 0;  // in a backend of the test
thread_local bool on_saver = false;     // a thread that has called one
std::atomic<bool> armed{false};
std::atomic<long> allocations{0};
std::atomic<long> fails_at{-1};

bool refuses() {
  return armed && on_saver && inside_of_others == 0 && allocations.fetch_add(1) == fails_at;
}

const bool asked = (cake::failing_new::when(refuses), true);

}  // namespace

using namespace cake;

namespace {

constexpr std::uint32_t kChunk = 32;

/// Allocations of the test's own store and engine do not count.
struct Others {
  Others() {
    ++inside_of_others;
    on_saver = std::this_thread::get_id() != tester;
  }
  ~Others() { --inside_of_others; }
};

struct Engine {
  static constexpr EngineAbilities abilities{.parallel_extracts = 4};
  testing::ToyEngine toy{200};
  UniformKvLayout layout() const {
    const Others others;
    return toy.layout();
  }
  ModelFingerprint fingerprint() const {
    const Others others;
    return toy.fingerprint();
  }
  Status insert(const Slice& slice, const KvView& view) { return toy.insert(slice, view); }
  Status extract(const Slice& slice, const MutableKvView& view) {
    const Others others;
    return toy.extract(slice, view);
  }
};

struct Storage {
  MemoryStorage inner;
  int refused = 0;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    const Others others;
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) {
    const Others others;
    if (++refused == 2)
      return Error{Errc::io, 0, "an error of a text that is too long to be short"};
    return inner.write(key, bytes);
  }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

}  // namespace

TEST_CASE(
    "any allocation on a saver's thread may fail: each chunk is stored or counted as failed") {
  const auto prompt = testing::toy_prompt(200);
  Engine engine;
  REQUIRE(engine.toy.prefill(prompt, {0, 200}));
  long k = -1;
  long reached = 0;
  do {
    INFO("allocation " << k << " fails");
    Storage storage;
    Saver saver(storage, {.threads = 1});
    allocations = 0;
    fails_at = k;
    armed = true;
    const SaveReport report = saver.save(engine, prompt, {.chunk_tokens = kChunk}).wait();
    reached = std::max(reached, allocations.load());
    fails_at = -1;
    CHECK_FALSE(report.status);  // at least the write that was refused
    CHECK(report.written <= storage.inner.size());
    CHECK(report.written + report.failed == 6);
    storage.refused = 10;
    const SaveReport again = saver.save(engine, prompt, {.chunk_tokens = kChunk}).wait();
    armed = false;
    CHECK(again.status);
    CHECK(again.written + again.present == 6);
    CHECK(storage.inner.size() == 6);
    CHECK(saver.stats().on_their_way == 0);
  } while (++k < reached);
  CHECK(reached > 5);
}

TEST_CASE("any allocation may fail of a save into memory that the store lends") {
  const auto prompt = testing::toy_prompt(200);
  Engine engine;
  REQUIRE(engine.toy.prefill(prompt, {0, 200}));
  const std::uint64_t object = ChunkGeometry(engine.layout(), kChunk).object_bytes();
  long k = -1;
  long reached = 0;
  do {
    INFO("allocation " << k << " fails");
    HostStorage storage({.capacity_bytes = 14 * object});
    Saver saver(storage, {.threads = 1});
    // A thread counts once it has called the engine: after this, it has.
    REQUIRE(saver.save(engine, prompt, {.chunk_tokens = kChunk, .salt = "x"}).wait().status);
    allocations = 0;
    fails_at = k;
    armed = true;
    const SaveReport report = saver.save(engine, prompt, {.chunk_tokens = kChunk}).wait();
    reached = std::max(reached, allocations.load());
    fails_at = -1;
    armed = false;
    CHECK(report.written + report.failed == 6);
    CHECK(report.status.has_value() == (report.failed == 0));
    CHECK(storage.stats().used_bytes == storage.stats().objects * object);
    const SaveReport again = saver.save(engine, prompt, {.chunk_tokens = kChunk}).wait();
    CHECK(again.status);
    CHECK(again.written + again.present == 6);
    CHECK(saver.stats().on_their_way == 0);
  } while (++k < reached);
  CHECK(reached > 5);
}
