// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The lanes' memory, their reads that hang, and several sessions over them. A run that would wait
// for what never comes waits for minutes, so that the test program's time limit notices.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cake/detail/lane_client.hpp"
#include "cake/detail/staging_pool.hpp"
#include "cake/loader.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "fault/faulty_storage.hpp"
#include "fault/layer_by_layer.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::ExactStaging;
using fault::FaultyStorage;
using fault::LayerByLayer;
using testing::drive;
using testing::eventually;
using testing::kChunk;
using testing::kChunks;
using testing::kPatient;
using testing::kTokens;
using testing::ToyEngine;

namespace {

using Stored = testing::StoredPrompt<MemoryStorage>;

template <class E, class S, class Sch>
PrefillReport run(PrefillSession<E, S, Sch>& session, E& engine, const Stored& stored) {
  engine.clear();
  session.begin(stored.prompt);
  PrefillReport report = drive(session, engine, stored.prompt);
  CHECK(engine.kv() == stored.expected);
  return report;
}

template <class S, class Sch>
PrefillReport run(const Stored& stored, IoLanes<S>& lanes, Sch scheduler,
                  SessionOptions options = kPatient) {
  ToyEngine engine(kTokens);
  PrefillSession<ToyEngine, S, Sch> session(engine, lanes, {.chunk_tokens = kChunk},
                                            std::move(scheduler), options);
  return run(session, engine, stored);
}

}  // namespace

TEST_CASE("a kept buffer that is larger takes nothing that is set aside for another read") {
  constexpr std::uint64_t kPage = 4096;
  detail::StagingPool pool(10 * kPage + 1, 4);
  CHECK(pool.budget() == 10 * kPage);
  detail::StagingPool::Dropped dropped;
  AlignedBuffer kept = pool.lend(6 * kPage, pool.room(), dropped);
  CHECK(kept.size() == 0);
  kept = AlignedBuffer(6 * kPage);
  const AlignedBuffer back = pool.take_back(std::move(kept));
  CHECK(back.size() == 0);
  // Six pages of the ten are promised to the second read while the first one is asked for.
  const AlignedBuffer first = pool.lend(4 * kPage, pool.room() - 6 * kPage, dropped);
  CHECK(first.size() == 0);
  REQUIRE(pool.room() >= 6 * kPage);
  const AlignedBuffer second = pool.lend(6 * kPage, pool.room(), dropped);
  CHECK(second.size() == 6 * kPage);
  CHECK(dropped.buffers.empty());
}

TEST_CASE("a small read gets the smallest buffer that is kept, and large ones are kept") {
  constexpr std::uint64_t kPage = 4096;
  detail::StagingPool pool(320 * kPage, 2);
  detail::StagingPool::Dropped dropped;
  for (const std::uint64_t pages : {20u, 10u}) {
    CHECK(pool.lend(pages * kPage, pool.room(), dropped).size() == 0);
  }
  CHECK(pool.take_back(AlignedBuffer(20 * kPage)).size() == 0);
  CHECK(pool.take_back(AlignedBuffer(10 * kPage)).size() == 0);
  AlignedBuffer small = pool.lend(kPage, pool.room(), dropped);
  AlignedBuffer next = pool.lend(kPage, pool.room(), dropped);
  CHECK(small.size() == 10 * kPage);
  CHECK(next.size() == 20 * kPage);
  CHECK(pool.lent() == 30 * kPage);
  CHECK(pool.lend(kPage, pool.room(), dropped).size() == 0);  // no other is there
  CHECK(pool.take_back(AlignedBuffer(kPage)).size() == 0);
  CHECK(pool.take_back(std::move(small)).size() == 0);
  const AlignedBuffer unused = pool.take_back(std::move(next));  // only two are kept
  CHECK(unused.size() == kPage);
  pool.freed(kPage);
  CHECK(pool.room() == 320 * kPage);
  CHECK(pool.take_back(pool.lend(20 * kPage, pool.room(), dropped)).size() == 0);
  CHECK(pool.lend(21 * kPage, pool.room(), dropped).size() == 0);
  CHECK(dropped.buffers.empty());
}

TEST_CASE("a buffer that was promised waits until others have given back what it takes") {
  constexpr std::uint64_t kPage = 4096;
  detail::StagingPool pool(10 * kPage, 4);
  detail::StagingPool::Dropped first;
  detail::StagingPool::Dropped second;
  CHECK(pool.lend(7 * kPage, pool.room(), first).size() == 0);
  CHECK(pool.take_back(AlignedBuffer(7 * kPage)).size() == 0);
  // Five pages each are promised to two reads; the seven that are kept leave for the first one.
  CHECK(pool.lend(5 * kPage, 5 * kPage, first).size() == 0);
  REQUIRE(first.buffers.size() == 1);
  CHECK(pool.fits());
  CHECK(pool.lend(5 * kPage, 5 * kPage, second).size() == 0);
  CHECK_FALSE(pool.fits());
  CHECK(pool.room() == 0);
  // What comes back meanwhile is not kept.
  AlignedBuffer unused = pool.take_back(AlignedBuffer(5 * kPage));
  CHECK(unused.size() == 5 * kPage);
  CHECK_FALSE(pool.fits());
  unused = AlignedBuffer();
  pool.freed(5 * kPage);
  CHECK(pool.fits());
  first.buffers.clear();
  pool.freed(first.held);
  CHECK(pool.room() == 5 * kPage);
}

TEST_CASE("lent, kept and leaving buffers together never take more than the budget") {
  ExactStaging memory(100 * 4096);
  detail::StagingPool pool(100 * 4096, 6);
  std::vector<AlignedBuffer> lent;
  std::uint32_t x = 1;
  for (int i = 0; i < 20'000; ++i) {
    x = x * 1664525 + 1013904223;
    const std::uint64_t bytes = 4096 * (1 + (x >> 20) % 40);
    if ((x >> 8) % 2 == 0 && bytes <= pool.room()) {
      detail::StagingPool::Dropped dropped;
      AlignedBuffer buffer = pool.lend(bytes, pool.room(), dropped);
      // Others are served between the call and the end of what was dropped.
      if (pool.room() >= 4096) {
        detail::StagingPool::Dropped more;
        AlignedBuffer other = pool.lend(4096, pool.room(), more);
        more.buffers.clear();
        pool.freed(more.held);
        if (other.size() == 0) other = AlignedBuffer(4096, &memory);
        lent.push_back(std::move(other));
      }
      dropped.buffers.clear();
      pool.freed(dropped.held);
      if (buffer.size() == 0) buffer = AlignedBuffer(bytes, &memory);
      lent.push_back(std::move(buffer));
    } else if (!lent.empty()) {
      AlignedBuffer unused = pool.take_back(std::move(lent.back()));
      lent.pop_back();
      const std::uint64_t back = unused.size();
      unused = AlignedBuffer();
      if (back != 0) pool.freed(detail::StagingPool::cost(back));
    }
  }
  CHECK(memory.refused == 0);
  for (AlignedBuffer& buffer : lent) {
    const AlignedBuffer unused = pool.take_back(std::move(buffer));
    if (unused.size() != 0) pool.freed(detail::StagingPool::cost(unused.size()));
  }
  CHECK(pool.room() == pool.budget());
}

TEST_CASE("whole chunks and layers are loaded through staging memory of exactly the budget") {
  Stored stored;
  for (const std::uint64_t objects : {1u, 2u, 3u}) {
    CAPTURE(objects);
    ExactStaging memory(objects * stored.object_bytes);
    {
      IoLanes lanes(
          stored.store,
          {.threads = 4, .staging_bytes = objects * stored.object_bytes, .staging = &memory});
      for (int i = 0; i < 3; ++i) {
        CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
        const PrefillReport report = run(stored, lanes, LayerByLayer());
        CHECK(report.tokens_loaded == kChunk * kChunks);
        CHECK(report.failed_loads == 0);
        CHECK(report.scheduler_faults == 0);
        CHECK(report.loads.size() == 3 * kChunks);
      }
    }
    CHECK(memory.refused == 0);
    CHECK(memory.used == 0);
  }
}

namespace {

/// Its erase() takes its time.
struct SlowErase {
  MemoryStorage& inner;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) {
    std::this_thread::sleep_for(50ms);
    return inner.erase(key);
  }
};

}  // namespace

TEST_CASE("a damaged byte in any layer of a chunk that comes in slices costs that chunk") {
  Stored stored;
  const ChunkGeometry geometry(ToyEngine(1).layout(), kChunk);
  for (const std::uint32_t layer : {0u, 1u, 2u}) {
    SlowErase storage{stored.store};
    const std::uint64_t at = geometry.extent(layer, 0).begin + 100;
    const ChunkKey damaged = stored.keys[5];
    IoLanes lanes(storage);
    // The n-th read of that chunk is of its n-th layer.
    auto object = *stored.store.get(damaged);
    object[at] ^= std::byte{1};
    stored.store.replace(damaged, object);
    CAPTURE(layer);
    const PrefillReport report = run(stored, lanes, LayerByLayer());
    CHECK(report.chunks[5].source == Source::computed);
    CHECK(report.chunks[5].load_error == Errc::corrupt);
    CHECK(report.failed_loads == 1);
    CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
    CHECK_FALSE(stored.store.get(damaged));  // gone before the run could end
    stored.save_missing();
    CHECK(run(stored, lanes, LayerByLayer()).tokens_loaded == kChunk * kChunks);
  }
}

namespace {

/// Even chunks lie in tier 0, odd ones in tier 1, whose reads can be held up.
class TwoTiers {
 public:
  explicit TwoTiers(Stored& stored) : stored_(stored), slow(stored.store) {}
  static constexpr StorageAbilities abilities{.tiers = true};
  std::uint32_t tiers() const { return 2; }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    auto found = stored_.store.lookup(keys);
    for (std::size_t i = 0; i < found->size(); ++i) {
      if ((*found)[i].stored()) (*found)[i].tiers = i % 2 == 0 ? 1 : 2;
    }
    return found;
  }
  fault::FaultyCompletion read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               MutableBytes out) {
    if (tier == 1 && hang) {
      slow.on_key(key, {.kind = fault::Kind::hang});
    } else {
      slow.on_key(key, {});
    }
    return slow.read(0, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return stored_.store.write(key, bytes); }
  Status erase(const ChunkKey& key) { return stored_.store.erase(key); }

 private:
  Stored& stored_;

 public:
  FaultyStorage<MemoryStorage> slow;
  std::atomic<bool> hang{false};
};

}  // namespace

TEST_CASE("memory that a tier gives back goes to the other one at once") {
  Stored stored;
  TwoTiers storage(stored);
  IoLanes lanes(storage, {.threads = 2, .staging_bytes = stored.object_bytes});
  for (int i = 0; i < 20; ++i) {
    CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  }
}

namespace {

/// Loads what there is a lane for, and computes the rest.
class AroundDownLanes : public LoadOnlyScheduler {
 public:
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    Step step = LoadOnlyScheduler::next_step(view, budget, now);
    const std::uint32_t front = view.front_chunk();
    if (step.kind == Step::Kind::compute || front >= view.spec().end_chunk) return step;
    const bool up = (view.on_lane(front, 0) && !view.lane(0).down()) ||
                    (view.on_lane(front, 1) && !view.lane(1).down());
    if (up || view.state(front) != ChunkState::open) return step;
    step.kind = Step::Kind::compute;
    step.tokens = {view.front(), view.spec().chunk_range(front).end};
    return step;
  }
};

}  // namespace

TEST_CASE("a dead tier keeps neither memory nor threads of another") {
  Stored stored;
  TwoTiers storage(stored);
  storage.hang = true;
  // Room for four reads; the dead tier has threads for as many.
  IoLanes lanes(storage, {.threads = 4, .staging_bytes = 4 * stored.object_bytes});
  SessionOptions options = kPatient;
  options.read_timeout = 1s;
  options.idle_timeout = 2s;
  for (int i = 0; i < 3; ++i) {
    const PrefillReport report = run(stored, lanes, AroundDownLanes(), options);
    std::uint32_t loaded = 0;
    for (std::uint32_t c = 0; c < kChunks; c += 2) {
      loaded += report.chunks[c].source == Source::loaded ? 1 : 0;
    }
    CHECK(loaded == kChunks / 2);
  }
  CHECK(storage.slow.release() > 0);
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
}

TEST_CASE("a lane whose memory is held by abandoned reads is down, and comes back with them") {
  Stored stored;
  FaultyStorage storage(stored.store);
  storage.on_every_read({.kind = fault::Kind::hang});
  IoLanes lanes(storage, {.threads = 4, .staging_bytes = 2 * stored.object_bytes});
  SessionOptions options = kPatient;
  options.read_timeout = 20ms;
  CHECK(run(stored, lanes, LoadOnlyScheduler(), options).tokens_loaded == 0);
  eventually([&] { return lanes.quarantined() == 2; });
  CHECK(lanes.free_staging_bytes() == 0);
  CHECK(lanes.core().host().down(0, stored.object_bytes));
  // Nobody waits for the idle_timeout of these.
  for (int i = 0; i < 3; ++i) {
    CHECK(run(stored, lanes, LoadOnlyScheduler(), options).tokens_loaded == 0);
  }
  storage.heal();
  CHECK(storage.release() == 2);
  eventually([&] { return !lanes.core().host().down(0, stored.object_bytes); });
  CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
}

TEST_CASE("a session that does not come to insert leaves the lanes to the others") {
  Stored stored;
  IoLanes lanes(stored.store, {.threads = 2, .staging_bytes = 4 * stored.object_bytes});
  using OnCaller = testing::ToyEngineT<true>;
  OnCaller paused(kTokens);
  paused.clear();
  PrefillSession<OnCaller, MemoryStorage, LoadOnlyScheduler> session(
      paused, lanes, {.chunk_tokens = kChunk}, {}, kPatient);
  session.begin(stored.prompt);
  eventually([&] { return lanes.free_staging_bytes() <= 2 * stored.object_bytes; });
  for (int i = 0; i < 3; ++i) {
    CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  }
  // It goes on where it was.
  for (Step step; (step = session.next(256)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(), paused.prefill(stored.prompt, step.tokens));
    }
  }
  CHECK(session.finish().tokens_loaded == kChunk * kChunks);
  CHECK(paused.kv() == stored.expected);
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
}

TEST_CASE("the end of the lanes waits for abandoned reads, and then gives their memory back") {
  Stored stored;
  ExactStaging memory(8 * stored.object_bytes);
  FaultyStorage storage(stored.store);
  storage.on_every_read({.kind = fault::Kind::hang});
  std::jthread releaser;
  {
    IoLanes lanes(storage,
                  {.threads = 2, .staging_bytes = 8 * stored.object_bytes, .staging = &memory});
    SessionOptions options = kPatient;
    options.read_timeout = 20ms;
    CHECK(run(stored, lanes, LoadOnlyScheduler(), options).tokens_loaded == 0);
    eventually([&] { return lanes.quarantined() > 0; });
    CHECK(memory.used > 0);
    releaser = std::jthread([&] {
      std::this_thread::sleep_for(100ms);
      storage.heal();
      while (storage.release() > 0) std::this_thread::sleep_for(1ms);
    });
  }
  CHECK(storage.counts().hung == 0);
  CHECK(memory.used == 0);
}

namespace {

/// Its reads end when they are canceled, and not before.
class EndlessStorage {
 public:
  explicit EndlessStorage(MemoryStorage& inner) : inner_(inner) {}
  struct Read {
    std::shared_ptr<std::atomic<bool>> canceled;
    bool ready() { return *canceled; }
    Status wait() {
      while (!*canceled) std::this_thread::sleep_for(1ms);
      return Error{Errc::canceled, 0, "endless"};
    }
    void cancel() noexcept { *canceled = true; }
  };
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner_.lookup(keys);
  }
  Read read(std::uint32_t, const ChunkKey&, std::uint64_t, MutableBytes) {
    ++reads;
    return {std::make_shared<std::atomic<bool>>(false)};
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner_.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner_.erase(key); }
  std::atomic<int> reads{0};

 private:
  MemoryStorage& inner_;
};

}  // namespace

TEST_CASE(
    "an abandoned read is canceled, through what wraps its store, and its memory comes back") {
  Stored stored;
  EndlessStorage endless(stored.store);
  TieredStorage tiered(endless);
  ThrottledStorage storage(tiered, {.latency = 1ms});
  IoLanes lanes(storage, {.threads = 2, .staging_bytes = 2 * stored.object_bytes});
  SessionOptions options = kPatient;
  options.read_timeout = 20ms;
  CHECK(run(stored, lanes, LoadOnlyScheduler(), options).tokens_loaded == 0);
  CHECK(endless.reads > 0);
  eventually([&] { return lanes.free_staging_bytes() == lanes.staging_bytes(); });
}

namespace {

/// A thread of its own writes `out` until the read has ended. Some completions throw once.
class ScribblingStorage {
 public:
  explicit ScribblingStorage(MemoryStorage& inner) : inner_(inner) {}
  struct Job {
    std::atomic<bool> done{false};
    std::jthread thread;
  };
  struct Read {
    std::shared_ptr<Job> job;
    bool throws = false;
    bool ready() {
      if (std::exchange(throws, false)) throw 42;  // NOLINT(hicpp-exception-baseclass)
      return job->done;
    }
    Status wait() {
      while (!job->done) std::this_thread::sleep_for(1ms);
      return {};
    }
  };
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner_.lookup(keys);
  }
  Read read(std::uint32_t, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    const bool bad = reads++ % 3 == 0;
    auto job = std::make_shared<Job>();
    job->thread = std::jthread([this, key, offset, out, bad, state = job.get()] {
      for (int i = 0; bad && i < 100; ++i) {
        for (std::size_t at = 0; at < out.size(); at += 64) out[at] = static_cast<std::byte>(i);
        std::this_thread::sleep_for(200us);
      }
      (void)inner_.read(0, key, offset, out);
      state->done = true;
    });
    return {std::move(job), bad};
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner_.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner_.erase(key); }
  std::atomic<int> reads{0};

 private:
  MemoryStorage& inner_;
};

}  // namespace

TEST_CASE("a completion that throws keeps its buffer until its read has ended") {
  Stored stored;
  ScribblingStorage storage(stored.store);
  IoLanes lanes(storage, {.threads = 2});
  for (int i = 0; i < 5; ++i) {
    storage.reads = 0;
    const PrefillReport report = run(stored, lanes, LoadOnlyScheduler());
    // One in three threw, and no other read found its bytes changed.
    CHECK(report.failed_loads == kChunks / 3);
    CHECK(report.tokens_loaded == kChunk * (kChunks - kChunks / 3));
    CHECK(stored.store.size() == kChunks);
  }
}

namespace {

/// Says nothing of loads before a step has ended.
class LoadsAfterStep : public LoadOnlyScheduler {
 public:
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    if (view.finished().sequence > 0) return LoadOnlyScheduler::next_step(view, budget, now);
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {0, kChunk};
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    if (view.finished().sequence == 0) return std::nullopt;
    return LoadOnlyScheduler::next_load(view, lane, now);
  }
};

}  // namespace

namespace {

/// Closed until it is opened, or for 30 s, which no good run needs.
class Door {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    if (!changed_.wait_for(lock, 30s, [this] { return open_; })) late_ = true;
    --waiting_;
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  int waiting() {
    std::lock_guard lock(mutex_);
    return waiting_;
  }
  /// Somebody waited until his time was over.
  bool late() {
    std::lock_guard lock(mutex_);
    return late_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool open_ = false;
  bool late_ = false;
};

/// Thinks behind a door: about its third load, or about its first step.
class ThinksLong : public LoadOnlyScheduler {
 public:
  ThinksLong(Door& door, bool about_loads) : door_(&door), about_loads_(about_loads) {}
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    if (!about_loads_) door_->pass();
    return LoadOnlyScheduler::next_step(view, budget, now);
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    if (about_loads_ && ++loads_ > 2) door_->pass();
    return LoadOnlyScheduler::next_load(view, lane, now);
  }

 private:
  Door* door_;
  bool about_loads_;
  int loads_ = 0;
};

}  // namespace

TEST_CASE("a scheduler that thinks for long holds up no other session") {
  const bool about_loads = GENERATE(true, false);
  CAPTURE(about_loads);
  Stored stored;
  Door door;
  IoLanes lanes(stored.store, {.threads = 4});
  std::jthread other([&] {
    ToyEngine engine(kTokens);
    PrefillSession session(engine, lanes, {.chunk_tokens = kChunk}, ThinksLong(door, about_loads),
                           kPatient);
    engine.clear();
    session.begin(stored.prompt);
    for (Step step; (step = session.next(256)).kind != Step::Kind::finished;) {
      if (step.kind == Step::Kind::wait) {
        session.wait(step.until);
      } else {
        session.done(step, step.tokens.size(),
                     engine.prefill(stored.prompt, step.tokens, session.gate(step)));
      }
    }
    (void)session.finish();
  });
  eventually([&] { return door.waiting() != 0; });
  for (int i = 0; i < 5; ++i) {
    CHECK(run(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  }
  CHECK(lanes.free_staging_bytes() <= lanes.staging_bytes());
  CHECK_FALSE(lanes.core().host().down(0, stored.object_bytes));
  CHECK(door.waiting() != 0);
  CHECK_FALSE(door.late());
  door.open();
}

namespace {

/// Loads the second half, and thinks behind a door about every load beside a step.
class ThinksBesideSteps : public FixedSplitScheduler {
 public:
  explicit ThinksBesideSteps(Door& door) : door_(&door) {}
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    if (!view.running().empty()) door_->pass();
    return FixedSplitScheduler::next_load(view, lane, now);
  }

 private:
  Door* door_;
};

struct CountsInserts : ToyEngine {
  using ToyEngine::ToyEngine;
  Status insert(const Slice& slice, const KvView& view) {
    Status status = ToyEngine::insert(slice, view);
    ++inserts;
    return status;
  }
  std::atomic<int> inserts{0};
};

/// Reads wait behind a door.
struct BehindDoor {
  MemoryStorage& inner;
  Door& door;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> k) { return inner.lookup(k); }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    door.pass();
    return inner.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner.erase(key); }
};

}  // namespace

TEST_CASE("reads land and steps end while the scheduler of their session thinks") {
  Stored stored;
  Door reads;
  Door thoughts;
  BehindDoor storage{stored.store, reads};
  IoLanes lanes(storage, {.threads = 4});
  CountsInserts engine(kTokens);
  engine.clear();
  PrefillSession session(engine, lanes, {.chunk_tokens = kChunk}, ThinksBesideSteps(thoughts),
                         kPatient);
  session.begin(stored.prompt);
  eventually([&] { return reads.waiting() >= 2; });
  Step step = session.next(kChunk);
  REQUIRE(step.kind == Step::Kind::compute);
  reads.open();
  eventually([&] { return thoughts.waiting() != 0; });
  eventually([&] { return engine.inserts >= 2; });
  session.done(step, step.tokens.size(), engine.prefill(stored.prompt, step.tokens));
  CHECK(thoughts.waiting() != 0);
  CHECK_FALSE(thoughts.late());
  thoughts.open();
  while ((step = session.next(256)).kind != Step::Kind::finished) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(), engine.prefill(stored.prompt, step.tokens));
    }
  }
  CHECK(session.finish().status);
  CHECK(engine.kv() == stored.expected);
}

TEST_CASE("a session that no lane has a read for goes on at once") {
  // The lanes say so while the session waits: nobody waits for the idle timeout of minutes.
  struct Declines : LoadOnlyScheduler {
    std::optional<LoadRequest> next_load(const RunView&, LaneId, Time) {
      std::this_thread::sleep_for(5ms);
      return std::nullopt;
    }
  };
  Stored stored;
  IoLanes lanes(stored.store);
  for (int i = 0; i < 10; ++i) {  // the session may come late, and need not be told
    CHECK(run(stored, lanes, Declines()).tokens_computed == kTokens);
  }
}

TEST_CASE("lanes are woken when the end of a step gives them something to do") {
  Stored stored;
  IoLanes lanes(stored.store);
  const PrefillReport report = run(stored, lanes, LoadsAfterStep());
  CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
}

TEST_CASE("the two ends meet in the middle behind real threads") {
  Stored stored;
  struct Slow {  // each read takes its time
    MemoryStorage& inner;
    Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> k) { return inner.lookup(k); }
    Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
      std::this_thread::sleep_for(20ms);
      return inner.read(tier, key, offset, out);
    }
    Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
    Status erase(const ChunkKey& key) { return inner.erase(key); }
  } storage{stored.store};
  ToyEngine engine(kTokens, {.per_token = 300us});  // a chunk takes about as long
  const auto met = [](const PrefillReport& report) {
    return 0 < report.meet_token && report.meet_token < report.spec.prefix_end() &&
           report.chunks.front().source == Source::computed &&
           report.chunks.back().source == Source::loaded;
  };
  // On a busy machine one of the two may now and then be too slow.
  bool ever = false;
  for (int i = 0; i < 20 && !ever; ++i) {
    const double bytes = static_cast<double>(stored.object_bytes);
    const LinkEstimate known{bytes / 0.02, Time{0}, Time{0}};
    IoLanes lanes(storage, {.threads = 1, .calibration = std::make_shared<Calibration>(known)});
    PrefillSession session(engine, lanes, {.chunk_tokens = kChunk},
                           MeetInTheMiddleScheduler({.cost = {1e-4, 3e-4, 0}}), kPatient);
    ever = met(run(session, engine, stored));
  }
  CHECK(ever);
}

namespace {

/// Has one read after the other of the same size, and wants them until told otherwise.
class Endless final : public detail::LaneClient {
 public:
  explicit Endless(std::uint64_t bytes) : bytes_(bytes) {}
  std::uint64_t largest_read() const noexcept override { return bytes_; }
  std::optional<detail::ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                              bool& short_of_room) override {
    if (over) return std::nullopt;
    short_of_room = max_bytes < bytes_;
    if (short_of_room) return std::nullopt;
    return detail::ReadTicket{.id = ++claimed, .lane = lane, .bytes = bytes_};
  }
  bool wanted(std::uint64_t read) noexcept override { return read > unwanted; }
  std::shared_ptr<detail::DigestingSink> sink(const detail::ReadTicket&,
                                              ConstBytes) noexcept override {
    return nullptr;
  }
  bool landed(const detail::ReadTicket&, const detail::Landed&) noexcept override { return false; }
  bool keeps_bytes() const noexcept override { return false; }
  void failed(const detail::ReadTicket&, const Error&) noexcept override {}
  void returned(const detail::ReadTicket&) noexcept override {}

  std::atomic<std::uint64_t> claimed{0};
  std::atomic<std::uint64_t> unwanted{0};  // reads up to this one
  std::atomic<bool> over{false};

 private:
  std::uint64_t bytes_;
};

/// Its reads block until release().
struct Blocking {
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return std::vector<StoredChunk>(keys.size());
  }
  Status read(std::uint32_t, const ChunkKey&, std::uint64_t, MutableBytes) {
    ++reading;
    while (!released) std::this_thread::sleep_for(1ms);
    --reading;
    return {};
  }
  Status write(const ChunkKey&, ConstBytes) { return {}; }
  Status erase(const ChunkKey&) { return {}; }
  std::atomic<unsigned> reading{0};
  std::atomic<bool> released{false};
};

}  // namespace

TEST_CASE("small reads keep all threads of a lane busy, large ones four") {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  const auto [bytes, at_once] = GENERATE_COPY(table<std::uint64_t, unsigned>(
      {{kMiB, 12}, {4 * kMiB, 12}, {8 * kMiB, 8}, {32 * kMiB, 4}, {100 * kMiB, 4}}));
  const unsigned most = at_once;  // clang 14 captures no structured binding
  CAPTURE(bytes);
  Blocking storage;
  IoLanes lanes(storage, {.threads = 12, .staging_bytes = std::uint64_t{2} << 30});
  const auto client = std::make_shared<Endless>(bytes);
  detail::LaneHost& host = lanes.core().host();
  host.attach(client);
  eventually([&] { return storage.reading == most; });
  std::this_thread::sleep_for(20ms);
  CHECK(storage.reading == most);
  // What nobody waits for any more does not count.
  client->unwanted = client->claimed.load();
  host.wake(*client);
  const unsigned again = std::min(2 * most, 12u);
  eventually([&] { return storage.reading == again; });
  client->over = true;
  storage.released = true;
  eventually([&] { return storage.reading == 0; });
  host.detach(*client);
}
