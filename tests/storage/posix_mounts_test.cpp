// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// File systems that lack something: an object is stored in another way, or the store is refused at
// open with a remedy that works there.
#include <sys/file.h>

#include <fstream>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::complaint;
using sample::Directory;
using sample::fails;
using sample::HookedCalls;
using sample::says;

bool unnamed(int flags) { return (flags & O_TMPFILE) == O_TMPFILE; }

struct Mount {
  Directory directory;
  std::shared_ptr<HookedCalls> calls = std::make_shared<HookedCalls>();
  AlignedBuffer bytes = sample::content(1, 16 * 4096);

  PosixOptions options() { return {.directory = directory.path(), .calls = calls}; }
  /// Writes an object, finds and reads it, replaces it when it is cut, and erases it.
  void use(PosixStorage& store) {
    const ChunkKey key = sample::key_of(1);
    for (unsigned round = 0; round < 2; ++round) {
      REQUIRE(store.write_new(key, bytes.bytes()).value());
      CHECK(sample::look(store, key).size == bytes.size());
      CHECK(sample::equal(sample::fetch(store, key, bytes.size()).bytes(), bytes.bytes()));
      CHECK_FALSE(store.write_new(key, bytes.bytes()).value());
      std::filesystem::resize_file(sample::file_of(directory.path(), key), 4096 * (2 + round));
    }
    REQUIRE(store.write_new(key, bytes.bytes()).value());
    CHECK(store.stats().replaced == 2);
    CHECK(sample::count_files(directory.path()) == 1);
    REQUIRE(store.erase(key));
    CHECK(sample::count_files(directory.path()) == 0);
  }
};

constexpr int kRefusals[] = {EINVAL, ENOSYS, EOPNOTSUPP, EPERM, EXDEV, EMLINK, EACCES, ENOTTY};

TEST_CASE("objects are published without hard links and without a rename that replaces nothing") {
  for (const int number : kRefusals) {
    for (const bool links : {false, true}) {
      for (const bool unnamed_files : {false, true}) {
        INFO("errno " << number << ", links " << links << ", unnamed files " << unnamed_files);
        Mount mount;
        mount.calls->on_rename = [=] { return fails(number); };
        if (!links) mount.calls->on_link = [=] { return fails(number); };
        if (!unnamed_files) {
          mount.calls->on_open = [=](const char*, int flags) {
            return unnamed(flags) ? fails(EOPNOTSUPP) : std::nullopt;
          };
        }
        PosixStorage store(mount.options());
        mount.use(store);
      }
    }
  }
}

TEST_CASE("what a file system refuses only after the store was opened is noticed then") {
  for (const int number : kRefusals) {
    INFO("errno " << number);
    Mount mount;
    PosixStorage store(mount.options());
    mount.calls->on_rename = [=] { return fails(number); };
    mount.calls->on_link = [=] { return fails(number); };
    mount.use(store);
  }
}

TEST_CASE("any refusal of unnamed files leads to named ones, which leave nothing behind") {
  for (const int number : {EOPNOTSUPP, EISDIR, EINVAL, ENOENT, ENOSYS, EPERM, ENOTTY}) {
    INFO("errno " << number);
    Mount mount;
    mount.calls->on_open = [=](const char*, int flags) {
      return unnamed(flags) ? fails(number) : std::nullopt;
    };
    PosixStorage store(mount.options());
    CHECK(store.stats().direct_refusals == (store.direct() ? 0 : 1));
    mount.use(store);
  }
}

TEST_CASE("a file system that moves no names between folders gets its temporary files beside") {
  Mount mount;
  const auto root = std::filesystem::canonical(mount.directory.path());
  struct Calls : HookedCalls {
    std::filesystem::path root;
    int moved(int from, int to) const {
      const auto of = [](int fd) {
        return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd));
      };
      return of(from) != of(to) ? EXDEV : 0;
    }
    int rename_new(int from, const char* old_name, int to, const char* name) override {
      if (moved(from, to) != 0) return errno = EXDEV, -1;
      return HookedCalls::rename_new(from, old_name, to, name);
    }
    int rename_over(int from, const char* old_name, int to, const char* name) override {
      if (moved(from, to) != 0) return errno = EXDEV, -1;
      return HookedCalls::rename_over(from, old_name, to, name);
    }
    int link_at(int, const char*, int, const char*, int) override { return errno = EXDEV, -1; }
  };
  const auto calls = std::make_shared<Calls>();
  PosixStorage store({.directory = mount.directory.path(), .calls = calls});
  mount.use(store);
}

TEST_CASE("a file system on which nothing can be published is refused at open, with the reason") {
  Mount mount;
  mount.calls->on_rename = [] { return fails(EOPNOTSUPP); };
  mount.calls->on_link = [] { return fails(EPERM); };
  mount.calls->on_rename_over = [] { return fails(EOPNOTSUPP); };
  CHECK(says(complaint(mount.options()),
             {mount.directory.path().string(), "no object can be stored in it", "publish"}));
  CHECK(sample::count_files(mount.directory.path()) == 0);

  Mount blind;  // what was written is not found
  blind.calls->on_stat = [](const char* name) {
    return std::string_view(name).ends_with(".ckv") ? fails(ENOENT) : std::nullopt;
  };
  CHECK(says(complaint(blind.options()), {"cannot be found again"}));
}

TEST_CASE("a file system that gives other bytes back is refused at open") {
  struct Calls : HookedCalls {
    ssize_t read_at(int file, void* out, std::size_t size, off_t offset) override {
      const ssize_t n = HookedCalls::read_at(file, out, size, offset);
      static_cast<char*>(out)[0] ^= 1;
      return n;
    }
  };
  const Directory directory;
  CHECK(says(complaint({.directory = directory.path(), .calls = std::make_shared<Calls>()}),
             {"other bytes are read"}));
  CHECK(sample::count_files(directory.path()) == 0);
}

TEST_CASE("without locks for files objects are stored, and leftovers go once they are old") {
  for (const int number : {ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL}) {
    Mount mount;
    const auto fresh = mount.directory.path() / ".tmp-1-0-1",
               old = mount.directory.path() / ".tmp-2";
    std::ofstream(fresh) << "alive, perhaps";
    std::ofstream(old) << "dead";
    const timespec times[2] = {{1000, 0}, {1000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, old.c_str(), times, 0) == 0);
    mount.calls->on_lock = [=] { return fails(number); };
    auto options = mount.options();
    options.force_temporary_names = true;
    options.capacity_bytes = 3 * mount.bytes.size();
    PosixStorage store(options);
    CHECK(store.stats().leftovers == 1);
    CHECK(std::filesystem::exists(fresh));
    std::filesystem::remove(fresh);
    // Eviction needs no lock either.
    for (std::uint64_t i = 0; i < 8; ++i) {
      REQUIRE(store.write(sample::key_of(i), mount.bytes.bytes()));
      CHECK(sample::count_files(mount.directory.path()) <= 3);
    }
    CHECK(store.stats().evicted >= 5);
  }
}

TEST_CASE("without room set aside and without syncing an object is stored all the same") {
  for (const int number : {EOPNOTSUPP, ENOSYS, EINVAL, EPERM}) {
    Mount mount;
    mount.calls->on_allocate = [=] { return fails(number); };
    mount.calls->on_sync = [=] { return fails(number); };
    PosixStorage store(mount.options());
    mount.use(store);
  }
}

TEST_CASE("a durable store on a file system that cannot sync is refused by name") {
  for (const int number : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    Mount mount;
    mount.calls->on_sync = [=] { return fails(number); };
    auto options = mount.options();
    options.durable = true;
    CHECK(says(complaint(options), {"cannot sync", "without durable"}));
    CHECK(sample::count_files(mount.directory.path()) == 0);
  }
}

TEST_CASE("a temporary file that somebody cleans away is written again") {
  Mount mount;
  auto options = mount.options();
  options.force_temporary_names = true;
  PosixStorage store(options);
  bool cleaned = false;
  mount.calls->on_rename = [&]() -> HookedCalls::Answer {
    if (!std::exchange(cleaned, true)) {
      for (const auto& entry : std::filesystem::directory_iterator(mount.directory.path())) {
        if (entry.path().filename().string().starts_with(".tmp-")) {
          std::filesystem::remove(entry.path());
        }
      }
    }
    return std::nullopt;
  };
  mount.use(store);
  CHECK(cleaned);
}

TEST_CASE("a folder that is removed while an object is written to it is made again") {
  for (const bool temporary_names : {false, true}) {
    Mount mount;
    auto options = mount.options();
    options.force_temporary_names = temporary_names;
    PosixStorage store(options);
    bool removed = false;
    mount.calls->on_write = [&](std::size_t, off_t) -> HookedCalls::Answer {
      if (!std::exchange(removed, true)) {
        std::filesystem::remove(
            sample::file_of(mount.directory.path(), sample::key_of(1)).parent_path());
      }
      return std::nullopt;
    };
    mount.use(store);
    CHECK(removed);
  }
}

TEST_CASE("a read-only file system makes a store that serves, and says so") {
  Mount mount;
  const ChunkKey key = sample::key_of(1);
  PosixStorage({.directory = mount.directory.path()}).write(key, mount.bytes.bytes()).value();
  mount.calls->on_open = [](const char*, int flags) {
    const bool writes = unnamed(flags) || (flags & (O_CREAT | O_RDWR)) != 0;
    return writes ? fails(EROFS) : std::nullopt;
  };
  mount.calls->on_make_directory = [](const char*) { return fails(EROFS); };
  mount.calls->on_unlink = [](const char*) { return fails(EROFS); };
  PosixStorage store(mount.options());
  CHECK(store.stats().read_only);
  CHECK(sample::look(store, key).size == mount.bytes.size());
  CHECK(sample::equal(sample::fetch(store, key, mount.bytes.size()).bytes(), mount.bytes.bytes()));
  const Status written = store.write(sample::key_of(2), mount.bytes.bytes());
  REQUIRE(written.code() == Errc::unsupported);
  CHECK(says(written.error().message(),
             {mount.directory.path().string(), "only serves", "read-only file system"}));
  CHECK(store.erase(key).code() == Errc::unsupported);
  CHECK(sample::look(store, key).stored());
  // One that is not there cannot be made.
  auto missing = mount.options();
  missing.directory = mount.directory.path() / "none";
  CHECK(says(complaint(missing), {"does not exist", "read-only file system"}));
}

TEST_CASE("a store opened read-only creates, changes and removes nothing") {
  Mount mount;
  const ChunkKey key = sample::key_of(1);
  PosixStorage({.directory = mount.directory.path()}).write(key, mount.bytes.bytes()).value();
  std::ofstream(mount.directory.path() / ".tmp-1-0-1") << "dead";
  REQUIRE(::chmod(mount.directory.path().c_str(), 0500) == 0);
  const auto listed = [&] {
    std::vector<std::string> names;
    for (const auto& e : std::filesystem::recursive_directory_iterator(mount.directory.path())) {
      names.push_back(e.path().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  };
  const auto before = listed();
  {
    auto options = mount.options();
    options.read_only = true;
    options.capacity_bytes = 4096;
    PosixStorage store(options);
    CHECK(store.stats().read_only);
    CHECK(
        sample::equal(sample::fetch(store, key, mount.bytes.size()).bytes(), mount.bytes.bytes()));
    CHECK(store.write(sample::key_of(2), mount.bytes.bytes()).code() == Errc::unsupported);
    CHECK(store.erase(key).code() == Errc::unsupported);
  }
  CHECK(listed() == before);
  auto missing = mount.options();
  missing.directory = mount.directory.path() / "none";
  missing.read_only = true;
  CHECK(says(complaint(missing), {"does not exist", "read_only"}));
  REQUIRE(::chmod(mount.directory.path().c_str(), 0700) == 0);
}

TEST_CASE("a store opened read-only makes nothing either to find out why a directory is refused") {
  const Directory directory;
  REQUIRE(::chmod(directory.path().c_str(), 0777) == 0);
  const auto calls = std::make_shared<HookedCalls>();
  bool made = false;
  calls->on_make_directory = [&](const char*) -> HookedCalls::Answer {
    made = true;
    return std::nullopt;
  };
  PosixOptions options{.directory = directory.path(), .calls = calls, .read_only = true};
  CHECK(says(complaint(options), {"mode 0777", "chmod 700", "trust_directory"}));
  CHECK_FALSE(made);
  options.trust_directory = true;
  CHECK(complaint(options).empty());
}

TEST_CASE("a store that only serves takes what root prepared") {
  if (::geteuid() != 0) return;
  Mount mount;
  const ChunkKey key = sample::key_of(1);
  PosixStorage({.directory = mount.directory.path()}).write(key, mount.bytes.bytes()).value();
  REQUIRE(::chmod(mount.directory.path().c_str(), 0755) == 0);
  const auto file = sample::file_of(mount.directory.path(), key);
  REQUIRE(::chmod(file.parent_path().c_str(), 0755) == 0);
  REQUIRE(::chmod(file.c_str(), 0644) == 0);
  CHECK(sample::in_child([&] {
          sample::expect(::setgid(12345) == 0 && ::setuid(12345) == 0, "setuid");
          auto options = mount.options();
          sample::expect(says(complaint(options), {"another user", "uid 0", "uid 12345"}),
                         "not to be written by somebody else");
          options.read_only = true;
          PosixStorage store(options);
          sample::expect(sample::equal(sample::fetch(store, key, mount.bytes.size()).bytes(),
                                       mount.bytes.bytes()),
                         "served");
        }) == 0);
}

/// A mount that shows one owner and mode for all, as CIFS, drvfs and gcsfuse do.
struct AlikeCalls : HookedCalls {
  mode_t mode = 0777;
  uid_t owner = ::geteuid();
  int stat_at(int directory, const char* name, struct stat* info) override {
    const int result = HookedCalls::stat_at(directory, name, info);
    if (result == 0) {
      info->st_mode |= mode;
      info->st_uid = owner;
    }
    return result;
  }
};

TEST_CASE("on a mount that shows all files as writable by others the remedy is one of mounting") {
  const Directory directory;
  REQUIRE(::chmod(directory.path().c_str(), 0777) == 0);
  const auto calls = std::make_shared<AlikeCalls>();
  const std::string text = complaint({.directory = directory.path(), .calls = calls});
  CHECK(says(text, {directory.path().string(), "chmod cannot help", "dir_mode=0700",
                    "uid=", "trust_directory"}));
  PosixStorage store({.directory = directory.path(), .calls = calls, .trust_directory = true});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  CHECK(sample::look(store, sample::key_of(1)).size == 8192);
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 8192).bytes(), bytes.bytes()));
}

TEST_CASE("files that are shown otherwise than they were made are noticed at open") {
  const Directory directory;
  const auto calls = std::make_shared<AlikeCalls>();
  calls->mode = 0666;
  CHECK(says(complaint({.directory = directory.path(), .calls = calls}),
             {"chmod cannot help", "trust_directory"}));
  CHECK(sample::count_files(directory.path()) == 0);
}

TEST_CASE("on a mount that shows another owner for all files the remedy is one of mounting") {
  if (::geteuid() != 0) return;
  const Directory directory;
  REQUIRE(::chown(directory.path().c_str(), 12345, 12345) == 0);
  const auto calls = std::make_shared<AlikeCalls>();
  calls->mode = 0;
  calls->owner = 12345;
  CHECK(says(complaint({.directory = directory.path(), .calls = calls}),
             {"uid 12345", "chown cannot help", "uid=0", "trust_directory"}));
  // Elsewhere the owner can be changed.
  CHECK(says(complaint({.directory = directory.path()}),
             {"uid 12345", "uid 0", "chown -R 0 " + directory.path().string(), "trust_directory"}));
  CHECK(complaint({.directory = directory.path(), .trust_directory = true}).empty());
}

TEST_CASE("a shared directory gets the modes that the umask leaves") {
  const Directory directory;
  const mode_t before = ::umask(002);
  {
    PosixStorage store({.directory = directory.path() / "store", .trust_directory = true});
    const auto bytes = sample::content(1, 8192);
    REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
    struct stat info {};
    const auto file = sample::file_of(directory.path() / "store", sample::key_of(1));
    REQUIRE(::stat(file.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0664);
    REQUIRE(::stat(file.parent_path().c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0775);
    CHECK(sample::look(store, sample::key_of(1)).stored());
  }
  ::umask(before);
}

TEST_CASE("a umask that takes the owner's own rights away does no harm") {
  for (const mode_t mask : {mode_t{0777}, mode_t{0277}, mode_t{0177}, mode_t{0}}) {
    const Directory directory;
    const mode_t before = ::umask(mask);
    {
      PosixStorage store({.directory = directory.path() / "store"});
      const auto bytes = sample::content(1, 8192);
      CHECK(store.write(sample::key_of(1), bytes.bytes()));
      CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 8192).bytes(), bytes.bytes()));
    }
    ::umask(before);
  }
}

TEST_CASE("each lack of something is told with its remedy and leaves nothing behind") {
  struct Case {
    int number;
    Errc code;
    const char* remedy;
  };
  const Case cases[] = {
      {ENOSPC, Errc::out_of_memory, "free space"},
      {EDQUOT, Errc::out_of_memory, "quota"},
      {EFBIG, Errc::out_of_memory, "ulimit -f"},
      {EROFS, Errc::io, "read_only"},
      {EMFILE, Errc::io, "ulimit -n"},
      {ENFILE, Errc::io, "fs.file-max"},
      {EACCES, Errc::io, "chmod"},
      {EIO, Errc::io, "log"},
      {ESTALE, Errc::io, "mount it again"},
      {ENOTCONN, Errc::io, "mount it again"},
  };
  for (const Case& one : cases) {
    INFO("errno " << one.number);
    Mount mount;
    PosixStorage store(mount.options());
    mount.calls->on_open = [&](const char*, int flags) {
      return unnamed(flags) || (flags & O_CREAT) != 0 ? fails(one.number) : std::nullopt;
    };
    const Status status = store.write(sample::key_of(1), mount.bytes.bytes());
    REQUIRE(status.code() == one.code);
    CHECK(status.error().native == one.number);
    CHECK(says(status.error().message(), {one.remedy}));
    CHECK(sample::count_files(mount.directory.path()) == 0);
    mount.calls->on_open = nullptr;
    mount.use(store);
  }
}

}  // namespace
