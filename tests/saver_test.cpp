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
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/chunk/reader.hpp"
#include "cake/io_lanes.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
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
template <bool OnCaller = false, std::uint32_t Extracts = 1>
struct Engine {
  static constexpr EngineAbilities abilities{.insert_on_caller = OnCaller,
                                             .parallel_extracts = Extracts};
  explicit Engine(const std::vector<TokenId>& prompt)
      : toy(static_cast<std::uint32_t>(prompt.size())) {
    toy.prefill(prompt, {0, static_cast<std::uint32_t>(prompt.size())}).value();
  }
  ToyEngine toy;
  Door extracts;
  std::atomic<std::uint32_t> throws_at = ~0u;  // chunk
  std::atomic<std::thread::id> thread;
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

TEST_CASE("a chunk is written once so many saves before have asked for it") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(200);
  auto other = prompt;
  other[100] += 1;  // the same three chunks, then others
  Engine engine(prompt), second(other);
  Saver saver(storage, {.threads = 2, .write_after = 2});
  SaveReport report = saver.save(engine, prompt, kChunks).wait();
  CHECK(report.status);
  CHECK(report.held_back == 6);
  CHECK(report.written == 0);
  report = saver.save(second, other, kChunks).wait();
  CHECK(report.held_back == 6);
  CHECK(engine.extracts.came() == 0);
  CHECK(storage.order.empty());
  report = saver.save(engine, prompt, kChunks).wait();
  CHECK(report.status);
  CHECK(report.written == 3);
  CHECK(report.held_back == 3);
  report = saver.save(engine, prompt, kChunks).wait();
  CHECK(report.present == 3);
  CHECK(report.written == 3);
  CHECK(report.held_back == 0);
  CHECK(report.failed == 0);
  CHECK(saver.stats().held_back == 15);
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

namespace {

/// A store that lends, for reading, behind a door, and for writing.
struct LendingStorage {
  static constexpr StorageAbilities abilities{
      .lookup_never_blocks = true, .write_in_place = true, .borrow = true};
  HostStorage inner{{.capacity_bytes = std::uint64_t{1} << 20}};
  Door reads;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner.read(tier, key, offset, out);
  }
  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) {
    reads.pass();
    return inner.borrow(tier, key, offset, size);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Result<ObjectRoom> make_room(const ChunkKey& key, std::uint64_t bytes) {
    return inner.make_room(key, bytes);
  }
  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal) {
    return inner.publish(key, std::move(room), bytes, seal);
  }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};
static_assert(StorageBackend<LendingStorage>);

}  // namespace

TEST_CASE("where chunks are extracted into the store, that waits for reads of the lanes") {
  LendingStorage storage;
  const auto prompt = toy_prompt(6 * kChunk + 8);
  Engine engine(prompt);
  REQUIRE(cake::save(engine, storage, prompt, kChunks).written == 6);
  IoLanes lanes(storage);
  storage.reads.shut();
  ToyEngine loading(static_cast<std::uint32_t>(prompt.size()));
  PrefillSession session(loading, lanes, kChunks);
  session.begin(prompt);
  storage.reads.wait_for(1);
  const auto more = toy_prompt(200, 5);
  Engine waiting(more), hurried(more);
  {
    Saver polite(lanes, {.wait_for_reads = std::chrono::hours(1)});
    Saver hasty(lanes, {.wait_for_reads = Time{0}});
    SaveTicket waits = polite.save(waiting, more, kChunks);
    SaveTicket does_not = hasty.save(hurried, more, {.chunk_tokens = kChunk, .salt = "other"});
    CHECK(does_not.wait().written == 6);
    std::this_thread::sleep_for(10ms);
    CHECK(waiting.extracts.came() == 0);
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
  CHECK(engine.thread.load() == std::this_thread::get_id());
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

TEST_CASE("chunks of one save are extracted by several threads where the engine allows it") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(200);
  Engine<false, 16> engine(prompt);
  Engine<> one_by_one(prompt);
  Saver saver(storage, {.threads = 3});
  engine.extracts.shut();
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  engine.extracts.wait_for(3);
  CHECK(saver.stats().on_their_way == 3);
  engine.extracts.open();
  CHECK(ticket.wait().written == 6);
  Engine<false, 2> two(prompt);
  two.extracts.shut();
  SaveTicket by_two = saver.save(two, prompt, {.chunk_tokens = kChunk, .salt = "two"});
  two.extracts.wait_for(2);
  std::this_thread::sleep_for(10ms);  // the third thread does not come
  CHECK(two.extracts.came() == 2);
  two.extracts.open();
  CHECK(by_two.wait().written == 6);
  one_by_one.extracts.shut();
  SaveTicket other = saver.save(one_by_one, prompt, {.chunk_tokens = kChunk, .salt = "x"});
  one_by_one.extracts.wait_for(1);
  std::this_thread::sleep_for(10ms);  // no other thread comes
  CHECK(one_by_one.extracts.came() == 1);
  one_by_one.extracts.open();
  CHECK(other.wait().written == 6);
}

TEST_CASE("an engine's KV is needed until the last of several threads has extracted") {
  struct Slow : Engine<false, 16> {
    using Engine<false, 16>::Engine;
    Door last;
    Status extract(const Slice& slice, const MutableKvView& to) {
      if (slice.chunk == 0) last.pass();
      return Engine<false, 16>::extract(slice, to);
    }
  };
  MemoryStorage storage;
  const auto prompt = toy_prompt(200);
  Slow engine(prompt);
  Saver saver(storage, {.threads = 3});
  engine.last.shut();
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  std::atomic<bool> extracted{false};
  std::thread waits([&] {
    ticket.wait_extracted();
    extracted = true;
  });
  engine.last.wait_for(1);
  while (ticket.progress().written < 5) std::this_thread::yield();
  SECTION("all") {}
  SECTION("of a save that is stopped") { ticket.request_stop(); }
  std::this_thread::sleep_for(10ms);
  CHECK_FALSE(extracted);
  engine.last.open();
  waits.join();
  CHECK(ticket.wait().written == 6);
}

TEST_CASE("a stop while several threads extract stores what they have begun") {
  WatchedStorage storage;
  const auto prompt = toy_prompt(20 * kChunk);
  Engine<false, 16> engine(prompt);
  Saver saver(storage, {.threads = 4});
  engine.extracts.shut();
  SaveTicket ticket = saver.save(engine, prompt, kChunks);
  engine.extracts.wait_for(4);
  ticket.request_stop();
  engine.extracts.open();
  ticket.wait_extracted();
  engine.toy.clear();
  CHECK(ticket.wait().status.code() == Errc::canceled);
  CHECK(ticket.wait().written == 4);
  CHECK(ticket.wait().failed == 16);
}

TEST_CASE("an engine that throws at any chunk loses that one, whoever else extracts meanwhile") {
  const auto prompt = toy_prompt(6 * kChunk);
  for (std::uint32_t chunk = 0; chunk < 6; ++chunk) {
    for (const bool in_place : {false, true}) {
      INFO("chunk " << chunk << ", in place " << in_place);
      Engine<false, 16> engine(prompt);
      engine.throws_at = chunk;
      MemoryStorage memory;
      HostStorage host({.capacity_bytes = std::uint64_t{1} << 20});
      const auto check = [&](auto& storage) {
        Saver saver(storage, {.threads = 3});
        const SaveReport report = saver.save(engine, prompt, kChunks).wait();
        CHECK(report.status.code() == Errc::device);
        CHECK(report.written == 5);
        CHECK(report.failed == 1);
        const auto keys = engine.keys(prompt);
        const auto found = storage.lookup(keys);
        for (std::uint32_t c = 0; c < 6; ++c) CHECK((*found)[c].stored() == (c != chunk));
        engine.throws_at = ~0u;
        CHECK(saver.save(engine, prompt, kChunks).wait().written == 1);
      };
      if (in_place) {
        check(host);
        CHECK(host.stats().used_bytes == 6 * engine.object_bytes());
      } else {
        check(memory);
      }
    }
  }
}

TEST_CASE("the end of a saver waits for threads that extract") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(40 * kChunk);
  Engine<false, 16> engine(prompt);
  std::optional<SaveTicket> ticket;
  {
    Saver saver(storage, {.threads = 4, .memory_bytes = 3 * engine.object_bytes()});
    ticket.emplace(saver.save(engine, prompt, kChunks));
    engine.extracts.wait_for(1);
  }
  REQUIRE(ticket->ready());
  CHECK(ticket->wait().written == 40);
}

TEST_CASE("a store that lends memory for it has its objects built there") {
  HostStorage storage({.capacity_bytes = std::uint64_t{1} << 20});
  const auto prompt = toy_prompt(200);
  struct Watching : Engine<false, 16> {
    using Engine<false, 16>::Engine;
    std::mutex mutex;
    std::vector<const std::byte*> places;
    Status extract(const Slice& slice, const MutableKvView& to) {
      {
        const std::lock_guard lock(mutex);
        places.push_back(to.k(0).data());
      }
      return Engine<false, 16>::extract(slice, to);
    }
  };
  Watching engine(prompt);
  const std::uint64_t head = ChunkGeometry(engine.layout(), kChunk).head_bytes();
  const auto built_in_place = [&](const ChunkOptions& chunks) {
    const ChunkKey root = root_key(engine.fingerprint(), engine.layout(), kChunk, chunks.salt);
    for (const ChunkKey& key : prefix_chain(root, prompt, kChunk)) {
      const auto loan = storage.borrow(0, key, 0, engine.object_bytes());
      REQUIRE(loan);
      CHECK(loan->verified());
      const auto& all = engine.places;
      CHECK(std::find(all.begin(), all.end(), loan->bytes().data() + head) != all.end());
    }
  };
  Saver saver(storage, {.threads = 2, .memory_bytes = 3 * engine.object_bytes()});
  const ChunkOptions other{.chunk_tokens = kChunk, .salt = "by the caller"};
  REQUIRE(saver.save(engine, prompt, kChunks).wait().written == 6);
  REQUIRE(save(engine, storage, prompt, other).written == 6);
  CHECK(saver.stats().memory_bytes == 0);  // nothing of the store's is kept
  built_in_place(kChunks);
  built_in_place(other);
  ToyEngine loading(200);
  Loader loader(loading, storage, {.chunks = kChunks}, LoadOnlyScheduler());
  const PrefillReport report = loader.prefill(prompt);
  REQUIRE(report.status);
  CHECK(report.tokens_loaded == 6 * kChunk);
  CHECK(loading.kv() == engine.toy.kv());
}

TEST_CASE("a save by write-back is built in the first store, and the others get it behind it") {
  const auto prompt = toy_prompt(200);
  Engine<false, 16> engine(prompt);
  HostStorage host({.capacity_bytes = std::uint64_t{1} << 20});
  fault::FaultyStorage first(host);
  MemoryStorage last;
  TieredStorage tiers({.write = WritePolicy::back}, first, last);
  Saver saver(tiers, {.threads = 3});
  const bool refuses = GENERATE(false, true);
  CAPTURE(refuses);
  if (refuses) first.fail_writes(Error{Errc::io, 5, "no"});
  const SaveReport report = saver.save(engine, prompt, kChunks).wait();
  CHECK(report.status);
  CHECK(report.written == 6);
  CHECK(tiers.flush().has_value() == !refuses);  // which tells that the first store took nothing
  CHECK(host.stats().objects == (refuses ? 0 : 6));
  CHECK(host.stats().used_bytes == host.stats().objects * engine.object_bytes());
  CHECK(last.size() == 6);
  for (const ChunkKey& key : engine.keys(prompt)) CHECK(verify_object(*last.get(key), key));
}

TEST_CASE("where a store has no room for it an object is written, and the store says why not") {
  const auto prompt = toy_prompt(200);
  Engine<false, 16> engine(prompt);
  HostStorage storage({.capacity_bytes = 2 * engine.object_bytes()});
  std::vector<ObjectRoom> taken;
  taken.push_back(storage.make_room(ChunkKey{}, engine.object_bytes()).value());
  taken.push_back(storage.make_room(ChunkKey{}, engine.object_bytes()).value());
  Saver saver(storage, {.threads = 2});
  const SaveReport refused = saver.save(engine, prompt, kChunks).wait();
  CHECK(refused.status.code() == Errc::out_of_memory);
  CHECK(refused.failed == 6);
  CHECK(storage.stats().objects == 0);
  taken.clear();
  const SaveReport last_two = saver.save(engine, prompt, kChunks).wait();
  CHECK(last_two.written + last_two.failed == 6);
  CHECK(storage.stats().used_bytes <= 2 * engine.object_bytes());
}

TEST_CASE("beside a slow disk a saver keeps to its memory, and loses nothing that it reports") {
  const auto prompt = toy_prompt(60 * kChunk);
  const auto check = [&](auto& storage) {
    Engine<false, 16> engine(prompt);
    ThrottledStorage slow(storage,
                          {.bytes_per_second = 40e6, .latency = std::chrono::microseconds(100)});
    slow.throttle_writes(0);
    const std::uint64_t bound = 5 * engine.object_bytes() + 100;
    Saver saver(slow, {.threads = 4, .memory_bytes = bound});
    SaveTicket ticket = saver.save(engine, prompt, kChunks);
    std::uint64_t most = 0, way = 0;
    while (!ticket.ready()) {
      const SaverStats now = saver.stats();
      most = std::max(most, now.memory_bytes);
      way = std::max(way, now.on_their_way);
      std::this_thread::yield();
    }
    CHECK(most <= bound);
    CHECK(way <= 5);
    CHECK(most >= 2 * engine.object_bytes());
    CHECK(ticket.wait().status);
    CHECK(ticket.wait().written == 60);
    const auto found = slow.lookup(engine.keys(prompt));
    REQUIRE(found);
    for (const StoredChunk& chunk : *found) CHECK(chunk.size == engine.object_bytes());
  };
  MemoryStorage memory;
  check(memory);
  HostStorage host({.capacity_bytes = std::uint64_t{4} << 20});
  check(host);
}

namespace {

/// Chunks of 20 layers of 1 MiB, and of which layers extract() was asked.
template <bool Whole>
struct LargeChunks {
  static constexpr EngineAbilities abilities{.whole_chunks = Whole};
  std::vector<LayerRange> asked;
  UniformKvLayout layout() const { return {20, 8, 128, DType::bf16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const { return {}; }
  Status insert(const Slice&, const KvView&) { return {}; }
  Status extract(const Slice& slice, const MutableKvView& to) {
    asked.push_back(slice.layers);
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      std::memset(to.k(l).data(), static_cast<int>(l), to.k(l).size());
      std::memset(to.v(l).data(), static_cast<int>(l + 100), to.v(l).size());
    }
    return {};
  }
};

}  // namespace

TEST_CASE("a large chunk is extracted in pieces that join, or whole where the engine asks for it") {
  MemoryStorage storage;
  const auto prompt = toy_prompt(256);
  const ChunkOptions chunks{.chunk_tokens = 256};
  LargeChunks<false> pieces;
  Saver saver(storage, {.threads = 1});
  REQUIRE(saver.save(pieces, prompt, chunks).wait().written == 1);
  REQUIRE(pieces.asked.size() > 1);
  CHECK(pieces.asked.front().begin == 0);
  CHECK(pieces.asked.back().end == 20);
  for (std::size_t i = 1; i < pieces.asked.size(); ++i) {
    CHECK(pieces.asked[i].begin == pieces.asked[i - 1].end);
  }
  LargeChunks<true> whole;
  MemoryStorage other;
  REQUIRE(save(whole, other, prompt, chunks).written == 1);
  REQUIRE(whole.asked.size() == 1);
  CHECK(whole.asked.front() == LayerRange{0, 20});
  const ChunkKey key = prefix_chain(root_key({}, whole.layout(), 256, {}), prompt, 256).front();
  CHECK(*storage.get(key) == *other.get(key));  // the same object
}
