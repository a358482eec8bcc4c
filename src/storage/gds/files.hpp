// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Files as GdsStorage reads them: opened as PosixStorage opens them, registered with cuFile, kept
// for the next slice of the same chunk, and read to the end whatever the library returns at once.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "cake/staging.hpp"
#include "cufile_api.hpp"
#include "src/storage/posix/directory.hpp"
#include "src/storage/posix/recent_files.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A file that is registered for as long as somebody holds it, so never deregistered under a read.
class GdsFile {
 public:
  GdsFile(std::shared_ptr<cufile::Api> api, Fd fd, cufile::Handle handle, const struct stat& info);
  ~GdsFile();
  GdsFile(const GdsFile&) = delete;
  GdsFile& operator=(const GdsFile&) = delete;

  cufile::Handle handle() const { return handle_; }
  std::uint64_t size() const { return static_cast<std::uint64_t>(info_.st_size); }
  /// Still the file that was opened, under a name, and not written to since.
  bool current(struct stat& now) const;
  int number() const { return fd_.get(); }

 private:
  std::shared_ptr<cufile::Api> api_;
  Fd fd_;
  cufile::Handle handle_;
  struct stat info_;
};

/// Registers the file that `checked` is open on. cuFile refuses descriptors with the flags of a
/// careful open, so the very same file is opened once more without them.
///
/// Errors:  io: it cannot be opened again; device: cuFile refused, `native` is its code
Result<std::shared_ptr<GdsFile>> register_file(const std::shared_ptr<cufile::Api>& api,
                                               const Fd& checked, bool direct);

struct GdsTransfer {
  std::size_t op_bytes = 0;  // most of one call
  std::atomic<std::uint64_t>* short_ops = nullptr;
};

/// Reads all of `out` from `offset` on.
///
/// Needs:   `out` lies in the staging's arena, which is registered
/// Errors:  device: cuFile failed, `native` is its code or errno
Status read_whole(const cufile::Api& api, const GdsFile& file, DeviceStaging& staging,
                  std::uint64_t offset, MutableBytes out, const GdsTransfer& transfer);

/// Thread:  Safe for concurrent use
class GdsFileCache {
 public:
  GdsFileCache(std::shared_ptr<cufile::Api> api, StoreDirectory& store)
      : api_(std::move(api)), store_(store) {}
  Result<std::shared_ptr<GdsFile>> get(const ChunkKey& key);
  void drop(const ChunkKey& key) { files_.drop(key); }
  /// Drops what was not used lately, or is no longer stored: it keeps the space of erased objects.
  void sweep();
  void clear() { files_.clear(); }
  std::uint64_t opens() const { return opens_; }

 private:
  Result<std::shared_ptr<GdsFile>> open(const ChunkKey& key);

  std::shared_ptr<cufile::Api> api_;
  StoreDirectory& store_;
  std::atomic<std::uint64_t> opens_{0};
  RecentFiles<GdsFile> files_;
};

}  // namespace cake::inline CAKE_ABI::detail
