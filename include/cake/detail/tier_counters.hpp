// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Counts of one tier of a TieredStorage.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "cake/export.hpp"
#include "cake/storage/tier_policy.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
struct TierCounters {
  using Count = std::atomic<std::uint64_t>;
  Count hits{0}, reads{0}, read_bytes{0}, failed_reads{0};
  Count writes{0}, written_bytes{0}, behind{0}, promoted{0}, failed_writes{0}, dropped{0};
  Count reading{0};  // reads that have not ended

  static void add(Count& to, std::uint64_t n = 1) noexcept {
    to.fetch_add(n, std::memory_order_relaxed);
  }
  void read_ended(std::uint64_t bytes, bool good) noexcept {
    good ? add(read_bytes, bytes) : add(failed_reads);
  }
  void write_ended(std::uint64_t bytes, bool good) noexcept {
    if (!good) return add(failed_writes);
    add(writes);
    add(written_bytes, bytes);
  }
  TierStats stats() const noexcept {
    const auto now = [](const Count& count) { return count.load(std::memory_order_relaxed); };
    return {now(hits),          now(reads),  now(read_bytes), now(failed_reads),  now(writes),
            now(written_bytes), now(behind), now(promoted),   now(failed_writes), now(dropped)};
  }
};

/// A read or a write of a tier that may still be going on. Movable. Keeps the counters.
class TierCall {
 public:
  enum class Kind : std::uint8_t { read, write };
  TierCall() = default;
  TierCall(Kind kind, std::uint64_t bytes, std::shared_ptr<TierCounters> of) noexcept
      : kind_(kind), bytes_(bytes), of_(std::move(of)) {
    if (kind == Kind::write) return;
    TierCounters::add(of_->reads);
    TierCounters::add(of_->reading);
  }
  TierCall(TierCall&&) noexcept = default;
  TierCall& operator=(TierCall&& other) noexcept {
    leave();
    kind_ = other.kind_;
    bytes_ = other.bytes_;
    of_ = std::move(other.of_);
    return *this;
  }
  /// Nobody learns how it ended.
  ~TierCall() { leave(); }

  void ended(bool good) noexcept {
    if (!of_) return;
    kind_ == Kind::read ? of_->read_ended(bytes_, good) : of_->write_ended(bytes_, good);
    leave();
  }

 private:
  void leave() noexcept {
    if (of_ && kind_ == Kind::read) of_->reading.fetch_sub(1, std::memory_order_relaxed);
    of_.reset();
  }
  Kind kind_ = Kind::read;
  std::uint64_t bytes_ = 0;
  std::shared_ptr<TierCounters> of_;
};

}  // namespace cake::inline CAKE_ABI::detail
