// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/saver.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/io_lanes.hpp"
#include "cake/loader.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 32;

/// A door that is open unless somebody shut it.
class Door {
 public:
  void shut() { set(true); }
  void open() { set(false); }
  /// Counts who comes, and lets them through while it is open.
  void pass() {
    std::unique_lock lock(mutex_);
    ++came_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !shut_; });
  }
  void wait_for(int came) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return came_ >= came; });
  }
  int came() const {
    const std::lock_guard lock(mutex_);
    return came_;
  }

 private:
  void set(bool shut) {
    const std::lock_guard lock(mutex_);
    shut_ = shut;
    changed_.notify_all();
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool shut_ = false;
  int came_ = 0;
};

/// A store in memory with doors before reads and writes, which notes in what order objects came.
struct WatchedStorage {
  MemoryStorage inner;
  Door reads, writes;
  std::mutex mutex;
  std::vector<ChunkKey> order;
  Status answer = {};
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    reads.pass();
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) {
    writes.pass();
    const std::lock_guard lock(mutex);
    if (!answer) return answer;
    order.push_back(key);
    return inner.write(key, bytes);
  }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

/// KV of a whole prompt, whose extract() has a door.
template <bool OnCaller = false>
struct Engine {
  static constexpr EngineAbilities abilities{.insert_on_caller = OnCaller};
  explicit Engine(const std::vector<TokenId>& prompt)
      : toy(static_cast<std::uint32_t>(prompt.size())) {
    toy.prefill(prompt, {0, static_cast<std::uint32_t>(prompt.size())}).value();
  }
  ToyEngine toy;
  Door extracts;
  std::atomic<std::uint32_t> throws_at = ~0u;  // chunk
  std::thread::id thread;
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status insert(const Slice& slice, const KvView& from) { return toy.insert(slice, from); }
  Status extract(const Slice& slice, const MutableKvView& to) {
    extracts.pass();
    thread = std::this_thread::get_id();
    if (slice.chunk == throws_at) throw std::runtime_error("the device is gone");
    return toy.extract(slice, to);
  }
  std::vector<ChunkKey> keys(const std::vector<TokenId>& prompt) const {
    return prefix_chain(root_key(fingerprint(), layout(), kChunk, {}), prompt, kChunk);
  }
  std::uint64_t object_bytes() const { return ChunkGeometry(layout(), kChunk).object_bytes(); }
};

const ChunkOptions kChunks{.chunk_tokens = kChunk};

}  // namespace

TEST_CASE("a saver stores the last chunks of a prompt first") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  Saver saver(storage, {.threads = 1});
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  REQUIRE(ticket.wait().status);
  CHECK(ticket.wait().written == 6);
  auto order = engine.keys(prompt);
  std::reverse(order.begin(), order.end());
  CHECK(storage.order == order);
  CHECK(saver.save(engine, prompt, kChunks).wait().present == 6);
}

TEST_CASE(
    "an engine's KV is not needed any more when all is extracted, though nothing is written") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  Saver saver(storage, {.threads = 2});
  storage.writes.shut();
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  ticket.wait_extracted();
  engine.toy.clear();
  CHECK_FALSE(ticket.ready());
  CHECK(ticket.progress().total == 6);
  CHECK(ticket.progress().extracted == 6);
  CHECK(ticket.progress().written == 0);
  storage.writes.open();
  CHECK(ticket.wait().written == 6);
  CHECK(ticket.progress().written == 6);
  CHECK(ticket.progress().bytes == ticket.wait().bytes);
  ToyEngine other(200);
  Loader loader(other, storage, {.chunks = kChunks});
  const PrefillReport loaded = loader.prefill(prompt);
  REQUIRE(loaded.status);
  CHECK(loaded.failed_loads == 0);
}

TEST_CASE("a saver takes no more memory than it may, however slow the store is") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(40 * kChunk);
  Engine engine(prompt);
  const std::uint64_t bound = 3 * engine.object_bytes() + 100;
  Saver saver(storage, {.threads = 2, .memory_bytes = bound});
  storage.writes.shut();
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  storage.writes.wait_for(1);
  while (ticket.progress().extracted < 3) std::this_thread::yield();
  std::this_thread::sleep_for(20ms);  // it takes no more
  CHECK(ticket.progress().extracted == 3);
  CHECK(saver.stats().memory_bytes <= bound);
  CHECK(saver.stats().on_their_way == 3);
  CHECK(saver.stats().waiting == 37);
  storage.writes.open();
  CHECK(ticket.wait().written == 40);
  CHECK(saver.stats().memory_bytes <= bound);
  CHECK(saver.stats().written == 40);
}

TEST_CASE("an object larger than the memory of the saver is stored, one at a time") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  Saver saver(storage, {.threads = 3, .memory_bytes = 1});
  CHECK(saver.save(engine, prompt, kChunks).wait().written == 6);
  CHECK(saver.stats().memory_bytes == 0);  // nothing that large is kept
}

TEST_CASE("above its backlog a saver drops the chunks that lie lowest in their prompts") {
  WatchedStorage storage;
  const auto longer = toy_prompt(12 * kChunk);
  const auto shorter = toy_prompt(6 * kChunk, 77);
  Engine first(longer), second(shorter);
  // Ten chunks may wait, and the one that is held up is not among them.
  Saver saver(storage, {.threads = 2, .backlog_bytes = 10 * first.object_bytes()});
  first.extracts.shut();
  SaveTicket one = saver.save(first, longer, kChunks);
  first.extracts.wait_for(1);
  CHECK(saver.stats().dropped == 2);
  second.extracts.shut();
  SaveTicket two = saver.save(second, shorter, kChunks);
  second.extracts.wait_for(1);
  first.extracts.open();
  second.extracts.open();
  const SaveReport a = one.wait(), b = two.wait();
  CHECK(a.status.code() == Errc::out_of_memory);
  CHECK(a.status.error().message().find("backlog_bytes") != std::string::npos);
  CHECK(a.written + a.dropped == 12);
  CHECK(b.written + b.dropped == 6);
  CHECK(a.failed + b.failed == 0);
  CHECK(saver.stats().dropped == a.dropped + b.dropped);
  // What was reported as stored is there: the last ones of each prompt.
  const auto stored = [&](const auto& engine, const auto& prompt, std::uint32_t dropped) {
    const auto keys = engine.keys(prompt);
    const auto found = storage.lookup(keys);
    for (std::size_t c = 0; c < keys.size(); ++c) {
      CHECK((*found)[c].stored() == (c >= dropped));
    }
  };
  stored(first, longer, a.dropped);
  stored(second, shorter, b.dropped);
  // The two prompts had 11 + 6 chunks that wait, or 5 if the second was quick: of each the lowest.
  CHECK(a.dropped >= 2);
  CHECK(std::max(a.dropped, b.dropped) - std::min(a.dropped, b.dropped) <= 2);
}

TEST_CASE("writes of a saver wait for reads of the lanes, as long as they are allowed to") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(6 * kChunk + 8);
  Engine engine(prompt);
  REQUIRE(cake::save(engine, storage, prompt, kChunks).written == 6);
  IoLanes lanes(storage);
  storage.order.clear();
  storage.reads.shut();
  ToyEngine loading(static_cast<std::uint32_t>(prompt.size()));
  PrefillSession session(loading, lanes, kChunks);
  session.begin(prompt);
  storage.reads.wait_for(1);
  const int before = storage.writes.came();
  const auto more = toy_prompt(200, 5);
  Engine saved(more);
  {
    Saver polite(lanes, {.wait_for_reads = std::chrono::hours(1)});
    Saver hasty(lanes, {.wait_for_reads = Time{0}});
    SaveTicket waits = polite.save(saved, more, kChunks);
    waits.wait_extracted();
    SaveTicket does_not = hasty.save(saved, more, {.chunk_tokens = kChunk, .salt = "other"});
    CHECK(does_not.wait().written == 6);
    CHECK(storage.writes.came() == before + 6);
    CHECK_FALSE(waits.ready());
    storage.reads.open();
    session.finish();
    CHECK(waits.wait().written == 6);
  }
}

TEST_CASE("a stop leaves what was not extracted; what was is stored") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  Saver saver(storage, {.threads = 2});
  engine.extracts.shut();
  std::stop_source caller;
  SaveTicket ticket = saver.save(engine, prompt, kChunks, caller.get_token());
  engine.extracts.wait_for(1);
  caller.request_stop();
  engine.extracts.open();
  CHECK(ticket.wait().status.code() == Errc::canceled);
  CHECK(ticket.wait().written == 1);
  CHECK(ticket.wait().failed == 5);
  CHECK(storage.order == std::vector{engine.keys(prompt).back()});
}

TEST_CASE("a saver gives up a store that takes nothing, and goes on with the next save") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(20 * kChunk);
  Engine engine(prompt);
  Saver saver(storage, {.threads = 1, .memory_bytes = 2 * engine.object_bytes()});
  storage.answer = Error{Errc::io, 5, "the disk is broken"};
  SaveReport refused = saver.save(engine, prompt, kChunks).wait();
  CHECK(refused.status.code() == Errc::io);
  CHECK(refused.failed == 20);
  CHECK(refused.written == 0);
  CHECK(storage.writes.came() <= 4);  // one more may be on its way
  storage.answer = Error{Errc::out_of_memory, 28, "no room"};
  const int before = storage.writes.came();
  refused = saver.save(engine, prompt, kChunks).wait();
  CHECK(refused.status.code() == Errc::out_of_memory);
  CHECK(storage.writes.came() <= before + 2);
  storage.answer = {};
  CHECK(saver.save(engine, prompt, kChunks).wait().written == 20);
}

TEST_CASE("an engine that throws, or has no KV, loses the chunk and nothing else") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  engine.throws_at = 3;
  Saver saver(storage);
  const SaveReport report = saver.save(engine, prompt, kChunks).wait();
  CHECK(report.status.code() == Errc::device);
  CHECK(report.written == 5);
  CHECK(report.failed == 1);
  engine.toy.clear();
  const SaveReport none = saver.save(engine, prompt, {.chunk_tokens = kChunk, .salt = "x"}).wait();
  CHECK(none.status.code() == Errc::invalid_argument);
  CHECK(none.failed == 6);
  CHECK(saver.save(engine, prompt, {.chunk_tokens = 0}).wait().status.code() ==
        Errc::invalid_argument);
  CHECK(saver.save(engine, {}, kChunks).wait().status);  // nothing to save
}

TEST_CASE(
    "an engine that belongs to one thread is asked on the caller's alone, and in its memory's "
    "bounds") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(40 * kChunk);
  Engine<true> engine(prompt);
  Saver saver(storage, {.threads = 2, .memory_bytes = 2 * engine.object_bytes()});
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  CHECK(engine.thread == std::this_thread::get_id());
  CHECK(ticket.progress().extracted == 40);
  engine.toy.clear();
  CHECK(ticket.wait().written == 40);
}

TEST_CASE("many engines save into one store at once, and every byte is right") {
  MemoryStorage storage;
  std::vector<std::vector<TokenId>> prompts;
  std::list<Engine<>> engines;
  for (std::uint32_t i = 0; i < 8; ++i) {
    prompts.push_back(toy_prompt(300 + 10 * i, static_cast<TokenId>(i + 1)));
    engines.emplace_back(prompts.back());
  }
  {
    Saver saver(storage, {.threads = 3, .memory_bytes = 5 * engines.front().object_bytes()});
    std::vector<SaveTicket> tickets;
    auto prompt = prompts.begin();
    for (Engine<>& engine : engines) tickets.push_back(saver.save(engine, *prompt++, kChunks));
    saver.flush();
    for (SaveTicket& ticket : tickets) {
      CHECK(ticket.ready());
      CHECK(ticket.wait().status);
    }
  }
  for (const auto& prompt : prompts) {
    const auto n = static_cast<std::uint32_t>(prompt.size());
    ToyEngine fresh(n), right(n);
    REQUIRE(right.prefill(prompt, {0, n}));
    Loader loader(fresh, storage, {.chunks = kChunks});
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(report.status);
    CHECK(report.failed_loads == 0);
    CHECK(fresh.kv() == right.kv());
  }
}

TEST_CASE("chunks that are finished are saved while later ones are computed") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(200);
  ToyEngine engine(200);
  Saver saver(storage);
  REQUIRE(engine.prefill(prompt, {0, 100}));
  SaveTicket early = saver.save(engine, Tokens(prompt).first(100), kChunks);
  REQUIRE(engine.prefill(prompt, {100, 200}));
  SaveTicket late = saver.save(engine, prompt, kChunks);
  CHECK(early.wait().written + early.wait().present == 3);
  CHECK(late.wait().present + late.wait().written == 6);
  CHECK(late.wait().status);
}

TEST_CASE("the end of a saver waits for every save, whose tickets may outlive it") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  std::vector<SaveTicket> tickets;
  {
    Saver saver(storage, {.threads = 1});
    tickets.push_back(saver.save(engine, prompt, kChunks));
  }
  CHECK(tickets.front().ready());
  CHECK(tickets.front().wait().written == 6);
  tickets.front().request_stop();  // too late for anything
}

TEST_CASE("a saver of the parent process refuses a save in the child, and ends there at once") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(200);
  Engine engine(prompt);
  auto saver = std::make_unique<Saver<MemoryStorage>>(storage);
  REQUIRE(saver->save(engine, prompt, kChunks).wait().status);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const SaveReport report = saver->save(engine, prompt, kChunks).wait();
    saver.reset();
    ::_exit(report.status.code() == Errc::unsupported && report.failed == 6 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}
