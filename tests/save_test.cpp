// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/save.hpp"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage_backend.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 32;

/// Forgets, as an engine with a sliding window does, the KV of the first tokens.
struct WindowEngine : ToyEngine {
  using ToyEngine::ToyEngine;
  std::uint32_t first = 0;
  Status extract(const Slice& slice, const MutableKvView& to) {
    if (slice.tokens.begin < first) {
      return Error{Errc::invalid_argument, 0, "outside the window"};
    }
    return ToyEngine::extract(slice, to);
  }
};

/// Calls back before each write, and may lose what it was given.
struct WatchedStorage {
  MemoryStorage inner;
  std::function<void()> before_write = [] {};
  std::uint32_t keeps = ~0u;  // so many objects; the others it takes and drops
  std::uint32_t writes = 0;
  Status answer = {};  // of every write
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) {
    before_write();
    ++writes;
    if (!answer) return answer;
    return inner.size() < keeps ? inner.write(key, bytes) : Status();
  }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};
static_assert(StorageBackend<WatchedStorage>);

template <class C, class S>
auto loader_of(C& engine, S& storage) {
  return Loader(engine, storage,
                {.chunks = {.chunk_tokens = kChunk}, .session = {.idle_timeout = 1min}},
                LoadOnlyScheduler());
}

}  // namespace

TEST_CASE("nothing is saved of a prefill that failed or was canceled") {
  const auto prompt = toy_prompt(200);
  MemoryStorage storage;
  ToyEngine engine(200);
  auto loader = loader_of(engine, storage);
  engine.fail_at = 150;
  REQUIRE_FALSE(loader.prefill(prompt).status.has_value());
  const SaveReport refused = loader.save(prompt);
  CHECK(refused.status.code() == Errc::invalid_argument);
  CHECK(refused.status.error().message().find("did not complete") != std::string::npos);
  CHECK(refused.written == 0);
  CHECK(refused.failed == 6);
  CHECK(storage.size() == 0);
  std::stop_source stop;
  stop.request_stop();
  engine.fail_at = ~0u;
  REQUIRE(loader.prefill(prompt, {.stop = stop.get_token()}).status.code() == Errc::canceled);
  CHECK_FALSE(loader.save(prompt).status.has_value());
  CHECK(storage.size() == 0);
  REQUIRE(loader.prefill(prompt).status.has_value());
  CHECK(loader.save(prompt).written == 6);
}

TEST_CASE("another prompt's KV is not saved under these tokens") {
  const auto first = toy_prompt(200, 1);
  const auto second = toy_prompt(200, 2);
  MemoryStorage storage;
  ToyEngine engine(300);
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(first).status.has_value());
  REQUIRE(loader.prefill(second).status.has_value());
  const SaveReport refused = loader.save(first);
  CHECK(refused.status.code() == Errc::invalid_argument);
  CHECK(refused.status.error().message().find("token 0 ") != std::string::npos);
  CHECK(storage.size() == 0);
  CHECK(loader.save(Tokens(second).first(100)).written == 3);  // its beginning is there
  auto longer = second;
  longer.insert(longer.end(), first.begin(), first.begin() + 60);
  REQUIRE(engine.prefill(longer, {200, 260}).has_value());  // decoded without the loader
  const SaveReport saved = loader.save(longer);
  CHECK(saved.status.has_value());
  CHECK(saved.present == 3);
  CHECK(saved.written == 5);
  // The engine computed `first` itself, and says so.
  REQUIRE(engine.prefill(first, {0, 200}).has_value());
  CHECK(loader.save(first, {.assume_resident = true}).written == 6);
}

TEST_CASE("the token that was sampled last has no KV, and its chunk is not saved") {
  auto prompt = toy_prompt(2 * kChunk - 1);
  MemoryStorage storage;
  ToyEngine engine(200);
  engine.clear();
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt).status.has_value());
  prompt.push_back(7);  // sampled, and not decoded
  const SaveReport early = loader.save(prompt);
  CHECK_FALSE(early.status.has_value());
  CHECK(early.written == 1);
  CHECK(early.failed == 1);
  REQUIRE(engine.prefill(prompt, {2 * kChunk - 1, 2 * kChunk}).has_value());
  const SaveReport late = loader.save(prompt);
  CHECK(late.status.has_value());
  CHECK(late.present == 1);
  CHECK(late.written == 1);
}

TEST_CASE("a chunk that cannot be extracted does not keep the others from being saved") {
  const auto prompt = toy_prompt(200);
  MemoryStorage storage;
  WindowEngine engine(200);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}});
  REQUIRE(loader.prefill(prompt).status.has_value());
  engine.first = 100;
  const SaveReport report = loader.save(prompt);
  CHECK(report.status.code() == Errc::invalid_argument);
  CHECK(report.failed == 4);
  CHECK(report.written == 2);
  // The tail alone is of use.
  WindowEngine other(200);
  auto again = loader_of(other, storage);
  CHECK(again.prefill(prompt).tokens_loaded == 2 * kChunk);
  CHECK(other.kv() == engine.kv());
}

TEST_CASE("a save that is asked to stop ends after the chunk at hand") {
  const auto prompt = toy_prompt(200);
  WatchedStorage storage;
  ToyEngine engine(200);
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt).status.has_value());
  std::stop_source stop;
  storage.before_write = [&] {
    if (storage.writes == 1) stop.request_stop();
  };
  const SaveReport report = loader.save(prompt, {.stop = stop.get_token()});
  CHECK(report.status.code() == Errc::canceled);
  CHECK(report.written == 2);
  CHECK(report.failed == 4);
}

TEST_CASE("written counts what the store holds afterwards, and the report says what it does not") {
  const auto prompt = toy_prompt(200);
  WatchedStorage storage;
  storage.keeps = 4;
  ToyEngine engine(200);
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt).status.has_value());
  const SaveReport report = loader.save(prompt);
  CHECK(report.written == 4);
  CHECK(report.failed == 2);
  CHECK(report.bytes == storage.inner.bytes());
  CHECK(report.status.code() == Errc::not_found);
  CHECK(report.status.error().message().find("capacity") != std::string::npos);
}

TEST_CASE("a store that refuses three writes in a row is not asked again") {
  const auto prompt = toy_prompt(600);
  WatchedStorage storage;
  storage.answer = Error{Errc::io, 5, "no"};
  ToyEngine engine(600);
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt).status.has_value());
  const SaveReport report = loader.save(prompt);
  CHECK(report.status.code() == Errc::io);
  CHECK(storage.writes == 3);
  CHECK(report.failed == 18);
}

TEST_CASE("an object of a wrong length is put right by the next prompt and save") {
  const auto prompt = toy_prompt(200);
  MemoryStorage storage;
  ToyEngine engine(200);
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt).status.has_value());
  REQUIRE(loader.save(prompt).written == 6);
  const auto keys =
      prefix_chain(root_key(engine.fingerprint(), engine.layout(), kChunk, {}), prompt, kChunk);
  const auto shorten = [&](const ChunkKey& key) {
    auto object = *storage.get(key);
    object.resize(object.size() / 2);
    REQUIRE(storage.erase(key).has_value());
    REQUIRE(storage.write(key, object).has_value());
  };
  SECTION("found by a prompt") {
    for (const ChunkKey& key : keys) shorten(key);
    const PrefillReport report = loader.prefill(prompt);
    CHECK(report.tokens_loaded == 0);
    CHECK(storage.size() == 0);
    CHECK(loader.save(prompt).written == 6);
  }
  SECTION("found by a save") {
    shorten(keys[3]);
    const SaveReport report = loader.save(prompt);
    CHECK(report.status.has_value());
    CHECK(report.written == 1);
    CHECK(report.present == 5);
  }
  engine.clear();
  CHECK(loader.prefill(prompt).tokens_loaded == 6 * kChunk);
}

TEST_CASE("a session of an engine's own loop saves what it has run, and nothing else") {
  const auto prompt = toy_prompt(200);
  MemoryStorage storage;
  ToyEngine engine(200);
  IoLanes lanes(storage);
  PrefillSession session(engine, lanes, {.chunk_tokens = kChunk, .salt = "a"},
                         MeetInTheMiddleScheduler());
  session.begin(prompt);
  CHECK(session.save(prompt).status.code() == Errc::invalid_argument);  // it is still running
  for (Step step; (step = session.next(64)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
      continue;
    }
    session.done(step, step.tokens.size(), engine.prefill(prompt, step.tokens, session.gate(step)));
  }
  REQUIRE(session.finish().status.has_value());
  CHECK_FALSE(session.save(toy_prompt(200, 9)).status.has_value());
  const SaveReport report = session.save(prompt);
  CHECK(report.status.has_value());
  CHECK(report.written == 6);  // in the session's chunks
  session.begin(prompt);
  (void)session.finish();  // dropped in the middle
  CHECK_FALSE(session.save(prompt).status.has_value());
}

TEST_CASE("KV that an engine computed alone is saved by the free function") {
  const auto prompt = toy_prompt(100);
  MemoryStorage storage;
  ToyEngine engine(100);
  REQUIRE(engine.prefill(prompt, {0, 100}).has_value());
  CHECK(save(engine, storage, prompt, {.chunk_tokens = kChunk}).written == 3);
  CHECK(save(engine, storage, prompt, {.chunk_tokens = kChunk}).present == 3);
  const SaveReport bad = save(engine, storage, prompt, {.chunk_tokens = 1u << 30});
  CHECK(bad.status.code() == Errc::invalid_argument);
}

namespace {

/// KV whose extract() can be held up, and that tells on which thread it ran.
template <bool OnCaller>
struct HeldUp {
  static constexpr EngineAbilities abilities{.insert_on_caller = OnCaller};
  ToyEngine toy{200};
  std::mutex mutex;
  std::condition_variable changed;
  bool held = false;
  int entered = 0;
  std::thread::id thread;
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status insert(const Slice& slice, const KvView& from) { return toy.insert(slice, from); }
  Status extract(const Slice& slice, const MutableKvView& to) {
    {
      std::unique_lock lock(mutex);
      ++entered;
      thread = std::this_thread::get_id();
      changed.notify_all();
      changed.wait(lock, [&] { return !held; });
    }
    return toy.extract(slice, to);
  }
  void wait_until_entered() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return entered > 0; });
  }
  void let_go() {
    const std::lock_guard lock(mutex);
    held = false;
    changed.notify_all();
  }
};

}  // namespace

TEST_CASE("a save with a ticket runs beside other work, and its report comes with wait()") {
  MemoryStorage storage;
  IoLanes lanes(storage);
  HeldUp<false> engine;
  auto prompt = toy_prompt(200);
  REQUIRE(engine.toy.prefill(prompt, {0, 200}));
  engine.held = true;
  SaveTicket ticket = save(engine, lanes, Tokens(prompt).first(100), {.chunk_tokens = kChunk});
  prompt.assign(prompt.size(), 0);  // it has a copy
  engine.wait_until_entered();
  CHECK_FALSE(ticket.ready());
  CHECK(engine.thread != std::this_thread::get_id());
  engine.let_go();
  CHECK(ticket.wait().status.has_value());
  CHECK(ticket.wait().written == 3);
  CHECK(ticket.ready());
  CHECK(save(engine, storage, Tokens(toy_prompt(100)), {.chunk_tokens = kChunk}).present == 3);
}

TEST_CASE("the destructor of a ticket waits until all is saved; a ticket can be handed on") {
  MemoryStorage storage;
  IoLanes lanes(storage);
  HeldUp<false> engine;
  const auto prompt = toy_prompt(200);
  REQUIRE(engine.toy.prefill(prompt, {0, 200}));
  {
    SaveTicket first = save(engine, lanes, prompt, {.chunk_tokens = kChunk, .salt = "a"});
    SaveTicket second = save(engine, lanes, prompt, {.chunk_tokens = kChunk, .salt = "b"});
    SaveTicket kept = std::move(first);
    kept = std::move(second);  // waits for the first one
    CHECK(storage.size() >= 6);
  }
  CHECK(storage.size() == 12);
}

TEST_CASE("a stop, of the ticket or of the caller, ends a save after the chunk in progress") {
  const auto prompt = toy_prompt(200);
  for (const bool by_ticket : {true, false}) {
    MemoryStorage storage;
    IoLanes lanes(storage);
    HeldUp<false> engine;
    REQUIRE(engine.toy.prefill(prompt, {0, 200}));
    engine.held = true;
    std::stop_source caller;
    SaveTicket ticket = save(engine, lanes, prompt, {.chunk_tokens = kChunk}, caller.get_token());
    engine.wait_until_entered();
    if (by_ticket) ticket.request_stop();
    if (!by_ticket) caller.request_stop();
    engine.let_go();
    CHECK(ticket.wait().status.code() == Errc::canceled);
    CHECK(ticket.wait().written == 1);
    CHECK(ticket.wait().failed == 5);
  }
}

TEST_CASE("an engine that belongs to one thread is asked on that of the caller, at once") {
  MemoryStorage storage;
  IoLanes lanes(storage);
  HeldUp<true> engine;
  const auto prompt = toy_prompt(200);
  REQUIRE(engine.toy.prefill(prompt, {0, 200}));
  SaveTicket ticket = save(engine, lanes, prompt, {.chunk_tokens = kChunk});
  CHECK(ticket.progress().extracted == 6);
  CHECK(engine.thread == std::this_thread::get_id());
  CHECK(ticket.wait().written == 6);
}

TEST_CASE("a ticket reports what a save cannot do: nothing is thrown") {
  MemoryStorage storage;
  ToyEngine engine(200);
  engine.clear();
  const auto prompt = toy_prompt(200);
  IoLanes little(storage, {.staging_bytes = 4096});
  const SaveReport refused = save(engine, little, prompt, {.chunk_tokens = kChunk}).wait();
  CHECK(refused.status.code() == Errc::out_of_memory);
  CHECK(refused.failed == 6);
  IoLanes lanes(storage);
  SaveTicket none = save(engine, lanes, prompt, {.chunk_tokens = kChunk});  // no KV is there
  CHECK(none.wait().status.code() == Errc::invalid_argument);
  CHECK(none.wait().failed == 6);
  CHECK(save(engine, lanes, prompt, {.chunk_tokens = 0}).wait().status.code() ==
        Errc::invalid_argument);
}
