// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A libcufile.so.0 of our own: does what it is told, and notes when a rule of the real one is
// broken. FAKE_WITHOUT_READ and FAKE_WITHOUT_STATS leave functions out.
#include "fake_cufile.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "src/storage/gds/cufile_api.hpp"

#define FAKE_API extern "C" __attribute__((visibility("default")))

namespace {

using cake::detail::cufile::Descr;
using cake::detail::cufile::ErrorPair;
using cake::detail::cufile::Handle;
using cake::fault::FakeCufile;

struct Registered {
  int fd = -1;
  std::atomic<int> in_flight{0};
};

FakeCufile& fake() {
  static FakeCufile fake;
  return fake;
}
std::mutex mutex;
std::set<Registered*> handles;
std::map<const void*, std::size_t> buffers;
std::uint64_t counted[3];  // reads by FakeCufile::Way

void broken(const char* rule) {
  const char* none = nullptr;
  fake().broken.compare_exchange_strong(none, rule);
}

ErrorPair answer(int code) { return {code, 0}; }

}  // namespace

FAKE_API FakeCufile* cake_fake_cufile() { return &fake(); }

FAKE_API ErrorPair cuFileDriverOpen() {
  while (fake().hang_driver) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (const int code = fake().driver_open; code != 0) return answer(code);
  if (++fake().driver_opens > 1) broken("the driver was opened twice");
  return answer(0);
}

FAKE_API ErrorPair cuFileGetVersion(int* version) {
  *version = 1150;
  return answer(0);
}

FAKE_API ErrorPair cuFileBufRegister(const void* base, std::size_t length, int flags) {
  if (const int code = fake().buf_register; code != 0) return answer(code);
  const std::lock_guard lock(mutex);
  if (flags != 0) broken("flags of a buffer are not 0");
  if (!buffers.emplace(base, length).second) return answer(5023);
  ++fake().buffers;
  return answer(0);
}

FAKE_API ErrorPair cuFileBufDeregister(const void* base) {
  const std::lock_guard lock(mutex);
  if (fake().in_flight != 0) broken("a buffer was deregistered under a read");
  if (buffers.erase(base) == 0) {
    broken("a buffer was deregistered that was not registered");
    return answer(5024);
  }
  --fake().buffers;
  return answer(0);
}

FAKE_API ErrorPair cuFileHandleRegister(Handle* handle, Descr* descr) {
  if (const int code = fake().handle_register; code != 0) return answer(code);
  const int flags = ::fcntl(descr->handle.fd, F_GETFL);
  struct stat info {};
  if (descr->type != 1 || descr->fs_ops != nullptr) broken("a descriptor is not filled in well");
  if (flags < 0 || ::fstat(descr->handle.fd, &info) != 0) return answer(5022);
  const int refused = O_APPEND | O_NONBLOCK | O_DIRECTORY | O_NOFOLLOW | O_NOATIME;
  if ((flags & refused) != 0) return answer(5019);
  if (info.st_nlink == 0) return answer(5018);
  const std::lock_guard lock(mutex);
  for (const Registered* other : handles) {
    if (other->fd == descr->handle.fd) {
      broken("a file was closed before its handle was deregistered");
      return answer(5028);
    }
  }
  auto* const mine = new Registered;
  mine->fd = descr->handle.fd;
  handles.insert(mine);
  ++fake().handles;
  ++fake().registrations;
  *handle = mine;
  return answer(0);
}

FAKE_API void cuFileHandleDeregister(Handle handle) {
  const std::lock_guard lock(mutex);
  auto* const mine = static_cast<Registered*>(handle);
  if (handles.erase(mine) == 0) {
    broken("a handle was deregistered that was not registered");
    return;
  }
  if (mine->in_flight != 0) broken("a handle was deregistered under a read");
  if (::fcntl(mine->fd, F_GETFL) < 0) broken("a file was closed before its handle");
  --fake().handles;
  delete mine;
}

#ifndef FAKE_WITHOUT_READ
FAKE_API ssize_t cuFileRead(Handle handle, void* base, std::size_t size, off_t file_offset,
                            off_t buffer_offset) {
  FakeCufile& f = fake();
  auto* const file = static_cast<Registered*>(handle);
  bool bad = false;
  {
    const std::lock_guard lock(mutex);
    const auto buffer = buffers.find(base);
    const auto begin = static_cast<std::size_t>(buffer_offset);
    if (buffer == buffers.end()) {
      broken("a read into memory that is not the base of a registered buffer");
      return -5024;
    }
    if (buffer_offset < 0 || begin > buffer->second || size > buffer->second - begin) {
      broken("a read beyond a registered buffer");
      return -5017;
    }
    if (handles.count(file) == 0) {
      broken("a read from a handle that is not registered");
      return -5027;
    }
    if (file_offset % 4096 != 0 || buffer_offset % 4096 != 0 || size % 4096 != 0) {
      broken("a read that is not aligned");
    }
    ++f.reads;
    if (f.bad_result != 0 && f.bad_reads > 0) {
      if (f.good_reads > 0) {
        --f.good_reads;
      } else {
        bad = true;
        if (f.bad_reads != FakeCufile::kAlways) --f.bad_reads;
      }
    }
    ++file->in_flight;
    const auto now = static_cast<std::uint64_t>(++f.in_flight);
    f.most_in_flight = std::max(f.most_in_flight.load(), now);
  }
  while (f.hang) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ssize_t result = f.bad_result;
  int number = f.bad_errno;
  if (!bad) {
    if (f.most_bytes != 0) size = std::min<std::size_t>(size, f.most_bytes);
    auto* const out = static_cast<std::byte*>(base) + buffer_offset + f.shadow;
    // Rounded up as direct I/O wants it; what is behind is written again by whoever goes on.
    const std::size_t asked = (size + 511) / 512 * 512;
    result = ::pread(file->fd, out, asked, file_offset);
    number = errno;
    result = std::min(result, static_cast<ssize_t>(size));
    const std::uint64_t at = f.flip_at - static_cast<std::uint64_t>(file_offset);
    if (f.flip_at != FakeCufile::kAlways && result > 0 && at < static_cast<std::uint64_t>(result)) {
      out[at] ^= std::byte{0x20};
    }
  }
  const std::lock_guard lock(mutex);
  if (const int way = f.way; !bad && way < FakeCufile::untold) ++counted[way];
  --file->in_flight;
  --f.in_flight;
  errno = number;
  return result;
}
#endif

#ifndef FAKE_WITHOUT_STATS
FAKE_API ErrorPair cuFileSetStatsLevel(int level) {
  fake().stats_level = level;
  return answer(0);
}
FAKE_API ErrorPair cuFileGetStatsLevel(int* level) {
  *level = fake().stats_level;
  return answer(0);
}
FAKE_API ErrorPair cuFileStatsStart() { return answer(0); }
FAKE_API ErrorPair cuFileGetStatsL3(cake::detail::cufile::StatsLevel3* stats) {
  if (const int code = fake().get_stats; code != 0) return answer(code);
  if (fake().stats_level != 3) return answer(5022);
  std::memset(stats, 0, sizeof *stats);
  const std::lock_guard lock(mutex);
  stats->num_gpus = 2;
  stats->per_gpu_stats[0].n_p2p_reads = counted[FakeCufile::p2p];
  stats->per_gpu_stats[1].n_nvfs_reads = counted[FakeCufile::nvfs];
  stats->per_gpu_stats[1].n_posix_reads = counted[FakeCufile::posix];
  return answer(0);
}
#endif
