// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/loader.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <future>
#include <stop_token>
#include <thread>

#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

/// A busy machine may let the lanes' threads wait: compute does not step in meanwhile.
constexpr SessionOptions kPatient{.idle_timeout = std::chrono::minutes(1)};

/// The bytes that a prompt's KV must have.
std::vector<std::byte> expected_kv(const std::vector<TokenId>& prompt, std::size_t capacity) {
  ToyEngine reference(capacity);
  reference.clear();
  REQUIRE(reference.prefill(prompt, {0, static_cast<std::uint32_t>(prompt.size())}).has_value());
  return reference.kv();
}

ChunkOptions tenant(const auto& loader, const std::string& salt) {
  ChunkOptions chunks = loader.chunks();
  chunks.salt = salt;
  return chunks;
}

template <class C, class S, class Sch>
void save(Loader<C, S, Sch>& loader, const std::vector<TokenId>& prompt,
          const std::string& salt = {}) {
  REQUIRE(loader.prefill(prompt, {.chunks = tenant(loader, salt)}).status.has_value());
  REQUIRE(loader.save(prompt).status.has_value());
}

}  // namespace

TEST_CASE("what was saved is loaded bit for bit, for every chunk size") {
  const auto prompt = toy_prompt(1200);
  const auto expected = expected_kv(prompt, 1200);
  for (const std::uint32_t chunk : {16u, 24u, 64u, 128u, 512u}) {
    MemoryStorage storage;
    ToyEngine first(1200);
    Loader saver(first, storage, {.chunks = {.chunk_tokens = chunk}});
    save(saver, prompt);
    CHECK(storage.size() == 1200 / chunk);
    ToyEngine second(1200);
    second.clear();
    Loader loader(second, storage, {.chunks = {.chunk_tokens = chunk}, .session = kPatient},
                  LoadOnlyScheduler());
    const PrefillReport report = loader.prefill(prompt);
    CAPTURE(chunk);
    REQUIRE(report.status.has_value());
    // The last token is computed in any case.
    CHECK(report.tokens_loaded == std::min(1199u, 1200 / chunk * chunk));
    CHECK(report.tokens_computed == 1200 - report.tokens_loaded);
    CHECK(report.scheduler_faults == 0);
    CHECK(second.has_logits());
    CHECK(second.kv() == expected);
  }
}

TEST_CASE("every scheduler gives the same KV") {
  const auto prompt = toy_prompt(777);
  const auto expected = expected_kv(prompt, 777);
  MemoryStorage storage;
  ToyEngine engine(777, {.per_token = 50us});
  Loader saver(engine, storage, {.chunks = {.chunk_tokens = 32}});
  save(saver, prompt);
  ThrottledStorage slow(storage, LinkOptions{.bytes_per_second = 4e7});
  const auto run = [&](auto scheduler) {
    engine.clear();
    Loader loader(engine, slow,
                  {.chunks = {.chunk_tokens = 32}, .session = {.max_step_tokens = 128}},
                  std::move(scheduler));
    PrefillReport report = loader.prefill(prompt);
    CHECK(report.status.has_value());
    CHECK(report.scheduler_faults == 0);
    CHECK(report.tokens_computed + report.tokens_loaded == 777);
    CHECK(engine.kv() == expected);
    return report;
  };
  CHECK(run(ComputeOnlyScheduler()).tokens_loaded == 0);
  CHECK(run(LoadOnlyScheduler()).tokens_loaded == 768);
  CHECK(run(FixedSplitScheduler(0.5)).tokens_loaded == 384);
  CHECK(run(PublishedScheduler()).tokens_loaded > 0);
  CHECK(run(MeetInTheMiddleScheduler()).tokens_loaded > 0);
}

TEST_CASE("a longer prompt that begins alike hits the common chunks") {
  MemoryStorage storage;
  ToyEngine engine(2000);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}, .session = kPatient},
                LoadOnlyScheduler());
  auto prompt = toy_prompt(1000);
  save(loader, prompt);
  auto longer = prompt;
  const auto tail = toy_prompt(700, 99);
  longer.insert(longer.end(), tail.begin(), tail.end());
  engine.clear();
  const PrefillReport report = loader.prefill(longer);
  REQUIRE(report.status.has_value());
  CHECK(report.tokens_loaded == 1000 / 64 * 64);
  const auto expected = expected_kv(longer, 2000);
  CHECK(std::equal(
      expected.begin(),
      expected.begin() + static_cast<std::ptrdiff_t>(1700 * engine.layout().bytes_per_token()),
      engine.kv().begin()));
}

TEST_CASE("a prompt that was saved whole leaves one token to compute") {
  MemoryStorage storage;
  ToyEngine engine(256);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}, .session = kPatient},
                LoadOnlyScheduler());
  const auto prompt = toy_prompt(256);
  save(loader, prompt);
  CHECK(storage.size() == 4);
  engine.clear();
  const PrefillReport report = loader.prefill(prompt);
  CHECK(report.tokens_loaded == 255);
  CHECK(report.tokens_computed == 1);
  CHECK(engine.has_logits());
  CHECK(engine.kv() == expected_kv(prompt, 256));
}

TEST_CASE("saving again writes nothing") {
  MemoryStorage storage;
  ToyEngine engine(256);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}});
  const auto prompt = toy_prompt(256);
  save(loader, prompt);
  const SaveReport again = loader.save(prompt);
  CHECK(again.status.has_value());
  CHECK(again.written == 0);
  CHECK(again.present == 4);
  CHECK(again.bytes == 0);
}

TEST_CASE("tenants with different salts share nothing") {
  MemoryStorage storage;
  ToyEngine engine(300);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}, .session = kPatient},
                LoadOnlyScheduler());
  const auto prompt = toy_prompt(300);
  save(loader, prompt, "one");
  CHECK(loader.prefill(prompt, {.chunks = tenant(loader, "two")}).tokens_loaded == 0);
  CHECK(loader.prefill(prompt, {.chunks = tenant(loader, "one")}).tokens_loaded == 256);
}

TEST_CASE("tokens that the engine holds already are neither computed nor loaded") {
  MemoryStorage storage;
  ToyEngine engine(640);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}, .session = kPatient},
                LoadOnlyScheduler());
  const auto prompt = toy_prompt(640);
  const auto expected = expected_kv(prompt, 640);
  save(loader, prompt);
  for (const std::uint32_t resident : {1u, 63u, 64u, 100u, 576u, 600u, 639u}) {
    engine.clear();
    REQUIRE(engine.prefill(prompt, {0, resident}).has_value());
    const PrefillReport report = loader.prefill(prompt, {.resident = resident});
    CAPTURE(resident);
    REQUIRE(report.status.has_value());
    CHECK(report.tokens_resident == resident);
    CHECK(report.tokens_resident + report.tokens_computed + report.tokens_loaded == 640);
    CHECK(engine.kv() == expected);
  }
}

TEST_CASE("prompts shorter than a chunk are computed") {
  MemoryStorage storage;
  ToyEngine engine(64);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}});
  for (const std::size_t n : {1u, 2u, 63u, 64u}) {
    const auto prompt = toy_prompt(n);
    engine.clear();
    const PrefillReport report = loader.prefill(prompt);
    CHECK(report.status.has_value());
    CHECK(report.tokens_computed == n);
    CHECK(engine.has_logits());
  }
}

TEST_CASE("wrong requests are refused by name") {
  MemoryStorage storage;
  ToyEngine engine(64);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 16}});
  CHECK_THROWS_AS(loader.prefill({}), Exception);
  const auto prompt = toy_prompt(40);
  CHECK_THROWS_AS(loader.prefill(prompt, {.resident = 40}), Exception);
  CHECK(loader.prefill(prompt).status.has_value());  // and the loader still works
  Loader bad(engine, storage, {.chunks = {.chunk_tokens = 0}});
  CHECK_THROWS_AS(bad.prefill(prompt), Exception);
}

TEST_CASE("a compute error ends the run with its message, and the next prompt runs") {
  MemoryStorage storage;
  ToyEngine engine(640);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}});
  const auto prompt = toy_prompt(640);
  engine.fail_at = 100;
  const PrefillReport report = loader.prefill(prompt);
  REQUIRE_FALSE(report.status.has_value());
  CHECK(report.status.code() == Errc::device);
  CHECK(report.status.error().message().find("device lost") != std::string::npos);
  engine.fail_at = ~0u;
  CHECK(loader.prefill(prompt).status.has_value());
  CHECK(engine.kv() == expected_kv(prompt, 640));
}

TEST_CASE("cancellation stops both lanes, and the report survives") {
  MemoryStorage storage;
  ToyEngine engine(3000, {.per_token = 20us});
  Loader loader(engine, storage,
                {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 64}});
  const auto prompt = toy_prompt(3000);
  save(loader, prompt);
  ThrottledStorage slow(storage, LinkOptions{.bytes_per_second = 1e6});
  Loader canceled(engine, slow,
                  {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 64}});
  engine.clear();
  std::stop_source stop;
  std::jthread stopper([&] {
    while (engine.steps < 3) std::this_thread::yield();
    stop.request_stop();
  });
  const PrefillReport report = canceled.prefill(prompt, {.stop = stop.get_token()});
  CHECK(report.status.code() == Errc::canceled);
  CHECK(report.tokens_computed >= 3 * 64);
  CHECK(report.tokens_computed < 3000);
  engine.clear();
  CHECK(loader.prefill(prompt).status.has_value());
  CHECK(engine.kv() == expected_kv(prompt, 3000));
  std::stop_source before;
  before.request_stop();
  CHECK(loader.prefill(prompt, {.stop = before.get_token()}).status.code() == Errc::canceled);
}

namespace {

/// Takes no gate, and enqueues its steps: a device with a stream, up to two passes deep.
class AsyncEngine {
 public:
  struct Pass {
    std::future<Status> result;
    bool ready() { return result.wait_for(0s) == std::future_status::ready; }
    Status wait() { return result.get(); }
  };
  explicit AsyncEngine(std::size_t n)
      : toy(n, {.per_token = 50us}), device_([this](const std::stop_token& stop) { work(stop); }) {}
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status insert(const Slice& slice, const KvView& view) { return toy.insert(slice, view); }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }
  Pass prefill(Tokens prompt, TokenRange range) {
    std::packaged_task<Status()> task([this, prompt, range] {
      Status status = toy.prefill(prompt, range);
      std::lock_guard lock(mutex_);
      --depth_;
      return status;
    });
    Pass pass{task.get_future()};
    std::lock_guard lock(mutex_);
    deepest = std::max(deepest, ++depth_);
    queue_.push_back(std::move(task));
    wake_.notify_one();
    return pass;
  }
  ToyEngine toy;
  int deepest = 0;

 private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (wake_.wait(lock, stop, [&] { return !queue_.empty(); })) {
      auto task = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::packaged_task<Status()>> queue_;
  int depth_ = 0;
  std::jthread device_;
};
static_assert(ComputeBackend<AsyncEngine> && !PrefillsGated<AsyncEngine>);

}  // namespace

TEST_CASE("a device that runs behind its host gets the next step before it is done with the last") {
  MemoryStorage storage;
  AsyncEngine engine(2000);
  Loader loader(engine, storage,
                {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 128}});
  const auto prompt = toy_prompt(2000);
  REQUIRE(loader.prefill(prompt).status.has_value());
  CHECK(engine.deepest == 2);
  CHECK(engine.toy.kv() == expected_kv(prompt, 2000));
  REQUIRE(loader.save(prompt).status.has_value());
  engine.toy.clear();
  REQUIRE(loader.prefill(prompt).status.has_value());
  CHECK(engine.deepest == 2);
  CHECK(engine.toy.kv() == expected_kv(prompt, 2000));
}

TEST_CASE("an engine with a single-threaded context gets its inserts on its own thread") {
  MemoryStorage storage;
  testing::ToyEngineT<true> engine(1500);
  Loader loader(engine, storage,
                {.chunks = {.chunk_tokens = 64}, .session = {.max_step_tokens = 128}});
  const auto prompt = toy_prompt(1500);
  REQUIRE(loader.prefill(prompt).status.has_value());
  REQUIRE(loader.save(prompt).status.has_value());
  Loader only(engine, storage, {.chunks = {.chunk_tokens = 64}, .session = kPatient},
              LoadOnlyScheduler());
  for (int i = 0; i < 5; ++i) {
    engine.clear();
    REQUIRE(loader.prefill(prompt).status.has_value());
    CHECK(engine.kv() == expected_kv(prompt, 1500));
    engine.clear();
    const PrefillReport report = only.prefill(prompt);
    REQUIRE(report.status.has_value());
    CHECK(report.tokens_loaded == 1472);
    CHECK(engine.inserts == 23);
    CHECK(engine.kv() == expected_kv(prompt, 1500));
  }
  CHECK_FALSE(engine.foreign_insert);
}

TEST_CASE("a failing insert costs only its chunks") {
  MemoryStorage storage;
  ToyEngine engine(1000);
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = 64}, .session = kPatient},
                LoadOnlyScheduler());
  const auto prompt = toy_prompt(1000);
  save(loader, prompt);
  engine.clear();
  engine.fail_inserts = true;
  const PrefillReport report = loader.prefill(prompt);
  CHECK(report.status.has_value());
  CHECK(report.tokens_loaded == 0);
  CHECK(report.failed_loads == 15);
  CHECK(report.chunks_recomputed == 15);
  CHECK(engine.kv() == expected_kv(prompt, 1000));
}

TEST_CASE("many prompts one after the other on the same loader") {
  MemoryStorage storage;
  ToyEngine engine(900);
  Loader loader(engine, storage,
                {.chunks = {.chunk_tokens = 32}, .session = {.max_step_tokens = 96}});
  for (int i = 0; i < 40; ++i) {
    const auto prompt = toy_prompt(100 + static_cast<std::size_t>(i) * 20, i % 4 + 1);
    engine.clear();
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(report.status.has_value());
    const auto expected = expected_kv(prompt, 900);
    REQUIRE(std::equal(expected.begin(),
                       expected.begin() + static_cast<std::ptrdiff_t>(
                                              prompt.size() * engine.layout().bytes_per_token()),
                       engine.kv().begin()));
    REQUIRE(loader.save(prompt).status.has_value());
  }
  // A lane gives its buffer back just after the run that it was for has ended.
  for (int i = 0; i < 5000 && loader.lanes().free_staging_bytes() != loader.lanes().staging_bytes();
       ++i) {
    std::this_thread::sleep_for(1ms);
  }
  CHECK(loader.lanes().free_staging_bytes() == loader.lanes().staging_bytes());
}

TEST_CASE("loaders that borrow lanes share their threads, rates and memory") {
  MemoryStorage storage;
  IoLanes lanes(storage, {.threads = 2});
  const auto prompt = toy_prompt(300);
  ToyEngine first(300);
  ToyEngine second(300);
  const ChunkOptions chunks{.chunk_tokens = 64};
  Loader saver(first, lanes, chunks);
  REQUIRE(saver.prefill(prompt).status.has_value());
  REQUIRE(saver.save(prompt).written == 4);
  Loader loader(second, lanes, chunks, LoadOnlyScheduler(), kPatient);
  CHECK(&loader.lanes() == &lanes);
  CHECK(&saver.lanes() == &lanes);
  CHECK(loader.prefill(prompt).tokens_loaded == 256);
  CHECK(second.kv() == expected_kv(prompt, 300));
  CHECK(lanes.threads() == 2);
  Loader other(second, lanes);  // chunks of 256
  CHECK(other.prefill(prompt).tokens_loaded == 0);
}

TEST_CASE("a session without a scheduler has the default one, and the free prefill drives it") {
  MemoryStorage storage;
  ToyEngine engine(300);
  const auto prompt = toy_prompt(300);
  IoLanes lanes(storage, lane_options(engine));
  const ChunkOptions chunks{.chunk_tokens = 64, .salt = "tenant"};
  PrefillSession session(engine, lanes, chunks);
  static_assert(std::same_as<decltype(session),
                             PrefillSession<ToyEngine, MemoryStorage, MeetInTheMiddleScheduler>>);
  REQUIRE(prefill(session, prompt).status.has_value());
  CHECK(cake::save(engine, lanes, prompt, chunks).wait().written == 4);
  engine.clear();
  const PrefillReport again = prefill(session, prompt);
  CHECK(again.tokens_computed + again.tokens_loaded == 300);
  CHECK(engine.kv() == expected_kv(prompt, 300));
  CHECK_THROWS_AS(prefill(session, prompt, {.resident = 300}), Exception);
  std::stop_source stop;
  stop.request_stop();
  CHECK(prefill(session, prompt, {.stop = stop.get_token()}).status.code() == Errc::canceled);
  PrefillSession plain(engine, lanes);  // chunks of 256, no tenant
  CHECK(prefill(plain, prompt).tokens_loaded == 0);
}
