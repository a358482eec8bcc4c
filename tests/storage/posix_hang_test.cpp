// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A call of the system that hangs holds its own caller, and nobody else.
#include <condition_variable>
#include <mutex>
#include <thread>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::HookedCalls;

/// Holds whoever passes, until it is opened.
class Barrier {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++held_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
    --held_;
  }
  void wait_until_held(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_ >= count; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int held_ = 0;
  bool open_ = false;
};

struct Fixture {
  Directory directory;
  Barrier barrier;
  std::shared_ptr<HookedCalls> calls = std::make_shared<HookedCalls>();
  AlignedBuffer bytes = sample::content(1, 64 * 4096);
  PosixStorage store;
  explicit Fixture(ReadEngine engine = ReadEngine::threads)
      : store({.directory = directory.path(),
               .threads = 4,
               .op_bytes = 4096,
               .direct = DirectIo::off,
               .engine = engine,
               .calls = calls}) {}

  bool reads(std::uint64_t key) {
    const AlignedBuffer out(bytes.size());
    auto read = store.read(0, sample::key_of(key), 0, out.bytes());
    return read.wait() && sample::equal(out.bytes(), bytes.bytes());
  }
};

TEST_CASE("a file whose reads hang does not stop reads of other files") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  // Each of the four threads reads one operation, or has four in its ring.
  const int all = engine == ReadEngine::io_uring ? 16 : 4;
  Fixture f;
  for (std::uint64_t i = 0; i < 6; ++i) {
    REQUIRE(f.store.write(sample::key_of(i), f.bytes.bytes()));
  }
  struct stat hanging {};
  REQUIRE(::stat(sample::file_of(f.directory.path(), sample::key_of(0)).c_str(), &hanging) == 0);
  // Only reads of the first file hang; they are known by their file.
  struct Calls : HookedCalls {
    ino_t inode = 0;
    Barrier* barrier = nullptr;
    ssize_t read_at(int file, void* out, std::size_t size, off_t offset) override {
      struct stat info {};
      if (::fstat(file, &info) == 0 && info.st_ino == inode) barrier->pass();
      return HookedCalls::read_at(file, out, size, offset);
    }
  };
  const auto calls = std::make_shared<Calls>();
  calls->inode = hanging.st_ino;
  calls->barrier = &f.barrier;
  const AlignedBuffer late(f.bytes.size());
  {
    PosixStorage store({.directory = f.directory.path(),
                        .threads = 4,
                        .op_bytes = 4096,
                        .direct = DirectIo::off,
                        .engine = engine,
                        .calls = calls});
    auto hung = store.read(0, sample::key_of(0), 0, late.bytes());
    f.barrier.wait_until_held(all);  // there is nothing else in flight
    for (std::uint64_t i = 1; i < 6; ++i) {
      const AlignedBuffer out(f.bytes.size());
      auto read = store.read(0, sample::key_of(i), 0, out.bytes());
      REQUIRE(read.wait());
      CHECK(sample::equal(out.bytes(), f.bytes.bytes()));
    }
    CHECK_FALSE(hung.ready());
    while (store.stats().stuck_reads < static_cast<unsigned>(all)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    CHECK(sample::look(store, sample::key_of(0)).stored());
    f.barrier.open();
    CHECK(hung.wait());
  }
  CHECK(sample::equal(late.bytes(), f.bytes.bytes()));
}

TEST_CASE("files whose opening hangs do not stop reads of others") {
  Fixture f(GENERATE(ReadEngine::threads, ReadEngine::io_uring));
  for (std::uint64_t i = 0; i < 6; ++i) {
    REQUIRE(f.store.write(sample::key_of(i), f.bytes.bytes()));
  }
  std::vector<std::string> hanging;
  for (std::uint64_t i = 0; i < 4; ++i) hanging.push_back(sample::key_of(i).hex());
  f.calls->on_open = [&](const char* name, int) -> HookedCalls::Answer {
    for (const auto& hex : hanging) {
      if (std::string_view(name).find(hex) != std::string_view::npos) f.barrier.pass();
    }
    return std::nullopt;
  };
  std::vector<AlignedBuffer> out;
  std::vector<PosixRead> hung;
  for (std::uint64_t i = 0; i < 4; ++i) {
    out.emplace_back(f.bytes.size());
    hung.push_back(f.store.read(0, sample::key_of(i), 0, out.back().bytes()));
  }
  f.barrier.wait_until_held(4);
  CHECK(f.reads(4));
  CHECK(f.reads(5));
  for (auto& read : hung) CHECK_FALSE(read.ready());
  f.barrier.open();
  for (auto& read : hung) CHECK(read.wait());
}

TEST_CASE("a lookup that hangs stops neither reads and writes nor other lookups") {
  Fixture f;
  REQUIRE(f.store.write(sample::key_of(1), f.bytes.bytes()));
  REQUIRE(f.store.write(sample::key_of(2), f.bytes.bytes()));
  const std::string hanging = sample::key_of(1).hex();
  f.calls->on_stat = [&](const char* name) -> HookedCalls::Answer {
    if (std::string_view(name).starts_with(hanging)) f.barrier.pass();
    return std::nullopt;
  };
  std::thread hung([&] { CHECK(sample::look(f.store, sample::key_of(1)).stored()); });
  f.barrier.wait_until_held(1);
  CHECK(f.reads(1));
  CHECK(f.reads(2));
  CHECK(sample::look(f.store, sample::key_of(2)).stored());
  CHECK(f.store.write(sample::key_of(3), f.bytes.bytes()));
  CHECK(f.store.erase(sample::key_of(3)));
  CHECK(f.store.lookup_problem());
  f.barrier.open();
  hung.join();
}

TEST_CASE("a write that hangs stops no other one, nor an eviction") {
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  const auto bytes = sample::content(1, 16 * 4096);
  PosixStorage store(
      {.directory = directory.path(), .capacity_bytes = 4 * bytes.size(), .calls = calls});
  Barrier barrier;
  std::atomic<bool> armed{true};
  calls->on_write = [&](std::size_t, off_t) -> HookedCalls::Answer {
    if (armed.exchange(false)) barrier.pass();
    return std::nullopt;
  };
  std::thread hung([&] { CHECK(store.write(sample::key_of(100), bytes.bytes())); });
  barrier.wait_until_held(1);
  for (std::uint64_t i = 0; i < 12; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    CHECK(sample::count_files(directory.path()) <= 4);
  }
  CHECK(store.stats().evicted >= 8);
  barrier.open();
  hung.join();
  CHECK(sample::look(store, sample::key_of(100)).stored());
}

TEST_CASE("an eviction that hangs stops no other write") {
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  const auto bytes = sample::content(1, 16 * 4096);
  PosixStorage store(
      {.directory = directory.path(), .capacity_bytes = 4 * bytes.size(), .calls = calls});
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  Barrier barrier;
  std::atomic<bool> armed{true};
  calls->on_unlink = [&](const char* name) -> HookedCalls::Answer {
    if (std::string_view(name).ends_with(".ckv") && armed.exchange(false)) barrier.pass();
    return std::nullopt;
  };
  std::thread hung([&] { CHECK(store.write(sample::key_of(100), bytes.bytes())); });
  barrier.wait_until_held(1);
  for (std::uint64_t i = 10; i < 20; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  }
  barrier.open();
  hung.join();
  REQUIRE(store.write(sample::key_of(101), bytes.bytes()));
  CHECK(sample::count_files(directory.path()) <= 4);
}

}  // namespace
