// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What an engine declares of itself decides what it is given.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/detail/admission.hpp"
#include "cake/loader.hpp"
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

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kTokens = 12 * kChunk + 200;
constexpr SessionOptions kPatient{.max_step_tokens = 128, .idle_timeout = 1h, .lookup_timeout = 1h};

struct Nothing {
  static constexpr EngineAbilities abilities{};
};
struct WholeChunks {
  static constexpr EngineAbilities abilities{.whole_chunks = true};
};
struct NoGates {
  static constexpr EngineAbilities abilities{.gates = false};
};
struct ShortOverlap {
  static constexpr EngineAbilities abilities{.max_overlap_tokens = 48};
};
struct WideSteps {
  static constexpr EngineAbilities abilities{.max_overlap_tokens = 180, .wide_gated_steps = true};
};
struct LongSteps {
  static constexpr EngineAbilities abilities{.smallest_step = 80, .max_overlap_tokens = 96};
};

/// Records what it is given.
template <class Declared>
class Recorder {
 public:
  static constexpr EngineAbilities abilities = Declared::abilities;

  explicit Recorder(std::size_t n) : toy(n, {.per_token = 20us}) { toy.clear(); }
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    steps.push_back(range);
    if (!gate.always_open()) gated.push_back(range);
    return toy.prefill(prompt, range, gate);
  }
  Status insert(const Slice& slice, const KvView& from) {
    {
      const std::lock_guard lock(mutex_);
      inserts.push_back(slice);
    }
    return toy.insert(slice, from);
  }
  Status extract(const Slice& slice, const MutableKvView& to) { return toy.extract(slice, to); }

  ToyEngine toy;
  std::vector<TokenRange> steps, gated;
  std::vector<Slice> inserts;

 private:
  std::mutex mutex_;
};

/// Loads all chunks layer by layer, and computes the suffix behind their gate.
struct LayerByLayer {
  LoadOnlyScheduler loads;
  PrefillSpec* spec = nullptr;  // where to put a copy of what it was told
  void begin(const PrefillSpec& told) {
    loads.begin(told);
    if (spec != nullptr) *spec = told;
  }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    Step step = loads.next_step(view, budget, now);
    if (view.may_gate() && view.front() < view.spec().prefix_end() && view.running().empty()) {
      step.kind = Step::Kind::compute;
      const std::uint32_t begin = view.suffix_front();
      const std::uint32_t most = view.spec().gated_step_tokens(begin, budget);
      step.tokens = {begin, std::min(begin + most, view.spec().n_tokens)};
      step.gated = true;
    }
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time) {
    for (std::uint32_t c = 0; c < view.spec().end_chunk; ++c) {
      const LayerRange layers = detail::next_layers(view, lane, c, 1);
      if (!layers.empty()) return LoadRequest{{c, view.spec().object_range(c), layers}, kNever};
    }
    return std::nullopt;
  }
};

/// A store that has the prompt's chunks.
struct Stored {
  std::vector<TokenId> prompt = toy_prompt(kTokens);
  MemoryStorage storage;
  std::vector<std::byte> expected;
  Stored() {
    ToyEngine engine(kTokens);
    REQUIRE(engine.prefill(prompt, {0, kTokens}).has_value());
    expected = engine.kv();
    REQUIRE(save(engine, storage, Tokens(prompt).first(12 * kChunk), {.chunk_tokens = kChunk})
                .written == 12);
  }
};

template <class E, class Sch>
PrefillReport run(Stored& stored, E& engine, Sch scheduler, LoaderOptions options = {}) {
  options.chunks.chunk_tokens = kChunk;
  options.session = kPatient;
  ThrottledStorage slow(stored.storage, LinkOptions{.bytes_per_second = 4e7});
  Loader loader(engine, slow, options, std::move(scheduler));
  PrefillReport report = loader.prefill(stored.prompt);
  CHECK(report.status.has_value());
  CHECK(report.scheduler_faults == 0);
  CHECK(engine.toy.kv() == stored.expected);
  return report;
}

}  // namespace

TEST_CASE("an engine that takes whole chunks gets all layers at once, and no gated step") {
  Stored stored;
  Recorder<Nothing> slices(kTokens);
  run(stored, slices, LayerByLayer());
  CHECK(std::any_of(slices.inserts.begin(), slices.inserts.end(),
                    [](const Slice& slice) { return slice.layers.size() == 1; }));
  Recorder<WholeChunks> engine(kTokens);
  const PrefillReport report = run(stored, engine, LayerByLayer());
  CHECK(report.tokens_loaded == 12 * kChunk);
  for (const Slice& slice : engine.inserts) {
    CHECK(slice.layers == LayerRange{0, engine.layout().n_layers});
  }
  CHECK(engine.gated.empty());
}

TEST_CASE("whole chunks that staging memory has no room for are computed, and the report says so") {
  Stored stored;
  const std::uint64_t object = ChunkGeometry(ToyEngine(1).layout(), kChunk).object_bytes();
  const LoaderOptions little{.lanes = {.staging_bytes = object - 4096}};
  Recorder<Nothing> slices(kTokens);
  CHECK(run(stored, slices, LoadOnlyScheduler(), little).tokens_loaded == 12 * kChunk);
  Recorder<WholeChunks> engine(kTokens);
  const PrefillReport report = run(stored, engine, LoadOnlyScheduler(), little);
  CHECK(report.tokens_loaded == 0);
  CHECK(report.load_error.code() == Errc::out_of_memory);
  CHECK(report.load_error.error().message().find("as a whole") != std::string::npos);
}

TEST_CASE("an engine that declares its gates off gets no gated step") {
  Stored stored;
  Recorder<Nothing> on(kTokens);
  run(stored, on, LayerByLayer());
  CHECK_FALSE(on.gated.empty());
  Recorder<NoGates> off(kTokens);
  run(stored, off, LayerByLayer());
  CHECK(off.gated.empty());
}

TEST_CASE("a gated step has at most max_overlap_tokens") {
  Stored stored;
  Recorder<ShortOverlap> engine(kTokens);
  run(stored, engine, LayerByLayer());
  REQUIRE_FALSE(engine.gated.empty());
  for (const TokenRange& step : engine.gated) CHECK(step.size() <= 48);
  CHECK(std::any_of(engine.steps.begin(), engine.steps.end(),
                    [](const TokenRange& step) { return step.size() > 48; }));
}

TEST_CASE("an engine that takes wide steps gets the last pass in one, whatever the budget") {
  Stored stored;
  Recorder<WideSteps> engine(kTokens);
  run(stored, engine, LayerByLayer());
  REQUIRE_FALSE(engine.gated.empty());
  CHECK(engine.gated.front() == TokenRange{12 * kChunk, 12 * kChunk + 180});
  for (const TokenRange& step : engine.steps) {
    CHECK((step.size() <= kPatient.max_step_tokens || step.begin >= 12 * kChunk));
  }
}

TEST_CASE("a scheduler is told what the engine declares") {
  Stored stored;
  PrefillSpec told;
  Recorder<LongSteps> engine(kTokens);
  LayerByLayer scheduler;
  scheduler.spec = &told;
  run(stored, engine, scheduler);
  CHECK(told.smallest_step == 80);
  CHECK(told.max_overlap_tokens == 96);
  CHECK_FALSE(told.whole_chunks);
  CHECK(told.may_gate);
}

TEST_CASE("no step is shorter than the smallest one, but the last one") {
  struct TinySteps : ComputeOnlyScheduler {
    Step next_step(const RunView& view, std::uint32_t budget, Time now) {
      return ComputeOnlyScheduler::next_step(view, std::min(budget, 10u), now);
    }
  };
  const auto prompt = toy_prompt(kTokens);
  MemoryStorage empty;
  Recorder<Nothing> any(kTokens);
  Loader(any, empty, {.chunks = {.chunk_tokens = kChunk}, .session = {.max_step_tokens = 128}},
         TinySteps())
      .prefill(prompt);
  CHECK(any.steps.front().size() == 10);
  Recorder<LongSteps> engine(kTokens);
  Loader loader(engine, empty,
                {.chunks = {.chunk_tokens = kChunk}, .session = {.max_step_tokens = 128}},
                TinySteps());
  CHECK(loader.prefill(prompt).status.has_value());
  CHECK(engine.steps.size() == (kTokens + 79) / 80);
  for (std::size_t i = 0; i + 1 < engine.steps.size(); ++i) CHECK(engine.steps[i].size() == 80);
}
