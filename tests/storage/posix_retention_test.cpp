// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How long objects are kept: age, priority, and what was read since it was written.
#include <sys/xattr.h>

#include "catch.hpp"
#include "posix_helpers.hpp"
#include "src/storage/posix/change_log.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::says;

constexpr std::uint64_t kSize = 16 * 4096;

/// A store whose clock the test sets.
struct Timed {
  /// Of so many objects; 0: of any number.
  explicit Timed(std::uint64_t objects = 0) {
    calls->on_now = [this] { return start + later; };
    calls->on_running = [this] { return 1000 + later; };
    options.directory = directory.path();
    options.threads = 1;
    options.capacity_bytes = objects * kSize;
    options.calls = calls;
  }
  /// As if it was published so long ago, and, if so, read at the same time.
  void set_age(std::uint64_t i, std::int64_t seconds, bool read = false) const {
    const std::int64_t then = start + later - seconds;
    const timespec times[2] = {{then, read ? 1000 : 0}, {then, 0}};
    REQUIRE(::utimensat(AT_FDCWD, sample::file_of(directory.path(), sample::key_of(i)).c_str(),
                        times, 0) == 0);
  }
  const Directory directory;
  const std::shared_ptr<sample::HookedCalls> calls = std::make_shared<sample::HookedCalls>();
  PosixOptions options;
  const std::int64_t start = ::time(nullptr);
  std::int64_t later = 0;
};

bool stored(PosixStorage& store, std::uint64_t i) {
  return sample::look(store, sample::key_of(i)).stored();
}
bool on_disk(const Directory& directory, std::uint64_t i) {
  return std::filesystem::exists(sample::file_of(directory.path(), sample::key_of(i)));
}

TEST_CASE("what is older than the ttl is not served, however often it was read, and goes first") {
  Timed t(20);
  t.options.ttl = std::chrono::hours(1);
  PosixStorage store(t.options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  for (std::uint64_t i = 0; i < 4; ++i) t.set_age(i, 0);
  t.later = 3000;
  for (std::uint64_t i = 4; i < 8; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  for (std::uint64_t i = 4; i < 8; ++i) t.set_age(i, 0);
  REQUIRE(sample::read_code(store, sample::key_of(0), kSize) == Errc::ok);
  for (std::uint64_t i = 0; i < 8; ++i) CHECK(stored(store, i));
  t.later = 3602;
  for (std::uint64_t i = 0; i < 4; ++i) {
    CHECK_FALSE(stored(store, i));
    CHECK(on_disk(t.directory, i));
  }
  for (std::uint64_t i = 4; i < 8; ++i) CHECK(stored(store, i));
  REQUIRE(store.write(sample::key_of(9), bytes.bytes()));
  for (std::uint64_t i = 0; i < 4; ++i) CHECK_FALSE(on_disk(t.directory, i));
  for (std::uint64_t i = 4; i < 8; ++i) CHECK(stored(store, i));
  CHECK(store.stats().expired == 4);
  CHECK(store.stats().evicted == 4);
}

TEST_CASE("what has expired and is written again is as good as new, also in other stores") {
  Timed t;
  t.options.ttl = std::chrono::hours(1);
  PosixStorage store(t.options), other(t.options);
  const auto bytes = sample::content(1, kSize);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  REQUIRE(other.write(sample::key_of(2), bytes.bytes()));  // has looked
  t.later = 4000;
  t.set_age(2, 0);
  CHECK_FALSE(stored(store, 1));
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  CHECK(stored(store, 1));
  REQUIRE(other.write(sample::key_of(3), bytes.bytes()));  // takes it for expired, and looks
  CHECK(stored(store, 1));
  CHECK(on_disk(t.directory, 1));
  CHECK(store.stats().published == 1);
}

TEST_CASE("a clock that leaps ahead for a moment expires nothing") {
  Timed t;
  t.options.ttl = std::chrono::hours(1);
  std::int64_t leap = 0;
  t.calls->on_now = [&] { return t.start + t.later + leap; };
  PosixStorage store(t.options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  leap = 1'000'000;
  for (std::uint64_t i = 0; i < 4; ++i) CHECK(stored(store, i));
  REQUIRE(store.write(sample::key_of(10), bytes.bytes()));
  t.later = 60;
  leap = 0;
  for (std::uint64_t i = 0; i < 4; ++i) CHECK(stored(store, i));
  CHECK(store.stats().evicted == 0);
}

bool has_attributes(const Directory& directory) {
  const auto file = directory.path() / "probe";
  { const std::unique_ptr<FILE, int (*)(FILE*)> made(std::fopen(file.c_str(), "w"), std::fclose); }
  const bool has = ::setxattr(file.c_str(), "user.cake.probe", "1", 1, 0) == 0;
  std::filesystem::remove(file);
  if (!has) std::printf("[no extended attributes] skipped for it: %s\n", directory.path().c_str());
  return has;
}

TEST_CASE("a priority keeps objects four times as long for each step, in all stores") {
  Timed t(12);
  if (!has_attributes(t.directory)) return;
  const auto bytes = sample::content(1, kSize);
  PosixStorage store(t.options);
  for (std::uint64_t i = 0; i < 10; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  for (std::uint64_t i = 0; i < 10; ++i) t.set_age(i, i < 2 ? 7200 : 1200);
  PosixStorage before(t.options);
  REQUIRE(before.write(sample::key_of(20), bytes.bytes()));  // looks at all
  // Two hours with priority 2 count as 7.5 minutes.
  const std::vector<ChunkKey> system{sample::key_of(0), sample::key_of(1), sample::key_of(77)};
  CHECK(store.set_priority(system, 2));
  for (std::uint64_t i = 21; i < 23; ++i) REQUIRE(before.write(sample::key_of(i), bytes.bytes()));
  CHECK(before.stats().evicted == 3);
  CHECK(stored(before, 0));
  CHECK(stored(before, 1));
  PosixStorage after(t.options);
  for (std::uint64_t i = 30; i < 33; ++i) REQUIRE(after.write(sample::key_of(i), bytes.bytes()));
  CHECK(after.stats().evicted == 3);
  CHECK(stored(after, 0));
  CHECK(stored(after, 1));
  for (std::uint64_t i = 40; i < 60; ++i) REQUIRE(after.write(sample::key_of(i), bytes.bytes()));
  CHECK_FALSE(stored(after, 0));  // not for ever
}

TEST_CASE("priorities that cannot be are refused") {
  Timed t;
  PosixStorage store(t.options);
  const auto bytes = sample::content(1, kSize);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  const std::vector<ChunkKey> key{sample::key_of(1)};
  const Status four = store.set_priority(key, 4);
  REQUIRE(four.code() == Errc::invalid_argument);
  CHECK(says(four.error().message(), {"0 to 3", "4"}));
  CHECK(store.set_priority(key, -1).code() == Errc::invalid_argument);
  t.options.read_only = true;
  PosixStorage serves(t.options);
  CHECK(serves.set_priority(key, 1).code() == Errc::unsupported);
}

TEST_CASE("prompts that come once do not push out what is read again") {
  Timed t(20);
  PosixStorage store(t.options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 10; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    t.set_age(i, 0, true);
  }
  // Younger, and never read.
  for (std::uint64_t i = 100; i < 120; ++i) {
    t.later += 10;
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    t.set_age(i, 0);
  }
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(stored(store, i));
  CHECK(store.stats().evicted >= 10);
}

TEST_CASE("what another store is about to write keeps nothing else from going") {
  Timed t(4);
  const auto bytes = sample::content(1, kSize);
  {
    PosixStorage store(t.options);
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    for (std::uint64_t i = 0; i < 4; ++i) t.set_age(i, 0, true);
  }
  PosixStorage store(t.options);
  detail::StoreDirectory directory({.directory = t.directory.path()});
  detail::ChangeLog other(directory);
  REQUIRE(other.tell({sample::key_of(50), kSize, 0, false}));  // never read, so the first to go
  REQUIRE(store.write(sample::key_of(10), bytes.bytes()));
  CHECK(store.stats().evicted >= 2);
  CHECK(stored(store, 10));
}

TEST_CASE("the first read of each object is counted, by whichever store") {
  Timed t;
  PosixStorage writer(t.options), reader(t.options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 6; ++i) {
    REQUIRE(writer.write(sample::key_of(i), bytes.bytes()));
    t.set_age(i, 100);
  }
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t i = 0; i < 3; ++i) {
      REQUIRE(sample::read_code(reader, sample::key_of(i), kSize) == Errc::ok);
      REQUIRE(sample::read_code(writer, sample::key_of(i), kSize) == Errc::ok);
    }
  }
  CHECK(reader.stats().first_reads == 3);
  CHECK(writer.stats().first_reads == 0);
  t.options.note_use = false;
  PosixStorage tool(t.options);
  REQUIRE(sample::read_code(tool, sample::key_of(5), kSize) == Errc::ok);
  CHECK(tool.stats().first_reads == 0);
}

}  // namespace
