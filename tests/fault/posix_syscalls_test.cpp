// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// System calls that truly fail: of a child process whose calls the kernel lets its parent judge. Skipped
// by name where a process may set no such filter.
#include <atomic>

#include "catch.hpp"
#include "disk_prompt.hpp"
#include "syscall_faults.hpp"

#ifndef __SANITIZE_THREAD__  // which allows no threads after fork()
namespace {

using namespace cake;
using fault::answer;
using fault::DiskPrompt;
using fault::fail;
using fault::judged;
using fault::proceed;
using fault::Shared;
using fault::SystemCall;
using fault::Verdict;
using sample::Directory;
using sample::expect;

/// Ends the test case as skipped (ctest looks for the word in brackets).
#define CAKE_NEEDS_FILTER(code)                                                               \
  if ((code) == fault::kNotHere) {                                                            \
    std::printf("[no seccomp] skipped: this process may not have its system calls judged\n"); \
    return;                                                                                   \
  }                                                                                           \
  static_assert(true)

constexpr std::size_t kSize = 16 * 4096;

/// A store, one object, and a phase in which calls go wrong.
struct World {
  Directory directory;
  Shared<std::atomic<bool>> armed;
  AlignedBuffer bytes = sample::content(1, kSize);
  ChunkKey key = sample::key_of(1);
  int hits = 0;  // calls that went wrong

  PosixOptions options() const {
    return {.directory = directory.path(), .threads = 2, .engine = ReadEngine::threads};
  }
  bool meant(const SystemCall& call, long number) const {
    return *armed && call.number == number && call.of_object();
  }
  /// Saves the object, and reads it while calls go wrong: whole.
  void expect_read(const PosixOptions& options) const {
    PosixStorage store(options);
    expect(store.write(key, bytes.bytes()).has_value(), "write");
    *armed = true;
    expect(sample::equal(sample::fetch(store, key, kSize).bytes(), bytes.bytes()), "every byte");
    *armed = false;
  }
  /// Whether the object is found by a store that is opened now, and nothing else lies there.
  void expect_only(bool stored) const {
    expect(sample::count_files(directory.path()) == (stored ? 1u : 0u), "nothing is left behind");
    PosixStorage fresh(options());
    expect(sample::look(fresh, key).stored() == stored, "found or not");
    if (!stored) return;
    expect(sample::equal(sample::fetch(fresh, key, kSize).bytes(), bytes.bytes()), "whole");
  }
};

TEST_CASE("reads that the system cuts short by any length are continued to the last byte") {
  for (const DirectIo direct : {DirectIo::automatic, DirectIo::off}) {
    for (const std::size_t missing : {1u, 512u, 4095u, 32768u}) {
      INFO("direct " << static_cast<int>(direct) << ", missing " << missing);
      World world;
      int calls = 0;
      const int code = judged(
          {SYS_pread64},
          [&](const SystemCall& call) {
            if (!world.meant(call, SYS_pread64) || call.args[2] <= missing) return proceed();
            if (++calls % 2 == 0) return proceed();
            ++world.hits;
            return fault::shorten(call.args[2] - missing);
          },
          [&] {
            auto options = world.options();
            options.direct = direct;
            world.expect_read(options);
          });
      CAKE_NEEDS_FILTER(code);
      CHECK(code == 0);
      CHECK(world.hits > 0);
    }
  }
}

TEST_CASE("a read that brings nothing before its object ends is corrupt, and costs that chunk") {
  World world;
  const DiskPrompt prompt;
  const std::string third = prompt.keys[2].hex();
  const int code = judged(
      {SYS_pread64},
      [&](const SystemCall& call) {
        const bool its = call.file.find(third) != std::string::npos && call.args[3] >= 8192;
        if (!world.meant(call, SYS_pread64) || !its) return proceed();
        ++world.hits;
        return answer(0);
      },
      [&] {
        DiskPrompt own;
        auto options = world.options();
        options.op_bytes = 4096;
        PosixStorage store(options);
        own.save_missing(store);
        *world.armed = true;
        const PrefillReport report = own.load(store);
        expect(DiskPrompt::computed(report) == std::vector<std::uint32_t>{2}, "that chunk");
        expect(report.chunks[2].load_error == Errc::corrupt, "why");
      });
  CAKE_NEEDS_FILTER(code);
  CHECK(code == 0);
  CHECK(world.hits > 0);
}

TEST_CASE("a disk error in the first, a middle or the last operation costs that chunk only") {
  const DiskPrompt prompt;
  const std::string second = prompt.keys[1].hex();
  const auto last = prompt.object_bytes - 4096;
  for (const std::uint64_t bad : {std::uint64_t{0}, last / 2 / 4096 * 4096, last}) {
    INFO("at " << bad);
    World world;
    const int code = judged(
        {SYS_pread64},
        [&](const SystemCall& call) {
          const bool its = call.file.find(second) != std::string::npos && bad >= call.args[3] &&
                           bad < call.args[3] + call.args[2];
          if (!world.meant(call, SYS_pread64) || !its) return proceed();
          ++world.hits;
          return fail(EIO);
        },
        [&] {
          DiskPrompt own;
          auto options = world.options();
          options.op_bytes = 4096;
          PosixStorage store(options);
          own.save_missing(store);
          *world.armed = true;
          const PrefillReport report = own.load(store);
          expect(DiskPrompt::computed(report) == std::vector<std::uint32_t>{1}, "that chunk");
          expect(report.chunks[1].load_error == Errc::io, "why");
          *world.armed = false;
          expect(DiskPrompt::computed(own.load(store)).empty(), "once it is over, all is loaded");
        });
    CAKE_NEEDS_FILTER(code);
    CHECK(code == 0);
    CHECK(world.hits > 0);
  }
}

TEST_CASE("a storm of interrupted and postponed calls delays reads and writes, and fails none") {
  World world;
  int calls = 0;
  const int code = judged(
      {SYS_pread64, SYS_pwrite64, SYS_fallocate},
      [&](const SystemCall& call) {
        if (!call.of_object() || ++calls % 60 == 0) return proceed();
        ++world.hits;
        const bool postponed = call.number == SYS_pread64 && calls % 20 == 0 && *world.armed;
        return fail(postponed ? EAGAIN : EINTR);
      },
      [&] { world.expect_read(world.options()); });
  CAKE_NEEDS_FILTER(code);
  CHECK(code == 0);
  CHECK(world.hits > 100);
}

TEST_CASE("direct reads that the system takes at open and refuses at use go through the cache") {
  World world;
  const int code = judged(
      {SYS_pread64},
      [&](const SystemCall& call) {
        if (!world.meant(call, SYS_pread64) || (call.file_flags & O_DIRECT) == 0) return proceed();
        ++world.hits;
        return fail(EINVAL);
      },
      [&] {
        {
          const PosixStorage store(world.options());
          if (!store.direct()) ::_exit(0);  // nothing to refuse on this file system
        }
        world.expect_read(world.options());
      });
  CAKE_NEEDS_FILTER(code);
  CHECK(code == 0);
}

TEST_CASE("a file that goes stale while it is open costs its chunk, and is opened anew later") {
  for (const int number : {ESTALE, EBADF}) {
    World world;
    const DiskPrompt prompt;
    const std::string fourth = prompt.keys[3].hex();
    const int code = judged(
        {SYS_pread64},
        [&](const SystemCall& call) {
          const bool its = call.file.find(fourth) != std::string::npos;
          if (!world.meant(call, SYS_pread64) || !its) return proceed();
          ++world.hits;
          return fail(number);
        },
        [&] {
          DiskPrompt own;
          PosixStorage store(world.options());
          own.save_missing(store);
          *world.armed = true;
          const PrefillReport report = own.load(store);
          expect(DiskPrompt::computed(report) == std::vector<std::uint32_t>{3}, "that chunk");
          // Somebody else replaces the file; the one that is kept open is the old one.
          const auto file = sample::file_of(world.directory.path(), own.keys[3]);
          std::filesystem::copy_file(file, file.string() + ".new");
          std::filesystem::rename(file.string() + ".new", file);
          *world.armed = false;
          expect(DiskPrompt::computed(own.load(store)).empty(), "all is loaded");
        });
    CAKE_NEEDS_FILTER(code);
    CHECK(code == 0);
    CHECK(world.hits > 0);
  }
}

TEST_CASE("a ring for which the system has no memory means threads, and every byte is read") {
  World world;
  const int code = judged(
      {SYS_io_uring_setup},
      [&](const SystemCall&) {
        ++world.hits;
        return fail(ENOMEM);
      },
      [&] {
        auto options = world.options();
        options.engine = ReadEngine::automatic;
        world.expect_read(options);
        expect(PosixStorage(options).stats().engine == ReadEngine::threads, "threads");
      });
  CAKE_NEEDS_FILTER(code);
  CHECK(code == 0);
}

TEST_CASE("a disk without room at any call of publishing keeps nothing of the object") {
  struct Case {
    const char* what;
    long call;
    std::uint64_t from;  // offset, of a pwrite64
    bool named;
  };
  for (const Case& one : {Case{"when room is set aside", SYS_fallocate, 0, false},
                          Case{"at the first byte", SYS_pwrite64, 0, false},
                          Case{"at the first byte of a named file", SYS_pwrite64, 0, true},
                          Case{"when it is linked", SYS_linkat, 0, false},
                          Case{"when it is renamed", SYS_renameat2, 0, true}}) {
    for (const int number : {ENOSPC, EDQUOT}) {
      INFO(one.what << ", errno " << number);
      World world;
      const int code = judged(
          {SYS_fallocate, SYS_pwrite64, SYS_linkat, SYS_renameat2},
          [&](const SystemCall& call) {
            if (!*world.armed || call.number != one.call) return proceed();
            ++world.hits;
            return fail(number);
          },
          [&] {
            auto options = world.options();
            options.force_temporary_names = one.named;
            PosixStorage store(options);
            *world.armed = true;
            const Status status = store.write(world.key, world.bytes.bytes());
            expect(status.code() == Errc::out_of_memory, "told as no room");
            expect(status.error().native == number, "with the system's number");
            *world.armed = false;
            world.expect_only(false);
            expect(store.write(world.key, world.bytes.bytes()).has_value(), "room again");
            world.expect_only(true);
          });
      CAKE_NEEDS_FILTER(code);
      CHECK(code == 0);
      CHECK(world.hits > 0);
    }
  }
}

TEST_CASE("a sync that fails once keeps the object from being published, and is not tried again") {
  // Of the store's directory (for a new folder), of the file, and of the folder.
  for (const bool named : {false, true}) {
    for (int bad = 0; bad < 3; ++bad) {
      INFO("sync " << bad << ", temporary names: " << named);
      World world;
      int syncs = 0;
      const int code = judged(
          {SYS_fsync, SYS_fdatasync},
          [&](const SystemCall&) {
            if (!*world.armed || syncs++ != bad) return proceed();
            ++world.hits;
            return fail(EIO);
          },
          [&] {
            auto options = world.options();
            options.durable = true;
            options.force_temporary_names = named;
            PosixStorage store(options);
            for (const auto& entry : std::filesystem::directory_iterator(world.directory.path())) {
              if (entry.is_directory()) ::rmdir(entry.path().c_str());
            }
            *world.armed = true;
            const Status status = store.write(world.key, world.bytes.bytes());
            *world.armed = false;
            expect(status.code() == Errc::io && status.error().native == EIO, "told");
            world.expect_only(false);
            expect(store.write(world.key, world.bytes.bytes()).has_value(), "the next one");
            world.expect_only(true);
          });
      CAKE_NEEDS_FILTER(code);
      CHECK(code == 0);
      CHECK(world.hits == 1);
    }
  }
}

TEST_CASE("whichever call that makes a file visible the system refuses, another one does it") {
  struct Case {
    const char* what;
    std::function<bool(const SystemCall&)> refused;
    int number;
  };
  const auto unnamed = [](const SystemCall& call) {
    return call.number == SYS_openat && (call.args[2] & O_TMPFILE) == O_TMPFILE;
  };
  const auto link = [](const SystemCall& call) { return call.number == SYS_linkat; };
  const auto no_replace = [](const SystemCall& call) {
    return call.number == SYS_renameat2 && call.args[4] != 0;
  };
  const auto both = [&](const SystemCall& call) { return unnamed(call) || no_replace(call); };
  const auto all_but_rename = [&](const SystemCall& call) { return both(call) || link(call); };
  for (const Case& one :
       {Case{"no unnamed files", unnamed, EOPNOTSUPP}, Case{"a link across devices", link, EXDEV},
        Case{"links forbidden", link, EPERM}, Case{"links unknown", link, EOPNOTSUPP},
        Case{"no rename without replacing", both, EINVAL},
        Case{"only a plain rename", all_but_rename, EPERM}}) {
    INFO(one.what);
    World world;
    const int code = judged(
        {SYS_openat, SYS_linkat, SYS_renameat2},
        [&](const SystemCall& call) {
          if (!*world.armed || !one.refused(call)) return proceed();
          ++world.hits;
          return fail(one.number);
        },
        [&] {
          PosixStorage store(world.options());
          *world.armed = true;
          expect(store.write_new(world.key, world.bytes.bytes()).value(), "published");
          expect(!store.write_new(world.key, world.bytes.bytes()).value(), "once");
          *world.armed = false;
          world.expect_only(true);
        });
    CAKE_NEEDS_FILTER(code);
    CHECK(code == 0);
    CHECK(world.hits > 0);
  }
}

}  // namespace
#endif
