// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <mutex>

#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage_backend.hpp"
#include "cake/testing/check_engine.hpp"
#include "cake/testing/check_scheduler.hpp"
#include "cake/testing/check_storage.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using cake::testing::Failures;

namespace {

std::string joined(const Failures& failures) {
  std::string text;
  for (const std::string& f : failures) text += f + "\n";
  return text;
}

/// A store with one deliberate bug.
enum class Bug {
  none,
  last_wins,
  short_reads,
  keeps_erased,
  ignores_offset,
  forgets_order,
  absent_reads_ok
};
struct BuggyStorage {
  Bug bug = Bug::none;
  MemoryStorage good;

  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    auto found = good.lookup(keys);
    if (found && bug == Bug::forgets_order) std::reverse(found->begin(), found->end());
    return found;
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    if (bug == Bug::ignores_offset) offset = 0;
    Status status = good.read(tier, key, offset, out);
    if (!status && bug == Bug::short_reads && status.code() != Errc::not_found) return {};
    if (!status && bug == Bug::absent_reads_ok) return {};
    return status;
  }
  Status write(const ChunkKey& key, ConstBytes bytes) {
    if (bug == Bug::last_wins) (void)good.erase(key);
    return good.write(key, bytes);
  }
  Status erase(const ChunkKey& key) {
    return bug == Bug::keeps_erased ? Status{} : good.erase(key);
  }
};
static_assert(StorageBackend<BuggyStorage>);

}  // namespace

TEST_CASE("the kit finds nothing wrong with a good store") {
  MemoryStorage storage;
  CHECK(joined(testing::check(storage)).empty());
  BuggyStorage wrapped;
  CHECK(joined(testing::check(wrapped)).empty());
}

TEST_CASE("the kit finds each deliberate bug of a store") {
  for (const Bug bug : {Bug::last_wins, Bug::short_reads, Bug::keeps_erased, Bug::ignores_offset,
                        Bug::forgets_order, Bug::absent_reads_ok}) {
    BuggyStorage storage{bug, {}};
    CAPTURE(static_cast<int>(bug));
    CHECK_FALSE(testing::check(storage).empty());
  }
}

TEST_CASE("the kit finds nothing wrong with a good engine") {
  testing::ToyEngine engine(100);
  const auto prompt = testing::toy_prompt(100);
  CHECK(joined(testing::check(engine, prompt)).empty());
}

namespace {

/// An engine with one deliberate bug.
enum class EngineBug {
  none,
  spills_tokens,
  spills_layers,
  ignores_void_gate,
  reads_ahead_of_gate,
  gives_out_what_is_not_there,
  notes_whole_pages
};
using Toy = testing::ToyEngine;
struct BuggyEngine : Toy {
  EngineBug bug;
  std::mutex
      turn;  // what is in a wrong place is there for others that copy at once: wrong, but no race
  BuggyEngine(std::size_t n, EngineBug b) : Toy(n), bug(b) {}
  Status prefill(Tokens prompt, TokenRange range, LayerGate gate = {}) {
    if (bug == EngineBug::ignores_void_gate) {
      Status status = Toy::prefill(prompt, range, gate);
      return status.code() == Errc::superseded ? Status{} : status;
    }
    if (bug == EngineBug::reads_ahead_of_gate) {
      Status status = Toy::prefill(prompt, range);
      for (std::uint32_t l = 0; l < layout().n_layers; ++l) {
        if (!gate.wait(l)) return Error{Errc::superseded, 0, "late"};
      }
      return status;
    }
    return Toy::prefill(prompt, range, gate);
  }
  /// As an engine that keeps no note of what was written, or one note for a page of 16 tokens.
  Status extract(const Slice& slice, const MutableKvView& to) {
    const std::lock_guard lock(turn);
    Status status = Toy::extract(slice, to);
    if (bug == EngineBug::gives_out_what_is_not_there) return {};
    if (bug == EngineBug::notes_whole_pages && !status) {
      const Slice page{0, {slice.tokens.begin, slice.tokens.begin + 1}, slice.layers};
      std::vector<std::byte> bytes(layout().bytes_per_token());
      const MutableKvView view(bytes.data(), 0, layout().row_bytes(), layout().row_bytes());
      if (slice.tokens.begin / 16 == (slice.tokens.end - 1) / 16) return Toy::extract(page, view);
    }
    return status;
  }
  Status insert(Slice slice, const KvView& from) {
    const std::lock_guard lock(turn);
    Status status = Toy::insert(slice, from);
    if (bug == EngineBug::spills_tokens && slice.tokens.begin > 0) {
      Slice wrong = slice;
      wrong.tokens = {slice.tokens.begin - 1, slice.tokens.end - 1};
      return Toy::insert(wrong, from);
    }
    if (bug == EngineBug::spills_layers && slice.layers.begin > 0) {
      const Slice wrong{slice.chunk, slice.tokens, {slice.layers.begin - 1, slice.layers.begin}};
      const KvView moved(from.k(slice.layers.begin).data(), slice.layers.begin - 1,
                         from.k(slice.layers.begin).size(), from.k(slice.layers.begin).size());
      return Toy::insert(wrong, moved);
    }
    return status;
  }
};
static_assert(ComputeBackend<BuggyEngine>);

}  // namespace

TEST_CASE("the kit finds each deliberate bug of an engine") {
  const auto prompt = testing::toy_prompt(100);
  for (const EngineBug bug :
       {EngineBug::spills_tokens, EngineBug::spills_layers, EngineBug::ignores_void_gate,
        EngineBug::reads_ahead_of_gate, EngineBug::gives_out_what_is_not_there,
        EngineBug::notes_whole_pages}) {
    BuggyEngine engine(100, bug);
    CAPTURE(static_cast<int>(bug));
    CHECK_FALSE(testing::check(engine, prompt).empty());
  }
  BuggyEngine engine(100, EngineBug::gives_out_what_is_not_there);
  const std::string told = joined(testing::check(engine, prompt));
  CHECK(told.find("never computed is refused") != std::string::npos);
  CHECK(told.find("cake::KvPresence") != std::string::npos);
  BuggyEngine good(100, EngineBug::none);
  CHECK(joined(testing::check(good, prompt)).empty());
}

TEST_CASE("the kit finds nothing wrong with our schedulers") {
  using testing::check_scheduler;
  CHECK(joined(check_scheduler<MeetInTheMiddleScheduler>([] {
          return MeetInTheMiddleScheduler();
        })).empty());
  CHECK(
      joined(check_scheduler<ComputeOnlyScheduler>([] { return ComputeOnlyScheduler(); })).empty());
  CHECK(joined(check_scheduler<LoadOnlyScheduler>([] { return LoadOnlyScheduler(); })).empty());
  CHECK(joined(check_scheduler<FixedSplitScheduler>([] {
          return FixedSplitScheduler(0.3);
        })).empty());
  CHECK(joined(check_scheduler<PublishedScheduler>([] { return PublishedScheduler(); })).empty());
}

TEST_CASE("the kit finds a scheduler that orders nonsense") {
  struct Nonsense {
    void begin(const PrefillSpec&) {}
    Step next_step(const RunView& view, std::uint32_t, Time) {
      Step step;
      step.kind = Step::Kind::compute;
      step.tokens = {view.front() + 1, view.front() + 3};
      return step;
    }
    std::optional<LoadRequest> next_load(const RunView&, LaneId, Time) { return std::nullopt; }
  };
  CHECK_FALSE(testing::check_scheduler<Nonsense>([] { return Nonsense(); }).empty());
}

namespace {

/// Goes through a step in micro-batches of 16 tokens: within a layer, or each through all layers.
struct MicroBatches : testing::ToyEngine {
  using Base = testing::ToyEngine;
  static constexpr EngineAbilities abilities{.wide_gated_steps = true};
  MicroBatches(std::size_t n, bool within) : Base(n), within_layer(within) {}
  Status prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    if (within_layer) return Base::prefill(prompt, range, gate);
    for (std::uint32_t at = range.begin; at < range.end; at += 16) {
      const TokenRange part{at, std::min(at + 16, range.end)};
      if (Status status = Base::prefill(prompt, part, gate); !status) return status;
    }
    return {};
  }
  bool within_layer;
};

}  // namespace

TEST_CASE("the kit finds micro-batches that go through all layers one after the other") {
  const auto prompt = testing::toy_prompt(100);
  MicroBatches good(100, true);
  CHECK(joined(testing::check_wide_steps(good, prompt, 16)).empty());
  MicroBatches bad(100, false);
  CHECK_FALSE(testing::check_wide_steps(bad, prompt, 16).empty());
  testing::ToyEngine silent(100);
  CHECK(joined(testing::check_wide_steps(silent, prompt, 16)).find("declare") != std::string::npos);
  CHECK(joined(testing::check_wide_steps(good, prompt, 50)).find("fewer") != std::string::npos);
}
