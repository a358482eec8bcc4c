// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Opening a store: which directories are taken, what is said of the others, and what is found out
// by trying.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>
#include <system_error>

#include "cake/staging.hpp"
#include "directory.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

/// "dir/" would make the system follow a link named dir.
std::filesystem::path without_trailing_slash(const std::filesystem::path& path) {
  auto text = path.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

// Bytes of one operation. Out of memory small ones bring the first chunk of a load sooner.
constexpr std::size_t kOperation = std::size_t{1} << 20;
constexpr std::size_t kMemoryOperation = std::size_t{256} << 10;

std::filesystem::path absolute_path(const std::filesystem::path& path) {
  std::error_code failed;
  auto full = std::filesystem::absolute(path, failed);
  return failed ? path : without_trailing_slash(full);
}

}  // namespace

StoreDirectory::StoreDirectory(PosixOptions options) : options_(std::move(options)) {
  if (!options_.calls) options_.calls = std::make_shared<PosixCalls>();
  clock_ = std::make_unique<StoreClock>(*options_.calls);
  check_options();
  options_.directory = without_trailing_slash(options_.directory);
  path_ = absolute_path(options_.directory);
  unnamed_files_ = !options_.force_temporary_names;
  read_only_ = options_.read_only;
  direct_ = options_.direct != DirectIo::off;

  // What root has put into an image or snapshot is taken, so this must be known first.
  struct statvfs mount {};
  if (::statvfs(path_.c_str(), &mount) == 0 && (mount.f_flag & ST_RDONLY) != 0) read_only_ = true;
  struct stat by_name {};
  auto opened = open_root(by_name);
  if (!opened && opened.error().native == ENOENT && !read_only_) {
    create();
    opened = open_root(by_name);
  }
  if (!opened) throw Exception(opened.error());
  root_ = std::make_shared<const Fd>(std::move(*opened));
  device_ = by_name.st_dev;
  inode_ = by_name.st_ino;
  if (const Status lasts = make_directory_last(device_); !lasts) throw Exception(lasts.error());
  struct statfs type {};
  in_memory_ = ::fstatfs(root_->get(), &type) == 0 &&
               (type.f_type == TMPFS_MAGIC || type.f_type == RAMFS_MAGIC);
  if (options_.op_bytes == 0) options_.op_bytes = in_memory_ ? kMemoryOperation : kOperation;
  // Growing a process's table of descriptors can take the kernel 20 ms when there are threads: now,
  // and not in the middle of a prefill.
  const int high = ::fcntl(root_->get(), F_DUPFD_CLOEXEC, 511);
  if (high >= 0) ::close(high);
  if (!read_only_) {
    remove_leftovers(*this);
    probe();
  }
  // Where nothing may be written there is no file of our own to read.
  if (!rings_probed_) probe_rings(-1, {});
}

/// Reads `file` through a ring; -1: a file in memory.
void StoreDirectory::probe_rings(int file, ConstBytes expected) {
  if (!wants_rings()) return;
  rings_probed_ = true;
  ring_status_ = file < 0 ? probe_ring_in_memory(calls()) : probe_ring(calls(), file, expected);
  if (!ring_status_ && options_.engine == ReadEngine::io_uring) {
    const Error& error = ring_status_.error();
    refuse(error.code, error.native, error.context);
  }
}

void StoreDirectory::check_options() {
  if (options_.directory.empty()) {
    throw Exception({Errc::invalid_argument, 0, "the store directory has no name"});
  }
  if (options_.op_bytes % kIoAlignment != 0 || options_.op_bytes > (std::size_t{1} << 30)) {
    refuse(Errc::invalid_argument, 0,
           "op_bytes is " + std::to_string(options_.op_bytes) +
               "; it must be a multiple of 4096, at most 1 GiB");
  }
  if (options_.threads == 0 || options_.threads > 1024) {
    refuse(Errc::invalid_argument, 0,
           "threads is " + std::to_string(options_.threads) + "; it must be between 1 and 1024");
  }
  check_bounds();
}

void StoreDirectory::check_bounds() {
  const auto share = [&](const ByteAmount& amount, const char* name) {
    if (amount.share >= 0 && amount.share <= 1) return;
    refuse(Errc::invalid_argument, 0,
           std::string(name) + ".share is " + std::to_string(amount.share) +
               "; it must be between 0 and 1");
  };
  share(options_.high_water, "high_water");
  share(options_.low_water, "low_water");
  share(options_.keep_free, "keep_free");
  const std::uint64_t capacity = options_.capacity_bytes;
  const std::uint64_t high = options_.high_water.of(capacity);
  const std::uint64_t low = options_.low_water.of(capacity);
  if (capacity != 0 && (high == 0 || high > capacity || low > high)) {
    refuse(Errc::invalid_argument, 0,
           "high_water is " + std::to_string(high) + " bytes and low_water " + std::to_string(low) +
               "; they must be above 0 and at most capacity_bytes (" + std::to_string(capacity) +
               "), and low_water at most high_water");
  }
}

void StoreDirectory::refuse(Errc code, int native, const std::string& why) const {
  throw Exception({code, native, named() + ": " + why});
}

void StoreDirectory::create() {
  // EEXIST: another process was faster, which is as good.
  if (calls().make_directory(AT_FDCWD, path_.c_str(), folder_mode()) == 0) {
    struct stat info {};
    if (calls().stat_at(AT_FDCWD, path_.c_str(), &info) == 0 && (info.st_mode & 0700) != 0700) {
      static_cast<void>(::chmod(path_.c_str(), 0700));  // a umask took the owner's own rights
    }
    return;
  }
  if (errno == EEXIST) return;
  const int number = errno;
  const auto parent = path_.parent_path();
  if (std::error_code ignored; !std::filesystem::exists(parent, ignored)) {
    refuse(Errc::not_found, number,
           "its parent does not exist; create it with: mkdir -p " + parent.string());
  }
  if (number == ENOSPC || number == EDQUOT) {
    refuse(Errc::out_of_memory, number, "the file system is full; free space or choose another");
  }
  if (number == EROFS) {
    refuse(Errc::io, number,
           "it does not exist and cannot be created on a read-only file system; name a store that "
           "is there, or another directory");
  }
  if (number == EACCES || number == EPERM) {
    refuse(Errc::io, number,
           "it cannot be created; make " + parent.string() +
               " writable for this user or choose another directory");
  }
  refuse(Errc::io, number,
         "it cannot be created: " + std::generic_category().message(number) + " " + remedy(number));
}

Error StoreDirectory::open_failure(int number) const {
  const auto error = [&](Errc code, const std::string& why) {
    return Error{code, number, named() + ": " + why};
  };
  struct stat info {};
  const bool there = calls().stat_at(AT_FDCWD, path_.c_str(), &info) == 0;
  if (there && S_ISLNK(info.st_mode)) {
    return error(Errc::io, "it is a symbolic link, which is not followed; name its target");
  }
  if (there && !S_ISDIR(info.st_mode)) {
    return error(Errc::io, "it is not a directory; remove the file or choose another name");
  }
  if (number == ENOTDIR) {
    return error(Errc::io, "a part of its path is not a directory; choose another path");
  }
  if (number == ENOENT) {
    return error(Errc::not_found, options_.read_only
                                      ? "it does not exist, and read_only creates nothing; name a "
                                        "store that is there"
                                      : "it does not exist");
  }
  if (number == EACCES && there && info.st_uid != ::geteuid()) {
    Error foreign = distrust(info, named() + " cannot be opened: it", path_.string());
    foreign.native = number;
    return foreign;
  }
  if (number == EACCES && there) {
    return error(Errc::io, "it cannot be opened; make it readable for this user: chmod 700 " +
                               path_.string());
  }
  if (number == EACCES) {
    return error(Errc::io,
                 "it cannot be opened: a folder above it may not be searched by this user (uid " +
                     std::to_string(::geteuid()) + "); run there: chmod a+x, or choose another");
  }
  return system_error(number, named() + ": it cannot be opened");
}

/// What to do on a mount that shows the same owner and mode for everything; empty: it does not.
std::string StoreDirectory::shown_alike(const Fd& root, const struct stat& info) const {
  const std::string name =
      ".tmp-folder-" + std::to_string(::getpid()) + "-" + std::to_string(std::random_device{}());
  struct stat fresh {};
  if (read_only_) return {};  // nothing may be made to find it out
  if (calls().make_directory(root.get(), name.c_str(), 0700) != 0) return {};
  const bool seen = calls().stat_at(root.get(), name.c_str(), &fresh) == 0;
  static_cast<void>(calls().unlink_at(root.get(), name.c_str(), AT_REMOVEDIR));
  if (!seen) return {};
  const std::string me = std::to_string(::geteuid());
  const std::string or_else =
      ", or, if all who can write there may be trusted, set trust_directory in PosixOptions";
  if (info.st_uid != ::geteuid() && fresh.st_uid == info.st_uid) {
    return "its file system shows uid " + std::to_string(info.st_uid) +
           " as the owner of everything, so that it looks like another user's and chown cannot "
           "help; mount it with the option uid=" +
           me + " (NFS with root_squash: run as another user than root)" + or_else;
  }
  if ((fresh.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return "its file system shows everything as writable by others, so that chmod cannot help; "
           "mount it with permissions for one user (CIFS: uid=" +
           me + ",file_mode=0600,dir_mode=0700; drvfs: metadata,umask=077; gcsfuse and others: " +
           "file-mode 600, dir-mode 700)" + or_else;
  }
  return {};
}

Result<Fd> StoreDirectory::open_root(struct stat& by_name) const {
  constexpr int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  Fd root(::open(path_.c_str(), flags));
  if (!root) return open_failure(errno);
  struct stat info {};
  if (::fstat(root.get(), &info) != 0 || calls().stat_at(AT_FDCWD, path_.c_str(), &by_name) != 0) {
    return system_error(errno, named() + ": it cannot be examined");
  }
  if (trusted(info)) return root;
  const std::string mount = shown_alike(root, info);
  if (!mount.empty()) return Error{Errc::io, EPERM, named() + ": " + mount};
  return distrust(info, named(), path_.string());
}

void StoreDirectory::refuse_publishing(const Error& error) const {
  if (error.native == ENOSPC || error.native == EDQUOT) {
    refuse(Errc::out_of_memory, error.native,
           "its file system is full; free space, choose another, or open it with read_only");
  }
  if (error.native == EACCES) {
    refuse(Errc::io, error.native,
           "it is not writable for this user (uid " + std::to_string(::geteuid()) +
               "); run: chmod 700 " + path_.string() +
               ", or choose another directory, or open it with read_only to serve what is there");
  }
  if (error.context.find("O_DIRECT") != std::string::npos) {
    refuse(error.code, error.native,
           "its file system refuses O_DIRECT; use DirectIo::automatic or another file system");
  }
  refuse(error.code, error.native, "no object can be stored in it: " + error.context);
}

void StoreDirectory::probe() {
  if (!within_file_limit(kIoAlignment)) {
    refuse(Errc::out_of_memory, EFBIG, "this process may not write files; raise ulimit -f");
  }
  probe_publishing();
  counters_.published = 0;
  counters_.published_bytes = 0;
  if (direct_ || options_.direct == DirectIo::off) return;
  if (options_.direct == DirectIo::on) {
    refuse(Errc::unsupported, EINVAL,
           "its file system refuses O_DIRECT; use DirectIo::automatic or another file system");
  }
}

/// Publishes an object under a random key, reads it back and erases it.
void StoreDirectory::probe_publishing() {
  const AlignedBuffer page(kIoAlignment);
  std::minstd_rand random(std::random_device{}());
  for (std::byte& b : page.bytes()) b = static_cast<std::byte>(random() >> 8);
  ChunkKey key;
  std::optional<Result<bool>> published;
  // A folder may be unusable although the others are good; it is told when it is used.
  for (int attempt = 0; attempt < 4; ++attempt) {
    for (std::byte& b : key.bytes) b = static_cast<std::byte>(random() >> 8);
    published.emplace(publish(*this, key, page.bytes()));
    const int number = *published ? 0 : published->error().native;
    if (number != EPERM && number != EACCES && number != ENOTDIR && number != ELOOP) break;
  }
  if (!*published) {
    if (published->error().native == EROFS) {
      read_only_ = true;
      return;
    }
    refuse_publishing(published->error());
  }
  try {
    read_back(key, page.bytes());
  } catch (const Exception&) {
    if (const auto folder = open_fan_out(fan_out_name(key), false); folder) {
      static_cast<void>(calls().unlink_at(folder->get(), file_name(key).c_str(), 0));
    }
    throw;
  }
}

void StoreDirectory::read_back(const ChunkKey& key, ConstBytes expected) {
  const std::string name = file_name(key);
  const auto folder = open_fan_out(fan_out_name(key), false);
  struct stat info {};
  if (!folder || calls().stat_at(folder->get(), name.c_str(), &info) != 0) {
    refuse(Errc::io, folder ? errno : folder.error().native,
           "an object that was stored in it cannot be found again");
  }
  if (!servable(info)) {
    const std::string mount = shown_alike(*folder, info);
    refuse(Errc::io, EPERM,
           !mount.empty() ? mount
                          : "files that are created in it with mode 0600 are shown otherwise; " +
                                distrust(info, name, path_.string()).context);
  }
  const AlignedBuffer page(kIoAlignment);
  bool direct = direct_;
  for (;;) {
    auto file = open_object(key, direct ? O_DIRECT : 0, info);
    int number = file ? 0 : file.error().native;
    if (file && direct && !takes_direct(file->get())) {
      number = EINVAL;
    } else if (file) {
      errno = EIO;  // for a short read, which sets nothing
      ssize_t n;
      do {
        n = calls().read_at(file->get(), page.data(), page.size(), 0);
      } while (n < 0 && errno == EINTR);
      number = n == static_cast<ssize_t>(page.size()) ? 0 : errno;
    }
    if (number == 0) {
      probe_rings(file->get(), expected);
      break;
    }
    if (!direct || (number != EINVAL && number != EOPNOTSUPP)) {
      refuse(Errc::io, number, "a file in it cannot be written and read back");
    }
    if (!give_up_direct()) {
      refuse(Errc::unsupported, EINVAL,
             "its file system refuses O_DIRECT; use DirectIo::automatic or another file system");
    }
    direct = false;
  }
  if (!std::equal(expected.begin(), expected.end(), page.data())) {
    refuse(Errc::io, 0, "other bytes are read from it than were written to it");
  }
  if (calls().unlink_at(folder->get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    refuse(Errc::io, errno, "an object that was stored in it cannot be erased");
  }
}

}  // namespace cake::inline CAKE_ABI::detail
