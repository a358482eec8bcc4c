// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The directory of a PosixStorage: who may have one, where an object's file lies, and how it is
// opened without being led astray.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "cake/storage/posix.hpp"
#include "posix_calls.hpp"

namespace cake::detail {

/// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int number) : number_(number) {}
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Fd() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

struct PosixCounters {
  std::atomic<std::uint64_t> direct_refusals{0}, reads{0}, read_ops{0}, read_bytes{0},
      short_reads{0}, opens{0}, published{0}, published_bytes{0}, already_stored{0}, leftovers{0},
      evicted{0}, evicted_bytes{0};
};

/// What the parts of one PosixStorage share.
///
/// Thread:  any number of threads at once
class StoreDirectory {
 public:
  /// Opens or creates the directory, and finds out by trying what its file system can do.
  ///
  /// Errors:  throws Exception as PosixStorage's constructor says
  explicit StoreDirectory(PosixOptions options);

  const PosixOptions& options() const { return options_; }
  PosixCalls& calls() const { return *options_.calls; }
  int root() const { return root_.get(); }
  PosixCounters& counters() const { return counters_; }

  bool direct() const { return direct_; }
  /// Remembers that the file system refused O_DIRECT. False: the options insist on it.
  bool give_up_direct();
  bool unnamed_files() const { return unnamed_files_; }
  void give_up_unnamed_files() { unnamed_files_ = false; }

  static std::string fan_out_name(const ChunkKey& key) { return key.hex().substr(0, 2); }
  static std::string file_name(const ChunkKey& key) { return key.hex() + ".ckv"; }

  /// True when reads may trust a file of this kind: regular, ours, not writable by others, and of a
  /// size that an object can have.
  static bool servable(const struct stat& info);

  /// The directory that holds the files of keys beginning with these two digits.
  Result<Fd> open_fan_out(const std::string& name, bool create);
  /// One object's file for reading, checked except for its size.
  Result<Fd> open_object(const ChunkKey& key, int extra_flags, struct stat& info);
  /// Calls `f(directory, key, info)` for every file that is named like an object.
  void for_each_object(const std::function<void(int, const ChunkKey&, const struct stat&)>& f);

 private:
  void open_root();
  void probe();
  [[noreturn]] void refuse(Errc code, int native, const std::string& why) const;
  int open_object_file(const std::string& fan_out, const std::string& name, int flags);

  PosixOptions options_;
  Fd root_;
  std::atomic<bool> direct_{false};
  std::atomic<bool> unnamed_files_{true};
  std::atomic<bool> openat2_{true};
  mutable PosixCounters counters_;
};

/// A file that is being written: unnamed, or with a temporary name.
struct TemporaryFile {
  Fd file;
  std::string name;  // in the root directory; empty: unnamed
};

/// Opens one for writing in `directory` (unnamed) or in the root (named, and locked while the
/// writer lives). On failure errno says why, and `file` is empty.
TemporaryFile open_temporary(StoreDirectory& store, int directory, bool direct);
/// Removes temporary files whose writers are dead.
void remove_leftovers(StoreDirectory& store);
/// Going past RLIMIT_FSIZE raises a signal that ends the process by default; so never go there.
bool within_file_limit(std::uint64_t size);
/// Error of a failed write: EFBIG means that there is no room, too.
Error write_error(int number, const std::string& context);

/// Makes an object visible, whole, under its key. False: it was there already.
Result<bool> publish(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes);

}  // namespace cake::detail
