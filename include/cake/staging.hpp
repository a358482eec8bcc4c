// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Transfer memory: 4 KiB aligned, so that it can be read and written past the page cache.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <utility>

#include "cake/export.hpp"
#include "cake/version.hpp"

namespace cake {

/// Alignment of everything that travels: buffers, file offsets, object parts. Bytes.
inline constexpr std::size_t kIoAlignment = 4096;

constexpr std::size_t align_up(std::size_t value, std::size_t alignment = kIoAlignment) {
  return (value + alignment - 1) / alignment * alignment;
}

/// Where transfer memory comes from when plain host memory will not do: page-locked memory that a
/// device copies from at full speed, or memory of the device itself.
///
/// Thread:  any number of threads at once
class CAKE_API StagingMemory {
 public:
  virtual ~StagingMemory() = default;
  /// At least `bytes` bytes at a 4 KiB boundary.
  ///
  /// Errors:  throws std::bad_alloc
  virtual std::byte* allocate(std::size_t bytes) = 0;
  virtual void release(std::byte* data, std::size_t bytes) noexcept = 0;
};

/// Owns `size` bytes at a 4 KiB boundary, not initialised. Movable; empty once it was moved from.
///
/// Needs:   `memory` outlives it; null: plain host memory
/// Errors:  throws std::bad_alloc
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size, StagingMemory* memory = nullptr)
      : data_(take(align_up(size ? size : 1), memory), {memory, align_up(size ? size : 1)}),
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

}  // namespace cake
