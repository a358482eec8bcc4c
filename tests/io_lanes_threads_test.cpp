// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Lanes when the system has no more threads, and in the child of a fork(). Its own
// pthread_create(), so it is a program of its own.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "cake/detail/lane_client.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "storage/posix_helpers.hpp"
#include "toy_engine.hpp"

namespace {

std::atomic<int> threads_left{1'000'000};

}  // namespace

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attr,
                              void* (*routine)(void*), void* arg) noexcept {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(::dlsym(RTLD_NEXT, "pthread_create"));
  if (threads_left.fetch_sub(1) <= 0) return EAGAIN;
  return create(thread, attr, routine, arg);
}

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kTokens = 8 * kChunk + 20;
const ChunkOptions kChunks{.chunk_tokens = kChunk};
constexpr SessionOptions kPatient{.idle_timeout = 1h, .lookup_timeout = 1h};

/// Reads block while it is stuck; lookups are not made on the caller's thread.
struct Storage {
  MemoryStorage inner;
  std::uint32_t n_tiers = 1;
  std::atomic<bool> stuck{false};
  std::atomic<int> waiting{0};
  static constexpr StorageAbilities abilities{.tiers = true};
  std::uint32_t tiers() const { return n_tiers; }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    ++waiting;
    while (stuck) std::this_thread::sleep_for(1ms);
    --waiting;
    return inner.read(0, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

struct World {
  World() : prompt(toy_prompt(kTokens)) {
    ToyEngine alone(kTokens);
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    expected = alone.kv();
    REQUIRE(save(alone, storage.inner, prompt, {.chunk_tokens = kChunk}).written == 8);
    engine.clear();
  }
  ~World() { threads_left = 1'000'000; }
  std::vector<TokenId> prompt;
  std::vector<std::byte> expected;
  Storage storage;
  ToyEngine engine{kTokens};
};

using Only = Loader<ToyEngine, Storage, LoadOnlyScheduler>;

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadsInChild = false;  // ThreadSanitizer ends a child that makes one
#else
constexpr bool kThreadsInChild = true;
#endif

}  // namespace

TEST_CASE("lanes for which no thread can be made are refused in words") {
  World world;
  world.storage.n_tiers = 2;
  for (const int n : {0, 1}) {
    threads_left = n;
    std::optional<Error> error;
    try {
      IoLanes lanes(world.storage);
    } catch (const Exception& e) {
      error = e.error();
    }
    threads_left = 1'000'000;
    REQUIRE(error);
    CHECK(error->code == Errc::out_of_memory);
    CHECK(error->message().find("ulimit") != std::string::npos);
  }
}

TEST_CASE("lanes with fewer threads than asked for load everything") {
  World world;
  threads_left = 1;
  Only loader(world.engine, world.storage,
              {.chunks = {.chunk_tokens = kChunk}, .lanes = {.threads = 4}, .session = kPatient});
  CHECK(loader.lanes().threads() == 1);
  threads_left = 1'000'000;
  const PrefillReport report = loader.prefill(world.prompt);
  CHECK(report.status.has_value());
  CHECK(report.tokens_loaded == 8 * kChunk);
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("a lane with fewer threads than asked for is down when all of them are stuck") {
  World world;
  threads_left = 1;
  IoLanes lanes(world.storage, {.threads = 4});
  threads_left = 1'000'000;
  world.storage.stuck = true;
  PrefillSession<ToyEngine, Storage, LoadOnlyScheduler> session(
      world.engine, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
  session.begin(world.prompt);
  while (world.storage.waiting == 0) std::this_thread::sleep_for(1ms);
  CHECK_FALSE(lanes.core().host().down(0, 0));
  (void)session.finish();
  CHECK(lanes.core().host().down(0, 0));
  world.storage.stuck = false;
}

TEST_CASE("without a thread for the lookup the prompt runs without the store") {
  World world;
  Only loader(world.engine, world.storage,
              {.chunks = {.chunk_tokens = kChunk}, .session = kPatient});
  threads_left = 0;
  const PrefillReport report = loader.prefill(world.prompt);
  CHECK(report.status.has_value());
  CHECK_FALSE(report.lookup.has_value());
  CHECK(report.tokens_computed == kTokens);
  CHECK(world.engine.kv() == world.expected);
  threads_left = 1'000'000;
  world.engine.clear();
  CHECK(loader.prefill(world.prompt).tokens_loaded == 8 * kChunk);
}

TEST_CASE("in a child process a prefill says why not, and destructors return") {
  World world;
  auto loader = std::make_unique<Only>(
      world.engine, world.storage,
      LoaderOptions{.chunks = {.chunk_tokens = kChunk}, .session = kPatient});
  REQUIRE(loader->prefill(world.prompt).status);
  auto lanes = std::make_unique<IoLanes<Storage>>(world.storage);
  using Session = PrefillSession<ToyEngine, Storage, LoadOnlyScheduler>;
  auto open =
      std::make_unique<Session>(world.engine, *lanes, kChunks, LoadOnlyScheduler(), kPatient);
  auto idle =
      std::make_unique<Session>(world.engine, *lanes, kChunks, LoadOnlyScheduler(), kPatient);
  world.storage.stuck = true;  // its threads hold no lock of the store at the fork
  open->begin(world.prompt);
  while (world.storage.waiting < 4) std::this_thread::sleep_for(1ms);
  CHECK(sample::in_child([&] {
          const PrefillReport report = loader->prefill(world.prompt);
          sample::expect(report.status.code() == Errc::unsupported, "the prefill is refused");
          sample::expect(report.status.error().message().find("fork()") != std::string::npos,
                         "and says why");
          try {
            idle->begin(world.prompt);
            sample::expect(false, "a session of the parent begins");
          } catch (const Exception& e) {
            sample::expect(e.error().code == Errc::unsupported, "the session is refused");
          }
          loader.reset();
          idle.reset();
          open.reset();
          lanes.reset();
          if (!kThreadsInChild) return;
          world.storage.stuck = false;
          // Lanes of the child's own work there.
          Only own(world.engine, world.storage,
                   {.chunks = {.chunk_tokens = kChunk}, .session = kPatient});
          world.engine.clear();
          sample::expect(own.prefill(world.prompt).tokens_loaded == 8 * kChunk, "own lanes");
          sample::expect(world.engine.kv() == world.expected, "the KV of the child");
        }) == 0);
  world.storage.stuck = false;
  (void)open->finish();  // nothing is inserted any more
  world.engine.clear();
  CHECK(loader->prefill(world.prompt).tokens_loaded == 8 * kChunk);
  CHECK(world.engine.kv() == world.expected);
}
