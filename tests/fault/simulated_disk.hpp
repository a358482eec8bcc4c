// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A disk that keeps apart what was written and what was synced. All that a store does to a directory is
// recorded; what a power cut after any of it may leave is written into another directory: all that was
// synced, and of the rest any blocks, sizes and names.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "src/storage/posix/calls.hpp"

namespace cake::inline CAKE_ABI::fault {

using FileNumber = std::uint64_t;  // of a file or folder; 0: none

/// What a disk holds for sure, and what it may hold.
///
/// Thread:  Requires external synchronization
class DiskState {
 public:
  struct Write {
    std::uint64_t offset = 0;
    std::vector<char> bytes;  // none: the file only becomes as long as `offset`
  };
  struct File {
    std::vector<char> synced;
    std::vector<Write> unsynced;
  };
  struct Name {
    std::string name;
    FileNumber file = 0;
  };
  struct Folder {
    std::map<std::string, FileNumber> synced;
    std::vector<Name> unsynced;
  };

  std::map<FileNumber, File> files;
  std::map<FileNumber, Folder> folders;

  void sync_file(File& file) {
    for (const Write& write : file.unsynced) apply(file.synced, write, 0, write.bytes.size());
    file.unsynced.clear();
  }
  void sync_folder(Folder& folder) {
    for (const Name& name : folder.unsynced) apply(folder.synced, name);
    folder.unsynced.clear();
  }

  /// Writes what may be left of the folder `number` into the empty directory `to`. Each unsynced block,
  /// size and name is kept with probability `kept`.
  void leave(FileNumber number, const std::filesystem::path& to, double kept,
             std::mt19937& random) const {
    std::bernoulli_distribution keep(kept);
    const Folder& folder = folders.at(number);
    auto names = folder.synced;
    for (const Name& name : folder.unsynced) {
      if (keep(random)) apply(names, name);
    }
    for (const auto& [name, inside] : names) {
      const auto path = to / name;
      if (folders.contains(inside)) {
        std::filesystem::create_directory(path);
        std::filesystem::permissions(path, std::filesystem::perms::owner_all);
        leave(inside, path, kept, random);
        continue;
      }
      const std::vector<char> bytes = left_of(files.at(inside), keep, random);
      std::ofstream(path, std::ios::binary)
          .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      std::filesystem::permissions(
          path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    }
  }

 private:
  static void apply(std::vector<char>& to, const Write& write, std::size_t from, std::size_t size) {
    to.resize(std::max<std::size_t>(to.size(), write.offset + from + size));
    std::copy_n(write.bytes.data() + from, size, to.data() + write.offset + from);
  }
  static void apply(std::map<std::string, FileNumber>& to, const Name& name) {
    to.erase(name.name);
    if (name.file != 0) to.emplace(name.name, name.file);
  }
  static std::vector<char> left_of(const File& file, std::bernoulli_distribution& keep,
                                   std::mt19937& random) {
    std::vector<char> bytes = file.synced;
    std::size_t size = bytes.size();
    const std::size_t block = random() % 2 == 0 ? 4096 : 512;
    for (const Write& write : file.unsynced) {
      for (std::size_t at = 0; at < write.bytes.size(); at += block) {
        if (keep(random)) apply(bytes, write, at, std::min(block, write.bytes.size() - at));
      }
      if (keep(random)) size = std::max<std::size_t>(size, write.offset + write.bytes.size());
    }
    bytes.resize(size);  // what was lost reads as zeros
    return bytes;
  }
};

/// The calls of a store, carried out in a directory and recorded.
///
/// Thread:  Safe for concurrent use
class RecordedCalls final : public detail::PosixCalls {
 public:
  /// What is beneath `base` now counts as synced.
  explicit RecordedCalls(const std::filesystem::path& base) { base_ = adopt(base); }
  RecordedCalls(const RecordedCalls&) = delete;
  RecordedCalls& operator=(const RecordedCalls&) = delete;
  ~RecordedCalls() override {
    for (const auto& [number, file] : kept_open_) ::close(file);
  }

  /// How much was recorded so far: a power cut may come after each of it.
  std::size_t recorded() {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }
  /// Goes through all cuts: calls `cut(after, state, base)` with the state after that many events.
  template <class Cut>
  void for_each_cut(const Cut& cut) const {
    DiskState state = begin_;
    for (std::size_t i = 0;; ++i) {
      cut(i, state, base_);
      if (i == events_.size()) return;
      happen(state, events_[i]);
    }
  }

  int open_at(int directory, const char* name, int flags, mode_t mode) override {
    const std::lock_guard lock(mutex_);
    const int file = PosixCalls::open_at(directory, name, flags, mode);
    const bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
    if (file < 0 || (!unnamed && (flags & O_CREAT) == 0)) return file;
    const FileNumber number = keep(::dup(file));
    record({.kind = Kind::file, .file = number});
    if (!unnamed) record_name(directory, name, number);
    return file;
  }
  ssize_t write_at(int file, const void* bytes, std::size_t size, off_t offset) override {
    const std::lock_guard lock(mutex_);
    const ssize_t n = PosixCalls::write_at(file, bytes, size, offset);
    if (n <= 0) return n;
    const auto* const from = static_cast<const char*>(bytes);
    record({.kind = Kind::write,
            .file = number_of(file),
            .write = {static_cast<std::uint64_t>(offset), {from, from + n}}});
    return n;
  }
  int allocate(int file, off_t size) override {
    const std::lock_guard lock(mutex_);
    const int result = PosixCalls::allocate(file, size);
    if (result == 0) {
      record({.kind = Kind::write,
              .file = number_of(file),
              .write = {static_cast<std::uint64_t>(size), {}}});
    }
    return result;
  }
  int sync(int file) override {
    const std::lock_guard lock(mutex_);
    const int result = PosixCalls::sync(file);
    if (result == 0) record({.kind = Kind::sync, .file = number_of(file)});
    return result;
  }
  int link_at(int from, const char* old_name, int to, const char* name, int flags) override {
    const std::lock_guard lock(mutex_);
    struct stat info {};
    const bool follow = (flags & AT_SYMLINK_FOLLOW) != 0;
    ::fstatat(from, old_name, &info, follow ? 0 : AT_SYMLINK_NOFOLLOW);
    const int result = PosixCalls::link_at(from, old_name, to, name, flags);
    if (result == 0) record_name(to, name, info.st_ino);
    return result;
  }
  int rename_new(int from, const char* old_name, int to, const char* name) override {
    return renamed(from, old_name, to, name,
                   [&] { return PosixCalls::rename_new(from, old_name, to, name); });
  }
  int rename_over(int from, const char* old_name, int to, const char* name) override {
    return renamed(from, old_name, to, name,
                   [&] { return PosixCalls::rename_over(from, old_name, to, name); });
  }
  int make_directory(int directory, const char* name, mode_t mode) override {
    const std::lock_guard lock(mutex_);
    const int result = PosixCalls::make_directory(directory, name, mode);
    if (result != 0) return result;
    const FileNumber number = keep(::openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    record({.kind = Kind::folder, .file = number});
    record_name(directory, name, number);
    return 0;
  }
  int unlink_at(int directory, const char* name, int flags) override {
    const std::lock_guard lock(mutex_);
    const int result = PosixCalls::unlink_at(directory, name, flags);
    if (result == 0) record_name(directory, name, 0);
    return result;
  }

 private:
  enum class Kind : std::uint8_t { file, folder, write, name, sync };
  struct Event {
    Kind kind = Kind::file;
    FileNumber file = 0;  // of `name`: the folder
    DiskState::Write write = {};
    DiskState::Name name = {};
  };

  static void happen(DiskState& state, const Event& event) {
    switch (event.kind) {
      case Kind::file:
        state.files.emplace(event.file, DiskState::File{});
        break;
      case Kind::folder:
        state.folders.emplace(event.file, DiskState::Folder{});
        break;
      case Kind::write:
        state.files.at(event.file).unsynced.push_back(event.write);
        break;
      case Kind::name:
        state.folders.at(event.file).unsynced.push_back(event.name);
        break;
      case Kind::sync:
        if (const auto file = state.files.find(event.file); file != state.files.end()) {
          state.sync_file(file->second);
        } else {
          state.sync_folder(state.folders.at(event.file));
        }
        break;
    }
  }

  /// Its number is nobody else's as long as it is open.
  FileNumber keep(int file) {
    const FileNumber number = number_of(file);
    if (!kept_open_.emplace(number, file).second) ::close(file);
    return number;
  }
  static FileNumber number_of(int file) {
    struct stat info {};
    if (::fstat(file, &info) != 0) throw std::runtime_error("fstat");
    return info.st_ino;
  }
  /// The folder that a relative or absolute name lies in, and its name there.
  std::pair<FileNumber, std::string> place(int directory, const char* name) {
    const std::filesystem::path path(name);
    if (directory != AT_FDCWD) return {number_of(directory), name};
    const int folder = ::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const FileNumber number = keep(folder);
    return {number, path.filename().string()};
  }
  void record(Event event) { events_.push_back(std::move(event)); }
  void record_name(int directory, const char* name, FileNumber file) {
    const auto [folder, last] = place(directory, name);
    record({.kind = Kind::name, .file = folder, .name = {last, file}});
  }
  /// The old name may go later than the new one comes, if they lie in two folders.
  template <class Rename>
  int renamed(int from, const char* old_name, int to, const char* name, const Rename& rename) {
    const std::lock_guard lock(mutex_);
    struct stat info {};
    ::fstatat(from, old_name, &info, AT_SYMLINK_NOFOLLOW);
    const int result = rename();
    if (result != 0) return result;
    record_name(to, name, info.st_ino);
    record_name(from, old_name, 0);
    return 0;
  }
  FileNumber adopt(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw std::runtime_error("cannot open " + path.string());
    const FileNumber number = keep(file);
    if (!std::filesystem::is_directory(path)) {
      std::ifstream in(path, std::ios::binary);
      begin_.files[number].synced.assign(std::istreambuf_iterator<char>(in), {});
      return number;
    }
    begin_.folders[number];
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const FileNumber inside = adopt(entry.path());
      begin_.folders[number].synced.emplace(entry.path().filename().string(), inside);
    }
    return number;
  }

  std::mutex mutex_;
  FileNumber base_ = 0;
  DiskState begin_;
  std::vector<Event> events_;
  std::map<FileNumber, int> kept_open_;
};

}  // namespace cake::inline CAKE_ABI::fault
