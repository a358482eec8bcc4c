// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Device memory for tests without a device: its addresses are those of the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "cake/chunk/digest.hpp"
#include "cake/detail/arena.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::testing {

struct HostDevice final : DeviceStaging {
  AlignedBuffer memory{8 << 20};
  detail::ArenaMap map{memory.bytes()};
  int copies = 0;  // from the host

  std::byte* allocate(std::size_t bytes) override { return map.take(bytes); }
  void release(std::byte* data, std::size_t bytes) noexcept override { map.give_back(data, bytes); }
  std::span<std::byte> arena() const override { return memory.bytes(); }
  std::size_t largest_gap() const override { return map.largest_gap(); }
  Status use_on_this_thread() override { return {}; }
  Status to_host(std::byte* host, const std::byte* device, std::size_t bytes) override {
    std::memcpy(host, device, bytes);
    return {};
  }
  Status from_host(std::byte* device, const std::byte* host, std::size_t bytes) override {
    ++copies;
    std::memcpy(device, host, bytes);
    return {};
  }
  Status crc32c(const std::byte* device, std::size_t run_bytes, std::size_t runs,
                std::size_t block_bytes, std::span<std::uint32_t> out) override {
    std::size_t n = 0;
    for (std::size_t r = 0; r < runs; ++r) {
      for (std::size_t at = 0; at < run_bytes; at += block_bytes) {
        out[n++] =
            cake::crc32c({device + r * run_bytes + at, std::min(block_bytes, run_bytes - at)});
      }
    }
    return {};
  }
};

}  // namespace cake::inline CAKE_ABI::testing
