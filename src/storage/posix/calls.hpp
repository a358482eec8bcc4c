// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The system calls of PosixStorage that can fail in interesting ways, so that tests can make them.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "cake/version.hpp"
#include "ring.hpp"

namespace cake::inline CAKE_ABI::detail {

/// What statx(2) says of O_DIRECT. Units: bytes.
struct DirectAlignment {
  unsigned memory = 0;
  unsigned offset = 0;
};

/// What statvfs(3) says. Units: bytes.
struct FileSystemSpace {
  std::uint64_t size = 0;
  std::uint64_t free = 0;  // for this user
};

/// Each does what its name says and nothing else: no retry, no check. Results and errno as the
/// system's.
///
/// Thread:  Safe for concurrent use
class PosixCalls {
 public:
  virtual ~PosixCalls() = default;
  /// openat(2).
  virtual int open_at(int directory, const char* name, int flags, mode_t mode);
  /// openat2(2) that stays beneath `directory` and follows no symbolic link.
  virtual int open_beneath(int directory, const char* path, int flags);
  virtual ssize_t read_at(int file, void* out, std::size_t size, off_t offset);
  virtual ssize_t write_at(int file, const void* bytes, std::size_t size, off_t offset);
  virtual int allocate(int file, off_t size);
  virtual int sync(int file);
  virtual int link_at(int from, const char* old_name, int to, const char* new_name, int flags);
  /// renameat2(2) that replaces nothing.
  virtual int rename_new(int from, const char* old_name, int to, const char* new_name);
  /// renameat(2), which replaces what is there.
  virtual int rename_over(int from, const char* old_name, int to, const char* new_name);
  /// fstatat(2) that does not follow a symbolic link.
  virtual int stat_at(int directory, const char* name, struct stat* info);
  virtual int make_directory(int directory, const char* name, mode_t mode);
  virtual int unlink_at(int directory, const char* name, int flags);
  /// flock(2).
  virtual int lock(int file, int operation);
  /// utimensat(2) of what is no symbolic link: both times are set. Units: seconds since 1970.
  virtual int set_times(int directory, const char* name, std::int64_t seconds);
  /// fstatvfs(3). Empty: errno says why.
  virtual std::optional<FileSystemSpace> space(int directory);
  /// The system's clock. Units: seconds since 1970.
  virtual std::int64_t now();
  /// Since the machine was started; never set. Units: seconds.
  virtual std::int64_t seconds_running();
  /// io_uring_setup(2), for the calling thread. Null: errno says why.
  virtual std::unique_ptr<Ring> make_ring(unsigned entries);
  /// To what offset, size and address of a direct read must be aligned, as statx(2) says; 0: the
  /// file takes none. Empty: it does not say.
  virtual std::optional<DirectAlignment> direct_alignment(int file);
};

}  // namespace cake::inline CAKE_ABI::detail
