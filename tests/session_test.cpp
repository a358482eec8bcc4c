// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/session.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "cake/detail/lane_client.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::FaultyStorage;
using testing::toy_prompt;
using testing::ToyEngine;
using Meet = MeetInTheMiddleScheduler;

namespace {

std::vector<std::byte> computed(const std::vector<TokenId>& prompt) {
  ToyEngine engine(prompt.size());
  REQUIRE(engine.prefill(prompt, {0, static_cast<std::uint32_t>(prompt.size())}).has_value());
  return engine.kv();
}

void store(MemoryStorage& storage, const std::vector<TokenId>& prompt) {
  ToyEngine engine(prompt.size());
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}});
  REQUIRE(loader.prefill(prompt).status.has_value());
  REQUIRE(loader.save(prompt).status.has_value());
}

/// A lane gives its buffer back just after the run that it was for has ended.
template <class S>
void wait_for_staging(IoLanes<S>& lanes) {
  const std::uint64_t bytes = lanes.staging_bytes();
  for (int i = 0; i < 5000 && lanes.free_staging_bytes() != bytes; ++i) {
    std::this_thread::sleep_for(1ms);
  }
  CHECK(lanes.free_staging_bytes() == bytes);
}

/// The loop of an engine, with a budget that changes from step to step.
template <class M, class S, class Sch>
PrefillReport drive(PrefillSession<M, S, Sch>& session, M& engine,
                    const std::vector<TokenId>& prompt, bool may_gate) {
  std::uint32_t turn = 0;
  session.begin(prompt);
  for (;;) {
    const Step step = session.next(17 + 61 * (turn++ % 5), may_gate);
    if (step.kind == Step::Kind::finished) break;
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
      continue;
    }
    // Now and then the engine does less than it was asked for.
    TokenRange range = step.tokens;
    if (turn % 4 == 0 && !step.gated) range.end = range.begin + std::max(1u, range.size() / 2);
    session.done(step, range.size(), engine.prefill(prompt, range, session.gate(step)));
  }
  return session.finish();
}

}  // namespace

TEST_CASE("an engine's own loop, with changing budgets and steps cut short, gives the same KV") {
  const auto prompt = toy_prompt(1777);
  const auto expected = computed(prompt);
  MemoryStorage storage;
  store(storage, prompt);
  IoLanes lanes(storage);
  for (const bool may_gate : {false, true}) {
    ToyEngine engine(prompt.size());
    engine.clear();
    PrefillSession session(engine, lanes, {.chunk_tokens = 64}, Meet(), {.max_step_tokens = 256});
    const PrefillReport report = drive(session, engine, prompt, may_gate);
    REQUIRE(report.status.has_value());
    CHECK(report.scheduler_faults == 0);
    CHECK(report.tokens_computed + report.tokens_loaded == 1777);
    CHECK(engine.kv() == expected);
  }
}

TEST_CASE("several sessions at once share the lanes") {
  MemoryStorage storage;
  std::vector<std::vector<TokenId>> prompts;
  for (TokenId i = 0; i < 4; ++i) {
    prompts.push_back(toy_prompt(1000 + 100 * static_cast<std::size_t>(i), i + 1));
    store(storage, prompts.back());
  }
  IoLanes lanes(storage, {.threads = 3});
  std::vector<std::thread> threads;
  threads.reserve(prompts.size());
  std::atomic<int> right{0};
  for (const auto& prompt : prompts) {
    threads.emplace_back([&] {
      ToyEngine engine(prompt.size());
      ToyEngine reference(prompt.size());
      (void)reference.prefill(prompt, {0, static_cast<std::uint32_t>(prompt.size())});
      PrefillSession session(engine, lanes, {.chunk_tokens = 64}, Meet(), {.max_step_tokens = 256});
      for (int i = 0; i < 5; ++i) {
        engine.clear();
        const PrefillReport report = drive(session, engine, prompt, i % 2 == 0);
        if (report.status && engine.kv() == reference.kv()) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 20);
}

TEST_CASE(
    "a hung read is taken over, its buffer is quarantined, and comes back when the read does") {
  const auto prompt = toy_prompt(1000);
  const auto expected = computed(prompt);
  MemoryStorage inner;
  store(inner, prompt);
  FaultyStorage storage(inner);
  const ChunkKey root = root_key(ToyEngine(1).fingerprint(), ToyEngine(1).layout(), 64, {});
  const auto keys = prefix_chain(root, prompt, 64);
  storage.on_key(keys[9], {.kind = fault::Kind::hang});
  IoLanes lanes(storage, {.threads = 2, .staging_bytes = 8 << 20});
  // A machine that is slow at the wrong moment makes loads look so slow that chunk 9 is not read.
  for (int attempt = 0; attempt < 20 && storage.counts().hung == 0; ++attempt) {
    ToyEngine engine(1000, {.per_token = 50us});
    engine.clear();
    PrefillSession session(engine, lanes, {.chunk_tokens = 64}, Meet(), {.max_step_tokens = 256});
    session.begin(prompt);
    int waits = 2000;
    for (Step step; (step = session.next(256)).kind != Step::Kind::finished;) {
      if (step.kind == Step::Kind::wait) {
        session.wait(step.until);
        continue;
      }
      // Compute would otherwise be there first where the lanes' threads get no processor.
      for (; waits > 0 && storage.counts().hung == 0; --waits) {
        std::this_thread::sleep_for(1ms);
      }
      session.done(step, step.tokens.size(),
                   engine.prefill(prompt, step.tokens, session.gate(step)));
    }
    const PrefillReport report = session.finish();
    REQUIRE(report.status.has_value());
    CHECK(report.chunks[9].source == Source::computed);
    CHECK(engine.kv() == expected);
  }
  // The engine is gone, the read is not.
  CHECK(storage.counts().hung == 1);
  CHECK(lanes.free_staging_bytes() < 8u << 20);
  CHECK(storage.release() == 1);
  for (int i = 0; i < 5000 && lanes.free_staging_bytes() != 8u << 20; ++i) {
    std::this_thread::sleep_for(1ms);
  }
  CHECK(lanes.free_staging_bytes() == 8u << 20);
  CHECK(lanes.quarantined() == 0);
}

namespace {

/// Its reads block the calling thread until they are let go.
struct BlockingStorage {
  MemoryStorage& inner;
  std::atomic<bool> stuck{true};
  std::atomic<int> waiting{0};
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    ++waiting;
    while (stuck) std::this_thread::sleep_for(1ms);
    --waiting;
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

}  // namespace

TEST_CASE("when every thread of a lane is stuck, compute does everything") {
  const auto prompt = toy_prompt(1000);
  MemoryStorage inner;
  store(inner, prompt);
  BlockingStorage storage{inner};
  IoLanes lanes(storage, {.threads = 2});
  ToyEngine engine(1000);
  engine.clear();
  MeetOptions hasty;
  hasty.deadline_floor = 1ms;
  hasty.deadline_factor = 0;
  {
    PrefillSession session(engine, lanes, {.chunk_tokens = 64}, LoadOnlyScheduler());
    session.begin(prompt);
    while (storage.waiting < 2) std::this_thread::yield();
    (void)session.finish();  // does not wait for them
  }
  PrefillSession session(engine, lanes, {.chunk_tokens = 64}, Meet(hasty),
                         {.max_step_tokens = 256});
  CHECK(lanes.core().host().down(0, 0));
  const PrefillReport report = drive(session, engine, prompt, true);
  REQUIRE(report.status.has_value());
  CHECK(report.tokens_computed == 1000);
  CHECK(engine.kv() == computed(prompt));
  storage.stuck = false;
  while (lanes.core().host().down(0, 0) || storage.waiting != 0) std::this_thread::yield();
  engine.clear();
  PrefillSession again(engine, lanes, {.chunk_tokens = 64}, LoadOnlyScheduler(),
                       {.max_step_tokens = 256, .idle_timeout = 1min});
  CHECK(drive(again, engine, prompt, true).tokens_loaded == 960);
  CHECK(engine.kv() == computed(prompt));
}

TEST_CASE("little staging memory slows a run down but loses nothing") {
  const auto prompt = toy_prompt(1000);
  MemoryStorage storage;
  store(storage, prompt);
  const ChunkGeometry geometry(ToyEngine(1).layout(), 64);
  const std::uint64_t one_layer = geometry.object_bytes() - 2 * geometry.largest_layer();
  // A whole chunk; two layers of it at a time; one; and not even one.
  for (const std::uint64_t room :
       {geometry.object_bytes(), geometry.object_bytes() - 1, one_layer, one_layer - 1}) {
    IoLanes lanes(storage, {.threads = 4, .staging_bytes = room});
    ToyEngine engine(1000);
    engine.clear();
    const bool fits = room >= one_layer;
    CAPTURE(room);
    PrefillSession session(engine, lanes, {.chunk_tokens = 64}, LoadOnlyScheduler(),
                           {.max_step_tokens = 256, .idle_timeout = 1min});
    const PrefillReport report = drive(session, engine, prompt, true);
    REQUIRE(report.status.has_value());
    CHECK(report.tokens_loaded == (fits ? 960 : 0));
    CHECK(report.load_error.has_value() == fits);
    if (!fits)
      CHECK(report.load_error.error().message().find("staging_bytes") != std::string::npos);
    CHECK(engine.kv() == computed(prompt));
    wait_for_staging(lanes);
    CHECK(session.save(prompt).status.has_value() == fits);  // nobody could load it again
  }
}

TEST_CASE("a session that goes away in the middle leaves nothing behind") {
  const auto prompt = toy_prompt(2000);
  MemoryStorage storage;
  store(storage, prompt);
  IoLanes lanes(storage);
  for (int i = 0; i < 20; ++i) {
    ToyEngine engine(2000, {.per_insert = 200us});
    PrefillSession session(engine, lanes, {.chunk_tokens = 64}, Meet(), {.max_step_tokens = 256});
    session.begin(prompt);
    for (int s = 0; s < i % 4; ++s) {
      const Step step = session.next(64);
      if (step.kind == Step::Kind::compute) {
        session.done(step, step.tokens.size(),
                     engine.prefill(prompt, step.tokens, session.gate(step)));
      }
    }
    if (i % 2 == 0) CHECK(session.finish().status.code() == Errc::canceled);
  }
  wait_for_staging(lanes);
}

TEST_CASE("begin before finish is refused") {
  const auto prompt = toy_prompt(100);
  MemoryStorage storage;
  IoLanes lanes(storage);
  ToyEngine engine(100);
  PrefillSession session(engine, lanes, {.chunk_tokens = 64}, Meet(), {.max_step_tokens = 256});
  session.begin(prompt);
  CHECK_THROWS_AS(session.begin(prompt), Exception);
  (void)session.finish();
  session.begin(prompt);
  CHECK(session.finish().status.code() == Errc::canceled);
}
