// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The directory of a PosixStorage: who may have one, where an object's file lies, and how it is
// opened without being led astray.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "cake/storage/posix.hpp"
#include "calls.hpp"
#include "clock.hpp"
#include "errors.hpp"

namespace cake::inline CAKE_ABI::detail {

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

/// Whether an object was read since it was published.
inline bool was_read(const struct stat& info) {
  return std::tie(info.st_atim.tv_sec, info.st_atim.tv_nsec) >
         std::tie(info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

struct PosixCounters {
  std::atomic<std::uint64_t> direct_refusals{0}, reads{0}, read_ops{0}, read_bytes{0},
      short_reads{0}, opens{0}, published{0}, published_bytes{0}, already_stored{0}, leftovers{0},
      evicted{0}, evicted_bytes{0}, replaced{0}, lookup_problems{0}, eviction_failures{0},
      refused{0}, expired{0}, first_reads{0}, reopened{0}, stuck_reads{0}, ring_reads{0},
      ring_refusals{0}, ring_retries{0};
};

/// What the parts of one PosixStorage share.
///
/// Thread:  Safe for concurrent use; no lock is held over a system call that may last
class StoreDirectory {
 public:
  using Root = std::shared_ptr<const Fd>;

  /// Opens or creates the directory, and finds out by trying what its file system can do.
  ///
  /// Errors:  throws Exception as PosixStorage's constructor says
  explicit StoreDirectory(PosixOptions options);

  const PosixOptions& options() const { return options_; }
  PosixCalls& calls() const { return *options_.calls; }
  PosixCounters& counters() const { return counters_; }
  /// Its name, for messages.
  std::string named() const { return "store directory " + options_.directory.string(); }

  /// The open directory. Keep it for as long as its descriptor is used.
  Root root() const;
  /// Looks whether the directory is still what its name leads to. One that was made anew is opened;
  /// generation() then grows.
  ///
  /// Errors:  io: it was removed or moved away, or what is there now cannot be the store
  Status refresh();
  std::uint64_t generation() const { return generation_; }

  bool read_only() const { return read_only_; }
  /// Errors:  unsupported: the store only serves
  Status check_writable() const;

  bool direct() const { return direct_; }
  /// Remembers that the file system refused O_DIRECT. False: the options insist on it.
  bool give_up_direct();
  /// Whether a direct read of whole pages suits this file. True where the system does not say.
  bool takes_direct(int file) const;
  /// Reads may go through rings, as far as the options and O_DIRECT say.
  bool wants_rings() const;
  /// The file system keeps its files in memory: tmpfs, ramfs.
  bool in_memory() const { return in_memory_; }
  /// What the constructor found out about rings, if it wanted them.
  const Status& ring_status() const { return ring_status_; }
  bool unnamed_files() const { return unnamed_files_; }
  void give_up_unnamed_files() { unnamed_files_ = false; }
  /// Temporary files lie beside the object instead of in the root: names cannot move between
  /// folders.
  bool temporaries_beside() const { return temporaries_beside_; }
  void put_temporaries_beside() { temporaries_beside_ = true; }

  static std::string fan_out_name(const ChunkKey& key) { return key.hex().substr(0, 2); }
  static std::string file_name(const ChunkKey& key) { return key.hex() + ".ckv"; }
  std::filesystem::path path_of(const ChunkKey& key) const {
    return path_ / fan_out_name(key) / file_name(key);
  }
  /// The key whose file has this name.
  static std::optional<ChunkKey> key_of(std::string_view name);
  /// The first byte of the keys whose folder has this name.
  static std::optional<std::uint8_t> folder_of(std::string_view name);
  /// Modes that new files and folders are given.
  mode_t file_mode() const { return options_.trust_directory ? 0666 : 0600; }
  mode_t folder_mode() const { return options_.trust_directory ? 0777 : 0700; }

  /// The time by which objects age. Units: seconds since 1970.
  std::int64_t now() const { return clock_->now(); }
  /// Writes go through an Evictor.
  bool bounded() const {
    return options_.capacity_bytes != 0 || options_.keep_free.share > 0 ||
           options_.keep_free.bytes != 0 || options_.ttl.count() > 0;
  }
  /// How much has to go, so that with so many bytes more enough stays free (keep_free).
  ///
  /// Errors:  io: the file system does not say what is free
  Result<std::uint64_t> short_of_free(std::uint64_t bytes) const;
  /// Whether an object is older than PosixOptions::ttl.
  bool expired(const struct stat& info) const {
    return options_.ttl.count() > 0 && now() - info.st_mtim.tv_sec >= options_.ttl.count();
  }
  /// As PosixStorage::set_priority(); 0 where nothing or something else is said.
  int priority_of(int folder, const char* name) const;
  Status set_priority(const ChunkKey& key, int priority);
  /// Of the file system; 0: it does not say.
  std::uint64_t file_system_bytes() const;

  /// True when nobody but this user, or root in a store that only serves, can have put it there.
  bool trusted(const struct stat& info) const;
  /// Why something is not trusted(), and what to do; `what` and `path` name it.
  Error distrust(const struct stat& info, const std::string& what, const std::string& path) const;
  /// True when reads may take a file of this kind: regular, trusted, readable by its owner, and of
  /// a size that an object can have.
  bool servable(const struct stat& info) const;

  /// The directory that holds the files of keys beginning with these two digits.
  ///
  /// Errors:  not_found: there is none, and so no object; out_of_memory; io, with the remedy
  Result<Fd> open_fan_out(const std::string& name, bool create);
  /// A file in the directory itself that all stores of it share, opened with these flags; it is created.
  /// Empty: it cannot be, or is not trusted.
  Fd open_shared(const char* name, int flags);
  /// Whether the file still has the name.
  bool is_shared(const Fd& file, const char* name) const;
  /// One object's file for reading, checked except for its size.
  Result<Fd> open_object(const ChunkKey& key, int extra_flags, struct stat& info);

 private:
  [[noreturn]] void refuse(Errc code, int native, const std::string& why) const;
  void check_options();
  void check_bounds();
  void create();
  Result<Fd> open_root(struct stat& by_name) const;
  Error open_failure(int number) const;
  std::string shown_alike(const Fd& root, const struct stat& info) const;
  void probe();
  void probe_rings(int file, ConstBytes expected);
  void probe_publishing();
  void read_back(const ChunkKey& key, ConstBytes expected);
  [[noreturn]] void refuse_publishing(const Error& error) const;
  Status become_writable_folder(int root, const std::string& name);
  /// Of a durable store: the name of the directory, on this device, survives a power cut, whoever
  /// created it.
  Status make_directory_last(dev_t device) const;
  /// The same of one of its folders.
  Status make_name_last(int root, const std::string& name, ino_t folder);
  int open_object_file(int root, const std::string& fan_out, const std::string& name, int flags);

  PosixOptions options_;
  std::unique_ptr<StoreClock> clock_;
  std::filesystem::path path_;  // absolute: the process may change its directory
  mutable std::mutex root_mutex_;
  Root root_;
  dev_t device_ = 0;  // of the directory, as its name leads to it
  ino_t inode_ = 0;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<bool> read_only_{false};
  std::atomic<bool> direct_{false};
  bool in_memory_ = false;
  Status ring_status_;
  bool rings_probed_ = false;
  std::atomic<bool> unnamed_files_{true};
  std::atomic<bool> temporaries_beside_{false};
  std::atomic<bool> openat2_{true};
  // Inodes of the folders whose names are known to survive a power cut; 0: not known.
  std::array<std::atomic<std::uint64_t>, 256> lasting_{};
  mutable PosixCounters counters_;
};

/// A file that is being written: unnamed, or with a temporary name.
struct TemporaryFile {
  Fd file;
  std::string name;    // empty: unnamed
  int directory = -1;  // that holds the name
};

/// Opens one for writing in `directory` (unnamed), or in `root` with a name, locked while the
/// writer lives. On failure errno says why, and `file` is empty.
TemporaryFile open_temporary(StoreDirectory& store, int root, int directory, bool direct,
                             bool named);
/// Removes temporary files whose writers are dead.
void remove_leftovers(StoreDirectory& store);
/// Going past RLIMIT_FSIZE raises a signal that ends the process by default; so never go there.
bool within_file_limit(std::uint64_t size);
/// A umask may have taken the owner's own rights to a new file away.
void own(StoreDirectory& store, int file);

/// Whether what is stored under `key` is the object `bytes`, or one that was there first.
Result<bool> already_stored(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes);
/// Makes an object visible, whole, under its key; replaces what cannot be it. False: it was there
/// already.
Result<bool> publish(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes);

}  // namespace cake::inline CAKE_ABI::detail
