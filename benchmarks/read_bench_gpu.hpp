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

namespace cake::benchmarks {

/// An engine whose pages lie on the device: chunks go into the places of a few, by turns.
struct DevicePages {
  explicit DevicePages(std::uint32_t page_tokens) : target(KvOrder::nhd, page_tokens) {}
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

}  // namespace cake::benchmarks
