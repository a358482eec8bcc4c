// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How much a store holds: water marks, what stays free, and several processes that share a directory.
#include <sys/file.h>

#include <thread>

#include "catch.hpp"
#include "posix_helpers.hpp"
#include "src/storage/posix/change_log.hpp"
#include "src/storage/posix/clock.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::says;

constexpr std::uint64_t kSize = 16 * 4096;

std::uint64_t bytes_in(const std::filesystem::path& path) {
  std::uint64_t sum = 0;
  std::error_code gone;
  for (unsigned folder = 0; folder < 256; ++folder) {
    const auto name = detail::StoreDirectory::fan_out_name({{static_cast<std::byte>(folder)}});
    std::filesystem::directory_iterator entries(path / name, gone);
    for (; entries != std::filesystem::directory_iterator(); entries.increment(gone)) {
      if (gone) break;
      const auto size = entries->file_size(gone);
      sum += gone ? 0 : size;
    }
  }
  return sum;
}

PosixOptions bounded(const Directory& directory, std::uint64_t objects) {
  return {.directory = directory.path(), .threads = 2, .capacity_bytes = objects * kSize};
}

void set_time(const std::filesystem::path& store, const ChunkKey& key, std::int64_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  REQUIRE(::utimensat(AT_FDCWD, sample::file_of(store, key).c_str(), times, 0) == 0);
}

bool stored(PosixStorage& store, std::uint64_t i) {
  return sample::look(store, sample::key_of(i)).stored();
}

TEST_CASE("eviction begins at the high mark and ends at the low one") {
  const Directory directory;
  auto options = bounded(directory, 20);
  options.high_water = {.share = 0.8};
  options.low_water = {.bytes = 10 * kSize};
  PosixStorage store(options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 16; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  CHECK(store.stats().evicted == 0);
  REQUIRE(store.write(sample::key_of(16), bytes.bytes()));
  CHECK(store.stats().evicted == 7);
  CHECK(bytes_in(directory.path()) == 10 * kSize);
}

TEST_CASE("marks that cannot be are refused by name") {
  const Directory directory;
  auto options = bounded(directory, 10);
  options.low_water = {.share = 1.5};
  CHECK(says(sample::complaint(options), {"low_water.share", "between 0 and 1"}));
  options.low_water = {.bytes = 11 * kSize};
  CHECK(says(sample::complaint(options), {"low_water", std::to_string(11 * kSize), "high_water"}));
  options.low_water = {.share = 0.5};
  options.high_water = {.bytes = 11 * kSize};
  CHECK(says(sample::complaint(options), {"high_water", "capacity_bytes"}));
}

/// A file system of so many objects, which the store shares with somebody else.
struct SmallDisk {
  explicit SmallDisk(std::uint64_t objects) : size(objects * kSize) {
    calls->on_space = [this]() -> detail::FileSystemSpace {
      const std::uint64_t used = bytes_in(directory.path()) + others + held;
      return {size, used < size ? size - used : 0};
    };
  }
  PosixOptions options(ByteAmount keep_free) {
    PosixOptions options{.directory = directory.path(), .threads = 1, .calls = calls};
    options.keep_free = keep_free;
    return options;
  }
  const Directory directory;
  const std::shared_ptr<sample::HookedCalls> calls = std::make_shared<sample::HookedCalls>();
  std::uint64_t size;
  std::uint64_t others = 0;
  std::uint64_t held = 0;  // freed, and not free yet
};

TEST_CASE("a store without a capacity evicts to leave space free, and no more than that") {
  SmallDisk disk(20);
  PosixStorage store(disk.options({.share = 0.25}));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 30; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    CHECK(stored(store, i));
    REQUIRE(bytes_in(disk.directory.path()) <= 15 * kSize);
  }
  CHECK(store.stats().evicted == 15);
  disk.others = 5 * kSize;  // somebody else fills the disk
  for (std::uint64_t i = 100; i < 104; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    REQUIRE(bytes_in(disk.directory.path()) <= 10 * kSize);
  }
}

TEST_CASE("a write is refused when what is to stay free cannot be made free") {
  SmallDisk disk(20);
  PosixStorage store(disk.options({.bytes = 5 * kSize}));
  const auto bytes = sample::content(1, kSize);
  disk.others = 18 * kSize;
  const Status status = store.write(sample::key_of(1), bytes.bytes());
  REQUIRE(status.code() == Errc::out_of_memory);
  CHECK(says(status.error().message(), {disk.directory.path().string(), std::to_string(4 * kSize),
                                        "keep_free", "free space"}));
  CHECK(store.stats().refused == 1);
  CHECK(bytes_in(disk.directory.path()) == 0);
  disk.others = 0;
  CHECK(store.write(sample::key_of(1), bytes.bytes()));
}

TEST_CASE("a store is not emptied for space that is freed late") {
  SmallDisk disk(20);
  PosixStorage store(disk.options({.bytes = 5 * kSize}));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 15; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  disk.calls->on_unlink = [&](const char* name) {
    if (std::string_view(name).ends_with(".ckv")) disk.held += kSize;
    return sample::HookedCalls::Answer();
  };
  for (std::uint64_t i = 20; i < 30; ++i) {
    const Status status = store.write(sample::key_of(i), bytes.bytes());
    REQUIRE(status.code() == Errc::out_of_memory);
    CHECK(says(status.error().message(), {"keep_free", "evicted"}));
  }
  CHECK(store.stats().evicted <= 2);
  disk.calls->on_unlink = nullptr;
  disk.held = 0;
  CHECK(store.write(sample::key_of(40), bytes.bytes()));
}

TEST_CASE("files that the store does not trust are neither counted nor evicted") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  {
    PosixStorage store({.directory = directory.path()});
    for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  }
  for (std::uint64_t i = 0; i < 4; ++i) {
    set_time(directory.path(), sample::key_of(i), 1000);
    std::filesystem::permissions(sample::file_of(directory.path(), sample::key_of(i)),
                                 std::filesystem::perms(0666));
  }
  PosixStorage store(bounded(directory, 6));
  for (std::uint64_t i = 100; i < 120; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  for (std::uint64_t i = 0; i < 4; ++i) {
    CHECK(std::filesystem::exists(sample::file_of(directory.path(), sample::key_of(i))));
  }
  const std::uint64_t own = bytes_in(directory.path()) - 4 * kSize;
  CHECK(own <= 6 * kSize);
  CHECK(own >= 5 * kSize);
}

TEST_CASE("a file that loses the store's trust after it was counted stays") {
  const Directory directory;
  PosixStorage store(bounded(directory, 6));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 6; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  set_time(directory.path(), sample::key_of(0), 1000);
  const auto file = sample::file_of(directory.path(), sample::key_of(0));
  std::filesystem::permissions(file, std::filesystem::perms(0622));
  for (std::uint64_t i = 10; i < 30; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  CHECK(std::filesystem::exists(file));
}

// ---- several stores of one directory ----

TEST_CASE("what other stores write and erase is known without a look") {
  const Directory directory;
  PosixStorage one(bounded(directory, 100)), two(bounded(directory, 100));
  const auto bytes = sample::content(1, kSize);
  // So few that nobody looks at the directory again by itself.
  for (std::uint64_t i = 0; i < 100; ++i) {
    REQUIRE((i % 20 == 0 ? two : one).write(sample::key_of(i), bytes.bytes()));
  }
  REQUIRE(two.write(sample::key_of(200), bytes.bytes()));
  CHECK(two.stats().evicted >= 8);
  CHECK(bytes_in(directory.path()) <= 100 * kSize);
  // What one evicts makes room for the other.
  for (std::uint64_t i = 300; i < 305; ++i) REQUIRE(one.write(sample::key_of(i), bytes.bytes()));
  CHECK(one.stats().evicted == 0);
}

TEST_CASE("processes that write at once exceed the capacity by one object each at most") {
  const Directory directory;
  constexpr std::uint64_t capacity = 40, writers = 4, each = 60;
  const auto bytes = sample::content(1, kSize);
  int barrier[2];
  REQUIRE(::pipe(barrier) == 0);
  std::vector<pid_t> children;
  for (std::uint64_t w = 0; w < writers; ++w) {
    children.push_back(sample::start_child([&] {
      ::close(barrier[1]);
      PosixStorage store(bounded(directory, capacity));
      char go;
      sample::expect(::read(barrier[0], &go, 1) == 0, "the start");
      for (std::uint64_t i = 0; i < each; ++i) {
        const Status status = store.write(sample::key_of(1000 * w + i), bytes.bytes());
        // One that waits for another one's eviction for too long may be refused.
        sample::expect(status || status.code() == Errc::out_of_memory, "a write");
      }
      sample::expect(store.stats().published > 0, "some were published");
    }));
  }
  ::close(barrier[0]);
  ::close(barrier[1]);
  // Only while all of them stand still does a walk over the folders see one moment.
  std::uint64_t most = 0;
  while (!children.empty()) {
    for (const pid_t child : children) ::kill(child, SIGSTOP);
    std::erase_if(children, [](pid_t child) {
      int status = 0;
      REQUIRE(::waitpid(child, &status, WUNTRACED) == child);
      if (WIFSTOPPED(status)) return false;
      CHECK(status == 0);
      return true;
    });
    most = std::max(most, bytes_in(directory.path()));
    for (const pid_t child : children) ::kill(child, SIGCONT);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(most > capacity / 2 * kSize);
  CHECK(most <= (capacity + writers) * kSize);
  // What went over goes with the next write.
  PosixStorage store(bounded(directory, capacity));
  REQUIRE(store.write(sample::key_of(9000), bytes.bytes()));
  CHECK(bytes_in(directory.path()) <= capacity * kSize);
}

TEST_CASE(
    "while another process has the lock nothing is evicted, and when it is killed the next goes "
    "on") {
  const Directory directory;
  PosixStorage store(bounded(directory, 4));
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t holder = sample::start_child([&] {
    const auto lock = directory.path() / ".evict.lock";
    const int file = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    sample::expect(::flock(file, LOCK_EX) == 0, "flock");
    sample::expect(::write(ready[1], "x", 1) == 1, "a sign");
    ::pause();
  });
  char sign;
  REQUIRE(::read(ready[0], &sign, 1) == 1);
  // One object goes over the capacity; a second one would not be bounded by anything.
  CHECK(store.write(sample::key_of(10), bytes.bytes()));
  const Status status = store.write(sample::key_of(11), bytes.bytes());
  CHECK(status.code() == Errc::out_of_memory);
  CHECK(says(status.error().message(), {".evict.lock", directory.path().string()}));
  CHECK(store.stats().evicted == 0);
  CHECK(bytes_in(directory.path()) == 5 * kSize);
  ::kill(holder, SIGKILL);
  CHECK(sample::join_child(holder) == 128 + SIGKILL);
  CHECK(store.write(sample::key_of(12), bytes.bytes()));
  CHECK(store.stats().evicted >= 2);
  CHECK(bytes_in(directory.path()) <= 4 * kSize);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE(
    "a process that is killed in the middle of writes and evictions leaves a store that goes on") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  PosixStorage store(bounded(directory, 8));
  for (int round = 0; round < 10; ++round) {
    int sign[2];
    REQUIRE(::pipe(sign) == 0);
    const pid_t child = sample::start_child([&] {
      PosixStorage other(bounded(directory, 8));
      for (std::uint64_t i = 0;; ++i) {
        static_cast<void>(other.write(sample::key_of(i % 500), bytes.bytes()));
        if (i == 5) sample::expect(::write(sign[1], "x", 1) == 1, "a sign");
      }
    });
    char go;
    REQUIRE(::read(sign[0], &go, 1) == 1);
    ::kill(child, SIGKILL);
    CHECK(sample::join_child(child) == 128 + SIGKILL);
    for (std::uint64_t i = 0; i < 3; ++i) {
      REQUIRE(store.write(sample::key_of(1000 + 10 * round + i), bytes.bytes()));
    }
    CHECK(bytes_in(directory.path()) <= 9 * kSize);
    ::close(sign[0]);
    ::close(sign[1]);
  }
}

TEST_CASE("files that stores share may be deleted, cut and filled with noise") {
  const Directory directory;
  PosixStorage one(bounded(directory, 8)), two(bounded(directory, 8));
  const auto bytes = sample::content(1, kSize);
  const auto log = directory.path() / ".evict.log";
  for (std::uint64_t i = 0; i < 80; ++i) {
    REQUIRE((i % 3 == 0 ? two : one).write(sample::key_of(i), bytes.bytes()));
    if (i % 8 == 3) std::filesystem::remove(log);
    if (i % 8 == 5) std::filesystem::resize_file(log, 0);
    if (i % 8 == 7) {
      std::filesystem::resize_file(log, std::filesystem::file_size(log) + 100);
      std::filesystem::remove(directory.path() / ".evict.lock");
    }
    CHECK(bytes_in(directory.path()) <= 9 * kSize);
  }
}

TEST_CASE("without locks a store evicts by itself and makes no log") {
  const Directory directory;
  auto options = bounded(directory, 6);
  const auto calls = std::make_shared<sample::HookedCalls>();
  calls->on_lock = [] { return sample::fails(ENOLCK); };
  options.calls = calls;
  PosixStorage store(options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 20; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    CHECK(bytes_in(directory.path()) <= 6 * kSize);
  }
  CHECK_FALSE(std::filesystem::exists(directory.path() / ".evict.log"));
}

TEST_CASE("a store that holds nothing back shares no files") {
  const Directory directory;
  const PosixStorage store({.directory = directory.path()});
  CHECK_FALSE(std::filesystem::exists(directory.path() / ".evict.lock"));
  CHECK_FALSE(std::filesystem::exists(directory.path() / ".evict.log"));
}

TEST_CASE("a log tells others everything in order, also when it is begun anew") {
  const Directory directory;
  detail::StoreDirectory store({.directory = directory.path()});
  detail::ChangeLog one(store), two(store), late(store);
  std::vector<std::uint64_t> told, heard;
  const auto listen = [&](detail::ChangeLog& log, std::vector<std::uint64_t>& to) {
    for (const auto& change : log.read().changes) to.push_back(change.bytes);
  };
  for (std::uint64_t i = 1; i <= 300; ++i) {
    REQUIRE(one.tell({sample::key_of(i), i, static_cast<std::uint32_t>(i), i % 7 == 0}));
    told.push_back(i);
    if (i % 90 == 0) one.shorten(0);
    if (i % 25 == 0) listen(two, heard);
    if (i == 1) CHECK_FALSE(late.read().lost);
  }
  // What is told while a new file is begun may be heard twice.
  heard.erase(std::unique(heard.begin(), heard.end()), heard.end());
  CHECK(heard == told);
  CHECK(one.read().changes.empty());  // its own
  CHECK(late.read().lost);            // three files later
}

// ---- the clock ----

TEST_CASE("a step of the clock is believed once it has lasted") {
  sample::HookedCalls calls;
  std::int64_t running = 5000, ahead = 1'000'000;
  calls.on_running = [&] { return running; };
  calls.on_now = [&] { return running + ahead; };
  detail::StoreClock clock(calls);
  CHECK(clock.now() == 1'005'000);
  running += 100;
  ahead += 30;  // as time servers correct it
  CHECK(clock.now() == 1'005'130);
  ahead += 31'536'000;
  CHECK(clock.now() == 1'005'130);
  running += 300;
  CHECK(clock.now() == 1'005'430);
  ahead -= 31'536'000;  // it was a mistake
  CHECK(clock.now() == 1'005'430);
  ahead -= 86400;
  CHECK(clock.now() == 1'005'430);
  running += 599;
  CHECK(clock.now() == 1'006'029);
  running += 1;
  CHECK(clock.now() == 1'006'030 - 86400);
}

TEST_CASE("what was used before the clock was set back does not outlive what is used now") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  const std::int64_t now = ::time(nullptr);
  {
    PosixStorage store({.directory = directory.path()});
    for (std::uint64_t i = 0; i < 8; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  }
  // Four by a clock that was a year ahead, four an hour ago by one that is right.
  for (std::uint64_t i = 0; i < 8; ++i) {
    set_time(directory.path(), sample::key_of(i), i < 4 ? now + 31'536'000 : now - 3600);
  }
  const auto calls = std::make_shared<sample::HookedCalls>();
  std::int64_t later = 0;
  calls->on_now = [&] { return now + later; };
  calls->on_running = [&] { return 1000 + later; };
  auto options = bounded(directory, 9);
  options.calls = calls;
  PosixStorage store(options);
  REQUIRE(store.write(sample::key_of(20), bytes.bytes()));  // looks at the store
  later = 3 * 86400;
  for (std::uint64_t i = 4; i < 8; ++i) {
    set_time(directory.path(), sample::key_of(i), now + later);  // used now
  }
  for (std::uint64_t i = 30; i < 33; ++i) {
    REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
    set_time(directory.path(), sample::key_of(i), now + later);
  }
  CHECK(store.stats().evicted >= 3);
  for (std::uint64_t i = 4; i < 8; ++i) CHECK(stored(store, i));
}

TEST_CASE("a clock that leaps ahead for a moment evicts no more than the capacity asks for") {
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  std::int64_t leap = 0;
  calls->on_now = [&] { return ::time(nullptr) + leap; };
  auto options = bounded(directory, 10);
  options.calls = calls;
  PosixStorage store(options);
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 10; ++i) REQUIRE(store.write(sample::key_of(i), bytes.bytes()));
  leap = 31'536'000;
  REQUIRE(store.write(sample::key_of(20), bytes.bytes()));
  CHECK(store.stats().evicted == 2);
}

}  // namespace
