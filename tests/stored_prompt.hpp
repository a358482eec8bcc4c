// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A prompt whose chunks are all stored, and an engine's own loop over it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/save.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/session.hpp"
#include "catch.hpp"
#include "toy_engine.hpp"

namespace cake::inline CAKE_ABI::testing {

inline constexpr std::uint32_t kChunk = 64;
inline constexpr std::uint32_t kChunks = 12;
inline constexpr std::uint32_t kTokens = kChunk * kChunks + 20;
inline constexpr SessionOptions kPatient{.idle_timeout = std::chrono::minutes(10),
                                         .lookup_timeout = std::chrono::minutes(10)};

/// A prompt, stored whole, and the KV that it must have.
template <class Store>
struct StoredPrompt {
  template <class... A>
  explicit StoredPrompt(A&&... of_store)
      : prompt(toy_prompt(kTokens)), store(std::forward<A>(of_store)...) {
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    expected = alone.kv();
    save_missing();
    keys = prefix_chain(root_key(alone.fingerprint(), alone.layout(), kChunk, {}), prompt, kChunk);
    object_bytes = ChunkGeometry(alone.layout(), kChunk).object_bytes();
  }
  void save_missing() {
    REQUIRE(save(alone, store, prompt, {.chunk_tokens = kChunk}).status);
    if constexpr (requires { store.size(); }) {
      REQUIRE(store.size() == kChunks);
    } else {
      REQUIRE(store.stats().objects == kChunks);
    }
  }
  std::vector<TokenId> prompt;
  std::vector<std::byte> expected;
  std::vector<ChunkKey> keys;
  std::uint64_t object_bytes = 0;
  Store store;
  ToyEngine alone{kTokens};
};

/// From next() to finish(), after begin(), whatever comes of it.
template <class E, class S, class Sch>
PrefillReport drive_to_end(PrefillSession<E, S, Sch>& session, E& engine, Tokens prompt) {
  for (Step step; (step = session.next(256)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(),
                   engine.prefill(prompt, step.tokens, session.gate(step)));
    }
  }
  return session.finish();
}
/// The same, and all goes well.
template <class E, class S, class Sch>
PrefillReport drive(PrefillSession<E, S, Sch>& session, E& engine, Tokens prompt) {
  PrefillReport report = drive_to_end(session, engine, prompt);
  CHECK(report.status.has_value());
  return report;
}

/// Loads the stored prompt over the lanes, into a new engine; its KV must be right.
template <class E = ToyEngine, class P, class S, class Sch = LoadOnlyScheduler>
PrefillReport run_stored(const P& stored, IoLanes<S>& lanes, Sch scheduler = {}) {
  E engine(kTokens);
  engine.clear();
  PrefillSession<E, S, Sch> session(engine, lanes, {.chunk_tokens = kChunk}, std::move(scheduler),
                                    kPatient);
  session.begin(stored.prompt);
  PrefillReport report = drive(session, engine, stored.prompt);
  CHECK((engine.kv() == stored.expected));
  return report;
}

template <class F>
void eventually(F&& holds) {
  for (int i = 0; i < 60'000 && !holds(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(holds());
}

}  // namespace cake::inline CAKE_ABI::testing
