// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "calls.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <ctime>

namespace cake::inline CAKE_ABI::detail {

int PosixCalls::open_at(int directory, const char* name, int flags, mode_t mode) {
  return ::openat(directory, name, flags, mode);
}

int PosixCalls::open_beneath(int directory, const char* path, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return static_cast<int>(::syscall(SYS_openat2, directory, path, &how, sizeof how));
}

ssize_t PosixCalls::read_at(int file, void* out, std::size_t size, off_t offset) {
  return ::pread(file, out, size, offset);
}

ssize_t PosixCalls::write_at(int file, const void* bytes, std::size_t size, off_t offset) {
  return ::pwrite(file, bytes, size, offset);
}

int PosixCalls::allocate(int file, off_t size) { return ::fallocate(file, 0, 0, size); }

int PosixCalls::sync(int file) { return ::fsync(file); }

int PosixCalls::link_at(int from, const char* old_name, int to, const char* new_name, int flags) {
  return ::linkat(from, old_name, to, new_name, flags);
}

int PosixCalls::rename_new(int from, const char* old_name, int to, const char* new_name) {
  return ::renameat2(from, old_name, to, new_name, RENAME_NOREPLACE);
}

int PosixCalls::rename_over(int from, const char* old_name, int to, const char* new_name) {
  return ::renameat(from, old_name, to, new_name);
}

int PosixCalls::stat_at(int directory, const char* name, struct stat* info) {
  return ::fstatat(directory, name, info, AT_SYMLINK_NOFOLLOW);
}

int PosixCalls::make_directory(int directory, const char* name, mode_t mode) {
  return ::mkdirat(directory, name, mode);
}

int PosixCalls::unlink_at(int directory, const char* name, int flags) {
  return ::unlinkat(directory, name, flags);
}

int PosixCalls::lock(int file, int operation) { return ::flock(file, operation); }

int PosixCalls::set_times(int directory, const char* name, std::int64_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  return ::utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW);
}

std::optional<FileSystemSpace> PosixCalls::space(int directory) {
  struct statvfs of {};
  if (::fstatvfs(directory, &of) != 0) return std::nullopt;
  return FileSystemSpace{of.f_blocks * of.f_frsize, of.f_bavail * of.f_frsize};
}

std::int64_t PosixCalls::now() { return ::time(nullptr); }

std::int64_t PosixCalls::seconds_running() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec;
}

std::unique_ptr<Ring> PosixCalls::make_ring(unsigned entries) { return open_ring(entries); }

std::optional<DirectAlignment> PosixCalls::direct_alignment([[maybe_unused]] int file) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (::statx(file, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    return DirectAlignment{info.stx_dio_mem_align, info.stx_dio_offset_align};
  }
#endif
  return std::nullopt;
}

}  // namespace cake::inline CAKE_ABI::detail
