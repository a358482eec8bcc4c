// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The k-th allocation on a lane's thread fails, for every k that a prefill reaches: the KV is right
// and the program goes on. With failing_new.cpp, so it is a program
// of its own.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "cake/loader.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "fault/failing_new.hpp"
#include "fault/layer_by_layer.hpp"
#include "toy_engine.hpp"

namespace {

thread_local bool on_lane = false;      // a thread that has made a read
thread_local int inside_of_others = 0;  // in a backend of the test
std::atomic<bool> armed{false};
std::atomic<long> allocations{0};  // counted on lanes
std::atomic<long> fails_at{-1};

bool refuses() {
  return armed && on_lane && inside_of_others == 0 && allocations.fetch_add(1) == fails_at;
}

const bool asked = (cake::failing_new::when(refuses), true);

}  // namespace

using namespace cake;
using namespace std::chrono_literals;

namespace {

constexpr std::uint32_t kChunk = 32;
constexpr std::uint32_t kTokens = 12 * kChunk + 5;

/// Allocations of the test's own store and engine do not count.
struct Others {
  Others() { ++inside_of_others; }
  ~Others() { --inside_of_others; }
};

struct Engine {
  explicit Engine(std::size_t n) : toy(n) { toy.clear(); }
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    return toy.prefill(prompt, range, gate);
  }
  Status insert(const Slice& slice, const KvView& view) {
    const Others others;
    return toy.insert(slice, view);
  }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }
  testing::ToyEngine toy;
};

/// Every kind of end: good, damaged, an error, and not before its deadline. The last ones write to
/// `out` until they have ended.
class Storage {
 public:
  struct Read {
    std::chrono::steady_clock::time_point end;
    Status status;
    MutableBytes scribbled;
    bool ready() {
      if (std::chrono::steady_clock::now() >= end) return true;
      for (std::size_t at = 0; at < scribbled.size(); at += 32) scribbled[at] = std::byte{0xab};
      return false;
    }
    Status wait() {
      std::this_thread::sleep_until(end);
      return status;
    }
  };
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    const Others others;
    return inner.lookup(keys);
  }
  Read read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    on_lane = true;
    const Others others;
    const int i = reads++;
    Status status = inner.read(tier, key, offset, out);
    if (i % 7 == 3) out[out.size() / 2] ^= std::byte{1};
    if (i % 9 == 5) status = Error{Errc::io, 0, "an error of a text that is too long to be short"};
    const bool late = i % 6 == 4;
    return {std::chrono::steady_clock::now() + (late ? 25ms : 0ms), status,
            late ? out : MutableBytes()};
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner.write(key, bytes); }
  Status erase(const ChunkKey&) { return {}; }
  MemoryStorage inner;
  std::atomic<int> reads{0};
};

struct Hasty : fault::LayerByLayer {
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    auto load = LayerByLayer::next_load(view, lane, now);
    if (load) load->deadline = now + 10ms;
    return load;
  }
};

struct Outcome {
  bool ok = false;
  bool right = false;
  long allocations = 0;
};

Outcome run(Storage& storage, const std::vector<TokenId>& prompt,
            const std::vector<std::byte>& expected, long k) {
  Engine engine(kTokens);
  storage.reads = 0;
  allocations = 0;
  fails_at = k;
  Outcome outcome;
  {
    Loader loader(engine, storage,
                  {.chunks = {.chunk_tokens = kChunk},
                   .lanes = {.threads = 2},
                   .session = {.idle_timeout = 300ms, .lookup_timeout = 1min}},
                  Hasty());
    armed = true;
    const PrefillReport report = loader.prefill(prompt);
    outcome.ok = report.status.has_value();
    outcome.right = engine.toy.kv() == expected;
    // The next prompt is served, and reads that come late are waited for.
    fails_at = -1;
    engine.toy.clear();
    outcome.ok = outcome.ok && loader.prefill(prompt).status.has_value();
    outcome.right = outcome.right && engine.toy.kv() == expected;
    for (int i = 0; i < 60'000 && loader.lanes().quarantined() != 0; ++i) {
      std::this_thread::sleep_for(1ms);
    }
    for (int i = 0;
         i < 60'000 && loader.lanes().free_staging_bytes() != loader.lanes().staging_bytes(); ++i) {
      std::this_thread::sleep_for(1ms);
    }
    outcome.ok =
        outcome.ok && loader.lanes().free_staging_bytes() == loader.lanes().staging_bytes();
    armed = false;
  }
  outcome.allocations = allocations;
  return outcome;
}

}  // namespace

TEST_CASE("any allocation on a lane may fail: the KV is right, and the loader goes on") {
  const auto prompt = testing::toy_prompt(kTokens);
  testing::ToyEngine alone(kTokens);
  REQUIRE(alone.prefill(prompt, {0, kTokens}));
  Storage storage;
  REQUIRE(save(alone, storage.inner, prompt, {.chunk_tokens = kChunk}).written == 12);
  const long all = run(storage, prompt, alone.kv(), -1).allocations;
  REQUIRE(all > 10);
  long reached = 0;
  for (long k = 0; k < all; ++k) {
    const Outcome outcome = run(storage, prompt, alone.kv(), k);
    CAPTURE(k);
    REQUIRE(outcome.ok);
    REQUIRE(outcome.right);
    reached += outcome.allocations > k ? 1 : 0;
  }
  CHECK(reached > 0);
}
