// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The stores of a TieredStorage, of whatever types, as its policies see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "cake/detail/tier_counters.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Exceptions of a store become errors; reads and writes are counted.
///
/// Thread:  as the stores
class TierAccess {
 public:
  TierAccess() = default;
  TierAccess(const TierAccess&) = delete;
  TierAccess& operator=(const TierAccess&) = delete;
  virtual ~TierAccess() = default;

  virtual std::size_t size() const noexcept = 0;
  /// The number of the store's first tier.
  virtual std::uint32_t tier_of(std::size_t store) const noexcept = 0;
  /// Of that tier.
  virtual TierCounters& counters(std::size_t store) noexcept = 0;
  /// A read of the store has not ended.
  virtual bool reading(std::size_t store) const noexcept = 0;

  /// An object of this key and size is there; false where the store does not say.
  virtual bool holds(std::size_t store, const ChunkKey& key, std::uint64_t bytes) noexcept = 0;
  /// Returns when it is written, and whether this call made it visible.
  virtual Result<bool> write(std::size_t store, const ChunkKey& key,
                             ConstBytes object) noexcept = 0;
  /// As the ability write_in_place.
  ///
  /// Errors:  unsupported: the store has no rooms
  virtual Result<ObjectRoom> make_room(std::size_t store, const ChunkKey& key,
                                       std::uint64_t bytes) noexcept = 0;
  virtual Result<bool> publish(std::size_t store, const ChunkKey& key, ObjectRoom room,
                               std::uint64_t bytes, std::optional<std::uint32_t> seal) noexcept = 0;
  /// The whole object where it lies; empty: the store does not lend it.
  virtual BorrowedBytes lend(std::size_t store, const ChunkKey& key,
                             std::uint64_t bytes) noexcept = 0;
  virtual Status read(std::size_t store, const ChunkKey& key, MutableBytes out) noexcept = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
