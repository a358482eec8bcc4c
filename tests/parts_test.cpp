// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reads that the threads of a lane carry out themselves, in parts, each verified and inserted while
// the rest is read: what a fault of any part costs, and what is never seen of it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/lane_client.hpp"
#include "cake/detail/parted_read.hpp"
#include "cake/io_lanes.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_engine.hpp"
#include "cake/testing/check_storage.hpp"
#include "catch.hpp"
#include "fault/layer_by_layer.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::ExactStaging;
using fault::LayerByLayer;
using testing::drive;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kPatient;
using testing::kTokens;
using testing::run_stored;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kLayers = 3;
constexpr std::uint64_t kOneLayer = 4096;  // so that each layer is a part of its own

/// Memory that says that reading it is a copy. `fault` may do something to each such read instead.
struct CallerStore {
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true, .read_on_caller = true};
  using Fault = std::function<std::optional<Status>(const ChunkKey&, std::uint64_t, MutableBytes)>;

  MemoryStorage memory;
  Fault fault;  // before there are lanes
  std::atomic<bool> faulty{true};
  std::atomic<int> reads{0};
  std::atomic<int> whole_reads{0};

  std::size_t size() const { return memory.size(); }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return memory.lookup(keys);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return memory.write(key, bytes); }
  Status erase(const ChunkKey& key) { return memory.erase(key); }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    ++whole_reads;
    return memory.read(tier, key, offset, out);
  }
  bool reads_on_caller(std::uint32_t) { return true; }
  Status read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) {
    ++reads;
    Status status = memory.read(tier, key, offset, out);
    if (fault && faulty) {
      if (auto other = fault(key, offset, out)) return *other;
    }
    return status;
  }
};
static_assert(StorageBackend<CallerStore>);

using Stored = testing::StoredPrompt<CallerStore>;

/// Copies its bytes at the last moment: whoever takes them away before that is found out.
class LateInsert {
 public:
  LateInsert(ToyEngine& toy, const Slice& slice, const KvView& view, int polls)
      : toy_(&toy), slice_(slice), view_(view), polls_(polls) {}
  bool ready() { return polls_-- <= 0; }
  Status wait() { return toy_->insert(slice_, view_); }

 private:
  ToyEngine* toy_;
  Slice slice_;
  KvView view_;
  int polls_;
};

/// A toy that takes parts.
struct PartsEngine {
  static constexpr EngineAbilities abilities{.inserts_parts = true};
  explicit PartsEngine(std::size_t n_tokens) : toy(n_tokens) {}
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status prefill(Tokens prompt, TokenRange range, LayerGate gate) {
    return toy.prefill(prompt, range, gate);
  }
  LateInsert insert(const Slice& slice, const KvView& view) {
    if (fail_at == begun++) throw std::runtime_error("an insert that cannot begin");
    return {toy, slice, view, polls};
  }
  Status extract(const Slice& slice, const MutableKvView& to) { return toy.extract(slice, to); }
  void clear() { toy.clear(); }
  const std::vector<std::byte>& kv() const { return toy.kv(); }

  ToyEngine toy;
  std::atomic<int> begun{0};
  int fail_at = -1;
  int polls = 2;
};
static_assert(ComputeBackend<PartsEngine>);

LaneOptions in_layers(unsigned threads) { return {.threads = threads, .part_bytes = kOneLayer}; }

/// Which part of an object a read begins in; -1: it is that of the head alone.
int part_of(const Stored& stored, std::uint64_t offset, std::size_t bytes) {
  const ChunkGeometry geometry(stored.alone.layout(), kChunk);
  if (offset == 0 && bytes == geometry.head_bytes()) return -1;
  for (std::uint32_t l = 0; l + 1 < kLayers; ++l) {
    if (offset < geometry.read_range({l, l + 1}).end) return static_cast<int>(l);
  }
  return kLayers - 1;
}

/// Holds reads up until release().
struct Gatekeeper {
  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  int held = 0;
  void hold() {
    std::unique_lock lock(mutex);
    ++held;
    changed.wait(lock, [&] { return open; });
    --held;
  }
  void release() {
    const std::lock_guard lock(mutex);
    open = true;
    changed.notify_all();
  }
  ~Gatekeeper() { release(); }
};

template <class S, class Sch = LoadOnlyScheduler>
PrefillReport run(const Stored& stored, IoLanes<S>& lanes, PartsEngine& engine,
                  SessionOptions options = kPatient) {
  engine.clear();
  PrefillSession<PartsEngine, S, Sch> session(engine, lanes, {.chunk_tokens = kChunk}, Sch(),
                                              options);
  session.begin(stored.prompt);
  // Steps of one chunk: a longer one that begins at a hole would take chunks behind it.
  for (Step step; (step = session.next(kChunk)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(),
                   engine.prefill(stored.prompt, step.tokens, session.gate(step)));
    }
  }
  PrefillReport report = session.finish();
  CHECK(report.status.has_value());
  CHECK((engine.kv() == stored.expected));
  return report;
}

}  // namespace

TEST_CASE("the threads of a lane read a chunk in parts, and the report tells of whole reads") {
  Stored stored;
  const unsigned threads = GENERATE(1u, 2u, 5u);
  CAPTURE(threads);
  {
    IoLanes lanes(stored.store, in_layers(threads));
    PartsEngine engine(kTokens);
    const PrefillReport report = run(stored, lanes, engine);
    CHECK(report.tokens_loaded == kChunk * kChunks);
    CHECK(report.loads.size() == kChunks);
    CHECK(report.failed_loads == 0);
    CHECK(engine.toy.inserts == static_cast<int>(kLayers * kChunks));
    CHECK(stored.store.whole_reads == 0);
    CHECK(stored.store.reads == static_cast<int>((1 + kLayers) * kChunks));  // each head by itself
    for (const LoadReport& load : report.loads) CHECK(load.bytes == stored.object_bytes);
    eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
  }
  IoLanes lanes(stored.store, {.threads = threads});
  CHECK(run_stored<PartsEngine>(stored, lanes).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("slices of layers and schedules of any kind go through parts") {
  Stored stored;
  IoLanes lanes(stored.store, in_layers(3));
  const PrefillReport report = run_stored<PartsEngine>(stored, lanes, LayerByLayer());
  CHECK(report.tokens_loaded == kChunk * kChunks);
  CHECK(report.loads.size() == kLayers * kChunks);
  for (int i = 0; i < 20; ++i) {
    (void)run_stored<PartsEngine>(stored, lanes, MeetInTheMiddleScheduler());
  }
  CHECK(stored.store.whole_reads == 0);
}

TEST_CASE("an engine that does not take parts gets whole chunks, as from any other store") {
  Stored stored;
  IoLanes lanes(stored.store, in_layers(3));
  ToyEngine engine(kTokens);
  engine.clear();
  PrefillSession<ToyEngine, CallerStore, LoadOnlyScheduler> session(
      engine, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
  session.begin(stored.prompt);
  CHECK(drive(session, engine, stored.prompt).tokens_loaded == kChunk * kChunks);
  CHECK(engine.inserts == static_cast<int>(kChunks));
  CHECK(stored.store.reads == 0);
  IoLanes off(stored.store, {.part_bytes = 0});
  CHECK(run_stored<PartsEngine>(stored, off).tokens_loaded == kChunk * kChunks);
  CHECK(stored.store.reads == 0);
}

TEST_CASE("a fault in any part costs its chunk and nothing else") {
  Stored stored;
  enum class Kind { error, flipped, short_read, throws };
  const Kind kind = GENERATE(Kind::error, Kind::flipped, Kind::short_read, Kind::throws);
  const int part = GENERATE(-1, 0, 1, 2);
  const unsigned threads = GENERATE(1u, 3u);
  CAPTURE(static_cast<int>(kind), part, threads);
  const ChunkKey damaged = stored.keys[5];
  stored.store.fault = [&](const ChunkKey& key, std::uint64_t offset,
                           MutableBytes out) -> std::optional<Status> {
    if (key != damaged || part_of(stored, offset, out.size()) != part) return std::nullopt;
    switch (kind) {
      case Kind::error:
        return Status(Error{Errc::io, 5, "a bad sector"});
      case Kind::flipped:
        out[out.size() / 2] ^= std::byte{1};
        return std::nullopt;
      case Kind::short_read:  // and says that all is well
        std::fill(out.begin() + static_cast<std::ptrdiff_t>(out.size() / 2), out.end(),
                  std::byte{0x33});
        return std::nullopt;
      case Kind::throws:
        throw std::runtime_error("a store that throws");
    }
    return std::nullopt;
  };
  IoLanes lanes(stored.store, in_layers(threads));
  PartsEngine engine(kTokens);
  const PrefillReport report = run(stored, lanes, engine);
  const bool wrong = kind == Kind::flipped || kind == Kind::short_read;
  CHECK(report.chunks[5].source == Source::computed);
  CHECK(report.chunks[5].load_error == (wrong ? Errc::corrupt : Errc::io));
  CHECK(report.failed_loads == 1);
  CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
  CHECK(stored.store.size() == (wrong ? kChunks - 1 : kChunks));  // damaged ones go
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
  stored.store.faulty = false;
  stored.save_missing();
  CHECK(run(stored, lanes, engine).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("a part that hangs costs its chunk, also when its thread has other inserts to tell of") {
  Stored stored;
  const int part = GENERATE(-1, 0, 1, 2);
  const unsigned threads = GENERATE(2u, 4u);
  CAPTURE(part, threads);
  Gatekeeper gate;
  stored.store.fault = [&](const ChunkKey& key, std::uint64_t offset,
                           MutableBytes out) -> std::optional<Status> {
    if (key == stored.keys[4] && part_of(stored, offset, out.size()) == part) gate.hold();
    return std::nullopt;
  };
  IoLanes lanes(stored.store, in_layers(threads));
  PartsEngine engine(kTokens);
  engine.polls = 50;  // inserts of the thread that hangs are under way then
  SessionOptions options = kPatient;
  options.read_timeout = 200ms;
  const PrefillReport report = run(stored, lanes, engine, options);
  CHECK(report.chunks[4].source == Source::computed);
  CHECK(report.chunks[4].load_error == Errc::timeout);
  CHECK(report.failed_loads == 1);
  CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
  gate.release();
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
  stored.store.faulty = false;
  CHECK(run(stored, lanes, engine).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("when every thread of a lane hangs the lane is down, and comes back") {
  Stored stored;
  Gatekeeper gate;
  stored.store.fault = [&](const ChunkKey&, std::uint64_t, MutableBytes) -> std::optional<Status> {
    gate.hold();
    return std::nullopt;
  };
  IoLanes lanes(stored.store, in_layers(2));
  PartsEngine engine(kTokens);
  SessionOptions options = kPatient;
  options.read_timeout = 20ms;
  CHECK(run(stored, lanes, engine, options).tokens_loaded == 0);
  CHECK(lanes.core().host().down(0, stored.object_bytes));
  gate.release();
  eventually([&] { return !lanes.core().host().down(0, stored.object_bytes); });
  stored.store.faulty = false;
  CHECK(run(stored, lanes, engine).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("parts stay within staging memory of exactly the budget") {
  Stored stored;
  for (const std::uint64_t objects : {1u, 2u, 5u}) {
    CAPTURE(objects);
    ExactStaging memory(objects * stored.object_bytes);
    {
      IoLanes lanes(stored.store, {.threads = 4,
                                   .staging_bytes = objects * stored.object_bytes,
                                   .staging = &memory,
                                   .part_bytes = kOneLayer});
      for (int i = 0; i < 3; ++i) {
        CHECK(run_stored<PartsEngine>(stored, lanes).tokens_loaded == kChunk * kChunks);
        // Whole reads of another engine take turns with them.
        CHECK(run_stored<ToyEngine>(stored, lanes).tokens_loaded == kChunk * kChunks);
        CHECK(run_stored<PartsEngine>(stored, lanes, LayerByLayer()).failed_loads == 0);
      }
    }
    CHECK(memory.refused == 0);
    CHECK(memory.used == 0);
  }
}

TEST_CASE("two sessions share a lane, one in parts and one in whole chunks") {
  Stored stored;
  IoLanes lanes(stored.store,
                {.threads = 3, .staging_bytes = 2 * stored.object_bytes, .part_bytes = kOneLayer});
  std::vector<std::jthread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      PartsEngine parts(kTokens);
      ToyEngine whole(kTokens);
      for (int n = 0; n < 5; ++n) {
        if (i % 2 == 0) {
          parts.clear();
          PrefillSession<PartsEngine, CallerStore, LoadOnlyScheduler> session(
              parts, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
          session.begin(stored.prompt);
          (void)drive(session, parts, stored.prompt);
          CHECK((parts.kv() == stored.expected));
        } else {
          whole.clear();
          PrefillSession<ToyEngine, CallerStore, LoadOnlyScheduler> session(
              whole, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
          session.begin(stored.prompt);
          (void)drive(session, whole, stored.prompt);
          CHECK((whole.kv() == stored.expected));
        }
      }
    });
  }
  threads.clear();
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
}

TEST_CASE("an insert of any part that fails costs its chunk") {
  Stored stored;
  IoLanes lanes(stored.store, in_layers(2));
  for (int n = 0; n < static_cast<int>(kLayers * kChunks); n += 5) {
    CAPTURE(n);
    PartsEngine engine(kTokens);
    engine.fail_at = n;
    const PrefillReport report = run(stored, lanes, engine);
    CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
    CHECK(report.failed_loads == 1);
    CHECK(report.load_error.code() == Errc::device);
  }
  PartsEngine engine(kTokens);
  engine.toy.fail_inserts = true;
  CHECK(run(stored, lanes, engine).tokens_loaded == 0);
}

TEST_CASE("a run that is cancelled while parts hang ends, and touches no KV afterwards") {
  Stored stored;
  Gatekeeper gate;
  stored.store.fault = [&](const ChunkKey& key, std::uint64_t offset,
                           MutableBytes out) -> std::optional<Status> {
    if (key == stored.keys[2] && part_of(stored, offset, out.size()) == 1) gate.hold();
    return std::nullopt;
  };
  IoLanes lanes(stored.store, in_layers(3));
  {
    PartsEngine engine(kTokens);
    PrefillSession<PartsEngine, CallerStore, LoadOnlyScheduler> session(
        engine, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
    std::stop_source stop;
    session.begin(stored.prompt, {.stop = stop.get_token()});
    while (true) {
      {
        const std::lock_guard lock(gate.mutex);
        if (gate.held != 0) break;
      }
      const Step step = session.next(1);
      if (step.kind == Step::Kind::wait) session.wait(step.until);
    }
    stop.request_stop();
    CHECK(session.finish().status.code() == Errc::canceled);
  }  // the engine is gone
  gate.release();
  stored.store.faulty = false;
  PartsEngine engine(kTokens);
  CHECK(run(stored, lanes, engine).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("the kits find stores and engines that do not keep what these abilities promise") {
  CallerStore store;
  CHECK(testing::check(store).size() == 1);  // it says so of a tier that it does not have
  std::atomic<int> late{0};                  // the kit reads on several threads
  store.fault = [&](const ChunkKey&, std::uint64_t, MutableBytes out) -> std::optional<Status> {
    if (++late % 2 == 0) std::fill(out.begin(), out.end(), std::byte{0});
    return std::nullopt;
  };
  CHECK(testing::check(store).size() > 1);
  PartsEngine engine(kTokens);
  CHECK(testing::check_memory(engine, kTokens).empty());
  struct LastOneWins : PartsEngine {  // layers that come late do not count
    using PartsEngine::PartsEngine;
    LateInsert insert(const Slice& slice, const KvView& view) {
      Slice first = slice;
      if (slice.layers.begin != 0 && slice.layers.size() == 1)
        first.layers.end = first.layers.begin;
      return PartsEngine::insert(first, view);
    }
  } wrong(kTokens);
  CHECK_FALSE(testing::check_memory(wrong, kTokens).empty());
}
