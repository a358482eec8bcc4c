// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A scheduler that loads one layer of a chunk at a time, and what to count its memory with.
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>
#include <optional>

#include "cake/buffer.hpp"
#include "cake/gate.hpp"
#include "cake/scheduler/baselines.hpp"

namespace cake::fault {

/// Loads everything, chunk by chunk from the front, in reads of one layer.
class LayerByLayer : public LoadOnlyScheduler {
 public:
  std::optional<Load> next_load(const Board& board, LaneId lane, Time now) {
    const PrefillPlan& plan = board.plan();
    for (std::uint32_t c = board.front_chunk(); c < plan.end_chunk; ++c) {
      const std::uint32_t layer = board.layers_issued(c);
      Load load{plan.whole(c), now + std::chrono::minutes(5)};
      load.slice.layers = {layer, layer + 1};
      if (layer < plan.n_layers && may_load(board, load, lane)) return load;
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

}  // namespace cake::fault
