// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Making an object visible, whole or not at all.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <random>
#include <string_view>

#include "cake/buffer.hpp"
#include "posix_directory.hpp"

namespace cake::detail {
namespace {

constexpr std::string_view kTemporaryPrefix = ".tmp-";
// A process cannot see its id change under it, but a store can be shared by containers in which
// process ids repeat; so names carry random digits and creation is exclusive.
std::string temporary_name() {
  static std::atomic<std::uint64_t> counter{0};
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::string(kTemporaryPrefix) + std::to_string(::getpid()) + "-" +
         std::to_string(counter++) + "-" + std::to_string(random());
}

bool means_no_unnamed_files(int number) {
  return number == EOPNOTSUPP || number == EISDIR || number == EINVAL || number == ENOENT;
}

int lock(int file, int operation) {
  int result;
  do {
    result = ::flock(file, operation);
  } while (result != 0 && errno == EINTR);
  return result;
}

/// Removes a temporary name when it goes out of scope.
class NameGuard {
 public:
  NameGuard(int directory, const std::string& name) : directory_(directory), name_(name) {}
  NameGuard(const NameGuard&) = delete;
  NameGuard& operator=(const NameGuard&) = delete;
  ~NameGuard() {
    if (!name_.empty()) ::unlinkat(directory_, name_.c_str(), 0);
  }
  void release() { name_.clear(); }

 private:
  int directory_;
  std::string name_;
};

Status fill(StoreDirectory& store, int file, ConstBytes bytes, bool direct,
            const std::string& name) {
  if (!within_file_limit(bytes.size())) return write_error(EFBIG, "cannot write " + name);
  // Room for the whole file at once: a full disk is known before the first byte, and a file is laid
  // out in few extents. Not every file system can; then the writes find out.
  int result;
  do {
    result = store.calls().allocate(file, static_cast<off_t>(bytes.size()));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO)) {
    return write_error(errno, "no room for " + name);
  }
  constexpr std::size_t most = std::size_t{16} << 20;
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::size_t size = std::min(most, bytes.size() - done);
    const ssize_t n =
        store.calls().write_at(file, bytes.data() + done, size, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EINVAL && direct) {
      if (!store.give_up_direct()) {
        return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT for " + name};
      }
      ::fcntl(file, F_SETFL, ::fcntl(file, F_GETFL) & ~O_DIRECT);
      direct = false;
      continue;
    }
    if (n < 0) return write_error(errno, "cannot write " + name);
    if (n == 0) return write_error(EIO, "nothing can be written to " + name);
    done += static_cast<std::size_t>(n);
    if (direct && static_cast<std::size_t>(n) < size) {
      done = done / kIoAlignment * kIoAlignment;
      if (static_cast<std::size_t>(n) < kIoAlignment) {  // no whole page: go on through the cache
        ::fcntl(file, F_SETFL, ::fcntl(file, F_GETFL) & ~O_DIRECT);
        direct = false;
      }
    }
  }
  if (store.options().durable && store.calls().sync(file) != 0) {
    // What a failed sync leaves on the disk is unknown, and a second one would not tell.
    return write_error(errno, "cannot sync " + name);
  }
  return {};
}

enum class Linked { yes, exists, no };

Linked link_unnamed(StoreDirectory& store, int file, int directory, const std::string& name) {
  const std::string source = "/proc/self/fd/" + std::to_string(file);
  if (store.calls().link_at(AT_FDCWD, source.c_str(), directory, name.c_str(), AT_SYMLINK_FOLLOW) ==
      0) {
    return Linked::yes;
  }
  return errno == EEXIST ? Linked::exists : Linked::no;
}

Linked link_named(StoreDirectory& store, NameGuard& guard, const std::string& temporary,
                  int directory, const std::string& name) {
  if (store.calls().rename_new(store.root(), temporary.c_str(), directory, name.c_str()) == 0) {
    guard.release();
    return Linked::yes;
  }
  if (errno == EEXIST) return Linked::exists;
  if (errno != EINVAL && errno != ENOSYS && errno != EPERM) return Linked::no;
  // The file system cannot rename without replacing. A second name does as well; the guard takes
  // the first one away.
  if (store.calls().link_at(store.root(), temporary.c_str(), directory, name.c_str(), 0) == 0) {
    return Linked::yes;
  }
  return errno == EEXIST ? Linked::exists : Linked::no;
}

/// Takes away what lookup() would not serve, so that it does not keep the key from being stored.
/// True: an object is there and stays.
Result<bool> already_there(int directory, const std::string& name) {
  struct stat info {};
  if (::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return false;
    return errno_error(errno, "cannot examine " + name);
  }
  if (StoreDirectory::servable(info)) return true;
  if (::unlinkat(directory, name.c_str(), 0) != 0 && errno != ENOENT) {
    return errno_error(errno, "cannot replace " + name);
  }
  return false;
}

}  // namespace

bool within_file_limit(std::uint64_t size) {
  struct rlimit limit {};
  return ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
         size <= limit.rlim_cur;
}

Error write_error(int number, const std::string& context) {
  Error error = errno_error(number, context);
  if (number == EFBIG) error.code = Errc::out_of_memory;
  return error;
}

TemporaryFile open_temporary(StoreDirectory& store, int directory, bool direct) {
  const int direct_flag = direct ? O_DIRECT : 0;
  if (store.unnamed_files()) {
    const int flags = O_TMPFILE | O_RDWR | O_CLOEXEC;
    const int file = store.calls().open_at(directory, ".", flags | direct_flag, 0600);
    if (file >= 0) return {Fd(file), {}};
    if (!means_no_unnamed_files(errno)) return {};
    // EINVAL is also how O_DIRECT is refused. The caller tries again without it.
    if (direct && errno == EINVAL) return {};
    store.give_up_unnamed_files();
  }
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string name = temporary_name();
    const int flags = O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC;
    Fd file(store.calls().open_at(store.root(), name.c_str(), flags | direct_flag, 0600));
    if (!file && errno == EEXIST) continue;
    if (!file) {
      const int number = errno;
      // Some systems create the file and then refuse the flag.
      if (direct && number == EINVAL) ::unlinkat(store.root(), name.c_str(), 0);
      errno = number;
      return {};
    }
    // Between creation and lock, a store that opens may take the file for a dead writer's.
    struct stat info {};
    if (lock(file.get(), LOCK_EX) == 0 && ::fstat(file.get(), &info) == 0 && info.st_nlink == 0) {
      continue;
    }
    return {std::move(file), name};
  }
  errno = EEXIST;
  return {};
}

void remove_leftovers(StoreDirectory& store) {
  const int directory = ::openat(store.root(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(
      directory < 0 ? nullptr : ::fdopendir(directory), &::closedir);
  if (!entries) {
    if (directory >= 0) ::close(directory);
    return;
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): each stream is this call's own
  while (const dirent* entry = ::readdir(entries.get())) {
    if (!std::string_view(entry->d_name).starts_with(kTemporaryPrefix)) continue;
    const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    const Fd file(::openat(store.root(), entry->d_name, flags));
    struct stat info {};
    if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    // A live writer holds the lock; a dead one's went with it.
    if (lock(file.get(), LOCK_EX | LOCK_NB) != 0) continue;
    if (::unlinkat(store.root(), entry->d_name, 0) == 0) ++store.counters().leftovers;
  }
}

Result<bool> publish(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes) {
  const std::string name = StoreDirectory::file_name(key);
  const auto directory = store.open_fan_out(StoreDirectory::fan_out_name(key), true);
  if (!directory) return directory.error();
  const auto there = already_there(directory->get(), name);
  if (!there) return there.error();
  if (*there) {
    ++store.counters().already_stored;
    return false;
  }

  const bool aligned = reinterpret_cast<std::uintptr_t>(bytes.data()) % kIoAlignment == 0;
  Linked linked = Linked::no;
  int number = 0;
  for (int attempt = 0; attempt < 3 && linked == Linked::no; ++attempt) {
    bool direct = aligned && store.direct();
    auto temporary = open_temporary(store, directory->get(), direct);
    if (!temporary.file && direct && errno == EINVAL) {
      if (!store.give_up_direct()) {
        return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT for " + name};
      }
      direct = false;
      temporary = open_temporary(store, directory->get(), direct);
    }
    if (!temporary.file) return write_error(errno, "cannot create " + name);
    NameGuard guard(store.root(), temporary.name);
    if (auto status = fill(store, temporary.file.get(), bytes, direct, name); !status) {
      return status.error();
    }
    if (temporary.name.empty()) {
      linked = link_unnamed(store, temporary.file.get(), directory->get(), name);
      number = errno;
      // Without /proc, or where unnamed files cannot be linked, they are of no use.
      if (linked == Linked::no && (number == ENOENT || number == EOPNOTSUPP || number == EPERM)) {
        store.give_up_unnamed_files();
        continue;
      }
    } else {
      linked = link_named(store, guard, temporary.name, directory->get(), name);
      number = errno;
    }
    if (linked == Linked::no) break;
  }
  if (linked == Linked::no) return write_error(number, "cannot publish " + name);
  if (linked == Linked::exists) {
    ++store.counters().already_stored;
    return false;
  }
  if (store.options().durable && store.calls().sync(directory->get()) != 0) {
    const Error error = write_error(errno, "cannot sync the directory of " + name);
    ::unlinkat(directory->get(), name.c_str(), 0);
    return error;
  }
  ++store.counters().published;
  store.counters().published_bytes += bytes.size();
  return true;
}

}  // namespace cake::detail
