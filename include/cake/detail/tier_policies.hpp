// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Carries out the policies of a TieredStorage: all of it that does not depend on the stores' types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "cake/detail/tier_access.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/storage/tier_policy.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Sets of stores are bit sets.
///
/// Thread:  Safe for concurrent use. In a child process after fork() nothing is copied any more, and
///          the destructor leaves everything as it is
class CAKE_API TierPolicies {
 public:
  /// Needs:   the stores outlive it
  TierPolicies(TierAccess& stores, const TierOptions& options);
  /// Waits for copies of write-back; promotions that wait are dropped.
  ~TierPolicies();
  TierPolicies(const TierPolicies&) = delete;
  TierPolicies& operator=(const TierPolicies&) = delete;

  const TierOptions& options() const noexcept;

  /// Write-through or write-back, up to the store `last`. Whether the object is new: to the last
  /// store, or to the one that took it first.
  Result<bool> write(const ChunkKey& key, ConstBytes object, std::size_t last) noexcept;
  /// A write-back of an object in a room of the first store. Whether it is new there.
  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal, std::size_t last) noexcept;
  /// A lookup found the object in the stores `held`, and `lacking` do not have it: those of a write
  /// up to `last` are given it later, if there is room.
  void found(const ChunkKey& key, std::uint64_t bytes, std::uint32_t held, std::uint32_t lacking,
             std::size_t last) noexcept;
  /// As the ability promote, of an object of the store `from`.
  void promote(const ChunkKey& key, BorrowedBytes object, std::size_t from) noexcept;
  bool promotes(std::size_t from) const noexcept;

  /// Waits for all copies that were asked for before.
  ///
  /// Errors:  the first failure since the last call; unsupported in a child process
  Status flush();

  /// While it lives nothing is copied that has this key. Its constructor waits for a copy that is
  /// being made.
  class CAKE_API Bar {
   public:
    /// Errors:  throws std::bad_alloc
    Bar(TierPolicies& policies, const ChunkKey& key);
    ~Bar();
    Bar(const Bar&) = delete;
    Bar& operator=(const Bar&) = delete;

   private:
    TierPolicies& policies_;
    const ChunkKey key_;
  };

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace cake::inline CAKE_ABI::detail
