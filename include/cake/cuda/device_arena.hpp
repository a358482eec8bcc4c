// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Device memory that a store reads into without going through the host; digests are computed there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "cake/export.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// One allocation on the device that was current at construction; allocate() returns parts of it.
///
///     cake::cuda::DeviceArena arena(std::size_t{512} << 20);
///     cake::GdsStorage storage({.posix = {.directory = "/var/cache/kv"}}, &arena);
///
/// Copies and kernels run in its own streams, of the lowest priority; each call blocks until they
/// are done.
///
/// Needs:   usable() is ok for the device; the arena outlives the store and all allocations
/// Thread:  Safe for concurrent use
class CAKE_API DeviceArena final : public DeviceStaging {
 public:
  /// Errors:  throws Exception: out_of_memory, or device
  explicit DeviceArena(std::size_t bytes);
  ~DeviceArena() override;
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  std::byte* allocate(std::size_t bytes) override;
  void release(std::byte* data, std::size_t bytes) noexcept override;
  std::span<std::byte> arena() const override;
  std::size_t largest_gap() const override;
  Status use_on_this_thread() override;
  Status to_host(std::byte* host, const std::byte* device, std::size_t bytes) override;
  Status from_host(std::byte* device, const std::byte* host, std::size_t bytes) override;
  /// Needs:   besides what DeviceStaging asks for, `device` at a multiple of 4
  /// Errors:  invalid_argument, device, out_of_memory
  Status crc32c(const std::byte* device, std::size_t run_bytes, std::size_t runs,
                std::size_t block_bytes, std::span<std::uint32_t> out) override;
  StagingMemory* host_memory() override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cake::inline CAKE_ABI::cuda
