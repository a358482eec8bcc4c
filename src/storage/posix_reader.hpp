// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reading for PosixStorage: threads that pread, and the files that they keep open.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "posix_directory.hpp"

namespace cake::detail {

/// One call of PosixStorage::read, shared by the completion and the operations it was split into.
struct PendingRead {
  ChunkKey key;
  std::uint64_t offset = 0;
  MutableBytes out;

  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Status status;               // the first failure
  std::size_t operations = 1;  // not yet over
  std::atomic<bool> failed{false};

  /// One operation is over. The last one makes the read ready.
  void finish(Status outcome);
};

/// A file that is open for reading; lives as long as somebody reads from it.
struct OpenFile {
  Fd fd;
  std::uint64_t size = 0;
  std::atomic<bool> direct{false};
};

/// Eviction goes by the time of the last read, so readers note it.
void mark_used(int file, const struct stat& info);

/// Keeps the files read last open, for the next slice of the same chunk. A file that was unlinked
/// or replaced since is noticed, and one that is not used for a few seconds is closed, so that a
/// cache does not keep the space of evicted objects.
///
/// Thread:  any number of threads at once
class FileCache {
 public:
  explicit FileCache(StoreDirectory& store) : store_(store) {}
  Result<std::shared_ptr<OpenFile>> get(const ChunkKey& key);
  void drop(const ChunkKey& key);
  /// Closes what was not used lately. True: some files are still open.
  bool expire();

 private:
  static constexpr std::size_t kMostFiles = 32;
  static constexpr std::chrono::seconds kIdle{2};
  struct Entry {
    ChunkKey key;
    std::shared_ptr<OpenFile> file;
    std::chrono::steady_clock::time_point used;
  };
  Result<std::shared_ptr<OpenFile>> open(const ChunkKey& key);
  void clear();

  StoreDirectory& store_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the one used last first
  std::unordered_map<ChunkKey, std::list<Entry>::iterator> index_;
};

/// Threads that carry out reads in the order of the calls, each read split into operations of
/// op_bytes so that a single read keeps all threads busy.
///
/// Thread:  any number of threads at once
class ReadPool {
 public:
  explicit ReadPool(StoreDirectory& store);
  /// Carries out what was submitted first.
  ~ReadPool();
  void submit(std::shared_ptr<PendingRead> read);
  void forget(const ChunkKey& key) { files_.drop(key); }

 private:
  struct Operation {
    std::shared_ptr<PendingRead> read;
    std::shared_ptr<OpenFile> file;  // null: the file is to be opened and the read to be split
    std::uint64_t offset = 0;
    MutableBytes out;
  };
  void work();
  void stop();
  void begin(const Operation& operation);
  Status carry_out(OpenFile& file, std::uint64_t offset, MutableBytes out);

  StoreDirectory& store_;
  FileCache files_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Operation> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace cake::detail
