// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Transfer memory on a device, as loading needs it: one arena that a store reads into, ways to and
// from the host, and digests computed where the bytes lie. cake::cuda has one; this header knows no
// device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <span>

#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::detail {

/// Hands out parts of one range of addresses, first fit, in multiples of 4 KiB. Never touches the
/// memory itself.
///
/// Needs:   the range begins at a 4 KiB boundary
/// Thread:  any number of threads at once
class ArenaMap {
 public:
  explicit ArenaMap(std::span<std::byte> range) : range_(range) {
    const std::size_t whole = range.size() / kIoAlignment * kIoAlignment;
    if (whole != 0) free_[0] = whole;
  }
  ArenaMap(const ArenaMap&) = delete;
  ArenaMap& operator=(const ArenaMap&) = delete;

  /// Errors:  throws std::bad_alloc when no gap is large enough
  std::byte* take(std::size_t bytes) {
    bytes = align_up(std::max<std::size_t>(bytes, 1));
    const std::lock_guard lock(mutex_);
    for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
      if (gap->second < bytes) continue;
      const std::size_t at = gap->first;
      const std::size_t rest = gap->second - bytes;
      if (rest != 0) free_[at + bytes] = rest;  // first: it may throw
      free_.erase(at);
      return range_.data() + at;
    }
    throw std::bad_alloc();
  }
  /// Needs:   as many bytes as were taken at `data`
  void give_back(std::byte* data, std::size_t bytes) noexcept {
    if (data == nullptr) return;
    const std::lock_guard lock(mutex_);
    auto at = static_cast<std::size_t>(data - range_.data());
    std::size_t size = align_up(std::max<std::size_t>(bytes, 1));
    const auto after = free_.find(at + size);
    if (after != free_.end()) {
      size += after->second;
      free_.erase(after);
    }
    const auto next = free_.lower_bound(at);
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == at) {
        before->second += size;
        return;
      }
    }
    try {
      free_[at] = size;
    } catch (const std::bad_alloc&) {  // a few pages of the arena are lost, and nothing else
    }
  }
  /// The most that take() would give now.
  std::size_t largest_gap() const {
    const std::lock_guard lock(mutex_);
    std::size_t most = 0;
    for (const auto& [at, size] : free_) most = std::max(most, size);
    return most;
  }
  std::span<std::byte> range() const { return range_; }

 private:
  std::span<std::byte> range_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::size_t> free_;  // offset, bytes; no two of them touch
};

/// Memory of a device that allocate() gives parts of. A store registers the whole of it once; what
/// it reads there is digested there, and an engine's insert copies from there.
///
/// All members below block until what they do is done.
///
/// Errors:  device
/// Thread:  any number of threads at once
class CAKE_API DeviceStaging : public StagingMemory {
 public:
  /// The whole of it; its address is the base that parts are named by to a driver.
  virtual std::span<std::byte> arena() const = 0;
  /// The most that allocate() would give now.
  virtual std::size_t largest_gap() const = 0;
  /// Makes the device current for the calling thread, where drivers want that.
  virtual Status use_on_this_thread() = 0;
  virtual Status to_host(std::byte* host, const std::byte* device, std::size_t bytes) = 0;
  virtual Status from_host(std::byte* device, const std::byte* host, std::size_t bytes) = 0;
  /// CRC-32C of `runs` runs of `run_bytes` that follow each other, one digest per block; blocks
  /// begin anew with each run, and the last one of a run may be shorter.
  ///
  /// Shape:   out[runs * ceil(run_bytes / block_bytes)]
  /// Needs:   run_bytes and block_bytes are multiples of 4, block_bytes at most 64 KiB
  virtual Status crc32c(const std::byte* device, std::size_t run_bytes, std::size_t runs,
                        std::size_t block_bytes, std::span<std::uint32_t> out) = 0;
  /// Host memory that is copied from fastest; null: any.
  virtual StagingMemory* host_memory() { return nullptr; }

  bool contains(const std::byte* data) const {
    const auto all = arena();
    return std::uintptr_t(data) - std::uintptr_t(all.data()) < all.size();
  }
};

}  // namespace cake::detail
