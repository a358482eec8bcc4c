// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Members called when they may not be, steps that end otherwise than they should, gates, threads.
// A run that would wait for what never comes waits for an hour, so that the time limit notices.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "fault/layer_by_layer.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kTokens = 8 * kChunk + 20;
constexpr SessionOptions kPatient{.idle_timeout = 1h, .read_timeout = 30min, .lookup_timeout = 1h};

struct World {
  World() : prompt(toy_prompt(kTokens)) {
    ToyEngine alone(kTokens);
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    expected = alone.kv();
    REQUIRE(save(alone, storage, prompt, {.chunk_tokens = kChunk}).written == 8);
    engine.clear();
  }
  std::vector<TokenId> prompt;
  std::vector<std::byte> expected;
  MemoryStorage storage;
  ToyEngine engine{kTokens};
};

/// Puts the suffix behind all loads at once, at a gated step, whoever may take it; loads layer by
/// layer.
class GateAtOnce : public fault::LayerByLayer {
 public:
  static inline std::atomic<int> asked{0};  // in this run
  void begin(const PrefillSpec& spec) {
    asked = 0;
    LayerByLayer::begin(spec);
  }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    ++asked;
    const PrefillSpec& spec = view.spec();
    if (view.front() >= spec.prefix_end() || !view.running().empty() || view.holes() > 0) {
      return LoadOnlyScheduler::next_step(view, budget, now);
    }
    Step step;
    step.kind = Step::Kind::compute;
    step.gated = true;
    step.tokens = {spec.prefix_end(), spec.n_tokens};
    return step;
  }
};

/// Gives its gated step up when it is first asked, and has compute do the rest.
class GivesUp : public GateAtOnce {
 public:
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    if (!given_up_) return GateAtOnce::next_step(view, budget, now);
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {view.front(), view.spec().n_tokens};
    return step;
  }
  Time gate_until(const RunView& view, Time now) {
    given_up_ = view.running().size() == 1 && view.running().front().gated;
    return given_up_ ? now : kNever;
  }

 private:
  bool given_up_ = false;
};

template <class E, class Session>
void drive(Session& session, E& engine, const World& world) {
  for (Step step; (step = session.next(256)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(),
                   engine.prefill(world.prompt, step.tokens, session.gate(step)));
    }
  }
}

/// Each read takes some time, and none ends before GateAtOnce was asked for a step.
struct SlowStorage {
  MemoryStorage& inner;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    do std::this_thread::sleep_for(2ms);
    while (GateAtOnce::asked == 0);
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

/// No read ends before it may.
struct StuckStorage {
  MemoryStorage& inner;
  std::atomic<bool> may_read{false};
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    while (!may_read) std::this_thread::sleep_for(1ms);
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

/// The first step that compute gets.
template <class Session>
Step first_step(Session& session, std::uint32_t budget = 64) {
  Step step;
  while ((step = session.next(budget)).kind == Step::Kind::wait) session.wait(step.until);
  REQUIRE(step.kind == Step::Kind::compute);
  return step;
}

}  // namespace

TEST_CASE("every member outside begin() and finish() says so") {
  World world;
  IoLanes lanes(world.storage);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, LoadOnlyScheduler());
  const auto refused = [&] {
    const Step step;
    CHECK_THROWS_AS(session.next(64), Exception);
    CHECK_THROWS_AS(session.gate(step), Exception);
    CHECK_THROWS_AS(session.done(step, 0, {}), Exception);
    CHECK_THROWS_AS(session.wait(Time{0}), Exception);
    CHECK_THROWS_AS(session.now(), Exception);
    CHECK_THROWS_AS(session.finish(), Exception);
  };
  refused();
  session.begin(world.prompt);
  CHECK_THROWS_AS(session.begin(world.prompt), Exception);
  CHECK(session.save(world.prompt).status.code() == Errc::invalid_argument);
  drive(session, world.engine, world);
  CHECK(session.finish().status.has_value());
  CHECK(world.engine.kv() == world.expected);
  refused();
  try {
    session.next(64);
    FAIL("next() without begin() was taken");
  } catch (const Exception& e) {
    CHECK(std::string(e.what()).find("next() without begin()") != std::string::npos);
  }
}

TEST_CASE("a budget of 0 is a wait that is over at once") {
  World world;
  MemoryStorage nothing;
  IoLanes lanes(nothing);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, MeetInTheMiddleScheduler(),
                         kPatient);
  session.begin(world.prompt);
  for (int i = 0; i < 100; ++i) {
    const Step step = session.next(0);
    REQUIRE(step.kind == Step::Kind::wait);
    session.wait(step.until);
  }
  drive(session, world.engine, world);
  CHECK(session.finish().status.has_value());
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("a step size without limit is cut to the prompt, with resident tokens and with loads") {
  World world;
  for (const std::uint32_t resident : {0u, 1u, 100u, kTokens - 1}) {
    for (const bool stored : {false, true}) {
      MemoryStorage nothing;
      CAPTURE(resident, stored);
      world.engine.clear();
      if (resident > 0) REQUIRE(world.engine.prefill(world.prompt, {0, resident}));
      Loader loader(world.engine, stored ? world.storage : nothing,
                    {.chunks = {.chunk_tokens = kChunk}, .session = {.max_step_tokens = ~0u}});
      const PrefillReport report = loader.prefill(world.prompt, {.resident = resident});
      CHECK(report.status.has_value());
      CHECK(report.steps.size() < 20);
      CHECK(world.engine.kv() == world.expected);
    }
  }
}

TEST_CASE("waits that are as long as can be are taken") {
  World world;
  IoLanes lanes(world.storage);
  PrefillSession session(
      world.engine, lanes, {.chunk_tokens = kChunk}, LoadOnlyScheduler(),
      {.idle_timeout = kNever, .read_timeout = kNever, .lookup_timeout = kNever});
  session.begin(world.prompt);
  drive(session, world.engine, world);
  const PrefillReport report = session.finish();
  CHECK(report.status.has_value());
  CHECK(report.lookup.has_value());
  CHECK(report.tokens_loaded == 8 * kChunk);
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("a wait ends while steps are in flight") {
  World world;
  MemoryStorage nothing;
  IoLanes lanes(nothing);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, ComputeOnlyScheduler(),
                         kPatient);
  session.begin(world.prompt);
  const Step first = first_step(session);
  const Step second = first_step(session);
  CHECK(session.next(64).kind == Step::Kind::wait);
  session.wait(kNever);
  session.done(first, 64, world.engine.prefill(world.prompt, first.tokens));
  session.done(second, 64, world.engine.prefill(world.prompt, second.tokens));
  drive(session, world.engine, world);
  CHECK(session.finish().status.has_value());
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("only the newest step that was issued may do less, also when it has ended before") {
  World world;
  MemoryStorage nothing;
  IoLanes lanes(nothing);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, ComputeOnlyScheduler(),
                         kPatient);
  session.begin(world.prompt);
  const Step first = first_step(session);
  const Step second = first_step(session);
  session.done(second, second.tokens.size(), {});
  session.done(first, first.tokens.size() - 1, {});
  CHECK(session.next(64).kind == Step::Kind::finished);
  const PrefillReport report = session.finish();
  CHECK(report.status.code() == Errc::invalid_argument);
  CHECK(session.save(world.prompt).status.code() == Errc::invalid_argument);
}

TEST_CASE(
    "a gated step that the scheduler gives up is superseded, and others are computed instead") {
  World world;
  StuckStorage storage{world.storage};
  IoLanes lanes(storage);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, GivesUp(), kPatient);
  session.begin(world.prompt);
  drive(session, world.engine, world);
  const PrefillReport report = session.finish();
  storage.may_read = true;
  CHECK(report.status.has_value());
  CHECK(report.tokens_loaded == 0);
  REQUIRE_FALSE(report.steps.empty());
  CHECK(report.steps[0].gated);
  CHECK(report.steps[0].voided);
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("superseded for a step whose gate was not void ends the run") {
  World world;
  MemoryStorage nothing;
  IoLanes lanes(nothing);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, ComputeOnlyScheduler(),
                         kPatient);
  session.begin(world.prompt);
  session.done(first_step(session), 0, Error{Errc::superseded, 0, "the engine says"});
  CHECK(session.next(64).kind == Step::Kind::finished);
  CHECK(session.finish().status.code() == Errc::invalid_argument);
}

TEST_CASE("a gated step that never asked its gate is not done") {
  World world;
  SlowStorage storage{world.storage};
  IoLanes lanes(storage);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, GateAtOnce(), kPatient);
  session.begin(world.prompt);
  const Step step = session.next(64);
  REQUIRE(step.gated);
  session.done(step, step.tokens.size(), world.engine.prefill(world.prompt, step.tokens));
  CHECK(session.next(64).kind == Step::Kind::finished);
  const PrefillReport report = session.finish();
  CHECK(report.status.code() == Errc::invalid_argument);
  CHECK(report.status.error().message().find("gates = false") != std::string::npos);
}

namespace {

/// Takes no gate.
struct Ungated {
  ToyEngine& toy;
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status prefill(Tokens prompt, TokenRange range) { return toy.prefill(prompt, range); }
  Status insert(const Slice& slice, const KvView& view) { return toy.insert(slice, view); }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }
};
static_assert(ComputeBackend<Ungated> && !PrefillsGated<Ungated>);

}  // namespace

TEST_CASE("no scheduler gives a gated step to an engine, or a call, that takes none") {
  World world;
  Ungated ungated{world.engine};
  SlowStorage storage{world.storage};
  {
    Loader loader(ungated, storage, {.chunks = {.chunk_tokens = kChunk}, .session = kPatient},
                  GateAtOnce());
    const PrefillReport report = loader.prefill(world.prompt);
    CHECK(report.status.has_value());
    CHECK(report.scheduler_faults > 0);
    for (const StepReport& step : report.steps) CHECK_FALSE(step.gated);
    CHECK(world.engine.kv() == world.expected);
  }
  IoLanes lanes(storage);
  {  // An engine's own loop that leaves the question to its type.
    PrefillSession session(ungated, lanes, {.chunk_tokens = kChunk}, GateAtOnce(), kPatient);
    world.engine.clear();
    session.begin(world.prompt);
    for (Step step; (step = session.next(256)).kind != Step::Kind::finished;) {
      if (step.kind == Step::Kind::wait) {
        session.wait(step.until);
        continue;
      }
      CHECK_FALSE(step.gated);
      session.done(step, step.tokens.size(), ungated.prefill(world.prompt, step.tokens));
    }
    CHECK(session.finish().status.has_value());
    CHECK(world.engine.kv() == world.expected);
  }
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, GateAtOnce(), kPatient);
  world.engine.clear();
  session.begin(world.prompt);
  for (Step step; (step = session.next(256, false)).kind != Step::Kind::finished;) {
    CHECK_FALSE(step.gated);
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(), world.engine.prefill(world.prompt, step.tokens));
    }
  }
  CHECK(session.finish().status.has_value());
  CHECK(world.engine.kv() == world.expected);
}

namespace {

/// Every step is gated, one behind the other.
struct GateEvery : GateAtOnce {
  Step next_step(const RunView& view, std::uint32_t, Time) {
    Step step;
    step.kind = Step::Kind::compute;
    step.gated = true;
    step.tokens = {view.suffix_front(), view.spec().n_tokens};
    return step;
  }
};

}  // namespace

TEST_CASE("nothing is issued behind a gate that is shut") {
  World world;
  fault::FaultyStorage storage(world.storage);
  storage.on_every_read({.kind = fault::Kind::hang});
  IoLanes lanes(storage);
  PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, GateEvery(), kPatient);
  session.begin(world.prompt);
  const Step step = session.next(8);
  REQUIRE(step.gated);
  for (int i = 0; i < 5; ++i) CHECK(session.next(8).kind == Step::Kind::wait);
  storage.heal();
  std::jthread releaser([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      (void)storage.release();
      std::this_thread::sleep_for(1ms);
    }
  });
  session.done(step, step.tokens.size(),
               world.engine.prefill(world.prompt, step.tokens, session.gate(step)));
  drive(session, world.engine, world);
  CHECK(session.finish().status.has_value());
  CHECK(world.engine.kv() == world.expected);
}

TEST_CASE("a gate that outlives its session is void") {
  World world;
  fault::FaultyStorage storage(world.storage);
  storage.on_every_read({.kind = fault::Kind::hang});
  LayerGate gate;
  std::future<bool> waiting;
  {
    IoLanes lanes(storage);
    {
      PrefillSession session(world.engine, lanes, {.chunk_tokens = kChunk}, GateAtOnce(), kPatient);
      session.begin(world.prompt);
      const Step step = session.next(64);
      REQUIRE(step.gated);
      gate = session.gate(step);
      waiting = std::async(std::launch::async, [gate] { return gate.wait(0); });
      while (storage.counts().hung == 0) std::this_thread::sleep_for(1ms);
    }
    CHECK_FALSE(waiting.get());
    CHECK_FALSE(gate.wait(0));
    CHECK(storage.release() > 0);
  }
  CHECK_FALSE(gate.wait(2));
}

namespace {

/// prefill() returns at once; a thread of its own waits in the gate. Inserts belong to the thread
/// that drives.
class Behind {
 public:
  static constexpr EngineAbilities abilities{.insert_on_caller = true};
  struct Pass {
    std::shared_future<Status> result;
    bool ready() { return result.wait_for(0s) == std::future_status::ready; }
    Status wait() { return result.get(); }
  };
  explicit Behind(std::size_t n) : toy(n) { toy.clear(); }
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Pass prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    return {std::async(std::launch::async,
                       [this, tokens = std::vector<TokenId>(prompt.begin(), prompt.end()), range,
                        gate, ahead = last_]() -> Status {
                         if (ahead.valid()) ahead.wait();
                         return toy.prefill(tokens, range, gate);
                       })
                .share()};
  }
  Status insert(const Slice& slice, const KvView& view) { return toy.insert(slice, view); }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }
  testing::ToyEngineT<true> toy;

 private:
  std::shared_future<Status> last_;
};

}  // namespace

TEST_CASE("inserts are made on the driving thread while a step waits in its gate on another") {
  World world;
  SlowStorage storage{world.storage};
  Behind engine(kTokens);
  Loader loader(engine, storage,
                {.chunks = {.chunk_tokens = kChunk}, .lanes = {.threads = 1}, .session = kPatient},
                GateAtOnce());
  for (int i = 0; i < 5; ++i) {
    engine.toy.clear();
    const PrefillReport report = loader.prefill(world.prompt);
    CHECK(report.status.has_value());
    CHECK(report.steps.front().gated);
    CHECK(report.tokens_loaded == 8 * kChunk);
    CHECK(engine.toy.kv() == world.expected);
    CHECK_FALSE(engine.toy.foreign_insert);
  }
}

TEST_CASE(
    "an engine that inserts on its own thread waits for loads in the gate, which makes them") {
  World world;
  SlowStorage storage{world.storage};
  testing::ToyEngineT<true> engine(kTokens);
  engine.clear();
  Loader loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}, .session = kPatient},
                GateAtOnce());
  const PrefillReport report = loader.prefill(world.prompt);
  CHECK(report.status.has_value());
  CHECK(report.steps.front().gated);
  CHECK(report.tokens_loaded == 8 * kChunk);
  CHECK(engine.kv() == world.expected);
  CHECK_FALSE(engine.foreign_insert);
}

namespace {

struct NoDeadlines : LoadOnlyScheduler {
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    auto load = LoadOnlyScheduler::next_load(view, lane, now);
    if (load) load->deadline = kNever;
    return load;
  }
};

}  // namespace

TEST_CASE("a hung read of a scheduler without deadlines is given up all the same") {
  World world;
  fault::FaultyStorage storage(world.storage);
  storage.on_read(3, {.kind = fault::Kind::hang});
  {
    Loader loader(world.engine, storage,
                  {.chunks = {.chunk_tokens = kChunk},
                   .session = {.idle_timeout = 1h, .read_timeout = 500ms}},
                  NoDeadlines());
    const PrefillReport report = loader.prefill(world.prompt);
    CHECK(report.status.has_value());
    CHECK(report.failed_loads == 1);
    CHECK(report.load_error.code() == Errc::timeout);
    CHECK(world.engine.kv() == world.expected);
    CHECK(storage.counts().hung == 1);
    CHECK(storage.release() == 1);
  }
}

TEST_CASE("a request to stop ends a run that waits for a read that hangs") {
  World world;
  fault::FaultyStorage storage(world.storage);
  storage.on_every_read({.kind = fault::Kind::hang});
  std::stop_source stop;
  std::jthread stopper([&] {
    while (storage.counts().hung == 0) std::this_thread::sleep_for(1ms);
    (void)stop.request_stop();
  });
  {
    Loader loader(world.engine, storage, {.chunks = {.chunk_tokens = kChunk}, .session = kPatient},
                  NoDeadlines());
    const PrefillReport report = loader.prefill(world.prompt, {.stop = stop.get_token()});
    CHECK(report.status.code() == Errc::canceled);
    CHECK(storage.counts().hung > 0);
    CHECK(loader.save(world.prompt).status.code() == Errc::invalid_argument);
    storage.heal();
    while (storage.release() > 0) std::this_thread::sleep_for(1ms);
  }
}
