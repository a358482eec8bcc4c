// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Processes that share a store, and processes that are killed while they save.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <random>
#include <thread>

#include "cake/loader.hpp"
#include "cake/saver.hpp"
#include "cake/scheduler/baselines.hpp"
#include "catch.hpp"
#include "shared.hpp"
#include "tests/storage/posix_helpers.hpp"
#include "toy_engine.hpp"

namespace {

using namespace cake;
using sample::Directory;

/// Chunks of several prompts, ready to be saved.
std::vector<sample::Chunk> make_chunks(std::uint32_t count, std::uint32_t tokens) {
  std::vector<sample::Chunk> chunks;
  for (std::uint32_t i = 0; i < count; ++i) {
    chunks.push_back(sample::make(i, {4, 2, 64, DType::bf16}, tokens, i % 4));
  }
  return chunks;
}

/// Loads a chunk as a loader does. Errc::ok means that every byte was verified and is the right
/// one.
Errc load(PosixStorage& store, const sample::Chunk& chunk) {
  Errc code = Errc::ok;
  const auto bytes = sample::fetch(store, chunk.identity.key, chunk.object.size(), 0, &code);
  if (code != Errc::ok) return code;
  code = sample::check(bytes.bytes(), chunk.identity).code();
  if (code == Errc::ok && !sample::equal(bytes.bytes(), chunk.object)) return Errc::device;
  return code;
}

/// Runs `save` in a child and kills it up to 12 ms after it has called what it is given, so that the
/// moment is one of saving.
template <class Save>
void kill_while(std::mt19937& random, const Save& save) {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const pid_t child = sample::start_child([&] {
    save([&] {
      if (::write(pipe[1], "x", 1) != 1) ::_exit(1);
    });
  });
  char byte = 0;
  REQUIRE(::read(pipe[0], &byte, 1) == 1);
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 12000));
  ::kill(child, SIGKILL);
  REQUIRE(sample::join_child(child) == 128 + SIGKILL);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_CASE("after kill -9 in the middle of saving, 200 times, only whole chunks are served") {
  const auto chunks = make_chunks(12, 256);
  std::mt19937 random(20261123);
  std::size_t saved_in_all = 0, cut_short = 0, leftovers = 0;
  for (int round = 0; round < 200; ++round) {
    const bool temporary_names = round % 2 == 1;
    const Directory directory;
    kill_while(random, [&](const auto& begins) {
      PosixStorage store(
          {.directory = directory.path(), .threads = 1, .force_temporary_names = temporary_names});
      begins();
      for (int again = 0; again < 100; ++again) {
        for (const auto& chunk : chunks) store.write(chunk.identity.key, chunk.object).value();
        for (const auto& chunk : chunks) store.erase(chunk.identity.key).value();
      }
    });

    const std::size_t before = sample::count_files(directory.path());
    PosixStorage store({.directory = directory.path(), .threads = 1});
    std::size_t whole = 0;
    for (const auto& chunk : chunks) {
      const auto found = sample::look(store, chunk.identity.key);
      if (!found.stored()) {
        REQUIRE(load(store, chunk) == Errc::not_found);
        continue;
      }
      REQUIRE(found.size == chunk.object.size());
      REQUIRE(load(store, chunk) == Errc::ok);
      ++whole;
    }
    REQUIRE(sample::count_files(directory.path()) == whole);  // nothing else is left
    REQUIRE(before - whole == store.stats().leftovers);
    if (!temporary_names) REQUIRE(store.stats().leftovers == 0);
    leftovers += store.stats().leftovers;
    saved_in_all += whole;
    cut_short += whole < chunks.size();
    // The next run saves on as if nothing had been.
    REQUIRE(store.write(chunks[0].identity.key, chunks[0].object));
    REQUIRE(load(store, chunks[0]) == Errc::ok);
  }
  INFO("whole chunks found: " << saved_in_all << ", runs cut short: " << cut_short
                              << ", leftovers: " << leftovers);
  CHECK(saved_in_all > 0);
  CHECK(cut_short > 0);
}

TEST_CASE("after kill -9 while a saver works, 200 times, only whole chunks are served") {
  constexpr std::uint32_t kTokens = 40 * 32;
  const auto prompt = testing::toy_prompt(kTokens);
  testing::ToyEngine right(kTokens);
  REQUIRE(right.prefill(prompt, {0, kTokens}));
  std::mt19937 random(20261129);
  std::size_t stored = 0, cut_short = 0;
  for (int round = 0; round < 200; ++round) {
    const Directory directory;
    kill_while(random, [&](const auto& begins) {
      PosixStorage store({.directory = directory.path(), .threads = 1});
      Saver saver(store, {.threads = 3, .memory_bytes = 1});
      begins();
      for (int again = 0; again < 1000; ++again) {
        saver.save(right, prompt, {.chunk_tokens = 32, .salt = again == 0 ? "" : "more"}).wait();
      }
    });
    PosixStorage store({.directory = directory.path(), .threads = 1});
    testing::ToyEngine fresh(kTokens);
    Loader loader(fresh, store, {.chunks = {.chunk_tokens = 32}}, LoadOnlyScheduler());
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(report.status);
    REQUIRE(report.failed_loads == 0);
    REQUIRE(fresh.kv() == right.kv());
    stored += report.tokens_loaded / 32;
    cut_short += report.tokens_loaded < kTokens;
  }
  INFO("chunks found: " << stored << ", runs cut short: " << cut_short);
  CHECK(stored > 0);
  CHECK(cut_short > 0);
}

TEST_CASE("two processes save and load the same store at once, 100 rounds, no wrong byte") {
  const auto chunks = make_chunks(8, 64);
  for (const bool bounded : {false, true}) {
    const Directory directory;
    const std::uint64_t capacity = bounded ? 5 * chunks[0].object.size() : 0;
    const auto run = [&](unsigned seed) {
      // Each publishes in another way, so both ways meet.
      PosixStorage store({.directory = directory.path(),
                          .threads = 2,
                          .capacity_bytes = capacity,
                          .force_temporary_names = seed == 1});
      std::mt19937 random(seed);
      std::vector<std::size_t> order(chunks.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::size_t loaded = 0;
      for (int round = 0; round < 100; ++round) {
        std::shuffle(order.begin(), order.end(), random);
        for (const std::size_t i : order) {
          sample::expect(store.write(chunks[i].identity.key, chunks[i].object).has_value(), "save");
          const Errc code = load(store, chunks[i]);
          sample::expect(code == Errc::ok || code == Errc::not_found, "a wrong byte, or an error");
          loaded += code == Errc::ok;
          const auto found = sample::look(store, chunks[i].identity.key);
          sample::expect(!found.stored() || found.size == chunks[i].object.size(), "a wrong size");
        }
        if (round % 3 == 0) {
          sample::expect(store.erase(chunks[order[0]].identity.key).has_value(), "erase");
        }
      }
      sample::expect(loaded > 100, "most loads find something");
    };
    const pid_t first = sample::start_child([&] { run(1); });
    const pid_t second = sample::start_child([&] { run(2); });
    CHECK(sample::join_child(first) == 0);
    CHECK(sample::join_child(second) == 0);

    PosixStorage store({.directory = directory.path()});
    CHECK(store.stats().leftovers == 0);
    std::size_t whole = 0;
    for (const auto& chunk : chunks) whole += load(store, chunk) == Errc::ok;
    CHECK(whole > 0);
    CHECK(sample::count_files(directory.path()) == whole);
  }
}

TEST_CASE("eight processes publish the same keys at once, and each object is there once") {
  const auto chunks = make_chunks(6, 64);
  const Directory directory;
  // All begin together, in both ways of publishing.
  const fault::Shared<std::atomic<int>> ready;
  const fault::Shared<std::atomic<std::uint64_t>> published;
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(sample::start_child([&, i] {
      PosixStorage store(
          {.directory = directory.path(), .threads = 1, .force_temporary_names = i % 2 == 1});
      ++*ready;
      while (*ready < 8) std::this_thread::yield();
      for (const auto& chunk : chunks) {
        *published += store.write_new(chunk.identity.key, chunk.object).value();
        sample::expect(load(store, chunk) == Errc::ok, "whole at once");
      }
    }));
  }
  for (const pid_t child : children) CHECK(sample::join_child(child) == 0);
  CHECK(*published == chunks.size());  // the others found it there
  PosixStorage store({.directory = directory.path()});
  for (const auto& chunk : chunks) CHECK(load(store, chunk) == Errc::ok);
  CHECK(store.stats().leftovers == 0);
  CHECK(sample::count_files(directory.path()) == chunks.size());
}

}  // namespace
