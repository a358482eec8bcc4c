// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Memory that encrypted slices are decrypted into.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Keeps buffers from one slice to the next: new pages cost as much as the decryption.
///
/// Thread:  Safe for concurrent use
class PlainBuffers {
 public:
  /// Of `memory`, which outlives this; null: plain host memory.
  explicit PlainBuffers(StagingMemory* memory) : memory_(memory) {}

  /// The smallest one that is kept and large enough, or a new one.
  ///
  /// Errors:  throws std::bad_alloc
  AlignedBuffer take(std::uint64_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      auto best = kept_.end();
      for (auto it = kept_.begin(); it != kept_.end(); ++it) {
        if (it->size() >= bytes && (best == kept_.end() || it->size() < best->size())) best = it;
      }
      if (best != kept_.end()) {
        AlignedBuffer buffer = std::move(*best);
        kept_.erase(best);
        return buffer;
      }
    }
    return AlignedBuffer(bytes, memory_);
  }
  void give_back(AlignedBuffer buffer) noexcept {
    if (buffer.size() == 0) return;
    const std::lock_guard lock(mutex_);
    if (kept_.size() == kMostKept) return;
    try {
      kept_.push_back(std::move(buffer));
    } catch (const std::bad_alloc&) {  // then it is not kept
    }
  }
  /// Frees what is kept.
  void clear() noexcept {
    const std::lock_guard lock(mutex_);
    kept_.clear();
  }

 private:
  static constexpr std::size_t kMostKept = 8;
  StagingMemory* const memory_;
  std::mutex mutex_;
  std::vector<AlignedBuffer> kept_;
};

}  // namespace cake::inline CAKE_ABI::detail
