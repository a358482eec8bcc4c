// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every kind of KV through the whole of cake: computed, loaded, and both at once, the logits are
// the same to the bit.
#include "engine.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/testing/check_engine.hpp"
#include "catch.hpp"

using namespace std::chrono_literals;

namespace {

using models::Engine;
using models::EngineOptions;

constexpr std::uint32_t kChunk = 16;    // tokens
constexpr std::uint32_t kTokens = 167;  // ten chunks and a rest
constexpr std::uint32_t kChunks = kTokens / kChunk;

std::vector<cake::TokenId> prompt(std::uint32_t n = kTokens) {
  std::vector<cake::TokenId> tokens;
  for (std::uint32_t t = 0; t < n; ++t) {
    tokens.push_back(static_cast<cake::TokenId>((t * 2654435761u) >> 9 & 63));
  }
  return tokens;
}

/// A model whose prompt was computed and saved by one engine, and what another one may load.
struct Saved {
  Saved(const models::NamedModel& named, const EngineOptions& options = {})
      : engine(named.model, named.name, kTokens + 1) {
    Engine first(named.model, named.name, kTokens + 1, options);
    first.clear();
    cake::Loader saver(first, storage, {.chunks = {.chunk_tokens = kChunk}});
    REQUIRE(saver.prefill(prompt()).status);
    report = saver.save(prompt());
    logits = first.logits();
  }
  cake::ChunkGeometry geometry() const { return {engine.layout(), kChunk}; }
  std::vector<cake::ChunkKey> keys() const {
    return cake::prefix_chain(cake::root_key(engine.fingerprint(), engine.layout(), kChunk, {}),
                              prompt(), kChunk);
  }
  /// A bit of the KV of a chunk is another one than was written.
  void damage(std::uint32_t chunk) {
    const cake::ChunkKey key = keys()[chunk];
    const cake::StoredChunk there = storage.lookup(std::span(&key, 1))->front();
    cake::AlignedBuffer bytes(there.size);
    REQUIRE(cake::await_completion(storage.read(0, key, 0, bytes.bytes())));
    bytes.data()[geometry().head_bytes() + 5] ^= std::byte{1};
    REQUIRE(storage.erase(key));
    REQUIRE(cake::await_completion(storage.write(key, bytes.bytes())));
  }

  cake::MemoryStorage storage;
  Engine engine;
  cake::SaveReport report;
  models::Vector logits;
};

template <class F>
void for_each_model(F&& f) {
  for (const models::NamedModel& named : models::all_models()) {
    INFO(named.name);
    f(named);
  }
}

bool same_bits(const models::Vector& a, const models::Vector& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

template <class S, class Sch>
cake::PrefillReport run(Engine& engine, S& storage, Sch scheduler) {
  engine.clear();
  cake::Loader loader(engine, storage,
                      {.chunks = {.chunk_tokens = kChunk}, .session = {.idle_timeout = 1min}},
                      scheduler);
  cake::PrefillReport report = loader.prefill(prompt());
  CHECK(report.status);
  CHECK(report.tokens_loaded + report.tokens_computed + report.tokens_out_of_window == kTokens);
  return report;
}

/// Bytes that loading all ten chunks takes: of each layer as far back as it reaches.
std::uint64_t needed_bytes(const cake::KvLayout& layout) {
  const cake::ChunkGeometry geometry(layout, kChunk);
  std::uint64_t bytes = 0;
  for (std::uint32_t c = 0; c < kChunks; ++c) {
    const std::uint32_t behind = (kChunks - 1 - c) * kChunk;
    std::uint32_t n = 0;
    while (n < layout.n_layers && layout.kind(layout.stored_order()[n]).reach() > behind) ++n;
    if (n != 0) bytes += geometry.read_range({0, n}).size();
  }
  return bytes;
}

bool all_limited(const Engine& engine) {
  const cake::KvLayout layout = engine.layout();
  return layout.kind(layout.stored_order()[0]).reach() != cake::KvLayerKind::kAll;
}

TEST_CASE("KV of every kind that one engine saved gives another one the same logits") {
  for_each_model([](const models::NamedModel& named) {
    Saved saved(named);
    CHECK(saved.report.written == kChunks);
    CHECK(saved.report.partial == 0);
    Engine& engine = saved.engine;
    const auto computed = run(engine, saved.storage, cake::ComputeOnlyScheduler());
    if (!all_limited(engine)) CHECK(computed.tokens_computed == kTokens);
    CHECK(same_bits(engine.logits(), saved.logits));

    const auto loaded = run(engine, saved.storage, cake::LoadOnlyScheduler());
    CHECK(loaded.tokens_computed == kTokens - kChunks * kChunk);
    CHECK(same_bits(engine.logits(), saved.logits));

    cake::ThrottledStorage slow(saved.storage, cake::LinkOptions{.bytes_per_second = 5e6});
    run(engine, slow, cake::MeetInTheMiddleScheduler());
    CHECK(same_bits(engine.logits(), saved.logits));
  });
}

TEST_CASE("windows are read as far as they reach, and of states one") {
  for_each_model([](const models::NamedModel& named) {
    Saved saved(named);
    const auto loaded = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
    CHECK(loaded.bytes_read == needed_bytes(saved.engine.layout()));
    const cake::ChunkGeometry geometry = saved.geometry();
    const std::uint64_t payload = geometry.payload_end() - geometry.head_bytes();
    std::uint64_t read = 0;  // of layers
    for (const cake::LoadReport& load : loaded.loads) {
      read += geometry.layer_begins()[load.slice.layers.end] -
              geometry.layer_begins()[load.slice.layers.begin];
    }
    CHECK(read + loaded.bytes_out_of_window == kChunks * payload);
    if (models::layout_of(named.model).has_states() && !all_limited(saved.engine)) {
      std::set<std::uint32_t> with_state;
      for (const cake::LoadReport& load : loaded.loads) {
        if (load.slice.layers.end == geometry.layout().n_layers)
          with_state.insert(load.slice.chunk);
      }
      CHECK(with_state == std::set<std::uint32_t>{kChunks - 1});
    }
  });
}

TEST_CASE("chunks that are missing among KV of any kind are computed") {
  for_each_model([](const models::NamedModel& named) {
    Saved saved(named);
    const auto keys = saved.keys();
    for (const std::size_t lost : {0u, 3u, 4u, 8u}) REQUIRE(saved.storage.erase(keys[lost]));
    const auto report = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
    if (!all_limited(saved.engine)) CHECK(report.tokens_loaded == 6 * kChunk);
    CHECK(same_bits(saved.engine.logits(), saved.logits));
    run(saved.engine, saved.storage, cake::MeetInTheMiddleScheduler());
    CHECK(same_bits(saved.engine.logits(), saved.logits));
  });
}

TEST_CASE("a chunk that turns out to be damaged is computed, behind windows and states read late") {
  for_each_model([](const models::NamedModel& named) {
    for (const std::uint32_t chunk : {9u, 8u, 5u, 1u}) {
      INFO("chunk " << chunk);
      Saved saved(named);
      saved.damage(chunk);
      const auto report = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
      CHECK(same_bits(saved.engine.logits(), saved.logits));
      const bool plain = saved.geometry().reaches().empty();
      if (plain) CHECK(report.chunks_extended == 0);
      if (!plain && !all_limited(saved.engine)) CHECK(report.chunks_extended > 0);
      saved.damage(chunk == 9 ? 4 : 9);
      run(saved.engine, saved.storage, cake::MeetInTheMiddleScheduler());
      CHECK(same_bits(saved.engine.logits(), saved.logits));
    }
  });
}

TEST_CASE("layers of any size come one by one through little staging memory") {
  for_each_model([](const models::NamedModel& named) {
    Saved saved(named);
    const cake::ChunkGeometry geometry = saved.geometry();
    const std::uint64_t ends =
        geometry.object_bytes() - (geometry.payload_end() - geometry.head_bytes());
    saved.engine.clear();
    cake::Loader loader(saved.engine, saved.storage,
                        {.chunks = {.chunk_tokens = kChunk},
                         .lanes = {.staging_bytes = ends + geometry.largest_layer()},
                         .session = {.idle_timeout = 1min}},
                        cake::LoadOnlyScheduler());
    const auto report = loader.prefill(prompt());
    CHECK(report.tokens_computed == kTokens - kChunks * kChunk);
    CHECK(same_bits(saved.engine.logits(), saved.logits));
  });
}

TEST_CASE("a hit ends at the last chunk with a state, and a hole begins behind the last one") {
  for_each_model([](const models::NamedModel& named) {
    const cake::KvLayout layout = models::layout_of(named.model);
    if (!layout.has_states()) return;
    Saved saved(named, {.checkpoint_chunks = 3});  // at the ends of chunks 2, 5 and 8
    const bool states_alone = layout.bytes_per_token() == 0;
    CHECK(saved.report.written == (states_alone ? 3 : 10));
    CHECK(saved.report.partial == (states_alone ? 0 : 7));
    const auto loaded = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
    CHECK(loaded.tokens_computed == kTokens - 9 * kChunk);
    CHECK(same_bits(saved.engine.logits(), saved.logits));
    if (states_alone) return;

    REQUIRE(saved.storage.erase(saved.keys()[4]));
    const auto hole = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
    CHECK(hole.chunks[2].source == cake::Source::loaded);
    CHECK(hole.chunks[3].source == cake::Source::computed);
    CHECK(hole.chunks[4].source == cake::Source::computed);
    CHECK(hole.chunks[5].source == cake::Source::loaded);
    CHECK(same_bits(saved.engine.logits(), saved.logits));

    saved.damage(7);
    const auto late = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
    CHECK(late.chunks[6].source == cake::Source::computed);
    CHECK(late.chunks[8].source == cake::Source::loaded);
    CHECK(same_bits(saved.engine.logits(), saved.logits));
  });
}

TEST_CASE("chunks are stored without windows that the engine has evicted, and serve all the same") {
  for_each_model([](const models::NamedModel& named) {
    const cake::KvLayout layout = models::layout_of(named.model);
    Saved saved(named, {.evicts = true});
    const bool windows = !cake::ChunkGeometry(layout, kChunk).reaches().empty() &&
                         (!layout.has_states() || layout.kinds.size() > 4);
    if (!windows) {
      CHECK(saved.report.partial == 0);
      return;
    }
    const std::uint32_t widest = layout.kind(layout.stored_order()[0]).reach();
    if (widest == cake::KvLayerKind::kAll) {
      CHECK(saved.report.written == kChunks);
      CHECK(saved.report.partial > 0);
      CHECK(saved.report.status);
    } else {  // nothing is left of the first chunks
      CHECK(saved.report.failed > 0);
      CHECK_FALSE(saved.report.status);
    }
    const auto loaded = run(saved.engine, saved.storage, cake::LoadOnlyScheduler());
    CHECK(loaded.tokens_computed == kTokens - kChunks * kChunk);
    CHECK(same_bits(saved.engine.logits(), saved.logits));

    // A prompt that shares only what lies below the window finds no context and computes.
    const auto short_prompt = prompt(5 * kChunk + 3);
    Engine other(named.model, named.name, kTokens + 1);
    other.clear();
    cake::Loader loader(other, saved.storage, {.chunks = {.chunk_tokens = kChunk}},
                        cake::LoadOnlyScheduler());
    CHECK(loader.prefill(short_prompt).tokens_computed == short_prompt.size());
    Engine alone(named.model, named.name, kTokens + 1);
    alone.clear();
    REQUIRE(alone.prefill(short_prompt, {0, static_cast<std::uint32_t>(short_prompt.size())}));
    CHECK(same_bits(other.logits(), alone.logits()));

    // An engine that has all of it completes the objects.
    REQUIRE(run(saved.engine, saved.storage, cake::ComputeOnlyScheduler()).status);
    const auto again = cake::save(saved.engine, saved.storage, prompt(), {.chunk_tokens = kChunk});
    CHECK(again.status);
    CHECK(again.written > 0);
    CHECK(again.partial == 0);
    CHECK(cake::save(saved.engine, saved.storage, prompt(), {.chunk_tokens = kChunk}).present ==
          kChunks);
  });
}

TEST_CASE("chunks that are saved while they are fresh have all their windows") {
  for_each_model([](const models::NamedModel& named) {
    cake::MemoryStorage storage;
    Engine first(named.model, named.name, kTokens + 1, {.evicts = true});
    first.clear();
    const auto tokens = prompt();
    for (std::uint32_t c = 0; c < kChunks; ++c) {
      const std::uint32_t end = (c + 1) * kChunk;
      REQUIRE(first.prefill(tokens, {end - kChunk, end}));
      const auto saved =
          cake::save(first, storage, cake::Tokens(tokens).first(end), {.chunk_tokens = kChunk});
      CHECK(saved.status);
      CHECK(saved.written == 1);
      CHECK(saved.partial == 0);
    }
    REQUIRE(first.prefill(tokens, {kChunks * kChunk, kTokens}));
    Engine second(named.model, named.name, kTokens + 1);
    run(second, storage, cake::LoadOnlyScheduler());
    CHECK(same_bits(second.logits(), first.logits()));
  });
}

TEST_CASE("KV of every kind that one process saved gives another one the same logits") {
  for_each_model([](const models::NamedModel& named) {
    std::string directory = (std::filesystem::temp_directory_path() / "cake_kinds_XXXXXX").string();
    REQUIRE(mkdtemp(directory.data()) != nullptr);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      cake::PosixStorage storage({.directory = directory});
      Engine engine(named.model, named.name, kTokens + 1);
      engine.clear();
      cake::Loader loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}});
      const bool good = loader.prefill(prompt()).status && loader.save(prompt()).written == kChunks;
      _exit(good ? 0 : 1);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(status == 0);
    cake::PosixStorage storage({.directory = directory});
    Engine engine(named.model, named.name, kTokens + 1);
    const auto loaded = run(engine, storage, cake::LoadOnlyScheduler());
    CHECK(loaded.tokens_computed == kTokens - kChunks * kChunk);
    Engine alone(named.model, named.name, kTokens + 1);
    alone.clear();
    REQUIRE(alone.prefill(prompt(), {0, kTokens}));
    CHECK(same_bits(engine.logits(), alone.logits()));
    std::filesystem::remove_all(directory);
  });
}

TEST_CASE("the conformance kit takes engines with every kind of KV") {
  for_each_model([](const models::NamedModel& named) {
    Engine engine(named.model, named.name, kTokens + 1);
    engine.clear();
    const bool limited = !cake::ChunkGeometry(engine.layout(), kChunk).reaches().empty();
    const auto tokens = prompt();
    for (const std::string& failure : cake::testing::check(engine, tokens)) {
      INFO(failure);
      CHECK(limited);
    }
    for (const std::string& failure :
         cake::testing::check_windows_and_states(engine, tokens, kChunk)) {
      if (limited) FAIL_CHECK(failure);
    }
  });
}

/// Goes on from whatever state it has.
struct IgnoresStates : Engine {
  using Engine::Engine;
  cake::Status insert(const cake::Slice& slice, const cake::KvView& from) {
    if (slice.layers.begin == 0) return {};  // layer 0 has a state, or a window
    return Engine::insert(slice, from);
  }
};

TEST_CASE("the conformance kit finds an engine that drops inserted windows or states") {
  for_each_model([](const models::NamedModel& named) {
    if (models::layout_of(named.model).kind(0).reach() == cake::KvLayerKind::kAll) return;
    IgnoresStates engine(named.model, named.name, kTokens + 1);
    engine.clear();
    CHECK_FALSE(cake::testing::check_windows_and_states(engine, prompt(), kChunk).empty());
  });
}

}  // namespace
