// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A process that runs out of memory at any allocation of a store: the call fails, nothing hangs,
// and the store works afterwards.
#include <thread>

#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "failing_new.hpp"
#include "tests/storage/posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;

/// Runs `call` with the n-th allocation failing, for each n until none is reached. `call` says
/// whether it failed as it should; `after` checks the store.
template <class Call, class After>
int fail_each(bool keep, Call&& call, After&& after) {
  int points = 0;
  for (long n = 0; n < 1000; ++n) {
    failing_new::start(n, keep);
    const bool good = call();
    const int failed = failing_new::stop();
    INFO("allocation " << n << ", and all later ones: " << keep);
    REQUIRE(good);
    after();
    if (failed == 0) return points;
    ++points;
  }
  FAIL("it never got through");
  return points;
}

TEST_CASE("a read that runs out of memory at any point fails, and never hangs") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  const auto bytes = sample::content(1, 40 * 4096);
  const AlignedBuffer out(bytes.size());
  const ChunkKey key = sample::key_of(1);
  PosixStorage({.directory = directory.path()}).write(key, bytes.bytes()).value();
  for (const bool keep : {false, true}) {
    std::optional<PosixStorage> store;
    const auto open = [&] {
      store.emplace(PosixOptions{
          .directory = directory.path(), .threads = 2, .op_bytes = 4096, .engine = engine});
    };
    open();
    const int points = fail_each(
        keep,
        [&] {
          auto read = store->read(0, key, 0, out.bytes());
          const bool over = read.wait_for(std::chrono::seconds(30));
          const Status status = read.wait();
          return over && (status || status.code() == Errc::out_of_memory);
        },
        [&] {
          CHECK(sample::equal(sample::fetch(*store, key, bytes.size()).bytes(), bytes.bytes()));
          open();  // with no file kept open, so that all of it is done again
        });
    CHECK(points > 20);
  }
}

TEST_CASE("a write, lookup or erase that runs out of memory at any point says so") {
  const auto bytes = sample::content(1, 8 * 4096);
  for (const bool keep : {false, true}) {
    for (const std::uint64_t capacity : {std::uint64_t{0}, std::uint64_t{4 * 8 * 4096}}) {
      const Directory directory;
      PosixStorage store({.directory = directory.path(), .capacity_bytes = capacity});
      std::uint64_t next = 0;
      const auto works = [&] {
        const ChunkKey key = sample::key_of(++next);
        REQUIRE(store.write(key, bytes.bytes()));
        CHECK(sample::equal(sample::fetch(store, key, bytes.size()).bytes(), bytes.bytes()));
        if (capacity != 0) CHECK(sample::count_files(directory.path()) <= 4);
      };
      const auto told = [](const Status& status) {
        return status || status.code() == Errc::out_of_memory;
      };
      CHECK(fail_each(
                keep, [&] { return told(store.write(sample::key_of(++next), bytes.bytes())); },
                works) > 3);
      CHECK(fail_each(
                keep,
                [&] {
                  const ChunkKey key = sample::key_of(next);
                  const auto found = store.lookup(std::span(&key, 1));
                  return found || found.error().code == Errc::out_of_memory;
                },
                works) > 1);
      CHECK(fail_each(
                keep, [&] { return told(store.erase(sample::key_of(next))); }, works) > 1);
    }
  }
}

TEST_CASE("memory as a store says when it is full") {
  MemoryStorage store;
  const auto bytes = sample::content(1, 4096);
  std::uint64_t next = 0;
  const AlignedBuffer out(4096);
  for (const bool keep : {false, true}) {
    CHECK(fail_each(
              keep,
              [&] {
                const Status status = store.write(sample::key_of(++next), bytes.bytes());
                return status || status.code() == Errc::out_of_memory;
              },
              [&] { CHECK(store.write(sample::key_of(next), bytes.bytes())); }) > 1);
    fail_each(
        keep,
        [&] {
          const ChunkKey key = sample::key_of(next);
          const auto found = store.lookup(std::span(&key, 1));
          return found || found.error().code == Errc::out_of_memory;
        },
        [&] { CHECK(store.read(0, sample::key_of(next), 0, out.bytes())); });
    fail_each(
        keep,
        [&] {
          const Status status = store.read(0, sample::key_of(next + 1000), 0, out.bytes());
          return status.code() == Errc::not_found || status.code() == Errc::out_of_memory;
        },
        [] {});
  }
}

}  // namespace
