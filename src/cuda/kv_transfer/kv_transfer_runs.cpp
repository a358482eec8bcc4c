// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_transfer_runs.hpp"

#include <cuda_runtime_api.h>

#include <span>
#include <type_traits>
#include <utility>

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

Error refuse(std::string what) {
  return Error{Errc::invalid_argument, 0, "KV transfer: " + std::move(what)};
}

template <class Byte>
Result<Runs> runs_of(const PagedKv& kv, const Slice& slice, const BasicKvView<Byte>& view,
                     const RunShape& shape, int device) {
  Runs runs;
  const auto add = [&](std::uint32_t layer, char side, std::span<Byte> run, void* pool) -> Status {
    if (run.data() == nullptr || run.size() != shape.run_bytes()) {
      return refuse(std::string("the view has ") + std::to_string(run.data() ? run.size() : 0) +
                    " bytes of " + side + " of layer " + std::to_string(layer) + "; " +
                    std::to_string(shape.tokens) + " tokens are " +
                    std::to_string(shape.run_bytes()));
    }
    runs.near.push_back(const_cast<std::byte*>(run.data()));  // read only where it was const
    runs.pools.push_back(static_cast<std::byte*>(pool));
    return {};
  };
  for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
    CAKE_TRY(add(l, 'K', view.k(l), kv.k[l]));
    CAKE_TRY(add(l, 'V', view.v(l), kv.v[l]));
    if (!view.plane(l, 2).empty()) {
      return refuse("the view has more than K and V of layer " + std::to_string(l) +
                    ", and pages hold no more; copy other planes, windows and states yourself");
    }
  }
  const auto pool = memory_at(runs.pools.front(), device, "a pool");
  if (!pool) return pool.error();
  if (*pool != Memory::device) return refuse("the pools are not device memory");
  const auto first = memory_at(runs.near.front(), device, "the view");
  if (!first) return first.error();
  const auto last = memory_at(runs.near.back() + shape.run_bytes() - 1, device, "the view");
  if (!last) return last.error();
  if (*first != *last && (*first == Memory::device || *last == Memory::device)) {
    return refuse("the view begins in one kind of memory and ends in another");
  }
  runs.memory = *first == *last ? *first : Memory::pageable;
  runs.rows_aligned =
      reinterpret_cast<std::uintptr_t>(runs.near.front()) % 16 == 0 && runs.stride() % 16 == 0;
  return runs;
}

template Result<Runs> runs_of(const PagedKv&, const Slice&, const KvView&, const RunShape&, int);
template Result<Runs> runs_of(const PagedKv&, const Slice&, const MutableKvView&, const RunShape&,
                              int);

}  // namespace cake::inline CAKE_ABI::cuda::transfer
