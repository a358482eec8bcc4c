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

namespace cake {

/// Alignment of everything that travels: buffers, file offsets, object parts. Bytes.
inline constexpr std::size_t kIoAlignment = 4096;

constexpr std::size_t align_up(std::size_t value, std::size_t alignment = kIoAlignment) {
  return (value + alignment - 1) / alignment * alignment;
}

/// Owns `size` bytes at a 4 KiB boundary, not initialised. Movable.
///
/// Errors:  throws std::bad_alloc
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size)
      : data_(static_cast<std::byte*>(std::aligned_alloc(kIoAlignment, align_up(size ? size : 1)))),
        size_(size) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace cake
