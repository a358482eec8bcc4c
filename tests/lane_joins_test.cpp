// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts with a common prefix over the same lanes: what one reads, the others have as well.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cake/loader.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::drive;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kPatient;
using testing::kTokens;
using testing::ToyEngine;

namespace {

/// Counts the reads of each object. They wait while it is shut, and the first ones fail or bring one wrong
/// byte if that is asked for.
class Counted : public MemoryStorage {
 public:
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    bool fails = false;
    bool damaged = false;
    {
      std::unique_lock lock(mutex_);
      ++reads_[key];
      changed_.notify_all();
      changed_.wait(lock, [&] { return open_; });
      fails = failing_ != 0 && failing_-- != 0;
      damaged = damaged_ == key;
    }
    if (fails) return Error{Errc::io, 5, "a read that fails once"};
    Status status = MemoryStorage::read(tier, key, offset, out);
    if (damaged) out.back() ^= std::byte{1};
    return status;
  }

  void open(bool is) {
    const std::lock_guard lock(mutex_);
    open_ = is;
    changed_.notify_all();
  }
  void fail(int reads) { failing_ = reads; }
  void damage(const ChunkKey& key) { damaged_ = key; }
  void wait_for_reads(std::size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return sum() >= n; });
  }
  std::size_t reads() {
    const std::lock_guard lock(mutex_);
    return sum();
  }
  int reads_of(const ChunkKey& key) {
    const std::lock_guard lock(mutex_);
    return reads_[key];
  }

 private:
  std::size_t sum() const {
    std::size_t all = 0;
    for (const auto& [key, n] : reads_) all += static_cast<std::size_t>(n);
    return all;
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int failing_ = 0;
  ChunkKey damaged_{};
  std::map<ChunkKey, int> reads_;
};

using Stored = testing::StoredPrompt<Counted>;

/// A prompt that has its first chunks in common with the stored one, of which it loads them.
struct Session {
  Session(const Stored& stored, IoLanes<Counted>& lanes, std::uint32_t common = kChunks,
          SessionOptions options = kPatient)
      : prompt(stored.prompt),
        engine(kTokens),
        session(engine, lanes, {.chunk_tokens = kChunk}, LoadOnlyScheduler(), options) {
    for (std::size_t t = std::size_t{common} * kChunk; t < prompt.size(); ++t) prompt[t] += 77;
    engine.clear();
    ToyEngine alone(kTokens);
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    expected = alone.kv();
  }
  void begin(const PrefillOptions& options = {}) { session.begin(prompt, options); }
  void go_on() {
    thread = std::thread([&] { report = drive(session, engine, prompt); });
  }
  void end() {
    thread.join();
    CHECK((engine.kv() == expected));
  }

  std::vector<TokenId> prompt;
  std::vector<std::byte> expected;
  ToyEngine engine;
  PrefillSession<ToyEngine, Counted, LoadOnlyScheduler> session;
  PrefillReport report;
  std::thread thread;
};

}  // namespace

TEST_CASE("a prefix that several prompts load at once is read once, and all of them have it") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 3});
  for (const std::size_t n : {2u, 5u}) {
    const std::size_t before = stored.store.reads();
    stored.store.open(false);
    std::vector<std::unique_ptr<Session>> sessions;
    // Some of them have a part of the prefix alone.
    for (std::size_t i = 0; i < n; ++i) {
      sessions.push_back(
          std::make_unique<Session>(stored, lanes, i == 0 ? kChunks : kChunks - i % 3));
      sessions.back()->begin();
      if (i == 0) stored.store.wait_for_reads(before + 1);  // and come while some is under way
    }
    for (auto& session : sessions) session->go_on();
    stored.store.open(true);
    std::uint64_t loaded = 0;
    for (auto& session : sessions) {
      session->end();
      loaded += session->report.tokens_loaded;
    }
    CHECK(stored.store.reads() - before == kChunks);
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < n; ++i)
      all += std::uint64_t{kChunk} * (i == 0 ? kChunks : kChunks - i % 3);
    CHECK(loaded == all);
  }
}

TEST_CASE("when a read fails that others joined, they have it read again") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 1});
  stored.store.open(false);
  Session first(stored, lanes);
  first.begin();
  stored.store.wait_for_reads(1);
  Session second(stored, lanes);
  second.begin();
  stored.store.fail(1);
  first.go_on();
  second.go_on();
  stored.store.open(true);
  first.end();
  second.end();
  CHECK(first.report.failed_loads == 1);
  CHECK(first.report.tokens_loaded == std::uint64_t{kChunk} * (kChunks - 1));
  CHECK(second.report.failed_loads == 0);
  CHECK(second.report.tokens_loaded == std::uint64_t{kChunk} * kChunks);
  CHECK(stored.store.reads() == kChunks + 1);
}

TEST_CASE(
    "when the session is cancelled that a read was made for, those that joined have its bytes") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 1});
  stored.store.open(false);
  std::stop_source stop;
  auto first = std::make_unique<Session>(stored, lanes);
  first->begin({.stop = stop.get_token()});
  stored.store.wait_for_reads(1);
  Session second(stored, lanes);
  second.begin();
  stop.request_stop();
  CHECK(first->session.finish().status.code() == Errc::canceled);
  first.reset();
  second.go_on();
  stored.store.open(true);
  second.end();
  CHECK(second.report.tokens_loaded == std::uint64_t{kChunk} * kChunks);
  CHECK(stored.store.reads() == kChunks);
}

TEST_CASE("a session that joined ends while the read is under way, and its KV is left alone") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 1});
  stored.store.open(false);
  Session first(stored, lanes);
  first.begin();
  stored.store.wait_for_reads(1);
  auto second = std::make_unique<Session>(stored, lanes);
  second->begin();
  (void)second->session.finish();
  CHECK(second->engine.inserts == 0);
  second.reset();
  first.go_on();
  stored.store.open(true);
  first.end();
  CHECK(stored.store.reads() == kChunks);
}

TEST_CASE("a read that hangs costs those that joined it their chunk, and no more") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 1});
  stored.store.open(false);
  SessionOptions hasty = kPatient;
  hasty.read_timeout = 50ms;
  hasty.idle_timeout = 20ms;
  Session first(stored, lanes, kChunks, hasty);
  first.begin();
  stored.store.wait_for_reads(1);
  Session second(stored, lanes, kChunks, hasty);
  second.begin();
  first.go_on();
  second.go_on();
  first.end();
  second.end();
  CHECK(first.report.tokens_loaded == 0);
  CHECK(second.report.tokens_loaded == 0);
  stored.store.open(true);
}

TEST_CASE("bytes that are wrong are inserted into no engine, whoever read them") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 1});
  stored.store.damage(stored.keys[kChunks - 1]);
  stored.store.open(false);
  Session first(stored, lanes);
  first.begin();
  stored.store.wait_for_reads(1);
  Session second(stored, lanes);
  second.begin();
  first.go_on();
  second.go_on();
  stored.store.open(true);
  first.end();
  second.end();
  CHECK(first.report.failed_loads == 1);
  CHECK(second.report.failed_loads == 1);
  CHECK(stored.store.reads_of(stored.keys[kChunks - 1]) == 1);
}

TEST_CASE("prompts with common prefixes come and go, and each has the KV that it has alone") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 3});
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  std::atomic<std::uint64_t> loaded{0};
  for (std::uint32_t i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      auto prompt = stored.prompt;
      for (std::size_t t = (kChunks - i) * std::size_t{kChunk}; t < prompt.size(); ++t)
        prompt[t] += 5;
      ToyEngine alone(kTokens);
      (void)alone.prefill(prompt, {0, kTokens});
      ToyEngine engine(kTokens);
      PrefillSession session(engine, lanes, {.chunk_tokens = kChunk}, LoadOnlyScheduler());
      for (std::uint32_t round = 0; round < 8; ++round) {
        engine.clear();
        std::stop_source stop;
        session.begin(prompt, {.stop = stop.get_token()});
        if ((i + round) % 5 == 0) stop.request_stop();
        const PrefillReport report = testing::drive_to_end(session, engine, prompt);
        loaded += report.tokens_loaded;
        if (report.status ? engine.kv() == alone.kv() : stop.stop_requested()) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 48);
  CHECK(loaded > 0);
}
