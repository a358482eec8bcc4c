// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a TieredStorage does with objects beyond handing them on: where writes go, what is copied into
// faster tiers, and what it counts.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "cake/export.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// Where a write goes. The last store of a write is that of TieredStorage::write_to(), else the last
/// one of all.
enum class WritePolicy : std::uint8_t {
  /// Into the last store alone.
  last,
  /// Into every store up to the last one, before the call returns: write-through. The last store
  /// decides: if it fails, so does the write, though others may hold the object; if another one
  /// fails, that is counted, and flush() tells it.
  through,
  /// Into the first store that takes it, and into those behind it later: write-back. Until then a
  /// crash loses the object, or leaves it where it is.
  back,
};

/// When a chunk that a load brought whole, and that was verified, is copied into the faster stores.
enum class Promotion : std::uint8_t { never, on_hit, on_second_hit };

struct TierOptions {
  WritePolicy write = WritePolicy::last;
  Promotion promote = Promotion::never;
  /// Of objects that wait to be copied into one store, or are being copied: so much of a store that
  /// lends is held there. Above it whole chunks are dropped: promotions first, then those at the
  /// front of their prompt. One always fits. Units: bytes, for each store
  std::uint64_t behind_bytes = std::uint64_t{256} << 20;
  /// That copy into one store. They are made when there is something to copy.
  unsigned threads = 1;
  /// Longest that a copy waits for reads of the store that it goes into.
  Time wait_for_reads = std::chrono::milliseconds(20);
};

/// What was done with one tier. What a store of several tiers was given counts at the first of them.
/// Units: calls, chunks, bytes.
struct TierStats {
  std::uint64_t hits = 0;   // keys that a lookup found there
  std::uint64_t reads = 0;  // also loans
  std::uint64_t read_bytes = 0;
  std::uint64_t failed_reads = 0;
  std::uint64_t writes = 0;  // that made an object visible, also copies
  std::uint64_t written_bytes = 0;
  std::uint64_t behind = 0;    // of the writes, those that write-back made later
  std::uint64_t promoted = 0;  // of the writes, those of chunks that were read from a slower tier
  std::uint64_t failed_writes = 0;
  std::uint64_t dropped = 0;  // copies into it that were not made, since too many waited
};

struct StoreCounts;  // metrics.hpp
/// For metric_families() (metrics.hpp), one for each tier; `store` is the name of all of them, for people.
CAKE_API std::vector<StoreCounts> store_counts(const std::vector<TierStats>& tiers,
                                               const std::string& store);

}  // namespace cake::inline CAKE_ABI
