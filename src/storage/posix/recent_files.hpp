// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Files that were read lately, kept open for the next slice of the same chunk.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "directory.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Eviction goes by the time of the last read, so readers note it. Few file systems keep it exactly
/// (relatime, noatime), so it is set by hand, but not for every slice. True: it is the first read since
/// the object was published, and noted.
inline bool mark_used(int file, const struct stat& info) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const bool first = !was_read(info);
  if (!first && now.tv_sec - info.st_atim.tv_sec < 30) return false;
  // Exactly, since the system's own stamps may be those of the publication; others than the owner may
  // only set what the system has.
  const timespec exactly[2] = {now, {0, UTIME_OMIT}};
  const timespec about[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  return (::futimens(file, exactly) == 0 || ::futimens(file, about) == 0) && first;
}

/// The files of up to 128 chunks, the one used last first. One that is no longer what its name leads
/// to is noticed, and sweep() lets go of those that nobody used for a while, so that a cache does
/// not keep the space of evicted objects. Files are released without the lock.
///
/// Needs:   File has `int number() const`, its descriptor, and `bool current(struct stat&) const`,
///          which looks whether it is still the stored object
/// Thread:  Safe for concurrent use
template <class File>
class RecentFiles {
 public:
  using Opened = Result<std::shared_ptr<File>>;

  /// `note_use`: a read is a use of the file.
  explicit RecentFiles(bool note_use = true) : note_use_(note_use) {}

  /// The file of `key`; `open()` gives it when there is none, or none that is current.
  template <class Open>
  Opened get(const ChunkKey& key, Open&& open) {
    if (auto file = find(key)) {
      struct stat info {};
      if (file->current(info)) {
        if (note_use_) mark_used(file->number(), info);
        return file;
      }
      drop(key);
    }
    Opened opened = open();
    if (!opened && (opened.error().native == EMFILE || opened.error().native == ENFILE)) {
      clear();
      opened = open();
    }
    if (opened) {
      try {
        add(key, *opened);
      } catch (const std::bad_alloc&) {  // then it is opened again for the next read
      }
    }
    return opened;
  }

  void drop(const ChunkKey& key) {
    List gone;
    const std::lock_guard lock(mutex_);
    const auto it = index_.find(key);
    if (it != index_.end()) take_out(it->second, gone);
  }

  /// Drops what was not used for two seconds, and what `gone(file)` names. True: some are left.
  template <class Gone>
  bool sweep(Gone&& gone) {
    const auto limit = Clock::now() - kIdle;
    List swept;
    const std::lock_guard lock(mutex_);
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto entry = it++;
      if (entry->used <= limit || gone(*entry->file)) take_out(entry, swept);
    }
    return !entries_.empty();
  }
  bool sweep() {
    return sweep([](const File&) { return false; });
  }

  void clear() {
    List gone;
    const std::lock_guard lock(mutex_);
    index_.clear();
    gone.swap(entries_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kMostFiles = 128;
  static constexpr std::chrono::seconds kIdle{2};
  struct Entry {
    ChunkKey key;
    std::shared_ptr<File> file;
    Clock::time_point used;
  };
  using List = std::list<Entry>;

  std::shared_ptr<File> find(const ChunkKey& key) {
    const std::lock_guard lock(mutex_);
    const auto it = index_.find(key);
    if (it == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, it->second);
    it->second->used = Clock::now();
    return it->second->file;
  }

  void add(const ChunkKey& key, const std::shared_ptr<File>& file) {
    List oldest, newest;
    newest.push_front({key, file, Clock::now()});
    const std::lock_guard lock(mutex_);
    if (!index_.try_emplace(key, newest.begin()).second) return;  // another thread was faster
    entries_.splice(entries_.begin(), newest);
    if (entries_.size() > kMostFiles) take_out(std::prev(entries_.end()), oldest);
  }

  void take_out(typename List::iterator entry, List& to) {
    index_.erase(entry->key);
    to.splice(to.end(), entries_, entry);
  }

  const bool note_use_;
  std::mutex mutex_;
  List entries_;
  std::unordered_map<ChunkKey, typename List::iterator> index_;
};

}  // namespace cake::inline CAKE_ABI::detail
