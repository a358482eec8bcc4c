// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The staging memory of all lanes together: what is lent, what is kept for the next read, what is
// free. Bookkeeping only; requires external synchronization.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "cake/buffer.hpp"

namespace cake::detail {

/// Bytes that are lent plus bytes that are kept never exceed the budget. Memory itself is allocated
/// and given back by the caller, without the lock, in that order: first give back `dropped`, then
/// allocate.
class StagingPool {
 public:
  /// `most_kept`: buffers that are kept for reuse at most; 0 for an arena, which deals in any size.
  StagingPool(std::uint64_t budget, std::size_t most_kept)
      : budget_(budget), most_kept_(most_kept) {
    kept_.reserve(most_kept);
  }

  /// What one buffer of `bytes` takes out of the budget.
  static std::uint64_t cost(std::uint64_t bytes) { return align_up(bytes == 0 ? 1 : bytes); }

  std::uint64_t budget() const { return budget_; }
  std::uint64_t lent() const { return lent_; }
  /// Bytes that a read could get; the whole budget while nothing is lent.
  std::uint64_t room() const { return budget_ - lent_; }
  std::size_t most_kept() const { return most_kept_; }

  /// Lends `bytes`, which room() must have. Gives a kept buffer of about that size, or an empty
  /// one: then the caller allocates. `dropped` takes the kept buffers that must make room first; it
  /// needs a capacity of most_kept().
  AlignedBuffer lend(std::uint64_t bytes, std::vector<AlignedBuffer>& dropped) {
    for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
      if (kept->size() < bytes || cost(kept->size()) > 2 * cost(bytes) ||
          cost(kept->size()) > room()) {
        continue;
      }
      AlignedBuffer found = std::move(*kept);
      kept_.erase(kept);
      kept_bytes_ -= cost(found.size());
      lent_ += cost(found.size());
      return found;
    }
    lent_ += cost(bytes);
    while (!kept_.empty() && (lent_ + kept_bytes_ > budget_)) drop_oldest(dropped);
    return {};
  }
  /// The memory that was to be allocated is not there after all.
  void cancel(std::uint64_t bytes) { lent_ -= cost(bytes); }
  /// Takes a lent buffer back; what is not kept is the caller's to free.
  AlignedBuffer take_back(AlignedBuffer buffer) {
    lent_ -= cost(buffer.size());
    if (kept_.size() == most_kept_) return buffer;
    kept_bytes_ += cost(buffer.size());
    kept_.push_back(std::move(buffer));
    return {};
  }
  void drop_all(std::vector<AlignedBuffer>& dropped) {
    while (!kept_.empty()) drop_oldest(dropped);
  }

 private:
  void drop_oldest(std::vector<AlignedBuffer>& dropped) {
    kept_bytes_ -= cost(kept_.front().size());
    dropped.push_back(std::move(kept_.front()));
    kept_.erase(kept_.begin());
  }

  std::uint64_t budget_;
  std::uint64_t lent_ = 0;
  std::uint64_t kept_bytes_ = 0;
  std::size_t most_kept_;
  std::vector<AlignedBuffer> kept_;  // oldest first
};

}  // namespace cake::detail
