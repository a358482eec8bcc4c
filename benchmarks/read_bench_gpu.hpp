// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What read_bench needs of a GPU: page-locked memory, pages on the device, and plain copies.
#pragma once

#include <cstdint>
#include <vector>

#include "cake/cuda/device_arena.hpp"
#include "cake/cuda/kv_transfer.hpp"
#include "cake/cuda/pinned_staging.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/storage/gds.hpp"
#include "insert_target.hpp"
#include "read_ceilings.hpp"

namespace cake::benchmarks {

/// An engine whose pages lie on the device: chunks go into the places of a few, by turns.
struct DevicePages {
  static constexpr EngineAbilities abilities{.staging_memory = true, .inserts_parts = true};
  DevicePages(std::uint32_t page_tokens, KvOrder order) : target(order, page_tokens) {}
  StagingMemory* staging_memory() { return &staging; }
  UniformKvLayout layout() const { return target.layout; }
  ModelFingerprint fingerprint() const { return {}; }
  Status prefill(Tokens, TokenRange) { return {}; }
  cuda::Transfer insert(const Slice& slice, const KvView& from) {
    Slice place = target.slice(slice.chunk % kChunks);
    place.layers = slice.layers;
    return transfer.insert(target.paged(), place, from);
  }
  Status extract(const Slice&, const MutableKvView&) {
    return Error{Errc::not_found, 0, "nothing is kept"};
  }

  cuda::PinnedStaging staging{std::size_t{1} << 30};
  InsertTarget target;
  cuda::KvTransfer transfer;
};
static_assert(ComputeBackend<DevicePages>);

/// The plain copy beside it: to the same device memory, with a stream for each thread.
class DeviceCopy {
 public:
  DeviceCopy(const DevicePages& pages, unsigned threads)
      : to_(pages.target.pools.as<std::byte>()), streams_(threads) {}
  void operator()(unsigned thread, std::uint32_t chunk, ConstBytes from) const {
    const cuda::Stream& stream = streams_[thread];
    cuda::throw_unless_ok(cudaMemcpyAsync(to_ + chunk % kChunks * from.size(), from.data(),
                                          from.size(), cudaMemcpyHostToDevice, stream.get()),
                          "copy");
    stream.wait().value();
  }

 private:
  std::byte* to_;
  std::vector<cuda::Stream> streams_;
};

/// Copies pieces to the same device memory: one is read while the one before it is on its way.
class DeviceTarget final : public PieceTarget {
 public:
  explicit DeviceTarget(const DevicePages& pages)
      : to_(pages.target.pools.as<std::byte>()),
        places_(kChunks * pages.target.chunk_bytes() / kPiece) {}
  std::byte* buffer() override {
    turn_ ^= 1;
    streams_[turn_].wait().value();
    return buffers_[turn_].data();
  }
  void take(std::size_t place, std::size_t bytes) override {
    cuda::throw_unless_ok(cudaMemcpyAsync(to_ + place % places_ * kPiece, buffers_[turn_].data(),
                                          bytes, cudaMemcpyHostToDevice, streams_[turn_].get()),
                          "copy");
  }

 private:
  std::byte* to_;
  std::size_t places_;
  unsigned turn_ = 0;
  cuda::PinnedBuffer buffers_[2] = {cuda::PinnedBuffer(kPiece), cuda::PinnedBuffer(kPiece)};
  cuda::Stream streams_[2];
};

}  // namespace cake::benchmarks
