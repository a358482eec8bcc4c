// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Transfer memory, aligned to 4 KiB so that reads and writes can bypass the page cache. It is host
// memory (plain, or of the engine's choice), or device memory that a store reads into directly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <utility>

#include "cake/export.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI {

/// Alignment of buffers, file offsets and parts of objects. Units: bytes.
inline constexpr std::size_t kIoAlignment = 4096;

namespace detail {
constexpr std::size_t align_up(std::size_t value, std::size_t alignment = kIoAlignment) {
  return (value + alignment - 1) / alignment * alignment;
}
}  // namespace detail

/// Allocates transfer memory that is not plain host memory: page-locked memory, which a device
/// copies from at full speed, or memory of the device itself.
///
/// Thread:  Safe for concurrent use
class CAKE_API StagingMemory {
 public:
  virtual ~StagingMemory() = default;
  /// At least `bytes` bytes at a 4 KiB boundary.
  ///
  /// Errors:  throws std::bad_alloc
  virtual std::byte* allocate(std::size_t bytes) = 0;
  virtual void release(std::byte* data, std::size_t bytes) noexcept = 0;
  /// So many bytes will be allocated, now and then, in pieces of any size. What takes long (locking
  /// pages does) may be done now, so that no read waits for it. A hint: it may do nothing, or less.
  virtual void reserve(std::size_t /*bytes*/) noexcept {}
};

/// Owns `size` bytes at a 4 KiB boundary, not initialised. Movable; empty once it was moved from.
///
/// Needs:   `memory` outlives it; null: plain host memory
/// Errors:  throws std::bad_alloc
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size, StagingMemory* memory = nullptr)
      : data_(take(detail::align_up(size ? size : 1), memory),
              {memory, detail::align_up(size ? size : 1)}),
        size_(size) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  struct Free {
    StagingMemory* memory;
    std::size_t bytes;
    void operator()(std::byte* p) const {
      if (memory == nullptr) {
        std::free(p);
      } else {
        memory->release(p, bytes);
      }
    }
  };
  static std::byte* take(std::size_t bytes, StagingMemory* memory) {
    return memory == nullptr ? static_cast<std::byte*>(std::aligned_alloc(kIoAlignment, bytes))
                             : memory->allocate(bytes);
  }
  std::unique_ptr<std::byte, Free> data_{nullptr, Free{nullptr, 0}};
  std::size_t size_ = 0;
};

/// One range of device memory; allocate() returns parts of it. A store registers the whole range
/// once. What it reads there is verified there, and an engine's insert copies from there.
///
/// All members below block until their work is done.
///
/// Errors:  device
/// Thread:  Safe for concurrent use
class CAKE_API DeviceStaging : public StagingMemory {
 public:
  /// The whole range; drivers name parts of it by their offset from its address.
  virtual std::span<std::byte> arena() const = 0;
  /// The largest size that allocate() could return now. Units: bytes.
  virtual std::size_t largest_gap() const = 0;
  /// Makes the device current for the calling thread, for drivers that need that.
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

}  // namespace cake::inline CAKE_ABI
