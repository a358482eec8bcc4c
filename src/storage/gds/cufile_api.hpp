// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The part of cuFile that GdsStorage uses, declared by ourselves: a build needs neither its header
// nor its library, which is loaded when somebody asks for it. Names end as cuFile's do.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail::cufile {

struct ErrorPair {  // CUfileError_t
  int err;
  int cu_err;
};

using Handle = void*;  // CUfileHandle_t

inline constexpr int kOpaqueFd = 1;  // CU_FILE_HANDLE_TYPE_OPAQUE_FD
struct Descr {                       // CUfileDescr_t
  int type;
  union {
    int fd;
    void* handle;
  } handle;
  const void* fs_ops;
};

struct OpCounter {  // CUfileOpCounter_t
  std::uint64_t ok;
  std::uint64_t err;
};

/// CUfileStatsLevel2_t; only its size matters here.
struct StatsLevel2 {
  OpCounter first[6];
  std::uint64_t io[10];
  OpCounter batch[15];
  std::uint64_t batch_bytes[12];
  std::uint64_t histograms[64];
};

struct PerGpuStats {  // CUfilePerGpuStats_t
  char uuid[16];
  std::uint64_t read_bytes;
  std::uint64_t read_rates[3];
  std::uint64_t n_total_reads;
  std::uint64_t n_p2p_reads;
  std::uint64_t n_nvfs_reads;
  std::uint64_t n_posix_reads;
  std::uint64_t n_unaligned_reads;
  std::uint64_t read_rest[4];
  std::uint64_t writes[11];
  std::uint64_t registrations[5];
};

inline constexpr std::uint32_t kMostGpus = 16;
struct StatsLevel3 {  // CUfileStatsLevel3_t
  StatsLevel2 detailed;
  std::uint32_t num_gpus;
  PerGpuStats per_gpu_stats[kMostGpus];
};

inline constexpr int kDriverAlreadyOpen = 5026;

/// Reads that went each way since the driver was opened, all devices together.
struct ReadCounts {
  std::uint64_t p2p = 0;
  std::uint64_t nvfs = 0;
  std::uint64_t posix = 0;
};

/// One loaded library. Its driver is opened at most once in the life of the process, and stays
/// open: closing it would pull it away under others who use it.
///
/// Thread:  Safe for concurrent use
class Api {
 public:
  /// The library of this name, loaded now or earlier. Null: `why` says what the linker said.
  static std::shared_ptr<Api> load(const std::string& library, std::string& why);

  /// Empty when all functions are there that reading needs; else the name of one that is not.
  const std::string& missing() const { return missing_; }
  /// Opens the driver unless it is open, on a thread of its own that runs `prepare` first:
  /// libraries were met that never come back from it. Empty: it is not over after `limit`; whoever
  /// asks again waits for the same call. A refusal is asked about again the next time.
  ///
  /// Errors:  throws std::system_error and std::bad_alloc
  std::optional<ErrorPair> open_driver(std::function<void()> prepare,
                                       std::chrono::nanoseconds limit);
  /// 1000 * major + 10 * minor; 0: not known.
  int version() const;
  /// Turns the counting of paths on. Empty: this library does not count, or not now; else what
  /// end_counting() takes, to leave the library as it was found.
  std::optional<int> begin_counting();
  void end_counting(int level_before);
  /// Errors:  unsupported: it does not count; `native` is cuFile's
  Result<ReadCounts> read_counts() const;

  ErrorPair (*handle_register)(Handle*, Descr*) = nullptr;
  void (*handle_deregister)(Handle) = nullptr;
  ErrorPair (*buf_register)(const void* base, std::size_t length, int flags) = nullptr;
  ErrorPair (*buf_deregister)(const void* base) = nullptr;
  ssize_t (*read)(Handle, void* base, std::size_t size, off_t file_offset,
                  off_t buffer_offset) = nullptr;

 private:
  explicit Api(void* library);

  std::string missing_;
  struct DriverCall;

  std::shared_ptr<DriverCall> driver_call_;  // guarded by a mutex of the process
  ErrorPair (*driver_open_)() = nullptr;
  ErrorPair (*get_version_)(int*) = nullptr;
  ErrorPair (*set_stats_level_)(int) = nullptr;
  ErrorPair (*get_stats_level_)(int*) = nullptr;
  ErrorPair (*stats_start_)() = nullptr;
  ErrorPair (*get_stats_l3_)(void*) = nullptr;
};

/// "5027 (file descriptor is not registered)" and the like; also of a negative result of a read.
std::string describe(int code);

}  // namespace cake::inline CAKE_ABI::detail::cufile
