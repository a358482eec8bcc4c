// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <sys/file.h>

#include <thread>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;

constexpr std::uint64_t kSize = 16 * 4096;

PosixOptions bounded(const Directory& directory, std::uint64_t objects) {
  return {.directory = directory.path(), .threads = 2, .capacity_bytes = objects * kSize};
}

std::uint64_t bytes_in(const std::filesystem::path& path) {
  std::uint64_t sum = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    std::error_code gone;
    if (entry.path().extension() != ".ckv") continue;
    if (entry.is_regular_file(gone)) sum += gone ? 0 : entry.file_size(gone);
  }
  return sum;
}

/// Makes an object look as if it was read last so many minutes ago.
void set_age(const std::filesystem::path& store, const ChunkKey& key, std::int64_t minutes) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  now.tv_sec -= 60 * minutes;
  const timespec times[2] = {now, now};
  REQUIRE(::utimensat(AT_FDCWD, sample::file_of(store, key).c_str(), times, 0) == 0);
}

TEST_CASE("a bounded store never holds more than its capacity, and takes every object") {
  const Directory directory;
  PosixStorage store(bounded(directory, 10));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 50; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    REQUIRE(sample::look(store, sample::key_of(i)).stored());
    REQUIRE(bytes_in(directory.path()) <= 10 * kSize);
  }
  CHECK(store.stats().evicted >= 40);
  CHECK(store.stats().evicted_bytes == store.stats().evicted * kSize);
  CHECK(bytes_in(directory.path()) >= 8 * kSize);  // and not much less
}

TEST_CASE("an object larger than the whole store is refused and costs nothing") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, 5 * kSize);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes().first(kSize)));
  CHECK(store.write(sample::key_of(2), bytes.bytes()).code() == Errc::out_of_memory);
  CHECK(sample::look(store, sample::key_of(1)).stored());
}

TEST_CASE("among objects of one age a prompt is trimmed from its front") {
  const Directory directory;
  // Ten chunks of one prompt, saved in an order that says nothing.
  std::vector<sample::Chunk> chunks;
  for (std::uint32_t i = 0; i < 10; ++i) {
    chunks.push_back(sample::make(1, {2, 2, 64, DType::f32}, 32, i));
  }
  const std::uint64_t size = chunks[0].object.size();
  const PosixOptions options{.directory = directory.path(), .capacity_bytes = 10 * size};
  {
    PosixStorage store(options);
    for (const std::size_t i : {3u, 7u, 0u, 9u, 5u, 1u, 8u, 2u, 6u, 4u}) {
      REQUIRE(store.write(chunks[i].identity.key, chunks[i].object));
    }
    CHECK(store.stats().evicted == 0);
  }
  PosixStorage store(options);
  const auto more = sample::make(2, {2, 2, 64, DType::f32}, 32, 20);
  REQUIRE(store.write(more.identity.key, more.object));
  CHECK(sample::look(store, more.identity.key).stored());
  const std::uint64_t evicted = store.stats().evicted;
  CHECK(evicted == 2);  // down to nine tenths, the new one included
  for (std::uint32_t i = 0; i < 10; ++i) {
    INFO("chunk " << i);
    CHECK(sample::look(store, chunks[i].identity.key).stored() == (i >= evicted));
  }
}

TEST_CASE("what was not read for long goes before the front of what was") {
  const Directory directory;
  std::vector<sample::Chunk> old_prompt, new_prompt;
  for (std::uint32_t i = 0; i < 5; ++i) {
    old_prompt.push_back(sample::make(1, {2, 2, 64, DType::f32}, 32, i));
    new_prompt.push_back(sample::make(2, {2, 2, 64, DType::f32}, 32, i));
  }
  const std::uint64_t size = old_prompt[0].object.size();
  PosixStorage store({.directory = directory.path(), .capacity_bytes = 10 * size});
  for (std::uint32_t i = 0; i < 5; ++i) {
    REQUIRE(store.write(old_prompt[i].identity.key, old_prompt[i].object));
    REQUIRE(store.write(new_prompt[i].identity.key, new_prompt[i].object));
    set_age(directory.path(), old_prompt[i].identity.key, 60);
    set_age(directory.path(), new_prompt[i].identity.key, 40);
  }
  // Both prompts fall into different classes only once one of them was read.
  for (const auto& chunk : new_prompt) {
    REQUIRE(sample::read_code(store, chunk.identity.key, size) == Errc::ok);
  }
  for (std::uint32_t i = 0; i < 3; ++i) {
    const auto more = sample::make(3, {2, 2, 64, DType::f32}, 32, i);
    REQUIRE(store.write(more.identity.key, more.object));
  }
  for (const auto& chunk : new_prompt) CHECK(sample::look(store, chunk.identity.key).stored());
  CHECK_FALSE(sample::look(store, old_prompt[0].identity.key).stored());
  CHECK(sample::look(store, old_prompt[4].identity.key).stored());
}

TEST_CASE("clocks that were set back do no harm") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 12; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    set_age(directory.path(), sample::key_of(i), i % 2 == 0 ? -100000 : 100000);
  }
  CHECK(bytes_in(directory.path()) <= 4 * kSize);
}

TEST_CASE("an evicted object's space is free at once, although it was just read") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 12; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    REQUIRE(sample::read_code(store, sample::key_of(i), kSize) == Errc::ok);
  }
  CHECK(store.stats().evicted >= 8);
  std::size_t open_files = 0, deleted = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.find(directory.path().string()) == std::string::npos) continue;
    open_files += target.ends_with(".ckv");
    deleted += target.ends_with("(deleted)");
  }
  CHECK(open_files > 0);  // what is still there is kept open
  CHECK(deleted == 0);
}

TEST_CASE("an object that is there already evicts nothing") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  const auto evicted = store.stats().evicted;
  for (std::uint64_t i = 0; i < 4; ++i) {
    if (sample::look(store, sample::key_of(i)).stored()) {
      REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    }
  }
  CHECK(store.stats().evicted == evicted);
}

TEST_CASE("a full disk below the capacity makes room, once") {
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  PosixStorage store(
      {.directory = directory.path(), .capacity_bytes = 100 * kSize, .calls = calls});
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  bool full = true;
  calls->on_allocate = [&]() -> sample::HookedCalls::Answer {
    return std::exchange(full, false) ? sample::fails(ENOSPC) : std::nullopt;
  };
  REQUIRE(store.write(sample::key_of(9), bytes.bytes()));
  CHECK(store.stats().evicted == 1);
  CHECK(sample::look(store, sample::key_of(9)).stored());
  calls->on_allocate = [] { return sample::fails(ENOSPC); };
  CHECK(store.write(sample::key_of(10), bytes.bytes()).code() == Errc::out_of_memory);
}

TEST_CASE("while another process evicts, a publish goes on, and afterwards room is made") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  const auto lock = directory.path() / ".evict.lock";
  {
    const int file = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::flock(file, LOCK_EX) == 0);
    REQUIRE(store.write(sample::key_of(5), bytes.bytes()));
    CHECK(sample::look(store, sample::key_of(5)).stored());
    ::close(file);
  }
  // A holder that was killed leaves no lock behind.
  CHECK(sample::join_child(sample::start_child([&] {
          const int file = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
          sample::expect(::flock(file, LOCK_EX) == 0, "flock");
          ::raise(SIGKILL);
        })) == 128 + SIGKILL);
  REQUIRE(store.write(sample::key_of(6), bytes.bytes()));
  CHECK(bytes_in(directory.path()) <= 4 * kSize);
}

TEST_CASE("readers and writers of a store that evicts all the time see whole objects") {
  const Directory directory;
  PosixStorage one(bounded(directory, 8)), two(bounded(directory, 8));
  constexpr std::uint64_t n_keys = 24;
  std::vector<AlignedBuffer> contents;
  for (std::uint64_t i = 0; i < n_keys; ++i) contents.push_back(sample::content(i, kSize));
  std::atomic<int> wrong{0}, whole{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      PosixStorage& store = t % 2 == 0 ? one : two;
      std::mt19937 random(t);
      const AlignedBuffer out(kSize);
      for (int round = 0; round < 150; ++round) {
        const std::uint64_t i = random() % n_keys;
        if (random() % 2 == 0) {
          wrong += !store.write(sample::key_of(i), contents[i].bytes());
          continue;
        }
        const Status status = store.read(0, sample::key_of(i), 0, out.bytes()).wait();
        whole += status.has_value();
        wrong += status ? !sample::equal(out.bytes(), contents[i].bytes())
                        : status.code() != Errc::not_found;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(whole > 0);
  // One object per writer may be on its way while somebody looks.
  CHECK(bytes_in(directory.path()) <= 12 * kSize);
}

TEST_CASE("an object larger than the capacity is told with both sizes and the remedy") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, 5 * kSize);
  const Status status = store.write(sample::key_of(2), bytes.bytes());
  REQUIRE(status.code() == Errc::out_of_memory);
  CHECK(
      sample::says(status.error().message(), {directory.path().string(), std::to_string(5 * kSize),
                                              std::to_string(4 * kSize), "raise capacity_bytes"}));
  CHECK(sample::count_files(directory.path()) == 0);
}

TEST_CASE("erased objects and those that others erased make room without an eviction") {
  const Directory directory;
  PosixStorage store(bounded(directory, 100)), other({.directory = directory.path()});
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 100; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  for (std::uint64_t i = 0; i < 20; ++i) REQUIRE(store.erase(sample::key_of(i)));
  for (std::uint64_t i = 200; i < 220; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  }
  CHECK(store.stats().evicted == 0);
  // Erased behind its back: what it takes for full is looked at again before something goes.
  for (std::uint64_t i = 20; i < 60; ++i) REQUIRE(other.erase(sample::key_of(i)));
  for (std::uint64_t i = 300; i < 330; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  }
  CHECK(store.stats().evicted <= 10);
  CHECK(bytes_in(directory.path()) <= 100 * kSize);
}

TEST_CASE("what another process has read since stays, although it was old when it was counted") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  PosixStorage store(bounded(directory, 40)), reader({.directory = directory.path()});
  for (std::uint64_t i = 0; i < 40; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    set_age(directory.path(), sample::key_of(i), 60);
  }
  PosixStorage again(bounded(directory, 40));
  for (std::uint64_t i = 0; i < 3; ++i) {
    REQUIRE(sample::read_code(reader, sample::key_of(i), kSize) == Errc::ok);
  }
  for (std::uint64_t i = 100; i < 130; ++i) REQUIRE(again.write(sample::key_of(i), bytes.bytes()));
  CHECK(again.stats().evicted >= 30);
  for (std::uint64_t i = 0; i < 3; ++i) CHECK(sample::look(again, sample::key_of(i)).stored());
}

TEST_CASE("a store that is opened with a smaller capacity shrinks with each write") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  {
    PosixStorage store(bounded(directory, 150));
    for (std::uint64_t i = 0; i < 150; ++i) {
      REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    }
  }
  PosixStorage store(bounded(directory, 30));
  std::uint64_t before = 150 * kSize;
  for (std::uint64_t i = 1000; before > 30 * kSize; ++i) {
    REQUIRE(i < 1100);
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    CHECK(sample::look(store, sample::key_of(i)).stored());
    const std::uint64_t now = bytes_in(directory.path());
    REQUIRE(now < before);
    before = now;
  }
}

TEST_CASE("objects that cannot be erased are told, and nothing is written over the capacity") {
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  auto options = bounded(directory, 4);
  options.calls = calls;
  PosixStorage store(options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  calls->on_unlink = [](const char* name) {
    return std::string_view(name).ends_with(".ckv") ? sample::fails(EACCES) : std::nullopt;
  };
  for (std::uint64_t i = 10; i < 14; ++i) {
    const Status status = store.write(sample::key_of(i), bytes.bytes());
    REQUIRE(status.code() == Errc::out_of_memory);
    CHECK(sample::says(status.error().message(), {"capacity", "cannot erase", "chmod"}));
  }
  CHECK(store.stats().eviction_failures >= 4);
  CHECK(bytes_in(directory.path()) <= 4 * kSize);
  calls->on_unlink = nullptr;
  CHECK(store.write(sample::key_of(20), bytes.bytes()));
  CHECK(bytes_in(directory.path()) <= 4 * kSize);
}

}  // namespace
