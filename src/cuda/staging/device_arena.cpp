// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/device_arena.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "cake/cuda/pinned_staging.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/detail/arena.hpp"
#include "crc32c.hpp"
#include "crc32c_kernel.hpp"
#include "src/core/try.hpp"
#include "src/cuda/runtime/current_device.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

/// What drivers map device memory in.
constexpr std::size_t kDevicePage = std::size_t{2} << 20;

/// Room for `bytes` at a 4 KiB boundary, in whole pages of the device.
DeviceBuffer allocate_pages(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) {
    throw Exception({Errc::out_of_memory, 0, "more device memory than there are addresses"});
  }
  const std::size_t whole = detail::align_up(bytes == 0 ? 1 : bytes, kDevicePage);
  DeviceBuffer pages(whole);
  if (reinterpret_cast<std::uintptr_t>(pages.data()) % kIoAlignment != 0) {
    pages = DeviceBuffer();
    pages = DeviceBuffer(whole + kIoAlignment);  // such an allocator was not met so far
  }
  return pages;
}

std::byte* aligned(void* data) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  return static_cast<std::byte*>(data) + (detail::align_up(at) - at);
}

int current_device() {
  int device = 0;
  throw_unless_ok(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

}  // namespace

class DeviceArena::Impl {
 public:
  explicit Impl(std::size_t bytes)
      : device(current_device()),
        pages(allocate_pages(bytes)),
        parts({aligned(pages.data()), detail::align_up(bytes == 0 ? 1 : bytes, kDevicePage)}) {}
  ~Impl() {
    const CurrentDevice current(device);
    workers_.clear();
    pages = DeviceBuffer();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  /// A stream, and memory that a kernel leaves its results in.
  struct Worker {
    Stream stream;
    PinnedBuffer results;
  };

  /// Runs what(worker) on the device with a worker of its own; everything is done when it returns.
  template <class What>
  Status run(What what) {
    const CurrentDevice current(device);
    if (!current.status()) return current.status();
    try {
      std::unique_ptr<Worker> worker = take();
      Status status = what(*worker);
      // Also after a failure: what was enqueued still uses the caller's memory.
      Status done = worker->stream.wait();
      if (status) status = std::move(done);
      if (status) give_back(std::move(worker));
      return status;
    } catch (const Exception& e) {
      return e.error();
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, 0,
                   "create a stream to copy to and from device staging memory: no host memory"};
    }
  }

  const int device;
  DeviceBuffer pages;
  detail::ArenaMap parts;
  PinnedStaging host{std::size_t{64} << 20};

 private:
  std::unique_ptr<Worker> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!workers_.empty()) {
        auto worker = std::move(workers_.back());
        workers_.pop_back();
        return worker;
      }
    }
    return std::make_unique<Worker>();
  }
  void give_back(std::unique_ptr<Worker> worker) {
    const std::lock_guard lock(mutex_);
    workers_.push_back(std::move(worker));
  }
  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

DeviceArena::DeviceArena(std::size_t bytes) : impl_(std::make_unique<Impl>(bytes)) {}
DeviceArena::~DeviceArena() = default;

std::byte* DeviceArena::allocate(std::size_t bytes) { return impl_->parts.take(bytes); }
void DeviceArena::release(std::byte* data, std::size_t bytes) noexcept {
  impl_->parts.give_back(data, bytes);
}
std::span<std::byte> DeviceArena::arena() const { return impl_->parts.range(); }
std::size_t DeviceArena::largest_gap() const { return impl_->parts.largest_gap(); }
StagingMemory* DeviceArena::host_memory() { return &impl_->host; }

Status DeviceArena::use_on_this_thread() {
  return to_status(cudaSetDevice(impl_->device), "cudaSetDevice");
}

Status DeviceArena::to_host(std::byte* host, const std::byte* device, std::size_t bytes) {
  if (bytes == 0) return {};
  return impl_->run([&](Impl::Worker& worker) {
    return to_status(
        cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, worker.stream.get()),
        "copy from device staging memory");
  });
}

Status DeviceArena::from_host(std::byte* device, const std::byte* host, std::size_t bytes) {
  if (bytes == 0) return {};
  return impl_->run([&](Impl::Worker& worker) {
    return to_status(
        cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, worker.stream.get()),
        "copy to device staging memory");
  });
}

Status DeviceArena::crc32c(const std::byte* device, std::size_t run_bytes, std::size_t runs,
                           std::size_t block_bytes, std::span<std::uint32_t> out) {
  const auto refuse = [](const std::string& why) { return Error{Errc::invalid_argument, 0, why}; };
  if (run_bytes % 4 != 0 || block_bytes % 4 != 0 ||
      reinterpret_cast<std::uintptr_t>(device) % 4 != 0) {
    return refuse("digests on the device are of whole words of 4 bytes");
  }
  if (block_bytes == 0 || block_bytes > crc::kMostBlockBytes) {
    return refuse("digests on the device are of blocks of at most 64 KiB");
  }
  const std::size_t per_run = run_bytes / block_bytes + (run_bytes % block_bytes != 0 ? 1 : 0);
  if (per_run != 0 && runs > std::size_t{0x7fff'ffff} / per_run) {
    return refuse("more than 2^31 digests for one call");
  }
  if (out.size() != per_run * runs)
    return refuse("digests on the device: out has " + std::to_string(out.size()) + " entries, " +
                  std::to_string(per_run * runs) + " are needed");
  if (out.empty()) return {};
  return impl_->run([&](Impl::Worker& worker) -> Status {
    if (worker.results.size() < out.size_bytes()) {
      worker.results = PinnedBuffer();
      worker.results = PinnedBuffer(detail::align_up(out.size_bytes()));
    }
    auto* const results = worker.results.device<std::uint32_t>();
    CAKE_TRY(
        to_status(crc::launch(device, run_bytes, runs, block_bytes, results, worker.stream.get()),
                  "compute digests on the device"));
    CAKE_TRY(worker.stream.wait());
    std::memcpy(out.data(), worker.results.data(), out.size_bytes());
    return {};
  });
}

}  // namespace cake::inline CAKE_ABI::cuda
