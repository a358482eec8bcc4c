// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects as files of a directory that are read straight into device memory by GPUDirect
// Storage (cuFile), where the machine can do that; everywhere else this is PosixStorage.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/staging.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class GdsEngine;
}

/// The checks that must pass before a read may go through cuFile, in the order of the probe.
enum class GdsCheck : std::uint8_t {
  memory,      // device memory was given
  library,     // the library can be loaded
  symbols,     // it exports the functions that reading needs
  driver,      // its driver opens; alone that proves little
  buffers,     // the device memory registers
  handle,      // a file in the store's own directory registers
  pattern,     // known bytes of that file arrive in device memory
  statistics,  // the library's own counters show which path they took
};
CAKE_API std::string_view to_string(GdsCheck check);

/// The result of one check.
struct GdsCheckResult {
  GdsCheck check = GdsCheck::memory;
  bool good = false;
  int native = 0;      // cuFile's code or errno; 0: none
  std::string detail;  // what was found
};

/// The path that cuFile itself took in the probe.
enum class GdsMode : std::uint8_t {
  none,     // a check below failed
  unknown,  // it works, and the library does not report how
  compat,   // POSIX reads and copies of its own
  native,   // straight to the device
};
CAKE_API std::string_view to_string(GdsMode mode);

/// Which path reads into device memory take, and why.
struct CAKE_API GdsReport {
  std::vector<GdsCheckResult> checks;  // in order; after one that failed no more were tried
  GdsMode mode = GdsMode::none;
  bool device = false;          // reads go through cuFile now
  bool forced = false;          // although it is not known to be native
  bool demoted = false;         // they did, and no longer do for the rest of this store's life
  int library_version = 0;      // 1000 * major + 10 * minor; 0: not known
  std::string reason;           // why the path is the one it is, in a sentence
  std::uint64_t reads = 0;      // that cuFile carried out whole
  std::uint64_t bytes = 0;      // of these
  std::uint64_t short_ops = 0;  // calls of cuFileRead that ended early and were continued
  std::uint64_t retried = 0;    // reads that failed in cuFile and were made by POSIX calls
  std::uint64_t bounced = 0;    // reads into device memory that went by POSIX calls and a copy
  std::uint64_t opens = 0;      // files registered, the probe's not counted
  /// All of it as text, a line per check.
  std::string text() const;
};

struct GdsOptions {
  PosixOptions posix = {};                 // directory, writing, and reading the other way
  std::string library = "libcufile.so.0";  // what to load
  bool force = false;  // use cuFile also in its compatibility mode, or if its mode is unknown
  std::size_t op_bytes = std::size_t{16} << 20;  // most bytes of one cuFileRead; multiple of 4 KiB
  unsigned max_errors = 4;                       // so many cuFile errors ...
  std::chrono::nanoseconds error_window = std::chrono::minutes(1);  // ... within this time: demoted
  std::chrono::nanoseconds driver_timeout = std::chrono::seconds(10);  // of opening cuFile's driver
  std::size_t bounce_bytes = std::size_t{4} << 20;  // per copy of a read that goes by the host
};

/// A read that may still run: one into device memory is over when read() returns.
class CAKE_API GdsRead {
 public:
  explicit GdsRead(Status status) : state_(std::move(status)) {}
  explicit GdsRead(PosixRead read) : state_(std::move(read)) {}
  bool ready();
  Status wait();
  bool wait_for(std::chrono::nanoseconds span);

 private:
  std::variant<Status, PosixRead> state_;
};

/// A PosixStorage that can also read its files into device memory: into parts of `staging`, by
/// cuFileRead on the calling thread. The constructor detects whether that works (GdsReport). If it
/// does not, device_staging() is null, and a Loader reads on the host. A read that fails in cuFile
/// is repeated once by POSIX calls and a copy; after too many such errors the store reads that way
/// for the rest of its life. The address of `out` decides the path of a read, so both may be in use
/// at once. Loaders that share a store share `staging`: if it is too small for the staging_bytes of
/// all their lanes, chunks that find no room are computed.
///
/// Writes only a temporary probe file, removed before the constructor returns. Does not change
/// cuFile's configuration.
///
/// Source:  cuFile API reference, CUDA 13
/// Thread:  Safe for concurrent use; not in the child of a fork(), where all calls fail with
///          `unsupported`, and the destructor does nothing
class CAKE_API GdsStorage {
 public:
  static constexpr StorageAbilities abilities{.lookup_problem = true,
                                              .device_staging = true,
                                              .stored_bytes_differ = true,
                                              .write_new = true,
                                              .read_pieces = true};

  /// Needs:   `staging` outlives the store, and is registered by no other; null: reads on the host
  /// Errors:  throws Exception as PosixStorage's constructor, and invalid_argument for options out
  ///          of range. That GDS does not work is no error
  explicit GdsStorage(const GdsOptions& options, DeviceStaging* staging = nullptr);
  /// Waits for every read.
  ~GdsStorage();
  GdsStorage(GdsStorage&&) noexcept;
  GdsStorage& operator=(GdsStorage&&) noexcept;

  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys);
  /// Into device memory: blocks. Into host memory: as PosixStorage.
  ///
  /// Needs:   offset, size and address of `out` are multiples of 4 KiB
  /// Errors:  as PosixStorage::read, and device: the copy to the device failed
  GdsRead read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out);
  /// As PosixStorage, into host memory; of what goes into device memory nothing is told.
  GdsRead read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                      MutableBytes out, std::shared_ptr<PieceSink> sink);
  /// Whether `bytes`, which a read put into device memory, are other ones than POSIX calls find
  /// there: then cuFile erred, and it counts as one of its errors. Reads the file again.
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset, ConstBytes bytes);
  Status write(const ChunkKey& key, ConstBytes bytes);
  /// As PosixStorage's.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes);
  Status lookup_problem() const;
  Status erase(const ChunkKey& key);

  /// Where to read to at full speed; null while reads do not go through cuFile.
  DeviceStaging* device_staging() const;
  GdsReport report() const;
  /// "native GDS", "cuFile's compatibility mode (forced)" or "POSIX: " and why.
  std::string path() const;
  PosixStats posix_stats() const;
  const std::filesystem::path& directory() const;

 private:
  std::unique_ptr<detail::GdsEngine> engine_;
};
static_assert(StorageBackend<GdsStorage>);

}  // namespace cake::inline CAKE_ABI
