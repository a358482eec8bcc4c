// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Owners of CUDA streams, events, device memory and pinned host memory. All of them belong to the
// device that was current at construction. Constructors throw; everything else returns a Status.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// A CUDA error as a Status: out_of_memory or device. `native` is the cudaError_t; the context is
/// `doing` and CUDA's own text.
CAKE_API Status to_status(cudaError_t code, const char* doing);
/// Throws the same as an Exception; for constructors.
CAKE_API void throw_unless_ok(cudaError_t code, const char* doing);

/// Ok when this process can run cake's kernels: a driver, a device of compute capability 8.0 at
/// least, and code for it in this build.
///
/// Errors:  unsupported; the context says which of these is missing and what to do
CAKE_API Status usable();

/// Properties of the current device that attention and the model choose kernels by.
struct DeviceInfo {
  std::string name;
  int ordinal = 0;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::size_t shared_bytes_per_block = 0;  // most that a kernel may opt in to
  std::size_t memory_bytes = 0;
};
/// Errors:  as usable()
CAKE_API Result<DeviceInfo> device_info();

/// A stream that does not wait for the legacy default stream.
class CAKE_API Stream {
 public:
  /// priority: 0 is the lowest; negative ones go first where the device has them.
  explicit Stream(int priority = 0);
  ~Stream();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  cudaStream_t get() const { return stream_; }
  /// Blocks until everything enqueued so far is done.
  Status wait() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// A point in a stream; without time stamps unless asked for.
class CAKE_API Event {
 public:
  explicit Event(bool timed = false);
  ~Event();
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  cudaEvent_t get() const { return event_; }
  Status record(cudaStream_t stream) const;
  /// True when everything before it is done, or when it failed: wait() then says how.
  bool ready() const;
  Status wait() const;
  /// Work enqueued in `stream` from now on waits for it.
  Status gate(cudaStream_t stream) const;
  /// Between two timed events that are done. Units: seconds.
  static Result<double> seconds_between(const Event& from, const Event& to);

 private:
  cudaEvent_t event_ = nullptr;
};

/// Device memory, not initialised. Movable.
///
/// Errors:  throws Exception(out_of_memory)
class CAKE_API DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Page-locked host memory that kernels can read and write as well, at device(). Movable.
///
/// Errors:  throws Exception(out_of_memory)
class CAKE_API PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  /// The same memory as the device addresses it.
  template <class T>
  T* device() const {
    return static_cast<T*>(data_);  // one address on every platform that this library builds for
  }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data(), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace cake::inline CAKE_ABI::cuda
