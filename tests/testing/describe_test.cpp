// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/testing/describe.hpp"

#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

using namespace cake;
using cake::testing::describe;
using cake::testing::ToyEngine;

/// An engine that somebody else wrote, and that declares nothing itself.
struct Theirs : ToyEngine {
  using ToyEngine::ToyEngine;
};
template <>
struct cake::engine_traits<Theirs> : cake::engine_calls<Theirs> {
  static constexpr EngineAbilities abilities{.whole_chunks = true, .smallest_step = 64};
};

namespace {

/// What is said of `name`; empty: nothing.
std::string said(const std::string& text, const std::string& name) {
  const std::size_t at = text.find("\n  " + name + " ");
  if (at == std::string::npos) return {};
  const std::size_t begin = text.find_first_not_of(' ', at + 3 + name.size());
  return text.substr(begin, text.find('\n', begin) - begin);
}

struct Wide : ToyEngine {
  using ToyEngine::ToyEngine;
  static constexpr EngineAbilities abilities{.wide_gated_steps = true};
};
struct Ungated {
  static constexpr EngineAbilities abilities{.insert_on_caller = true, .max_overlap_tokens = 256};
  ToyEngine toy{8};
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status prefill(Tokens prompt, TokenRange range) { return toy.prefill(prompt, range); }
  Status insert(const Slice& slice, const KvView& from) { return toy.insert(slice, from); }
  Status extract(const Slice& slice, const MutableKvView& to) { return toy.extract(slice, to); }
};

/// KV without a prefill(): a loop elsewhere computes, and waits at the session's gates.
struct MemoryOnly {
  static constexpr EngineAbilities abilities{.gates = true};
  ToyEngine toy{8};
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status insert(const Slice& slice, const KvView& from) { return toy.insert(slice, from); }
  Status extract(const Slice& slice, const MutableKvView& to) { return toy.extract(slice, to); }
};

struct Off : ToyEngine {
  static constexpr EngineAbilities abilities{.gates = false};
  using ToyEngine::ToyEngine;
};

static_assert(engine_traits<ToyEngine>::gates());
static_assert(!engine_traits<Ungated>::gates());
static_assert(engine_traits<MemoryOnly>::gates() && !ComputeBackend<MemoryOnly>);
static_assert(!engine_traits<Off>::gates() && ComputeBackend<Off>);
static_assert(!engine_traits<Theirs>::gates() && engine_traits<Theirs>::abilities.whole_chunks);

}  // namespace

TEST_CASE("an engine's description says what was recognised, and what was left at its default") {
  ToyEngine toy(8);
  const std::string text = describe(toy);
  CHECK(text.find("engine (ComputeBackend)\n") == 0);
  CHECK(said(text, "prefill") == "takes a LayerGate");
  CHECK(said(text, "gates") == "on: prefill() takes a LayerGate");
  CHECK(said(text, "insert_on_caller") == "no: insert on lane threads");
  CHECK(said(text, "parallel_extracts") == "1");
  CHECK(said(text, "smallest_step") == "1 tokens");
  CHECK(said(text, "max_overlap_tokens") == "no limit");
  CHECK(said(text, "wide_gated_steps") == "no: no step above the budget");
  Wide wide(8);
  CHECK(said(describe(wide), "wide_gated_steps") == "yes: the last pass in micro-batches");
  CHECK(said(text, "layout").find(std::to_string(toy.layout().n_layers) + " layers") == 0);

  Ungated ungated;
  CHECK(said(describe(ungated), "gates") == "off: no prefill() that takes a LayerGate");
  CHECK(said(describe(ungated), "insert_on_caller") == "yes: insert on the driving thread");
  CHECK(said(describe(ungated), "max_overlap_tokens") == "256 tokens");
  MemoryOnly memory;
  CHECK(describe(memory).find("engine (KvMemory; its own loop computes)\n") == 0);
  CHECK(said(describe(memory), "gates") == "on: declared");
  Off off(8);
  CHECK(said(describe(off), "gates") == "off: declared");
  Theirs theirs(8);
  CHECK(said(describe(theirs), "gates") == "off: whole_chunks");
  CHECK(said(describe(theirs), "smallest_step") == "64 tokens");
  CHECK(said(describe(theirs), "inserts_parts") == "no: slices in the order of their layers");
}

TEST_CASE("a store's description is the same behind a link, and counts its tiers") {
  MemoryStorage one, two;
  ThrottledStorage slow(one, LinkOptions{});
  CHECK(describe(slow) == describe(one));
  TieredStorage both(slow, two);
  CHECK(said(describe(both), "tiers") == "2");
  CHECK(said(describe(both), "lookup_tier") == "yes: tiers are asked at once");
  CHECK(said(describe(one), "lookup_tier") == "no: one lookup for all tiers");
  CHECK(said(describe(both), "device_staging") == "no: reads into host memory");
  CHECK(said(describe(both), "borrow") == "no: bytes are copied out of it");
  CHECK(said(describe(both), "promote") == "yes: offered what was read whole");
  CHECK(said(describe(one), "promote") == "no: tiers keep what they have");
  CHECK(said(describe(one), "read_on_caller") == "no: by the store's own means");
  HostStorage host({.capacity_bytes = 4096});
  CHECK(said(describe(host), "write_in_place") == "yes: saves build objects in its memory");
  CHECK(said(describe(one), "write_in_place") == "no: saves have it copy them");
  TieredStorage lending(one, host);
  CHECK(said(describe(lending), "borrow") == "yes: reads take no staging memory; tier 1");
}

TEST_CASE("a scheduler's description says what its reports will have") {
  MeetInTheMiddleScheduler meet;
  CHECK(said(describe(meet), "predicted_meet") == "yes");
  CHECK(said(describe(meet), "compute_cost") == "yes");
  LoadOnlyScheduler load;
  CHECK(said(describe(load), "predicted_meet") == "no: the report has none");
}
