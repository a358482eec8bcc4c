// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The stores of a TieredStorage: which tiers belong to which, calls of one of them, and its counts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/tier_access.hpp"
#include "cake/detail/tier_counters.hpp"
#include "cake/engine.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
template <StorageBackend... S>
class TierStores final : public TierAccess {
 public:
  static constexpr std::size_t kStores = sizeof...(S);

  /// Errors:  throws std::bad_alloc, and what a store's tiers() throws
  explicit TierStores(S&... stores) : stores_(&stores...) {
    const std::array<std::uint32_t, kStores> counts{storage_traits<S>::tiers(stores)...};
    for (std::size_t i = 0; i < kStores; ++i) first_[i + 1] = first_[i] + counts[i];
    for (std::uint32_t t = 0; t < tiers(); ++t) {
      counters_.push_back(std::make_shared<TierCounters>());
    }
  }

  std::uint32_t tiers() const noexcept { return first_[kStores]; }
  std::uint32_t first_tier(std::size_t store) const noexcept { return first_[store]; }
  /// The tiers of the store as a bit set, counted from its own first one.
  std::uint32_t own_tiers(std::size_t store) const noexcept {
    return (std::uint32_t{1} << (first_[store + 1] - first_[store])) - 1;
  }
  /// Of a tier of all.
  const std::shared_ptr<TierCounters>& shared_counters(std::uint32_t tier) const {
    return counters_[tier];
  }
  /// As the caller wants to see them. Units: as TierStats
  std::vector<TierStats> stats() const {
    std::vector<TierStats> all;
    for (const auto& one : counters_) all.push_back(one->stats());
    return all;
  }
  void count_hits(const StoredChunk& found) noexcept {
    for (std::uint32_t t = 0; t < tiers(); ++t) {
      if ((found.tiers >> t & 1) != 0) TierCounters::add(counters_[t]->hits);
    }
  }

  /// f(number, store) of each store.
  template <class F>
  void each(F&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) { (f(I, *std::get<I>(stores_)), ...); }
    (std::index_sequence_for<S...>());
  }
  /// f(number, store, the tier as the store numbers it) of the store that has this tier.
  template <class F>
  void at_tier(std::uint32_t tier, F&& f) {
    bool found = false;
    each([&](std::size_t i, auto& store) {
      if (found || tier < first_[i] || tier >= first_[i + 1]) return;
      found = true;
      f(i, store, tier - first_[i]);
    });
  }
  template <class One>
  static storage_traits<One> traits(One&) {
    return {};
  }

  // ---- for policies ----

  std::size_t size() const noexcept override { return kStores; }
  std::uint32_t tier_of(std::size_t store) const noexcept override { return first_[store]; }
  TierCounters& counters(std::size_t store) noexcept override { return *counters_[first_[store]]; }
  bool reading(std::size_t store) const noexcept override {
    for (std::uint32_t t = first_[store]; t < first_[store + 1]; ++t) {
      if (counters_[t]->reading.load(std::memory_order_relaxed) != 0) return true;
    }
    return false;
  }
  bool holds(std::size_t store, const ChunkKey& key, std::uint64_t bytes) noexcept override {
    bool result = false;
    one(store, [&](auto& it) {
      const auto found = guarded(Errc::io, "lookup", [&] { return it.lookup(std::span(&key, 1)); });
      result = found && found->size() == 1 && (*found)[0].stored() && (*found)[0].size == bytes;
    });
    return result;
  }
  Result<bool> write(std::size_t store, const ChunkKey& key, ConstBytes object) noexcept override {
    Result<bool> result = false;
    one(store, [&](auto& it) {
      result = guarded(Errc::io, "write of a store",
                       [&] { return traits(it).write_and_tell(it, key, object); });
    });
    if (!result || *result) counters(store).write_ended(object.size(), result.has_value());
    return result;
  }
  Result<ObjectRoom> make_room(std::size_t store, const ChunkKey& key,
                               std::uint64_t bytes) noexcept override {
    Result<ObjectRoom> room = error_of(Errc::unsupported, 0, "the tier has no rooms for objects");
    one(store, [&]<class One>(One& it) {
      if constexpr (storage_traits<One>::abilities.write_in_place) {
        room = guarded(Errc::io, "room in a store", [&] { return it.make_room(key, bytes); });
      }
    });
    return room;
  }
  Result<bool> publish(std::size_t store, const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal) noexcept override {
    Result<bool> result = false;
    one(store, [&](auto& it) {
      result = guarded(Errc::io, "write of a store",
                       [&] { return traits(it).publish(it, key, std::move(room), bytes, seal); });
    });
    if (!result || *result) counters(store).write_ended(bytes, result.has_value());
    return result;
  }
  BorrowedBytes lend(std::size_t store, const ChunkKey& key,
                     std::uint64_t bytes) noexcept override {
    BorrowedBytes result;
    one(store, [&](auto& it) {
      for (std::uint32_t t = 0; result.bytes().empty() && t < own_count(store); ++t) {
        auto loan = guarded(Errc::io, "borrow", [&]() -> Result<BorrowedBytes> {
          if (!traits(it).lends(it, t)) return BorrowedBytes();
          return traits(it).borrow(it, t, key, 0, bytes);
        });
        if (loan && loan->bytes().size() == bytes) result = std::move(*loan);
      }
    });
    return result;
  }
  Status read(std::size_t store, const ChunkKey& key, MutableBytes out) noexcept override {
    Status result;
    one(store, [&](auto& it) {
      for (std::uint32_t t = 0; t < own_count(store); ++t) {
        result = guarded(Errc::io, "read of a store",
                         [&] { return cake::await_completion(it.read(t, key, 0, out)); });
        if (result) return;
      }
    });
    return result;
  }

 private:
  std::uint32_t own_count(std::size_t store) const { return first_[store + 1] - first_[store]; }
  template <class F>
  void one(std::size_t store, F&& f) noexcept {
    each([&](std::size_t i, auto& it) {
      if (i == store) f(it);
    });
  }

  std::tuple<S*...> stores_;
  std::array<std::uint32_t, kStores + 1> first_{};
  std::vector<std::shared_ptr<TierCounters>> counters_;  // [tier]
};

}  // namespace cake::inline CAKE_ABI::detail
