// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The pages of one sequence on the device: pools, block table, and what was written so far.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cake/cuda/paged_kv.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/engine.hpp"
#include "cake/kv_presence.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// Which page holds which tokens: 0, 1, 2 ... or, with a seed, a random order of them.
std::vector<std::int32_t> assign_pages(std::uint32_t n_pages, std::uint64_t seed);

/// Owner of pages for max_tokens tokens. Rows that were never written hold NaN, so that a read of
/// them shows.
class KvPool {
 public:
  /// Errors:  throws Exception(out_of_memory), naming the size
  KvPool(const KvLayout& layout, std::uint32_t page_tokens, std::uint32_t max_tokens,
         std::uint64_t shuffle, cudaStream_t stream);
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  const cuda::PagedKv& description() const { return kv_; }
  const std::int32_t* device_table() const { return device_table_.as<std::int32_t>(); }
  std::uint32_t max_tokens() const { return max_tokens_; }
  /// What was written, or will have been when all steps that are enqueued have run. Steps in flight
  /// keep it.
  const std::shared_ptr<KvPresence>& presence() const { return presence_; }

  /// Errors:  invalid_argument, naming what is out of range
  Status check(const Slice& slice) const;

 private:
  std::uint32_t max_tokens_;
  std::vector<std::int32_t> table_;
  std::vector<void*> k_;
  std::vector<void*> v_;
  cuda::DeviceBuffer pages_;
  cuda::DeviceBuffer device_table_;
  cuda::PagedKv kv_;
  std::shared_ptr<KvPresence> presence_;
};

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
