// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What tests of inserts and extracts have on the device: pools as in the model, and views in every
// kind of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cake/cuda/kv_transfer.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/staging.hpp"
#include "kv_transfer_model.hpp"
#include "tests/catch.hpp"

namespace kv_model {

/// Copies of the model's pools in device memory.
class DevicePools {
 public:
  explicit DevicePools(const Pools& pools) {
    for (const AlignedBuffer& pool : pools.memory()) {
      memory_.emplace_back(pool.size());
      bases_.push_back(memory_.back().data());
    }
    upload(pools);
  }
  void upload(const Pools& pools) {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      REQUIRE(cudaMemcpy(bases_[i], pools.memory()[i].data(), memory_[i].size(),
                         cudaMemcpyHostToDevice) == cudaSuccess);
    }
    // Copies from pageable memory may return before they are done.
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  std::vector<AlignedBuffer> download() const {
    std::vector<AlignedBuffer> host;
    for (const DeviceBuffer& pool : memory_) {
      host.emplace_back(pool.size());
      REQUIRE(cudaMemcpy(host.back().data(), pool.data(), pool.size(), cudaMemcpyDeviceToHost) ==
              cudaSuccess);
    }
    return host;
  }
  const std::vector<void*>& bases() const { return bases_; }

 private:
  std::vector<DeviceBuffer> memory_;
  std::vector<void*> bases_;
};

enum class Where { pinned, pageable, device, device_crooked };
inline constexpr Where kEverywhere[] = {Where::pinned, Where::pageable, Where::device,
                                        Where::device_crooked};
inline constexpr const char* kNames[] = {"pinned", "pageable", "device", "device, 8 bytes off"};

/// Transfer memory of some kind, filled from a seed.
class ViewMemory {
 public:
  ViewMemory(Where where, std::size_t bytes, unsigned seed) : where_(where), host_(bytes) {
    std::uint32_t x = seed * 747796405u + 1;
    for (std::byte& b : host_.bytes()) b = static_cast<std::byte>((x = x * 1664525u + 1013) >> 24);
    if (where == Where::pinned) pinned_ = PinnedBuffer(bytes);
    if (where == Where::device || where == Where::device_crooked)
      device_ = DeviceBuffer(bytes + 16);
    put();
  }
  std::byte* data() const {
    if (where_ == Where::pinned) return pinned_.data();
    if (where_ == Where::pageable) return host_.data();
    return device_.as<std::byte>() + (where_ == Where::device ? 0 : 8);
  }
  std::size_t size() const { return host_.size(); }
  void fill(int byte) {
    std::memset(host_.data(), byte, host_.size());
    put();
  }
  /// The bytes in host memory, for the model.
  std::byte* host() {
    if (data() != host_.data()) {
      REQUIRE(cudaMemcpy(host_.data(), data(), host_.size(), cudaMemcpyDefault) == cudaSuccess);
    }
    return host_.data();
  }

 private:
  void put() {
    if (data() == host_.data()) return;
    REQUIRE(cudaMemcpy(data(), host_.data(), host_.size(), cudaMemcpyDefault) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  Where where_;
  AlignedBuffer host_;
  PinnedBuffer pinned_;
  DeviceBuffer device_;
};

/// Copies straight into pages, rows by kernel, and what the defaults choose; small pieces, so that
/// every transfer takes several.
inline KvTransferOptions small(std::size_t direct_bytes) {
  KvTransferOptions options;
  options.direct_bytes = direct_bytes;
  options.streams = 2;
  options.pieces = 2;
  options.piece_bytes = 8192;
  options.batch_bytes = 12'000;
  options.blocks = 3;
  return options;
}

inline std::string message(const Status& status) { return status ? "" : status.error().message(); }

}  // namespace kv_model
