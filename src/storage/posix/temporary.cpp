// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Files that are being written, and those that dead writers left behind.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <ctime>
#include <memory>
#include <random>
#include <string_view>

#include "directory.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr std::string_view kTemporaryPrefix = ".tmp-";
// No writer is at one object for so long. Seconds.
constexpr std::int64_t kSurelyDead = 3600;

// A process cannot see its id change under it, but a store can be shared by containers in which
// process ids repeat; so names carry random digits and creation is exclusive.
std::string temporary_name() {
  static std::atomic<std::uint64_t> counter{0};
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::string(kTemporaryPrefix) + std::to_string(::getpid()) + "-" +
         std::to_string(counter++) + "-" + std::to_string(random());
}

enum class Lock { taken, held_by_another, unsupported };

Lock lock(StoreDirectory& store, int file, int operation) {
  int result;
  do {
    result = store.calls().lock(file, operation);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return Lock::taken;
  return errno == EWOULDBLOCK ? Lock::held_by_another : Lock::unsupported;
}

Fd open_unnamed(StoreDirectory& store, int directory, int direct) {
  const int flags = O_TMPFILE | O_RDWR | O_CLOEXEC;
  Fd file(store.calls().open_at(directory, ".", flags | direct, store.file_mode()));
  if (file) own(store, file.get());
  return file;
}

TemporaryFile open_named(StoreDirectory& store, int directory, int direct) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string name = temporary_name();
    const int flags = O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC;
    Fd file(store.calls().open_at(directory, name.c_str(), flags | direct, store.file_mode()));
    if (!file && errno == EEXIST) continue;
    if (!file) {
      const int number = errno;
      // Some systems create the file and then refuse the flag.
      if (direct != 0 && (number == EINVAL || number == EOPNOTSUPP)) {
        static_cast<void>(store.calls().unlink_at(directory, name.c_str(), 0));
      }
      errno = number;
      return {};
    }
    own(store, file.get());
    // Between creation and lock, a store that opens may take the file for a dead writer's.
    struct stat info {};
    if (lock(store, file.get(), LOCK_EX) == Lock::taken && ::fstat(file.get(), &info) == 0 &&
        info.st_nlink == 0) {
      continue;
    }
    return {std::move(file), name, directory};
  }
  errno = EEXIST;
  return {};
}

bool is_dead(StoreDirectory& store, int file, const struct stat& info) {
  // A live writer holds the lock; a dead one's went with it.
  switch (lock(store, file, LOCK_EX | LOCK_NB)) {
    case Lock::taken:
      return true;
    case Lock::held_by_another:
      return false;
    case Lock::unsupported:
      break;
  }
  return ::time(nullptr) - info.st_mtim.tv_sec > kSurelyDead;
}

}  // namespace

void own(StoreDirectory& store, int file) {
  struct stat info {};
  if (::fstat(file, &info) == 0 && (info.st_mode & 0600) != 0600) {
    static_cast<void>(::fchmod(file, store.file_mode() & 0600));
  }
}

TemporaryFile open_temporary(StoreDirectory& store, int root, int directory, bool direct,
                             bool named) {
  const int flag = direct ? O_DIRECT : 0;
  if (!named && store.unnamed_files()) {
    Fd file = open_unnamed(store, directory, flag);
    if (file) return {std::move(file), {}, -1};
    int number = errno;
    // EINVAL is how either flag is refused; which one, another try tells.
    if (direct && number == EINVAL) {
      file = open_unnamed(store, directory, 0);
      if (file) {
        errno = EINVAL;
        return {};
      }
      number = errno;
    }
    // ENOENT is what very old kernels say of the flag, and others of a folder that was removed.
    struct stat info {};
    const bool removed = ::fstat(directory, &info) == 0 && info.st_nlink == 0;
    if (removed || (!means_not_this_way(number) && number != ENOENT)) {
      errno = number;
      return {};
    }
    auto other = open_named(store, store.temporaries_beside() ? directory : root, flag);
    if (other.file) store.give_up_unnamed_files();
    return other;
  }
  return open_named(store, store.temporaries_beside() ? directory : root, flag);
}

void remove_leftovers(StoreDirectory& store) {
  const auto root = store.root();
  const int directory = ::openat(root->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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
    const Fd file(::openat(root->get(), entry->d_name, flags));
    struct stat info {};
    if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (!is_dead(store, file.get(), info)) continue;
    if (store.calls().unlink_at(root->get(), entry->d_name, 0) == 0) ++store.counters().leftovers;
  }
}

}  // namespace cake::inline CAKE_ABI::detail
