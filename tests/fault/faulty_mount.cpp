// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A FUSE file system that hands everything on to a directory, and fails as it is told:
//
//     faulty_mount BASE FAULTS MOUNTPOINT      (FAULTS: a file that holds MountFaults)
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <fcntl.h>
#include <fuse.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "mount_faults.hpp"

namespace {

int g_base = -1;
cake::fault::MountFaults* g_faults = nullptr;

const char* below(const char* path) { return path[1] == '\0' ? "." : path + 1; }
int file_of(const fuse_file_info* info) { return static_cast<int>(info->fh); }
int answer(int result) { return result == 0 ? 0 : -errno; }
int told(const std::atomic<int>& fault) { return -fault.load(); }

void hang(const std::atomic<int>& fault, const char* path) {
  if (fault == 0 || std::strstr(path, g_faults->only) == nullptr) return;
  ++g_faults->hanging;
  while (fault != 0) ::usleep(2000);
  --g_faults->hanging;
}

int get_attributes(const char* path, struct stat* info, fuse_file_info* open) {
  hang(g_faults->hang_look, path);
  const int result = open != nullptr ? ::fstat(file_of(open), info)
                                     : ::fstatat(g_base, below(path), info, AT_SYMLINK_NOFOLLOW);
  if (result != 0) return -errno;
  info->st_mode |= static_cast<mode_t>(g_faults->shown_mode.load());
  if (const int owner = g_faults->shown_owner; owner != 0) {
    info->st_uid = static_cast<uid_t>(owner - 1);
  }
  return 0;
}

int read_folder(const char* path, void* to, fuse_fill_dir_t add, off_t, fuse_file_info*,
                fuse_readdir_flags) {
  const int folder = ::openat(g_base, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const entries = folder < 0 ? nullptr : ::fdopendir(folder);
  if (entries == nullptr) return -errno;
  while (const dirent* entry = ::readdir(entries)) {
    add(to, entry->d_name, nullptr, 0, static_cast<fuse_fill_dir_flags>(0));
  }
  ::closedir(entries);
  return 0;
}

int open_or_create(const char* path, mode_t mode, int extra, fuse_file_info* info) {
  hang(g_faults->hang_open, path);
  if (g_faults->open_error != 0) return told(g_faults->open_error);
  const bool changes = (info->flags & O_ACCMODE) != O_RDONLY || extra != 0;
  if (changes && g_faults->change_error != 0) return told(g_faults->change_error);
  if ((info->flags & O_DIRECT) != 0 && g_faults->direct_open_error != 0) {
    return told(g_faults->direct_open_error);
  }
  const int file = ::openat(g_base, below(path), (info->flags & ~O_DIRECT) | extra, mode);
  if (file < 0) return -errno;
  info->fh = static_cast<std::uint64_t>(file);
  return 0;
}
int open_file(const char* path, fuse_file_info* info) { return open_or_create(path, 0, 0, info); }
int create_file(const char* path, mode_t mode, fuse_file_info* info) {
  return open_or_create(path, mode, O_CREAT, info);
}
int close_file(const char*, fuse_file_info* info) { return answer(::close(file_of(info))); }

int read_file(const char* path, char* to, std::size_t size, off_t offset, fuse_file_info* info) {
  hang(g_faults->hang_read, path);
  const ssize_t n = ::pread(file_of(info), to, size, offset);
  return n < 0 ? -errno : static_cast<int>(n);
}
int write_file(const char*, const char* from, std::size_t size, off_t offset,
               fuse_file_info* info) {
  if (g_faults->write_error != 0) return told(g_faults->write_error);
  const ssize_t n = ::pwrite(file_of(info), from, size, offset);
  return n < 0 ? -errno : static_cast<int>(n);
}

int link_file(const char* from, const char* to) {
  if (g_faults->link_error != 0) return told(g_faults->link_error);
  return answer(::linkat(g_base, below(from), g_base, below(to), 0));
}
/// Whether FUSE itself gives a file this name: what is unlinked while its close is still on the way.
bool hidden(const char* path) { return std::strstr(path, "/.fuse_hidden") != nullptr; }

int rename_file(const char* from, const char* to, unsigned flags) {
  // That is no call of the store: were it refused, the file would stay, as it does nowhere.
  if (hidden(to)) return answer(::renameat2(g_base, below(from), g_base, below(to), flags));
  if (g_faults->change_error != 0) return told(g_faults->change_error);
  if (g_faults->rename_error != 0) return told(g_faults->rename_error);
  if (flags != 0 && g_faults->rename_flags_error != 0) return told(g_faults->rename_flags_error);
  return answer(::renameat2(g_base, below(from), g_base, below(to), flags));
}
int remove_file(const char* path) {
  if (g_faults->change_error != 0) return told(g_faults->change_error);
  return answer(::unlinkat(g_base, below(path), 0));
}
int make_folder(const char* path, mode_t mode) {
  if (g_faults->change_error != 0) return told(g_faults->change_error);
  return answer(::mkdirat(g_base, below(path), mode));
}
int remove_folder(const char* path) {
  return answer(::unlinkat(g_base, below(path), AT_REMOVEDIR));
}
int change_mode(const char* path, mode_t mode, fuse_file_info*) {
  return answer(::fchmodat(g_base, below(path), mode, 0));
}
int set_times(const char* path, const timespec times[2], fuse_file_info*) {
  return answer(::utimensat(g_base, below(path), times, AT_SYMLINK_NOFOLLOW));
}
int sync_file(const char*, int, fuse_file_info* info) {
  if (g_faults->sync_error != 0) return told(g_faults->sync_error);
  return answer(::fsync(file_of(info)));
}
int sync_folder(const char*, int, fuse_file_info*) { return told(g_faults->sync_folder_error); }
int allocate_file(const char*, int mode, off_t offset, off_t size, fuse_file_info* info) {
  if (g_faults->allocate_error != 0) return told(g_faults->allocate_error);
  return answer(::fallocate(file_of(info), mode, offset, size));
}
int lock_file(const char*, fuse_file_info* info, int operation) {
  if (g_faults->lock_error != 0) return told(g_faults->lock_error);
  return answer(::flock(file_of(info), operation));
}
int about_file_system(const char*, struct statvfs* info) {
  return answer(::fstatvfs(g_base, info));
}

void* begin(fuse_conn_info*, fuse_config* config) {
  config->use_ino = 1;
  config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
  return nullptr;
}

fuse_operations operations() {
  fuse_operations table{};
  table.getattr = get_attributes;
  table.readdir = read_folder;
  table.open = open_file;
  table.create = create_file;
  table.release = close_file;
  table.read = read_file;
  table.write = write_file;
  table.link = link_file;
  table.rename = rename_file;
  table.unlink = remove_file;
  table.mkdir = make_folder;
  table.rmdir = remove_folder;
  table.chmod = change_mode;
  table.utimens = set_times;
  table.fsync = sync_file;
  table.fsyncdir = sync_folder;
  table.fallocate = allocate_file;
  table.flock = lock_file;
  table.statfs = about_file_system;
  table.init = begin;
  return table;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: faulty_mount BASE FAULTS MOUNTPOINT\n");
    return 2;
  }
  ::umask(0);
  g_base = ::open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int shared = ::open(argv[2], O_RDWR | O_CLOEXEC);
  void* const faults = ::mmap(nullptr, sizeof(cake::fault::MountFaults), PROT_READ | PROT_WRITE,
                              MAP_SHARED, shared, 0);
  if (g_base < 0 || faults == MAP_FAILED) {
    std::perror("faulty_mount");
    return 1;
  }
  g_faults = static_cast<cake::fault::MountFaults*>(faults);
  std::string name = argv[0], foreground = "-f", mount = argv[3];
  char* arguments[] = {name.data(), foreground.data(), mount.data(), nullptr};
  const fuse_operations table = operations();
  return fuse_main(3, arguments, &table, nullptr);
}
