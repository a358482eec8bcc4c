// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A scheduler that loads one layer of a chunk at a time, and what to count its memory with.
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>
#include <optional>

#include "cake/detail/admission.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::fault {

/// Loads everything, chunk by chunk from the front, in reads of one layer.
class LayerByLayer : public LoadOnlyScheduler {
 public:
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    const PrefillSpec& spec = view.spec();
    for (std::uint32_t c = view.front_chunk(); c < spec.end_chunk; ++c) {
      const std::uint32_t layer = view.layers_issued(c);
      LoadRequest load{spec.whole(c), now + std::chrono::minutes(5)};
      load.slice.layers = {layer, layer + 1};
      if (layer < spec.n_layers && detail::may_load(view, load, lane)) return load;
    }
    return std::nullopt;
  }
};

/// Memory of exactly that many bytes; counts the calls that it had no more for.
class ExactStaging final : public StagingMemory {
 public:
  explicit ExactStaging(std::uint64_t bytes) : bytes_(bytes) {}
  std::byte* allocate(std::size_t bytes) override {
    if ((used += bytes) > bytes_) {
      used -= bytes;
      ++refused;
      throw std::bad_alloc();
    }
    return static_cast<std::byte*>(std::aligned_alloc(kIoAlignment, bytes));
  }
  void release(std::byte* data, std::size_t bytes) noexcept override {
    std::free(data);
    used -= bytes;
  }
  std::atomic<std::uint64_t> used{0};
  std::atomic<int> refused{0};

 private:
  std::uint64_t bytes_;
};

}  // namespace cake::inline CAKE_ABI::fault
