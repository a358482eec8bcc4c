// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/runtime.hpp"

#include <algorithm>

#include "kernel_image.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda {

Status to_status(cudaError_t code, const char* doing) {
  if (code == cudaSuccess) return {};
  (void)cudaGetLastError();  // clears the sticky error: a later call must not report it again
  const Errc errc = code == cudaErrorMemoryAllocation ? Errc::out_of_memory : Errc::device;
  return Error{errc, static_cast<int>(code), std::string(doing) + ": " + cudaGetErrorString(code)};
}

void throw_unless_ok(cudaError_t code, const char* doing) {
  const Status status = to_status(code, doing);
  if (!status) throw Exception(status.error());
}

Status usable() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (code == cudaErrorInsufficientDriver) {
    return Error{Errc::unsupported, static_cast<int>(code),
                 "no NVIDIA driver, or one that is older than CUDA 13.0 asks for (580)"};
  }
  if (code != cudaSuccess || count == 0) {
    return Error{Errc::unsupported, static_cast<int>(code), "no CUDA device in this machine"};
  }
  int device = 0;
  int major = 0;
  CAKE_TRY(to_status(cudaGetDevice(&device), "cudaGetDevice"));
  CAKE_TRY(to_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                     "cudaDeviceGetAttribute"));
  if (major < 8) {
    return Error{Errc::unsupported, 0,
                 "the device's compute capability is below 8.0, which the kernels need"};
  }
  const cudaError_t image = probe_kernel_image();
  (void)cudaGetLastError();
  if (image != cudaSuccess) {
    return Error{Errc::unsupported, static_cast<int>(image),
                 "this build has no code for the device; configure with "
                 "-DCMAKE_CUDA_ARCHITECTURES=native"};
  }
  return {};
}

Result<DeviceInfo> device_info() {
  CAKE_TRY(usable());
  DeviceInfo info;
  cudaDeviceProp properties{};
  CAKE_TRY(to_status(cudaGetDevice(&info.ordinal), "cudaGetDevice"));
  CAKE_TRY(
      to_status(cudaGetDeviceProperties(&properties, info.ordinal), "cudaGetDeviceProperties"));
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  info.memory_bytes = properties.totalGlobalMem;
  return info;
}

Stream::Stream(int priority) {
  int lowest = 0;
  int highest = 0;
  throw_unless_ok(cudaDeviceGetStreamPriorityRange(&lowest, &highest),
                  "ask the device for its stream priorities");
  throw_unless_ok(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                               std::clamp(priority, highest, lowest)),
                  "create a stream");
}
Stream::~Stream() {
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}
Status Stream::wait() const {
  return to_status(cudaStreamSynchronize(stream_), "wait for a stream");
}

Event::Event(bool timed) {
  throw_unless_ok(
      cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming),
      "create an event");
}
Event::~Event() {
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}
Status Event::record(cudaStream_t stream) const {
  return to_status(cudaEventRecord(event_, stream), "record an event");
}
bool Event::ready() const {
  return cudaEventQuery(event_) != cudaErrorNotReady;  // which is no error
}
Status Event::wait() const {
  return to_status(cudaEventSynchronize(event_), "wait for work on the device");
}
Status Event::gate(cudaStream_t stream) const {
  return to_status(cudaStreamWaitEvent(stream, event_, 0), "let a stream wait for an event");
}
Result<double> Event::seconds_between(const Event& from, const Event& to) {
  float milliseconds = 0;
  CAKE_TRY(to_status(cudaEventElapsedTime(&milliseconds, from.event_, to.event_),
                     "cudaEventElapsedTime"));
  return double{milliseconds} * 1e-3;
}

DeviceBuffer::DeviceBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes != 0) throw_unless_ok(cudaMalloc(&data_, bytes), "cudaMalloc");
}
DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) (void)cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes != 0)
    throw_unless_ok(cudaHostAlloc(&data_, bytes, cudaHostAllocMapped),
                    "allocate pinned host memory");
}
PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

}  // namespace cake::inline CAKE_ABI::cuda
