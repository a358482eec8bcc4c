// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a prompt that waits needs, as the stores and the lanes' calibration say.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cake/loader.hpp"
#include "cake/queued.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "stored_prompt.hpp"
#include "toy_engine.hpp"

using namespace cake;
using testing::kChunk;
using testing::kChunks;
using testing::kTokens;
using testing::ToyEngine;

namespace {

using Stored = testing::StoredPrompt<MemoryStorage>;
const ChunkOptions kAs{.chunk_tokens = kChunk};

/// Its lookups fail.
struct NoAnswer {
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey>) {
    return Error{Errc::io, 0, "no answer"};
  }
  Status read(std::uint32_t, const ChunkKey&, std::uint64_t, MutableBytes) { return {}; }
  Status write(const ChunkKey&, ConstBytes) { return {}; }
  Status erase(const ChunkKey&) { return {}; }
};

}  // namespace

TEST_CASE("a prompt needs each stored chunk of the fastest lane that has it") {
  Stored stored;
  MemoryStorage ram;
  for (const std::uint32_t c : {2u, 7u, 11u}) {
    REQUIRE(ram.write(stored.keys[c], *stored.store.get(stored.keys[c])));
  }
  REQUIRE(stored.store.erase(stored.keys[4]));
  TieredStorage store(ram, stored.store);
  ToyEngine engine(kTokens);
  Loader loader(engine, store, {.chunks = kAs});
  const PromptNeeds needs = loader.needs(stored.prompt);
  CHECK(needs.tokens == kTokens);
  CHECK(needs.stored_tokens == kChunk * (kChunks - 1));
  CHECK(needs.bytes[0] == 3 * stored.object_bytes);
  CHECK(needs.bytes[1] == (kChunks - 4) * stored.object_bytes);
  CHECK(needs.read_bytes == stored.object_bytes);
  CHECK(needs.ttft_target == kNever);
  CHECK(needs.lookup);
  CHECK_FALSE(needs.cost);  // nobody has computed anything yet
  CHECK(admit(needs, loader.lanes().state()).now());

  CHECK(loader.prefill(stored.prompt).status);
  CHECK(loader.needs(stored.prompt).cost.has_value());
}

TEST_CASE("what is resident is not needed") {
  Stored stored;
  ToyEngine engine(kTokens);
  IoLanes lanes(stored.store);
  PrefillSession session(engine, lanes, kAs);
  const PromptNeeds needs =
      session.needs(stored.prompt, {.resident = kChunk + 1, .ttft_target = Time(7)});
  CHECK(needs.resident_tokens == kChunk + 1);
  CHECK(needs.tokens == kTokens - kChunk - 1);
  CHECK(needs.stored_tokens == kChunk * (kChunks - 2));  // the rest of the second one is computed
  CHECK(needs.bytes[0] == (kChunks - 2) * stored.object_bytes);
  CHECK(needs.ttft_target == Time(7));
}

TEST_CASE("needs are told while another prompt of the session runs") {
  Stored stored;
  ToyEngine engine(kTokens);
  IoLanes lanes(stored.store);
  PrefillSession session(engine, lanes, kAs);
  session.begin(stored.prompt);
  CHECK(session.needs(testing::toy_prompt(2 * kChunk)).tokens == 2 * kChunk);
  CHECK(lanes.state().prompts == 1);
  CHECK(testing::drive(session, engine, stored.prompt).status);
  CHECK(lanes.state().prompts == 0);
}

TEST_CASE("a prompt whose lookup fails needs no lane, and says why") {
  Stored stored;
  NoAnswer store;
  ToyEngine engine(kTokens);
  Loader loader(engine, store, {.chunks = kAs});
  const PromptNeeds needs = loader.needs(stored.prompt);
  CHECK(needs.stored_tokens == 0);
  CHECK(needs.bytes[0] == 0);
  CHECK(needs.lookup.code() == Errc::io);
}

TEST_CASE("needs of no prompt are refused") {
  Stored stored;
  ToyEngine engine(kTokens);
  Loader loader(engine, stored.store, {.chunks = kAs});
  std::optional<Errc> code;
  try {
    (void)loader.needs({});
  } catch (const Exception& e) {
    code = e.error().code;
  }
  CHECK(code == Errc::invalid_argument);
}
