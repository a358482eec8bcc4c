// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reading for PosixStorage: threads that pread, and the files that they keep open.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cake/detail/process.hpp"
#include "cake/storage_backend.hpp"
#include "directory.hpp"
#include "recent_files.hpp"

namespace cake::inline CAKE_ABI::detail {

/// One call of PosixStorage::read, shared by the completion and the operations it was split into.
struct PendingRead {
  ChunkKey key;
  std::uint64_t offset = 0;
  MutableBytes out;
  std::shared_ptr<PieceSink> sink;  // may be null
  ForkGuard made_here;

  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Status status;               // the first failure
  std::size_t operations = 1;  // not yet over
  std::atomic<bool> failed{false};

  /// One operation has brought these bytes: not yet over.
  void arrived(ConstBytes bytes) const {
    if (sink) sink->arrived(bytes);
  }
  /// One operation is over. The last one makes the read ready.
  void finish(Status outcome);
};

/// A file that is open for reading; lives as long as somebody reads from it.
struct OpenFile {
  Fd fd;
  std::uint64_t size = 0;
  std::atomic<bool> direct{false};
  unsigned running = 0;      // operations of threads; guarded by the mutex of ReadPool
  std::size_t in_rings = 0;  // operations of rings; guarded by the mutex of RingPool

  int number() const { return fd.get(); }
  /// A name still leads to it: neither unlinked, nor replaced by a rename.
  bool current(struct stat& info) const {
    return ::fstat(fd.get(), &info) == 0 && info.st_nlink > 0;
  }
};

/// A part of a read, of op_bytes at most.
struct ReadOperation {
  using Clock = std::chrono::steady_clock;
  std::shared_ptr<PendingRead> read;
  std::shared_ptr<OpenFile> file;  // null: the file is to be opened and the read to be split
  std::uint64_t offset = 0;
  MutableBytes out;
  std::uint64_t number = 0;  // of its read, in the order of the calls
  Clock::time_point begun{};
  bool stuck = false;
};
using ReadOperations = std::list<ReadOperation>;

/// Puts them where the order of the calls of read() has them: the first one asked for is the first
/// one wanted, whichever file was opened first. Needs no memory.
void queue_in_order(ReadOperations& queue, ReadOperations& more);

/// One operation is over. By the thread that carried it out.
void finish_operation(ReadOperation& operation, Status outcome);

class RingPool;

/// Threads that carry out reads in the order of the calls, each read split into operations of
/// op_bytes so that a single read keeps all threads busy. Where there are rings, the threads only
/// open files and split reads, which may block, and carry out what the rings cannot.
///
/// An operation that lasts is stuck: other threads take over for its thread, and no more than
/// `threads` operations ever run on one file, so that one file that hangs does not stop reads of
/// others.
///
/// Thread:  Safe for concurrent use
class ReadPool {
 public:
  explicit ReadPool(StoreDirectory& store);
  /// Carries out what was submitted first.
  ~ReadPool();
  /// Errors:  throws std::bad_alloc; then the read has not begun
  void submit(std::shared_ptr<PendingRead> read);
  /// Reads with the calling thread.
  ///
  /// Errors:  as PosixStorage::read(); throws std::bad_alloc
  Status read_here(const ChunkKey& key, std::uint64_t offset, MutableBytes out);
  /// What carries out reads now, and why not the other one.
  ReadEngine engine() const;
  std::string engine_reason() const;
  void forget(const ChunkKey& key) { files_.drop(key); }
  /// Closes the files that are kept open and not being read.
  void close_files() { files_.clear(); }

 private:
  using Clock = ReadOperation::Clock;
  using Operations = ReadOperations;
  void open_rings();
  bool by_rings(const OpenFile& file) const;
  void take_back(ReadOperations& operations);
  void work();
  void watch();
  bool start_thread();
  /// Moves the next operation that may run to `running_`.
  Operations::iterator take();
  void run(ReadOperation& operation);
  void end(Operations::iterator operation, std::unique_lock<std::mutex>& lock);
  void begin(ReadOperation& operation);
  Result<std::shared_ptr<OpenFile>> open(const ChunkKey& key);
  Result<Fd> open_object(const ChunkKey& key, int flags, struct stat& info);
  /// The file, if it has these bytes.
  ///
  /// Errors:  corrupt, and as open()
  Result<std::shared_ptr<OpenFile>> file_with(const ChunkKey& key, std::uint64_t offset,
                                              std::uint64_t size);
  /// Reads one operation's bytes, and tells of them.
  Status carry_out(OpenFile& file, std::uint64_t offset, MutableBytes out);

  StoreDirectory& store_;
  RecentFiles<OpenFile> files_;
  std::unique_ptr<RingPool> rings_;
  Status ring_status_;  // why there are none although they were wanted
  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable watched_;  // something runs
  std::condition_variable over_;     // nothing runs or waits
  Operations queue_;
  Operations running_;
  std::size_t stuck_ = 0;  // of those that run
  std::size_t idle_ = 0;   // threads
  std::uint64_t submitted_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
  std::thread watcher_;
};

}  // namespace cake::inline CAKE_ABI::detail
