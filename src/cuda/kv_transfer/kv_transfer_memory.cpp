// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_transfer_memory.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>

#include "cake/cuda/runtime.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {
namespace {

Result<Memory> memory_at(const void* address, int device, const char* what) {
  cudaPointerAttributes attributes{};
  CAKE_TRY(to_status(cudaPointerGetAttributes(&attributes, address), "cudaPointerGetAttributes"));
  if (attributes.type == cudaMemoryTypeHost) return Memory::pinned;
  if (attributes.type == cudaMemoryTypeManaged) return Memory::device;
  if (attributes.type != cudaMemoryTypeDevice) return Memory::pageable;
  if (attributes.device != device) {
    return refuse(std::string(what) + " lies on device " + std::to_string(attributes.device) +
                  ", but this transfer was made for device " + std::to_string(device));
  }
  return Memory::device;
}

}  // namespace

Result<Memory> memory_of(std::span<const Group> groups, int device) {
  const std::byte* begin = groups.front().near.front();
  const std::byte* end = begin;
  for (const Group& group : groups) {
    const auto pool = memory_at(group.pools.front(), device, "a pool");
    if (!pool) return pool.error();
    if (*pool != Memory::device) return refuse("the pools are not device memory");
    for (const std::byte* near : group.near) {
      begin = std::min(begin, near);
      end = std::max(end, near + group.shape.run_bytes());
    }
  }
  const auto first = memory_at(begin, device, "the view");
  if (!first) return first.error();
  const auto last = memory_at(end - 1, device, "the view");
  if (!last) return last.error();
  if (*first != *last && (*first == Memory::device || *last == Memory::device)) {
    return refuse("the view begins in one kind of memory and ends in another");
  }
  return *first == *last ? *first : Memory::pageable;
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
