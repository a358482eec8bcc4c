// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "posix_directory.hpp"

#include <dirent.h>
#include <fcntl.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>

#include "cake/buffer.hpp"

namespace cake::detail {
namespace {

constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
// O_NONBLOCK so that a FIFO in the place of a file does not block; regular files ignore it.
constexpr int kReadFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

bool ours_alone(const struct stat& info) {
  return info.st_uid == ::geteuid() && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

std::optional<unsigned> hex_value(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  return std::nullopt;
}

/// The key whose file has this name.
std::optional<ChunkKey> key_of(const std::string& name) {
  ChunkKey key;
  if (name.size() != 2 * key.bytes.size() + 4 || !name.ends_with(".ckv")) return std::nullopt;
  for (std::size_t i = 0; i < key.bytes.size(); ++i) {
    const auto high = hex_value(name[2 * i]);
    const auto low = hex_value(name[2 * i + 1]);
    if (!high || !low) return std::nullopt;
    key.bytes[i] = static_cast<std::byte>(*high * 16 + *low);
  }
  return key;
}

/// "dir/" would make the system follow a link named dir.
std::filesystem::path without_trailing_slash(const std::filesystem::path& path) {
  auto text = path.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

}  // namespace

StoreDirectory::StoreDirectory(PosixOptions options) : options_(std::move(options)) {
  if (!options_.calls) options_.calls = std::make_shared<PosixCalls>();
  if (options_.directory.empty()) {
    throw Exception({Errc::invalid_argument, 0, "the store directory has no name"});
  }
  options_.directory = without_trailing_slash(options_.directory);
  if (options_.op_bytes == 0 || options_.op_bytes % kIoAlignment != 0 ||
      options_.op_bytes > (std::size_t{1} << 30)) {
    refuse(Errc::invalid_argument, 0, "op_bytes must be a multiple of 4096, at most 1 GiB");
  }
  if (options_.threads == 0 || options_.threads > 1024) {
    refuse(Errc::invalid_argument, 0, "threads must be between 1 and 1024");
  }
  unnamed_files_ = !options_.force_temporary_names;
  open_root();
  // Growing a process's table of descriptors can take the kernel 20 ms when there are threads: now,
  // and not in the middle of a prefill.
  const int high = ::fcntl(root(), F_DUPFD_CLOEXEC, 511);
  if (high >= 0) ::close(high);
  remove_leftovers(*this);
  probe();
}

void StoreDirectory::refuse(Errc code, int native, const std::string& why) const {
  throw Exception({code, native, "store directory " + options_.directory.string() + ": " + why});
}

void StoreDirectory::open_root() {
  const auto& path = options_.directory;
  const auto parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  root_ = Fd(::open(path.c_str(), kDirectoryFlags));
  if (!root_ && errno == ENOENT) {
    // EEXIST: another process was faster, which is as good.
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
      const int number = errno;
      if (std::error_code ignored; !std::filesystem::exists(parent, ignored)) {
        refuse(Errc::not_found, number,
               "its parent does not exist; create it with: mkdir -p " + parent.string());
      }
      if (number == ENOSPC || number == EDQUOT) {
        refuse(Errc::out_of_memory, number,
               "the file system is full; free space or choose another");
      }
      refuse(Errc::io, number,
             "it cannot be created; make " + parent.string() +
                 " writable for this user or choose another directory");
    }
    root_ = Fd(::open(path.c_str(), kDirectoryFlags));
  }
  if (!root_) {
    const int number = errno;
    struct stat info {};
    const bool there = ::lstat(path.c_str(), &info) == 0;
    if (there && S_ISLNK(info.st_mode)) {
      refuse(Errc::io, number, "it is a symbolic link, which is not followed; name its target");
    }
    if (there && !S_ISDIR(info.st_mode)) {
      refuse(Errc::io, number, "it is not a directory; remove the file or choose another name");
    }
    if (number == ENOTDIR) {
      refuse(Errc::io, number, "a part of its path is not a directory; choose another path");
    }
    refuse(Errc::io, number, "it cannot be opened; make it readable for this user (chmod 700)");
  }
  struct stat info {};
  if (::fstat(root_.get(), &info) != 0) refuse(Errc::io, errno, "it cannot be examined");
  if (info.st_uid != ::geteuid()) {
    refuse(Errc::io, EPERM,
           "it belongs to another user, who could put foreign KV into it; choose one of your own");
  }
  if (!ours_alone(info)) {
    refuse(
        Errc::io, EPERM,
        "others may write to it and could put foreign KV into it; run: chmod 700 " + path.string());
  }
}

void StoreDirectory::probe() {
  direct_ = options_.direct != DirectIo::off;
  const AlignedBuffer page(kIoAlignment);
  std::fill(page.bytes().begin(), page.bytes().end(), std::byte{0});

  if (!within_file_limit(page.size())) {
    refuse(Errc::out_of_memory, EFBIG, "this process may not write files; raise ulimit -f");
  }
  auto temporary = open_temporary(*this, root(), direct_);
  if (!temporary.file && errno == EINVAL && direct_) {
    direct_ = false;  // refused at open
    temporary = open_temporary(*this, root(), false);
  }
  if (!temporary.file) {
    const int number = errno;
    if (number == ENOSPC || number == EDQUOT) {
      refuse(Errc::out_of_memory, number, "its file system is full; free space or choose another");
    }
    refuse(Errc::io, number,
           "it is not writable for this user; run: chmod 700 " + options_.directory.string() +
               ", or choose another directory");
  }
  const int file = temporary.file.get();
  int number = 0;
  const auto attempt = [&] {
    const auto whole = [&](auto&& transfer) {
      errno = EIO;  // for a short transfer, which sets nothing
      ssize_t n;
      do {
        n = transfer();
      } while (n < 0 && errno == EINTR);
      return n == static_cast<ssize_t>(page.size());
    };
    const bool ok = whole([&] { return calls().write_at(file, page.data(), page.size(), 0); }) &&
                    whole([&] { return calls().read_at(file, page.data(), page.size(), 0); });
    number = ok ? 0 : errno;
    return ok;
  };
  if (!attempt() && direct_ && (number == EINVAL || number == EOPNOTSUPP)) {
    direct_ = false;  // taken at open and refused at use
    ::fcntl(file, F_SETFL, ::fcntl(file, F_GETFL) & ~O_DIRECT);
    attempt();
  }
  if (!temporary.name.empty()) ::unlinkat(root(), temporary.name.c_str(), 0);
  if (number == ENOSPC || number == EDQUOT || number == EFBIG) {
    refuse(Errc::out_of_memory, number, "its file system is full; free space or choose another");
  }
  if (number != 0) refuse(Errc::io, number, "a file in it cannot be written and read back");
  if (!direct_ && options_.direct != DirectIo::off) {
    ++counters_.direct_refusals;
    if (options_.direct == DirectIo::on) {
      refuse(Errc::unsupported, EINVAL,
             "its file system refuses O_DIRECT; use DirectIo::automatic or another file system");
    }
  }
}

bool StoreDirectory::give_up_direct() {
  ++counters_.direct_refusals;
  if (options_.direct == DirectIo::on) return false;
  direct_ = false;
  return true;
}

bool StoreDirectory::servable(const struct stat& info) {
  return S_ISREG(info.st_mode) && ours_alone(info) && info.st_size > 0 &&
         info.st_size % static_cast<off_t>(kIoAlignment) == 0;
}

Result<Fd> StoreDirectory::open_fan_out(const std::string& name, bool create) {
  Fd directory(calls().open_at(root(), name.c_str(), kDirectoryFlags, 0));
  if (!directory && errno == ENOENT && create) {
    if (::mkdirat(root(), name.c_str(), 0700) != 0 && errno != EEXIST) {
      return write_error(errno, "cannot create " + name + " in the store directory");
    }
    if (options_.durable && calls().sync(root()) != 0) {
      const int number = errno;
      ::unlinkat(root(), name.c_str(), AT_REMOVEDIR);
      return write_error(number, "cannot sync the store directory");
    }
    directory = Fd(calls().open_at(root(), name.c_str(), kDirectoryFlags, 0));
  }
  if (!directory) return errno_error(errno, "cannot open " + name + " in the store directory");
  struct stat info {};
  if (::fstat(directory.get(), &info) != 0) return errno_error(errno, "cannot examine " + name);
  if (!ours_alone(info)) {
    return Error{Errc::io, EPERM, name + " in the store directory is writable by other users"};
  }
  return directory;
}

int StoreDirectory::open_object_file(const std::string& fan_out, const std::string& name,
                                     int flags) {
  if (openat2_) {
    const std::string path = fan_out + "/" + name;
    const int file = calls().open_beneath(root(), path.c_str(), flags);
    if (file >= 0) return file;
    if (errno == ENOSYS || errno == EPERM) {
      openat2_ = false;  // an old kernel, or a container's seccomp filter
    } else if (errno != EAGAIN) {
      return -1;
    }
  }
  // The same in two steps. Both names are hexadecimal, so they lead nowhere else.
  const Fd directory(calls().open_at(root(), fan_out.c_str(), kDirectoryFlags, 0));
  if (!directory) return -1;
  return calls().open_at(directory.get(), name.c_str(), flags, 0);
}

Result<Fd> StoreDirectory::open_object(const ChunkKey& key, int extra_flags, struct stat& info) {
  const std::string name = file_name(key);
  Fd file(open_object_file(name.substr(0, 2), name, kReadFlags | extra_flags));
  if (!file) {
    const int number = errno;
    // What lies there is a link or in the way of one: not an object.
    if (number == ELOOP || number == ENOTDIR || number == EXDEV || number == ENXIO) {
      return Error{Errc::not_found, number, "no object file " + name};
    }
    return errno_error(number, "cannot open " + name);
  }
  if (::fstat(file.get(), &info) != 0) return errno_error(errno, "cannot examine " + name);
  if (!S_ISREG(info.st_mode)) return Error{Errc::not_found, 0, name + " is not a regular file"};
  if (!ours_alone(info)) {
    return Error{Errc::io, EPERM, name + " belongs to or is writable by other users"};
  }
  return file;
}

void StoreDirectory::for_each_object(
    const std::function<void(int, const ChunkKey&, const struct stat&)>& f) {
  static constexpr char digits[] = "0123456789abcdef";
  for (unsigned i = 0; i < 256; ++i) {
    const std::string name{digits[i / 16], digits[i % 16]};
    auto fan_out = open_fan_out(name, false);
    if (!fan_out) continue;
    const int directory = ::dup(fan_out->get());
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(directory), &::closedir);
    if (!entries) {
      if (directory >= 0) ::close(directory);
      continue;
    }
    // NOLINTNEXTLINE(concurrency-mt-unsafe): each stream is this call's own
    while (const dirent* entry = ::readdir(entries.get())) {
      const std::string entry_name = entry->d_name;
      const auto key = key_of(entry_name);
      if (!key || !entry_name.starts_with(name)) continue;
      struct stat info {};
      if (::fstatat(fan_out->get(), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0) {
        f(fan_out->get(), *key, info);
      }
    }
  }
}

}  // namespace cake::detail
