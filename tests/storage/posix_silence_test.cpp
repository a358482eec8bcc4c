// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Nothing fails in silence: what cannot be looked up is told, what is damaged is replaced, and a
// directory that went away is noticed.
#include <sys/resource.h>

#include <fstream>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::fails;
using sample::HookedCalls;
using sample::says;

void fill_file(const std::filesystem::path& path, std::size_t size, char with) {
  std::ofstream(path, std::ios::trunc) << std::string(size, with);
}

TEST_CASE("a chunk whose file is damaged in any way that its head or size shows is replaced") {
  const Directory directory;
  PosixStorage store({.directory = directory.path()});
  const auto chunk = sample::make(1, {4, 2, 64, DType::bf16}, 64);
  const auto other = sample::make(2, {4, 2, 64, DType::bf16}, 64);
  const ChunkKey key = chunk.identity.key;
  const auto path = sample::file_of(directory.path(), key);
  const std::size_t size = chunk.object.size();
  const auto healed = [&](const char* what, std::uint64_t capacity = 0) {
    INFO(what);
    PosixStorage bounded({.directory = directory.path(), .capacity_bytes = capacity});
    const std::uint64_t before = bounded.stats().published;
    CHECK(bounded.write_new(key, chunk.object).value());
    CHECK(bounded.stats().published == before + 1);
    CHECK(sample::look(bounded, key).size == size);
    CHECK(sample::equal(sample::fetch(bounded, key, size).bytes(), chunk.object));
    // What is whole stays.
    CHECK_FALSE(bounded.write_new(key, chunk.object).value());
    CHECK(bounded.stats().already_stored == 1);
    CHECK(sample::count_files(directory.path()) == 1);
  };
  REQUIRE(store.write(key, chunk.object));
  for (const std::uint64_t capacity : {std::uint64_t{0}, std::uint64_t{100 * size}}) {
    for (std::size_t cut = 0; cut < size; cut += 4096) {
      std::filesystem::resize_file(path, cut);
      healed("cut at a page", capacity);
    }
    std::filesystem::resize_file(path, size - 1);
    healed("cut within a page", capacity);
    std::filesystem::resize_file(path, size + 4096);
    healed("longer by a page", capacity);
    std::filesystem::resize_file(path, 10 * size);
    healed("ten times as long", capacity);
    for (const std::size_t garbage : {size, size / 2 / 4096 * 4096, 2 * size, std::size_t{4096}}) {
      fill_file(path, garbage, '\0');
      REQUIRE(::chmod(path.c_str(), 0600) == 0);
      healed("zeros", capacity);
      fill_file(path, garbage, 'x');
      REQUIRE(::chmod(path.c_str(), 0600) == 0);
      healed("other bytes", capacity);
    }
    std::ofstream(path, std::ios::trunc | std::ios::binary)
        .write(reinterpret_cast<const char*>(other.object.data()),
               static_cast<std::streamsize>(size));
    healed("another chunk's object under this key", capacity);
    REQUIRE(::chmod(path.c_str(), 0000) == 0);
    healed("a file that may not be read", capacity);
    std::filesystem::remove(path);
    std::filesystem::create_symlink("/nowhere", path);
    healed("a symbolic link", capacity);
    std::filesystem::remove(path);
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    healed("a pipe", capacity);
  }
}

TEST_CASE("readers never see a gap while a damaged object is replaced") {
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  PosixStorage store({.directory = directory.path(), .calls = calls});
  const auto chunk = sample::make(1, {4, 2, 64, DType::bf16}, 64);
  REQUIRE(store.write(chunk.identity.key, chunk.object));
  std::filesystem::resize_file(sample::file_of(directory.path(), chunk.identity.key), 8192);
  bool removed = false;
  calls->on_unlink = [&](const char* name) -> HookedCalls::Answer {
    removed = removed || std::string_view(name).ends_with(".ckv");
    return std::nullopt;
  };
  REQUIRE(store.write(chunk.identity.key, chunk.object));
  CHECK_FALSE(removed);  // renamed over
  CHECK(store.stats().replaced == 1);
}

TEST_CASE("a good object that another writer puts in the place of a damaged one is kept whole") {
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  PosixStorage store({.directory = directory.path(), .calls = calls});
  PosixStorage rival({.directory = directory.path()});
  const auto chunk = sample::make(1, {4, 2, 64, DType::bf16}, 64);
  const ChunkKey key = chunk.identity.key;
  REQUIRE(store.write(key, chunk.object));
  std::filesystem::resize_file(sample::file_of(directory.path(), key), 5000);
  bool raced = false;
  calls->on_write = [&](std::size_t, off_t) -> HookedCalls::Answer {
    if (!std::exchange(raced, true)) rival.write(key, chunk.object).value();
    return std::nullopt;
  };
  REQUIRE(store.write(key, chunk.object));
  CHECK(raced);
  CHECK(sample::equal(sample::fetch(store, key, chunk.object.size()).bytes(), chunk.object));
  CHECK(sample::count_files(directory.path()) == 1);
}

TEST_CASE("a directory in the place of an object is told by name, as nothing can replace it") {
  const Directory directory;
  PosixStorage store({.directory = directory.path()});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  const auto path = sample::file_of(directory.path(), sample::key_of(1));
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  const Status status = store.write(sample::key_of(1), bytes.bytes());
  REQUIRE_FALSE(status);
  CHECK(says(status.error().message(), {path.filename().string(), "directory", "remove it"}));
}

namespace {

/// A lookup of three stored keys finds the first and the last, and says why not the second.
void check_second_is_refused(PosixStorage& store, std::span<const ChunkKey> keys,
                             std::initializer_list<std::string> texts) {
  const std::uint64_t before = store.stats().lookup_problems;
  const auto found = store.lookup(keys);
  REQUIRE(found);
  CHECK((*found)[0].stored());
  CHECK_FALSE((*found)[1].stored());
  CHECK((*found)[2].stored());
  REQUIRE_FALSE(store.lookup_problem());
  CHECK(says(store.lookup_problem().error().message(), texts));
  CHECK(store.stats().lookup_problems == before + 1);
  // Alone it is an error of the call.
  const auto alone = store.lookup(keys.subspan(1, 1));
  REQUIRE_FALSE(alone);
  CHECK(says(alone.error().message(), texts));
}

}  // namespace

TEST_CASE("errors of a lookup are no absence: they are returned, or told beside what was found") {
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  PosixStorage store({.directory = directory.path(), .calls = calls});
  const auto bytes = sample::content(1, 8192);
  const ChunkKey keys[] = {sample::key_of(1), sample::key_of(2), sample::key_of(3)};
  REQUIRE(keys[0].bytes[0] != keys[1].bytes[0]);
  for (const ChunkKey& key : keys) REQUIRE(store.write(key, bytes.bytes()));
  CHECK(store.lookup_problem());
  const std::string folder = keys[1].hex().substr(0, 2);
  const auto path = directory.path() / folder;

  struct Case {
    const char* text;
    std::function<void()> arm, disarm;
  };
  const auto refuse_open = [&](int number, bool all) {
    calls->on_open = [=](const char* name, int) {
      return all || name == folder ? fails(number) : std::nullopt;
    };
  };
  const auto calm = [&] { calls->on_open = nullptr; };
  const Case cases[] = {
      {"chmod 700", [&] { ::chmod(path.c_str(), 0770); }, [&] { ::chmod(path.c_str(), 0700); }},
      {"chmod 700", [&] { ::chmod(path.c_str(), 0707); }, [&] { ::chmod(path.c_str(), 0700); }},
      {"chmod", [&] { refuse_open(EACCES, false); }, calm},
      {"log", [&] { refuse_open(EIO, false); }, calm},
      {"remove it", [&] { refuse_open(ELOOP, false); }, calm},
      {"ulimit -n", [&] { refuse_open(EMFILE, false); }, calm},
      {"fs.file-max", [&] { refuse_open(ENFILE, false); }, calm},
      {"remove it",
       [&] {
         std::filesystem::rename(path, directory.path() / "aside");
         std::ofstream(path) << "a file";
       },
       [&] {
         std::filesystem::remove(path);
         std::filesystem::rename(directory.path() / "aside", path);
       }},
      {"examine",
       [&] {
         calls->on_stat = [&](const char* name) {
           return std::string_view(name).starts_with(folder) ? fails(EIO) : std::nullopt;
         };
       },
       [&] { calls->on_stat = nullptr; }},
  };
  for (const Case& one : cases) {
    INFO("case " << &one - cases);
    one.arm();
    check_second_is_refused(store, keys, {folder, one.text});
    one.disarm();
    CHECK(sample::look(store, keys[1]).stored());
    CHECK(store.lookup_problem());
  }
  refuse_open(EMFILE, true);
  CHECK_FALSE(store.lookup(keys));
}

TEST_CASE("with all descriptors taken a lookup closes files that are kept open, else it fails") {
  CHECK(sample::in_child([] {
          const Directory directory;
          PosixStorage store({.directory = directory.path(), .threads = 1});
          const auto bytes = sample::content(1, 8192);
          const ChunkKey key = sample::key_of(1);
          sample::expect(store.write(key, bytes.bytes()).has_value(), "write");
          std::vector<int> taken;
          rlimit limit{};
          ::getrlimit(RLIMIT_NOFILE, &limit);
          limit.rlim_cur = 64;
          sample::expect(::setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
          sample::expect(sample::read_code(store, key, 8192) == Errc::ok, "read");
          int file;
          while ((file = ::dup(0)) >= 0) taken.push_back(file);
          sample::expect(errno == EMFILE, "all are taken");
          // A thread may hold it for a moment after the read is ready.
          for (int i = 0; i < 5000 && !sample::look(store, key).stored(); ++i) ::usleep(1000);
          sample::expect(sample::look(store, key).stored(), "the file kept open gives way");
          while ((file = ::dup(0)) >= 0) taken.push_back(file);
          const auto found = store.lookup(std::span(&key, 1));
          sample::expect(!found && found.error().native == EMFILE, "an error");
          const Status status = store.write(sample::key_of(2), bytes.bytes());
          sample::expect(!status && status.error().native == EMFILE, "write");
          ::close(taken.back());
          ::close(taken[taken.size() - 2]);
          sample::expect(sample::look(store, key).stored(), "descriptors are there again");
        }) == 0);
}

TEST_CASE("a directory that is removed is told while it is gone, and used when it is there again") {
  for (const bool temporary_names : {false, true}) {
    for (const std::uint64_t capacity : {std::uint64_t{0}, std::uint64_t{10 * 8192}}) {
      const Directory base;
      const auto path = base.path() / "store";
      PosixStorage store({.directory = path,
                          .capacity_bytes = capacity,
                          .force_temporary_names = temporary_names});
      const auto bytes = sample::content(1, 8192);
      const ChunkKey key = sample::key_of(1);
      REQUIRE(store.write(key, bytes.bytes()));
      REQUIRE(sample::read_code(store, key, 8192) == Errc::ok);
      std::filesystem::remove_all(path);
      const auto found = store.lookup(std::span(&key, 1));
      REQUIRE_FALSE(found);
      CHECK(says(found.error().message(), {path.string(), "removed", "mkdir"}));
      const Status status = store.write(key, bytes.bytes());
      REQUIRE_FALSE(status);
      CHECK(says(status.error().message(), {path.string(), "removed", "mkdir"}));
      CHECK(sample::read_code(store, key, 8192) == Errc::not_found);
      CHECK(store.erase(key));

      std::filesystem::create_directory(path);
      REQUIRE(::chmod(path.c_str(), 0777) == 0);
      const Status unsafe = store.write(key, bytes.bytes());
      REQUIRE_FALSE(unsafe);
      CHECK(says(unsafe.error().message(), {path.string(), "chmod 700"}));
      REQUIRE(::chmod(path.c_str(), 0700) == 0);
      CHECK_FALSE(sample::look(store, key).stored());
      REQUIRE(store.write_new(key, bytes.bytes()).value());
      CHECK(sample::equal(sample::fetch(store, key, 8192).bytes(), bytes.bytes()));
      CHECK(std::filesystem::exists(sample::file_of(path, key)));
      CHECK(store.stats().reopened == 1);
    }
  }
}

TEST_CASE("a directory that is exchanged for another one is read and written from then on") {
  const Directory base;
  const auto path = base.path() / "store", other = base.path() / "other";
  const auto bytes = sample::content(1, 8192), more = sample::content(2, 8192);
  PosixStorage({.directory = other}).write(sample::key_of(2), more.bytes()).value();
  PosixStorage store({.directory = path});
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  std::filesystem::rename(path, base.path() / "old");
  CHECK_FALSE(store.lookup(std::span<const ChunkKey>(std::array{sample::key_of(1)})));
  std::filesystem::rename(other, path);
  // A read finds it, too, without a lookup before.
  CHECK(sample::read_code(store, sample::key_of(2), 8192) == Errc::ok);
  CHECK_FALSE(sample::look(store, sample::key_of(1)).stored());
  CHECK(sample::look(store, sample::key_of(2)).stored());
  REQUIRE(store.write(sample::key_of(3), bytes.bytes()));
  CHECK(std::filesystem::exists(sample::file_of(path, sample::key_of(3))));
  // In its place a link is not followed, and a file is told.
  std::filesystem::rename(path, other);
  std::filesystem::create_directory_symlink(other, path);
  CHECK_FALSE(store.write(sample::key_of(4), bytes.bytes()));
  std::filesystem::remove(path);
  std::ofstream(path) << "text";
  CHECK_FALSE(store.write(sample::key_of(4), bytes.bytes()));
  std::filesystem::remove(path);
  std::filesystem::rename(other, path);
  CHECK(store.write(sample::key_of(4), bytes.bytes()));
}

TEST_CASE("a store with a relative name stays where it is when the process changes its directory") {
  CHECK(sample::in_child([] {
          const Directory base, elsewhere;
          sample::expect(::chdir(base.path().c_str()) == 0, "chdir");
          PosixStorage store({.directory = "store"});
          const auto bytes = sample::content(1, 8192);
          sample::expect(store.write(sample::key_of(1), bytes.bytes()).has_value(), "write");
          sample::expect(::chdir(elsewhere.path().c_str()) == 0, "chdir");
          sample::expect(sample::look(store, sample::key_of(1)).stored(), "found");
          sample::expect(store.write(sample::key_of(2), bytes.bytes()).has_value(), "write");
          sample::expect(std::filesystem::is_empty(elsewhere.path()), "not there");
        }) == 0);
}

TEST_CASE("a process that gives up the right to look the directory's name up goes on with it") {
  if (::geteuid() != 0) return;
  const Directory base;
  const auto path = base.path() / "closed" / "store";
  std::filesystem::create_directory(base.path() / "closed");
  CHECK(sample::in_child([&] {
          sample::expect(::chmod(base.path().c_str(), 0755) == 0, "chmod");
          std::filesystem::create_directory(path);
          sample::expect(::chown(path.c_str(), 12345, 12345) == 0, "chown");
          sample::expect(::seteuid(12345) == 0, "seteuid");
          PosixStorage store({.directory = path});
          sample::expect(::seteuid(0) == 0, "seteuid");
          sample::expect(::chmod((base.path() / "closed").c_str(), 0700) == 0, "chmod");
          sample::expect(::seteuid(12345) == 0, "seteuid");
          const auto bytes = sample::content(1, 8192);
          sample::expect(store.write(sample::key_of(1), bytes.bytes()).has_value(), "write");
          sample::expect(sample::look(store, sample::key_of(1)).stored(), "found");
          sample::expect(::seteuid(0) == 0, "seteuid");
        }) == 0);
}

TEST_CASE("an object that others may write is told, counts as absent, and is replaced by a write") {
  const Directory directory;
  PosixStorage store({.directory = directory.path()});
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  REQUIRE(store.write(key, bytes.bytes()));
  const auto path = sample::file_of(directory.path(), key);
  REQUIRE(::chmod(path.c_str(), 0664) == 0);
  for (const bool read_only : {true, false}) {
    PosixStorage served({.directory = directory.path(), .read_only = read_only});
    const auto found = served.lookup(std::span(&key, 1));
    REQUIRE(found);
    CHECK_FALSE((*found)[0].stored());
    REQUIRE_FALSE(served.lookup_problem());
    CHECK(says(served.lookup_problem().error().message(),
               {"mode 0664", "chmod 600 " + path.string()}));
    CHECK(served.stats().lookup_problems == 1);
  }
  REQUIRE(store.write_new(key, bytes.bytes()).value());
  CHECK(sample::look(store, key).stored());
  CHECK(store.lookup_problem());
}

TEST_CASE("a read that is told to come later is tried again") {
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  PosixStorage store({.directory = directory.path(), .calls = calls});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  std::atomic<int> n{0};
  calls->on_read = [&](std::size_t, off_t) { return n++ < 5 ? fails(EAGAIN) : std::nullopt; };
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 8192).bytes(), bytes.bytes()));
  CHECK(n == 6);
}

}  // namespace
