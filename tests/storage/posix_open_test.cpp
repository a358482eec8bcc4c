// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which directories PosixStorage takes, and what it says of the others.
#include <sys/resource.h>

#include <fstream>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::complaint;
using sample::Directory;
using sample::says;

TEST_CASE("a directory that cannot be a store is refused with its name and the remedy") {
  const Directory base;
  const auto path = base.path() / "store";
  const std::string name = path.string();
  CHECK(complaint({.directory = path}).empty());

  CHECK(says(complaint({.directory = base.path() / "missing" / "store"}),
             {(base.path() / "missing" / "store").string(), "parent does not exist",
              "mkdir -p " + (base.path() / "missing").string()}));
  const auto file = base.path() / "file";
  std::ofstream(file) << "text";
  CHECK(says(complaint({.directory = file}), {file.string(), "not a directory"}));
  CHECK(says(complaint({.directory = file / "store"}), {"not a directory"}));
  const auto link = base.path() / "link";
  std::filesystem::create_directory_symlink(path, link);
  CHECK(says(complaint({.directory = link}), {link.string(), "symbolic link"}));
  CHECK(says(complaint({.directory = link / ""}), {"symbolic link"}));
  for (const mode_t mode : {mode_t{0770}, mode_t{0707}, mode_t{01777}}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    CHECK(says(complaint({.directory = path}), {name, "others may write", "chmod 700 " + name}));
  }
  REQUIRE(::chmod(path.c_str(), 0750) == 0);
  CHECK(complaint({.directory = path}).empty());
  CHECK(says(complaint({.directory = ""}), {"no name"}));
}

TEST_CASE("options that make no sense are refused") {
  const Directory directory;
  CHECK(says(complaint({.directory = directory.path(), .threads = 0}), {"threads"}));
  CHECK(says(complaint({.directory = directory.path(), .op_bytes = std::size_t{2} << 30}),
             {"op_bytes"}));
  CHECK(says(complaint({.directory = directory.path(), .op_bytes = 5000}), {"op_bytes"}));
}

TEST_CASE("a directory of another user is refused") {
  // Root makes one; everybody else finds one.
  const Directory directory;
  const bool root = ::geteuid() == 0;
  if (root) REQUIRE(::chown(directory.path().c_str(), 12345, 12345) == 0);
  const std::filesystem::path path = root ? directory.path() : "/usr";
  CHECK(says(complaint({.directory = path}), {path.string(), "another user"}));
}

TEST_CASE("a directory that cannot be written, or created, is refused") {
  const Directory base;
  const auto store = base.path() / "store";
  std::filesystem::create_directory(store);
  // Root may write anywhere, so somebody else tries.
  const int code = sample::in_child([&] {
    if (::geteuid() == 0) {
      sample::expect(::chown(store.c_str(), 12345, 12345) == 0, "chown");
      sample::expect(::chmod(base.path().c_str(), 0755) == 0, "chmod");
      sample::expect(::setgid(12345) == 0 && ::setuid(12345) == 0, "setuid");
    } else {
      sample::expect(::chmod(base.path().c_str(), 0500) == 0, "chmod");
    }
    sample::expect(::chmod(store.c_str(), 0500) == 0, "chmod");
    sample::expect(says(complaint({.directory = store}), {store.string(), "not writable"}),
                   "an unwritable directory");
    sample::expect(::chmod(store.c_str(), 0000) == 0, "chmod");
    sample::expect(says(complaint({.directory = store}), {store.string(), "cannot be opened"}),
                   "an unreadable directory");
    const auto other = base.path() / "other";
    sample::expect(says(complaint({.directory = other}), {other.string(), "cannot be created"}),
                   "an unwritable parent");
  });
  REQUIRE(::chmod(base.path().c_str(), 0700) == 0);
  std::filesystem::permissions(store, std::filesystem::perms::owner_all);
  CHECK(code == 0);
}

TEST_CASE("a file system without room is told apart") {
  const Directory directory;
  for (const bool temporary_names : {false, true}) {
    const auto calls = std::make_shared<sample::HookedCalls>();
    calls->on_write = [](std::size_t, off_t) { return sample::fails(ENOSPC); };
    const std::string text = complaint(
        {.directory = directory.path(), .force_temporary_names = temporary_names, .calls = calls});
    CHECK(says(text, {directory.path().string(), "full", "free space"}));
    calls->on_write = nullptr;
    calls->on_open = [](const char*, int flags) {
      return (flags & (O_CREAT | O_TMPFILE)) != 0 ? sample::fails(EDQUOT) : std::nullopt;
    };
    CHECK(says(complaint({.directory = directory.path(), .calls = calls}), {"full"}));
  }
  CHECK(sample::count_files(directory.path()) == 0);
}

TEST_CASE("a process that may write no files is told so instead of being killed") {
  const Directory directory;
  const int code = sample::in_child([&] {
    const rlimit limit{1000, 1000};
    sample::expect(::setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
    sample::expect(says(complaint({.directory = directory.path()}), {"ulimit -f"}), "message");
  });
  CHECK(code == 0);
}

TEST_CASE("leftovers of dead writers go when a store is opened, those of live ones stay") {
  const Directory directory;
  const auto open_store = [&] {
    return PosixStorage({.directory = directory.path()}).stats().leftovers;
  };
  std::ofstream(directory.path() / ".tmp-1-0-1") << "dead";
  std::ofstream(directory.path() / ".tmp-2-0-1") << "dead";
  std::filesystem::create_symlink("/etc/passwd", directory.path() / ".tmp-link");
  std::filesystem::create_directory(directory.path() / ".tmp-directory");
  CHECK(open_store() == 2);
  CHECK(open_store() == 0);
  CHECK(std::filesystem::exists("/etc/passwd"));

  // A writer stops in the middle of an object; meanwhile the directory is opened again.
  std::uint64_t removed = 99;
  std::size_t seen = 0;
  const auto calls = std::make_shared<sample::HookedCalls>();
  PosixStorage writer(
      {.directory = directory.path(), .force_temporary_names = true, .calls = calls});
  calls->on_write = [&](std::size_t, off_t) -> sample::HookedCalls::Answer {
    if (seen != 0) return std::nullopt;
    seen = sample::count_files(directory.path());
    removed = open_store();
    return std::nullopt;
  };
  const auto bytes = sample::content(1, 8192);
  REQUIRE(writer.write(sample::key_of(1), bytes.bytes()));
  CHECK(seen == 2);  // its own, and the link
  CHECK(removed == 0);
  CHECK(sample::equal(sample::fetch(writer, sample::key_of(1), 8192).bytes(), bytes.bytes()));
  CHECK(open_store() == 0);
  CHECK(sample::look(writer, sample::key_of(1)).stored());
}

}  // namespace
