// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "directory.hpp"

#include <fcntl.h>
#include <sys/xattr.h>

#include <cerrno>

#include "cake/staging.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
// O_NONBLOCK so that a FIFO in the place of a file does not block; regular files ignore it.
constexpr int kReadFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

constexpr const char* kPriority = "user.cake.priority";
constexpr int kMostPriority = 3;

std::string octal(mode_t mode) {
  std::string text = "0000";
  for (std::size_t i = 0; i < 4; ++i) {
    text[3 - i] = static_cast<char>('0' + ((mode >> (3 * i)) & 7u));
  }
  return text;
}

}  // namespace

std::optional<ChunkKey> StoreDirectory::key_of(std::string_view name) {
  if (!name.ends_with(".ckv")) return std::nullopt;
  return ChunkKey::from_hex(name.substr(0, name.size() - 4));
}

std::optional<std::uint8_t> StoreDirectory::folder_of(std::string_view name) {
  // Of a key that begins so.
  const auto key = ChunkKey::from_hex(std::string(name) + std::string(62, '0'));
  if (name.size() != 2 || !key) return std::nullopt;
  return static_cast<std::uint8_t>(key->bytes[0]);
}

StoreDirectory::Root StoreDirectory::root() const {
  const std::lock_guard lock(root_mutex_);
  return root_;
}

Status StoreDirectory::refresh() {
  struct stat now {};
  if (calls().stat_at(AT_FDCWD, path_.c_str(), &now) != 0) {
    const int number = errno;
    // A process may have given up the right to look the name up since it opened the directory.
    if (number == EACCES) return {};
    if (number == ENOENT) {
      return Error{Errc::io, number,
                   named() + " was removed or moved away while it was open; nothing is stored or " +
                       "found until it is there again (mkdir -m 700 " + path_.string() + ")"};
    }
    return system_error(number, named() + " can no longer be reached");
  }
  {
    const std::lock_guard lock(root_mutex_);
    if (now.st_dev == device_ && now.st_ino == inode_) return {};
  }
  struct stat by_name {};
  auto opened = open_root(by_name);
  if (!opened) return opened.error();
  CAKE_TRY(make_directory_last(by_name.st_dev));
  auto root = std::make_shared<const Fd>(std::move(*opened));
  const std::lock_guard lock(root_mutex_);
  if (by_name.st_dev == device_ && by_name.st_ino == inode_) return {};  // another thread did
  root_.swap(root);
  device_ = by_name.st_dev;
  inode_ = by_name.st_ino;
  ++generation_;
  ++counters_.reopened;
  return {};
}

Status StoreDirectory::check_writable() const {
  if (!read_only_) return {};
  const char* const why =
      options_.read_only ? "was opened with read_only" : "is on a read-only file system (EROFS)";
  return Error{Errc::unsupported, EROFS,
               named() + " only serves, because it " + why + "; nothing is written or erased"};
}

bool StoreDirectory::give_up_direct() {
  ++counters_.direct_refusals;
  if (options_.direct == DirectIo::on) return false;
  direct_ = false;
  return true;
}

bool StoreDirectory::takes_direct(int file) const {
  const auto alignment = calls().direct_alignment(file);
  return !alignment || (alignment->offset != 0 && alignment->offset <= kIoAlignment &&
                        alignment->memory <= kIoAlignment);
}

bool StoreDirectory::wants_rings() const {
  return options_.engine == ReadEngine::io_uring ||
         (options_.engine == ReadEngine::automatic && direct_ && !in_memory_);
}

bool StoreDirectory::trusted(const struct stat& info) const {
  if (options_.trust_directory) return true;
  const bool ours = info.st_uid == ::geteuid() || (read_only_ && info.st_uid == 0);
  return ours && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

Result<std::uint64_t> StoreDirectory::short_of_free(std::uint64_t bytes) const {
  if (options_.keep_free.share <= 0 && options_.keep_free.bytes == 0) return 0;
  const auto space = calls().space(root()->get());
  if (!space) {
    return system_error(errno, "the file system of " + named() +
                                   " does not say how much of it is free, for keep_free");
  }
  const std::uint64_t wanted = options_.keep_free.of(space->size) + bytes;
  return wanted > space->free ? wanted - space->free : 0;
}

int StoreDirectory::priority_of(int folder, const char* name) const {
  char digit = 0;
  const std::string path = "/proc/self/fd/" + std::to_string(folder) + "/" + name;
  const ssize_t n = ::lgetxattr(path.c_str(), kPriority, &digit, 1);
  return n == 1 && digit >= '0' && digit <= '0' + kMostPriority ? digit - '0' : 0;
}

Status StoreDirectory::set_priority(const ChunkKey& key, int priority) {
  CAKE_TRY(check_writable());
  if (priority < 0 || priority > kMostPriority) {
    return Error{Errc::invalid_argument, 0,
                 "a priority is 0 to " + std::to_string(kMostPriority) + ", and not " +
                     std::to_string(priority)};
  }
  struct stat info {};
  const auto file = open_object(key, 0, info);
  if (!file) return file.error();
  const char digit = static_cast<char>('0' + priority);
  if (::fsetxattr(file->get(), kPriority, &digit, 1, 0) == 0) return {};
  const int number = errno;
  if (means_not_this_way(number)) {
    return Error{Errc::unsupported, number,
                 "the file system of " + named() +
                     " has no extended attributes (user.*), in which priorities are kept; all "
                     "objects have priority 0 there"};
  }
  return system_error(number, "cannot set the priority of " + file_name(key));
}

std::uint64_t StoreDirectory::file_system_bytes() const {
  const auto space = calls().space(root()->get());
  return space ? space->size : 0;
}

Fd StoreDirectory::open_shared(const char* name, int flags) {
  const Root held = root();
  flags |= O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  Fd file(calls().open_at(held->get(), name, flags, file_mode()));
  if (!file) return {};
  own(*this, file.get());
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || !trusted(info)) return {};
  return file;
}

bool StoreDirectory::is_shared(const Fd& file, const char* name) const {
  struct stat mine {};
  struct stat named {};
  return ::fstat(file.get(), &mine) == 0 &&
         ::fstatat(root()->get(), name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         mine.st_dev == named.st_dev && mine.st_ino == named.st_ino;
}

Error StoreDirectory::distrust(const struct stat& info, const std::string& what,
                               const std::string& path) const {
  const std::string me = std::to_string(::geteuid());
  if (info.st_uid != ::geteuid()) {
    return {Errc::io, EPERM,
            what + " belongs to another user (uid " + std::to_string(info.st_uid) +
                "; this process runs as uid " + me +
                "), who could put foreign KV into it; choose a directory of your own, or as root " +
                "run: chown -R " + me + " " + path +
                ", or set trust_directory if all who can write there may be trusted"};
  }
  return {Errc::io, EPERM,
          what + " has mode " + octal(info.st_mode & 07777) +
              ": others may write to it and could put foreign KV into it; run: chmod " +
              (S_ISDIR(info.st_mode) ? "700 " : "600 ") + path +
              ", or set trust_directory if all who can write there may be trusted"};
}

bool StoreDirectory::servable(const struct stat& info) const {
  return S_ISREG(info.st_mode) && trusted(info) && (info.st_mode & S_IRUSR) != 0 &&
         info.st_size > 0 && info.st_size % static_cast<off_t>(kIoAlignment) == 0;
}

Status StoreDirectory::become_writable_folder(int root, const std::string& name) {
  if (calls().make_directory(root, name.c_str(), folder_mode()) != 0) {
    if (errno == EEXIST) return {};
    return system_error(errno, "cannot create folder " + name + " in " + named());
  }
  lasting_[folder_of(name).value_or(0)] = 0;  // it may have the inode of one that was removed
  // A umask may have taken the owner's own rights away.
  struct stat info {};
  if (calls().stat_at(root, name.c_str(), &info) == 0 && (info.st_mode & 0700) != 0700) {
    // Where that cannot be changed, opening the folder says so.
    [[maybe_unused]] const int changed = ::fchmodat(root, name.c_str(), 0700, 0);
  }
  return {};
}

Status StoreDirectory::make_directory_last(dev_t device) const {
  if (!options_.durable || read_only_) return {};
  const Fd parent(::open(path_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat info {};
  // Who may not read the parent has created nothing in it; what is mounted has no name there.
  if (!parent || ::fstat(parent.get(), &info) != 0 || info.st_dev != device) return {};
  if (calls().sync(parent.get()) == 0 || means_not_this_way(errno)) return {};
  return system_error(errno, named() + ": the folder above it cannot be synced, so it might not " +
                                 "survive a power cut");
}

Status StoreDirectory::make_name_last(int root, const std::string& name, ino_t folder) {
  std::atomic<std::uint64_t>& lasting = lasting_[folder_of(name).value_or(0)];
  if (lasting == folder) return {};
  if (calls().sync(root) == 0 || means_not_this_way(errno)) {
    lasting = folder;
    return {};
  }
  const int number = errno;
  // A second sync would not tell; an empty folder is made again.
  static_cast<void>(calls().unlink_at(root, name.c_str(), AT_REMOVEDIR));
  return system_error(number, "cannot sync " + named());
}

Result<Fd> StoreDirectory::open_fan_out(const std::string& name, bool create) {
  const Root held = root();
  Fd directory(calls().open_at(held->get(), name.c_str(), kDirectoryFlags, 0));
  if (!directory && errno == ENOENT && create) {
    CAKE_TRY(become_writable_folder(held->get(), name));
    directory = Fd(calls().open_at(held->get(), name.c_str(), kDirectoryFlags, 0));
  }
  if (!directory) {
    return system_error(errno, "cannot open folder " + name + " in " + named());
  }
  struct stat info {};
  if (::fstat(directory.get(), &info) != 0) {
    return system_error(errno, "cannot examine folder " + name + " in " + named());
  }
  if (!trusted(info)) {
    return distrust(info, "folder " + name + " in " + named(), (path_ / name).string());
  }
  if (create && options_.durable) CAKE_TRY(make_name_last(held->get(), name, info.st_ino));
  return directory;
}

int StoreDirectory::open_object_file(int root, const std::string& fan_out, const std::string& name,
                                     int flags) {
  if (openat2_) {
    const std::string path = fan_out + "/" + name;
    const int file = calls().open_beneath(root, path.c_str(), flags);
    if (file >= 0) return file;
    if (errno == ENOSYS || errno == EPERM) {
      openat2_ = false;  // an old kernel, or a container's seccomp filter
    } else if (errno != EAGAIN) {
      return -1;
    }
  }
  // The same in two steps. Both names are hexadecimal, so they lead nowhere else.
  const Fd directory(calls().open_at(root, fan_out.c_str(), kDirectoryFlags, 0));
  if (!directory) return -1;
  return calls().open_at(directory.get(), name.c_str(), flags, 0);
}

Result<Fd> StoreDirectory::open_object(const ChunkKey& key, int extra_flags, struct stat& info) {
  const std::string name = file_name(key);
  const auto open = [&] {
    const Root held = root();
    return Fd(open_object_file(held->get(), name.substr(0, 2), name, kReadFlags | extra_flags));
  };
  Fd file = open();
  if (!file && (errno == ENOENT || errno == ESTALE || errno == ENOTCONN)) {
    const int number = errno;
    const std::uint64_t before = generation_;
    if (auto status = refresh(); !status) {
      return Error{number == ENOENT ? Errc::not_found : Errc::io, status.error().native,
                   status.error().context};
    }
    errno = number;
    if (generation_ != before) file = open();
  }
  if (!file) {
    const int number = errno;
    // What lies there is a link or in the way of one: not an object.
    if (number == ELOOP || number == ENOTDIR || number == EXDEV || number == ENXIO) {
      return Error{Errc::not_found, number, "no object file " + name};
    }
    return system_error(number, "cannot open " + name);
  }
  if (::fstat(file.get(), &info) != 0) return system_error(errno, "cannot examine " + name);
  if (!S_ISREG(info.st_mode)) return Error{Errc::not_found, 0, name + " is not a regular file"};
  if (!trusted(info)) return distrust(info, name, path_of(key).string());
  return file;
}

}  // namespace cake::inline CAKE_ABI::detail
