// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The budget of staging memory of all lanes: what is lent, what is kept for the next read, what is
// free. Bookkeeping only; requires external synchronization.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Bytes that are lent, kept, or on their way back to where they came from never exceed the budget.
/// Memory itself is allocated and given back by the caller, without the lock, in that order: first
/// give back what was dropped and say so with freed(), then allocate once fits().
class StagingPool {
 public:
  /// Buffers that the caller has to give back. `held`: bytes of them that count until freed().
  struct Dropped {
    std::vector<AlignedBuffer> buffers;
    std::uint64_t held = 0;
  };

  /// `budget`: whole pages of it count, since buffers take whole pages. `most_kept`: buffers that
  /// are kept for reuse at most; 0 for an arena, which allocates any size.
  StagingPool(std::uint64_t budget, std::size_t most_kept)
      : budget_(budget / kIoAlignment * kIoAlignment), most_kept_(most_kept) {
    kept_.reserve(most_kept);
  }

  /// What one buffer of `bytes` takes out of the budget.
  static std::uint64_t cost(std::uint64_t bytes) { return align_up(bytes == 0 ? 1 : bytes); }

  std::uint64_t budget() const { return budget_; }
  std::uint64_t lent() const { return lent_; }
  /// Bytes that a read could get; the whole budget while nothing is lent or on its way back.
  std::uint64_t room() const { return budget_ - std::min(budget_, lent_ + leaving_); }
  std::size_t most_kept() const { return most_kept_; }

  /// Lends `bytes`. Gives the smallest kept buffer that holds them, where it is at most twice as large or a
  /// 16th of the budget: to lock other pages takes milliseconds, in which the device copies nothing. Else an
  /// empty one: then the caller allocates. `dropped` takes the kept buffers that must make room first; it
  /// needs a capacity of most_kept().
  ///
  /// Needs:   cost(bytes) is at most `most`, and `most` at most room(): the rest is set aside for
  ///          others, also where a kept buffer is larger than was asked for
  AlignedBuffer lend(std::uint64_t bytes, std::uint64_t most, Dropped& dropped) {
    auto best = kept_.end();
    const std::uint64_t largest = std::min(most, std::max(2 * cost(bytes), budget_ / 16));
    for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
      if (kept->size() < bytes || cost(kept->size()) > largest) continue;
      if (best == kept_.end() || kept->size() < best->size()) best = kept;
    }
    if (best != kept_.end()) {
      AlignedBuffer found = std::move(*best);
      kept_.erase(best);
      kept_bytes_ -= cost(found.size());
      lent_ += cost(found.size());
      return found;
    }
    lent_ += cost(bytes);
    const std::uint64_t kept = kept_bytes_;
    while (!kept_.empty() && !fits()) drop_oldest(dropped);
    // What is allocated takes the place of as many bytes as are dropped for it.
    const std::uint64_t gone = kept - kept_bytes_;
    hold(dropped, gone - std::min(gone, cost(bytes)));
    return {};
  }
  /// Nothing lent has to wait for the memory of buffers that others are giving back.
  bool fits() const { return lent_ + leaving_ + kept_bytes_ <= budget_; }
  /// The memory that was to be allocated is not there after all.
  void cancel(std::uint64_t bytes) { lent_ -= cost(bytes); }
  /// Takes a lent buffer back. What is not kept, this one or a smaller one, is the caller's to free, with
  /// freed(cost(size)).
  AlignedBuffer take_back(AlignedBuffer buffer) {
    const bool wanted = !fits();  // what was lent meanwhile waits for it
    lent_ -= cost(buffer.size());
    if (!wanted && kept_.size() == most_kept_) swap_for_smallest(buffer);
    if (wanted || kept_.size() == most_kept_) {
      leaving_ += cost(buffer.size());
      return buffer;
    }
    kept_bytes_ += cost(buffer.size());
    kept_.push_back(std::move(buffer));
    return {};
  }
  void drop_all(Dropped& dropped) {
    hold(dropped, kept_bytes_);
    while (!kept_.empty()) drop_oldest(dropped);
  }
  /// These bytes are back where they came from.
  void freed(std::uint64_t bytes) { leaving_ -= bytes; }

 private:
  /// Larger ones are of use for more reads.
  void swap_for_smallest(AlignedBuffer& buffer) {
    const auto smallest =
        std::min_element(kept_.begin(), kept_.end(),
                         [](const auto& a, const auto& b) { return a.size() < b.size(); });
    if (smallest == kept_.end() || smallest->size() >= buffer.size()) return;
    kept_bytes_ += cost(buffer.size()) - cost(smallest->size());
    std::swap(*smallest, buffer);
  }
  void drop_oldest(Dropped& dropped) {
    kept_bytes_ -= cost(kept_.front().size());
    dropped.buffers.push_back(std::move(kept_.front()));
    kept_.erase(kept_.begin());
  }
  void hold(Dropped& dropped, std::uint64_t bytes) {
    leaving_ += bytes;
    dropped.held += bytes;
  }

  std::uint64_t budget_;
  std::uint64_t lent_ = 0;
  std::uint64_t kept_bytes_ = 0;
  std::uint64_t leaving_ = 0;  // of buffers that the caller has not given back yet
  std::size_t most_kept_;
  std::vector<AlignedBuffer> kept_;  // oldest first
};

}  // namespace cake::inline CAKE_ABI::detail
