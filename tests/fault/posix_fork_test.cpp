// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A process that forks while it has a store: the child is refused by name and can always end; the
// parent goes on.
#include <csignal>
#include <semaphore>
#include <thread>

#include "cake/storage/gds.hpp"
#include "catch.hpp"
#include "tests/storage/posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::says;

#ifdef __SANITIZE_THREAD__
constexpr bool kThreadsAfterFork = false;  // ThreadSanitizer ends a process that starts some
#else
constexpr bool kThreadsAfterFork = true;
#endif

/// What a child process says of every call of a store that its parent made.
template <class S>
void expect_refused(S& store) {
  const ChunkKey key = sample::key_of(1);
  const auto bytes = sample::content(1, 8192);
  const auto refused = [](const Status& status) {
    return status.code() == Errc::unsupported &&
           says(status.error().message(), {"fork()", "child"});
  };
  const auto found = store.lookup(std::span(&key, 1));
  sample::expect(!found && refused(found.error()), "lookup");
  auto read = store.read(0, key, 0, bytes.bytes());
  sample::expect(read.wait_for(std::chrono::hours(1)) && read.ready(), "a read is over at once");
  sample::expect(refused(read.wait()), "read");
  sample::expect(refused(store.write(key, bytes.bytes())), "write");
  sample::expect(refused(store.erase(key)), "erase");
}

/// The child ends within ten seconds or by SIGALRM.
template <class F>
int in_child(F&& f) {
  return sample::in_child([&] {
    ::alarm(10);
    f();
  });
}

TEST_CASE("in a child process a store is refused by name, and a new one works") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  std::optional<PosixStorage> store;
  store.emplace(
      PosixOptions{.directory = directory.path(), .engine = engine, .capacity_bytes = 1 << 20});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(store->write(sample::key_of(1), bytes.bytes()));
  REQUIRE(sample::read_code(*store, sample::key_of(1), 8192) == Errc::ok);
  CHECK(in_child([&] {
          expect_refused(*store);
          static_cast<void>(store->stats());
          if (kThreadsAfterFork) {
            PosixStorage own({.directory = directory.path()});
            sample::expect(sample::read_code(own, sample::key_of(1), 8192) == Errc::ok, "its own");
            PosixStorage moved(std::move(*store));
            moved = std::move(own);
            store.emplace(std::move(moved));
          }
          store.reset();
        }) == 0);
  CHECK(sample::read_code(*store, sample::key_of(1), 8192) == Errc::ok);
  CHECK(store->write(sample::key_of(2), bytes.bytes()));
}

TEST_CASE("in a child process a GDS store is refused by name, too") {
  const Directory directory;
  std::optional<GdsStorage> store;
  store.emplace(GdsOptions{.posix = {.directory = directory.path()}});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(store->write(sample::key_of(1), bytes.bytes()));
  CHECK(in_child([&] {
          expect_refused(*store);
          sample::expect(!store->stored_bytes_differ(sample::key_of(1), 0, bytes.bytes()),
                         "stored_bytes_differ");
          static_cast<void>(store->report());
          static_cast<void>(store->path());
          store.reset();
        }) == 0);
  CHECK(sample::read_code(*store, sample::key_of(1), 8192) == Errc::ok);
}

TEST_CASE("a child that is made while reads run can end them, the store and itself") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  std::counting_semaphore<64> reached{0}, go{0};
  calls->on_read = [&](std::size_t, off_t) -> sample::HookedCalls::Answer {
    reached.release();
    go.acquire();
    return std::nullopt;
  };
  const auto bytes = sample::content(1, 8192);
  for (std::uint64_t i = 0; i < 4; ++i) go.release();
  std::optional<PosixStorage> store;
  store.emplace(
      PosixOptions{.directory = directory.path(), .threads = 2, .engine = engine, .calls = calls});
  reached.acquire();  // the constructor's own
  REQUIRE(store->write(sample::key_of(1), bytes.bytes()));
  while (go.try_acquire()) {
  }
  const AlignedBuffer out(8192);
  std::optional<PosixRead> read;
  read.emplace(store->read(0, sample::key_of(1), 0, out.bytes()));
  reached.acquire();
  CHECK(in_child([&] {
          sample::expect(read->ready(), "nothing to wait for");
          sample::expect(read->wait().code() == Errc::unsupported, "refused");
          read.reset();
          store.reset();
        }) == 0);
  for (std::uint64_t i = 0; i < 8; ++i) go.release();
  CHECK(read->wait());
  CHECK(sample::equal(out.bytes(), bytes.bytes()));
}

TEST_CASE("many forks under load neither hang nor crash, in parent and child") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  const auto bytes = sample::content(1, 65536);
  std::optional<PosixStorage> store;
  store.emplace(PosixOptions{.directory = directory.path(),
                             .threads = 2,
                             .op_bytes = 4096,
                             .engine = engine,
                             .capacity_bytes = 8 * 65536});
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      const AlignedBuffer out(65536);
      for (std::uint64_t i = t; !stop; i += 2) {
        wrong += !store->write(sample::key_of(i % 12), bytes.bytes());
        const Status status = store->read(0, sample::key_of(i % 12), 0, out.bytes()).wait();
        wrong += !status && status.code() != Errc::not_found;
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    REQUIRE(in_child([&] {
              expect_refused(*store);
              store.reset();
            }) == 0);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("exit() ends a process with a static store, and a child that was forked from it") {
  const Directory directory;
  // A process of its own, so that its static objects can be destroyed by exit().
  const auto body = [&](bool in_grandchild) {
    return in_child([&] {
      static PosixStorage store({.directory = directory.path()});
      static GdsStorage gds({.posix = {.directory = directory.path()}});
      const auto bytes = sample::content(1, 8192);
      sample::expect(store.write(sample::key_of(1), bytes.bytes()).has_value(), "write");
      sample::expect(sample::read_code(gds, sample::key_of(1), 8192) == Errc::ok, "read");
      if (in_grandchild) {
        const pid_t child = ::fork();
        if (child == 0) {
          ::alarm(10);
          std::exit(0);  // NOLINT(concurrency-mt-unsafe): exit() beside threads is what is tested
        }
        sample::expect(sample::join_child(child) == 0, "the child ends");
        sample::expect(sample::read_code(store, sample::key_of(1), 8192) == Errc::ok, "read");
      }
      std::exit(0);  // NOLINT(concurrency-mt-unsafe): so it is here
    });
  };
  CHECK(body(false) == 0);
  CHECK(body(true) == 0);
}

}  // namespace
