// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Objects appear whole or not at all, whatever the file system can do and however it fails.
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::HookedCalls;

struct Fixture {
  Directory directory;
  std::shared_ptr<HookedCalls> calls = std::make_shared<HookedCalls>();
  AlignedBuffer bytes = sample::content(1, 16 * 4096);
  ChunkKey key = sample::key_of(1);

  PosixStorage open(bool temporary_names, bool durable = false) {
    PosixStorage store({.directory = directory.path(),
                        .durable = durable,
                        .force_temporary_names = temporary_names,
                        .calls = calls});
    // What opening tries out leaves folders behind, now and then the one of `key`: a write makes its own here.
    for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
      if (entry.is_directory()) ::rmdir(entry.path().c_str());
    }
    return store;
  }
  bool whole(PosixStorage& store) {
    return sample::equal(sample::fetch(store, key, bytes.size()).bytes(), bytes.bytes());
  }
  std::size_t files() { return sample::count_files(directory.path()); }
};

namespace {

/// Answers of a hooked call: an error the first time, the nth time, or from an offset on.
auto once(int number) {
  return [number, done = std::make_shared<bool>(false)]() -> HookedCalls::Answer {
    if (std::exchange(*done, true)) return std::nullopt;
    return sample::fails(number);
  };
}
auto nth(int n, int number) {
  return [=]() mutable -> HookedCalls::Answer {
    return n-- == 0 ? sample::fails(number) : std::nullopt;
  };
}
auto failing_write(off_t from, int number) {
  return [=](std::size_t, off_t offset) -> HookedCalls::Answer {
    if (offset >= from) return sample::fails(number);
    return 4096;  // page by page
  };
}

}  // namespace

TEST_CASE("a failure at any point of publishing leaves nothing behind, and the next try succeeds") {
  struct Case {
    const char* what;
    Errc code;
    bool named, unnamed, durable;  // in which ways of publishing it can happen
    std::function<void(HookedCalls&)> arm;
  };
  const Case cases[] = {
      {"no room", Errc::out_of_memory, true, true, false,
       [](HookedCalls& c) { c.on_allocate = once(ENOSPC); }},
      {"no quota", Errc::out_of_memory, true, true, false,
       [](HookedCalls& c) { c.on_allocate = once(EDQUOT); }},
      {"file too large", Errc::out_of_memory, true, true, false,
       [](HookedCalls& c) { c.on_allocate = once(EFBIG); }},
      {"full at the first byte", Errc::out_of_memory, true, true, false,
       [](HookedCalls& c) { c.on_write = failing_write(0, ENOSPC); }},
      {"full in the middle", Errc::out_of_memory, true, true, false,
       [](HookedCalls& c) { c.on_write = failing_write(8 * 4096, ENOSPC); }},
      {"broken at the last page", Errc::io, true, true, false,
       [](HookedCalls& c) { c.on_write = failing_write(15 * 4096, EIO); }},
      {"nothing is written", Errc::io, true, true, false,
       [](HookedCalls& c) { c.on_write = [](std::size_t, off_t) { return ssize_t{0}; }; }},
      {"the store directory is not synced", Errc::io, true, true, true,
       [](HookedCalls& c) { c.on_sync = nth(0, EIO); }},
      {"the file is not synced", Errc::io, true, true, true,
       [](HookedCalls& c) { c.on_sync = nth(1, EIO); }},
      {"the directory is not synced", Errc::io, true, true, true,
       [](HookedCalls& c) { c.on_sync = nth(2, EIO); }},
      {"full at the link", Errc::out_of_memory, false, true, false,
       [](HookedCalls& c) { c.on_link = once(ENOSPC); }},
      {"full at the rename", Errc::out_of_memory, true, false, false,
       [](HookedCalls& c) { c.on_rename = once(ENOSPC); }},
      {"no file may be created", Errc::io, true, true, false,
       [](HookedCalls& c) {
         c.on_open = [](const char*, int flags) {
           return (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) != 0 ? sample::fails(EROFS)
                                                                        : std::nullopt;
         };
       }},
  };
  for (const bool temporary_names : {false, true}) {
    for (const Case& one : cases) {
      if (!(temporary_names ? one.named : one.unnamed)) continue;
      INFO(one.what << ", temporary names: " << temporary_names);
      Fixture f;
      auto store = f.open(temporary_names, one.durable);
      one.arm(*f.calls);
      CHECK(store.write(f.key, f.bytes.bytes()).code() == one.code);
      CHECK(f.files() == 0);
      CHECK_FALSE(sample::look(store, f.key).stored());
      f.calls->on_write = nullptr;
      f.calls->on_open = nullptr;
      CHECK(store.write(f.key, f.bytes.bytes()));
      CHECK(f.whole(store));
      CHECK(f.files() == 1);
    }
  }
}

TEST_CASE("file systems without unnamed files, linking or renaming in one way use another") {
  const auto opens = [](int number) {
    return [number](const char*, int flags) {
      const bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
      return unnamed ? sample::fails(number) : std::nullopt;
    };
  };
  const std::function<void(HookedCalls&)> cases[] = {
      [&](HookedCalls& c) { c.on_open = opens(EOPNOTSUPP); },
      [&](HookedCalls& c) { c.on_open = opens(EISDIR); },
      [&](HookedCalls& c) { c.on_open = opens(EINVAL); },
      // No /proc, so that an unnamed file cannot be linked.
      [&](HookedCalls& c) { c.on_link = [] { return sample::fails(ENOENT); }; },
      [&](HookedCalls& c) {
        c.on_open = opens(EOPNOTSUPP);
        c.on_rename = [] { return sample::fails(EINVAL); };
      },
      [&](HookedCalls& c) {
        c.on_open = opens(EOPNOTSUPP);
        c.on_rename = [] { return sample::fails(ENOSYS); };
      },
      [&](HookedCalls& c) { c.on_allocate = [] { return sample::fails(EOPNOTSUPP); }; },
      [&](HookedCalls& c) {
        c.on_allocate = [n = 0]() mutable { return n++ < 3 ? sample::fails(EINTR) : std::nullopt; };
      },
      [&](HookedCalls& c) {
        c.on_write = [n = 0](std::size_t, off_t) mutable -> HookedCalls::Answer {
          if (n++ % 2 == 0) return sample::fails(EINTR);
          return 4096;
        };
      },
  };
  for (const auto& arm : cases) {
    INFO("case " << &arm - cases);
    Fixture f;
    auto store = f.open(false);
    arm(*f.calls);
    REQUIRE(store.write(f.key, f.bytes.bytes()));
    CHECK(f.whole(store));
    CHECK(f.files() == 1);
    auto again = f.open(false);  // as a store that finds out at once
    CHECK(f.whole(again));
    REQUIRE(again.write(sample::key_of(2), f.bytes.bytes()));
    CHECK(f.files() == 2);
  }
}

TEST_CASE("of two writers of one key the first wins, and the second leaves nothing behind") {
  for (const bool temporary_names : {false, true}) {
    for (const bool no_rename : {false, true}) {
      Fixture f;
      auto store = f.open(temporary_names);
      auto rival = PosixStorage({.directory = f.directory.path()});
      const auto other = sample::content(2, 8192);
      bool raced = false;
      f.calls->on_write = [&](std::size_t, off_t) -> HookedCalls::Answer {
        if (!std::exchange(raced, true)) rival.write(f.key, other.bytes()).value();
        return std::nullopt;
      };
      if (no_rename) f.calls->on_rename = [] { return sample::fails(EINVAL); };
      CHECK(store.write(f.key, f.bytes.bytes()));
      CHECK(raced);
      CHECK(store.stats().already_stored == 1);
      CHECK(sample::equal(sample::fetch(store, f.key, 8192).bytes(), other.bytes()));
      CHECK(f.files() == 1);
    }
  }
}

TEST_CASE("many threads publish one key at once, and one object is there") {
  for (const bool temporary_names : {false, true}) {
    Fixture f;
    auto store = f.open(temporary_names);
    std::atomic<int> failed{0};
    std::vector<std::thread> threads;
    threads.reserve(6);
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&] {
        for (std::uint64_t i = 0; i < 20; ++i) {
          failed += !store.write(sample::key_of(i), f.bytes.bytes());
        }
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK(failed == 0);
    CHECK(f.files() == 20);
    CHECK(store.stats().published == 20);
    CHECK(store.stats().already_stored == 100);
    CHECK(f.whole(store));
  }
}

TEST_CASE("a full disk is told as no room, leaves nothing behind and spares what is there") {
  const Directory directory;
  const int code = sample::in_child([&] {
    const bool mounted =
        ::geteuid() == 0 && ::unshare(CLONE_NEWNS) == 0 &&
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=1m,mode=700") == 0;
    if (!mounted) {
      // Without the right to mount, a limit of the process stands in for the disk's.
      const rlimit limit{65536, 65536};
      sample::expect(::setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
    }
    for (const bool temporary_names : {false, true}) {
      PosixStorage store({.directory = directory.path(), .force_temporary_names = temporary_names});
      const auto small = sample::content(1, 65536), large = sample::content(2, 2 << 20);
      sample::expect(store.write(sample::key_of(1), small.bytes()).has_value(), "a small object");
      sample::expect(store.write(sample::key_of(2), large.bytes()).code() == Errc::out_of_memory,
                     "a large object does not fit");
      sample::expect(!sample::look(store, sample::key_of(2)).stored(), "nothing is stored");
      sample::expect(sample::count_files(directory.path()) == 1, "nothing is left behind");
      sample::expect(
          sample::equal(sample::fetch(store, sample::key_of(1), 65536).bytes(), small.bytes()),
          "the small object is whole");
      sample::expect(store.erase(sample::key_of(1)).has_value(), "erase");
    }
    if (!mounted) return;
    // Filled to the last page: what does not fit is refused, what fits is kept.
    PosixStorage store({.directory = directory.path()});
    const auto object = sample::content(3, 65536);
    std::uint64_t stored = 0;
    while (store.write(sample::key_of(stored), object.bytes())) ++stored;
    sample::expect(stored > 8 && stored <= 16, "as many as fit");
    for (std::uint64_t i = 0; i < stored; ++i) {
      sample::expect(
          sample::equal(sample::fetch(store, sample::key_of(i), 65536).bytes(), object.bytes()),
          "every object is whole");
    }
  });
  CHECK(code == 0);
}

TEST_CASE("an object above the process's file size limit is refused instead of killing it") {
  for (const bool temporary_names : {false, true}) {
    Fixture f;
    const int code = sample::in_child([&] {
      const rlimit limit{16 * 4096 - 1, RLIM_INFINITY};
      sample::expect(::setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
      auto store = f.open(temporary_names);
      sample::expect(store.write(f.key, f.bytes.bytes()).code() == Errc::out_of_memory, "refused");
      sample::expect(f.files() == 0, "nothing is left behind");
      const auto fits = f.bytes.bytes().first(15 * 4096);
      sample::expect(store.write(f.key, fits).has_value(), "what fits is written");
    });
    CHECK(code == 0);
    CHECK(f.files() == 1);
  }
}

TEST_CASE("a store whose directory vanishes fails without harm") {
  Fixture f;
  auto store = f.open(false);
  REQUIRE(store.write(f.key, f.bytes.bytes()));
  std::filesystem::remove_all(f.directory.path());
  CHECK_FALSE(sample::look(store, f.key).stored());
  CHECK(sample::read_code(store, f.key, 4096) == Errc::not_found);
  CHECK_FALSE(store.write(sample::key_of(2), f.bytes.bytes()));
  CHECK(store.erase(f.key));
}

}  // namespace
