// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What tests of GdsStorage put around it, with a device and without.
#pragma once

#include <atomic>
#include <vector>

#include "cake/storage/gds.hpp"
#include "cake/storage_backend.hpp"
#include "tests/toy_engine.hpp"

namespace cake::inline CAKE_ABI::sample {

/// A toy engine that inserts from host and device memory alike.
class DeviceToy : public testing::ToyEngine {
 public:
  static constexpr EngineAbilities abilities{.inserts_from_device = true};
  DeviceToy(std::size_t n_tokens, DeviceStaging& device, testing::ToyOptions options = {})
      : testing::ToyEngine(n_tokens, options), device_(device) {}

  Status insert(const Slice& slice, const KvView& from) {
    const std::uint32_t first = slice.layers.begin;
    if (!device_.contains(from.k(first).data())) return testing::ToyEngine::insert(slice, from);
    const std::size_t run = from.k(first).size();
    std::vector<std::byte> host(2 * run * slice.layers.size());
    std::byte* to = host.data();
    for (std::uint32_t layer = first; layer < slice.layers.end; ++layer) {
      for (const ConstBytes side : {from.k(layer), from.v(layer)}) {
        if (auto status = device_.to_host(to, side.data(), run); !status) return status;
        to += run;
      }
    }
    ++from_device;
    return testing::ToyEngine::insert(slice, KvView(host.data(), first, run, run));
  }
  std::atomic<int> from_device{0};

 private:
  DeviceStaging& device_;
};
static_assert(ComputeBackend<DeviceToy>);

/// A GdsStorage whose reads all go into device memory first, for tests that look at host memory.
class ThroughDevice {
 public:
  ThroughDevice(GdsStorage& storage, DeviceStaging& device) : storage_(storage), device_(device) {}
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return storage_.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    const AlignedBuffer part(out.size(), &device_);
    Status status = cake::await_completion(storage_.read(tier, key, offset, part.bytes()));
    return status ? device_.to_host(out.data(), part.data(), out.size()) : status;
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return storage_.write(key, bytes); }
  Status erase(const ChunkKey& key) { return storage_.erase(key); }

 private:
  GdsStorage& storage_;
  DeviceStaging& device_;
};
static_assert(StorageBackend<ThroughDevice>);

/// Offers device memory also where reads into it do not go through cuFile.
class AlwaysDevice {
 public:
  AlwaysDevice(GdsStorage& storage, DeviceStaging& device) : storage_(storage), device_(device) {}
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return storage_.lookup(keys);
  }
  GdsRead read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return storage_.read(tier, key, offset, out);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return storage_.write(key, bytes); }
  Status erase(const ChunkKey& key) { return storage_.erase(key); }
  static constexpr StorageAbilities abilities{.device_staging = true};
  DeviceStaging* device_staging() const { return &device_; }

 private:
  GdsStorage& storage_;
  DeviceStaging& device_;
};
static_assert(StorageBackend<AlwaysDevice>);

}  // namespace cake::inline CAKE_ABI::sample
