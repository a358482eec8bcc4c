// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Several stores as the tiers of one, each with an I/O lane of its own.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "cake/concepts.hpp"

namespace cake {

/// Whichever of several completions a call returned.
template <Completion... C>
class AnyCompletion {
 public:
  template <class One>
  requires(std::same_as<One, C> || ...) AnyCompletion(One one) : one_(std::move(one)) {}

  bool ready() {
    return std::visit([](auto& c) { return is_ready(c); }, one_);
  }
  Status wait() {
    return std::visit([](auto& c) { return cake::wait(std::move(c)); }, one_);
  }
  bool wait_for(std::chrono::nanoseconds span) {
    return std::visit([&](auto& c) { return cake::wait_for(c, span); }, one_);
  }

 private:
  static bool is_ready(Status&) { return true; }
  template <AsyncCompletion One>
  static bool is_ready(One& c) {
    return c.ready();
  }
  std::variant<C...> one_;
};

namespace detail {
// AnyCompletion over the distinct types of a list, since a variant wants each type once.
template <class Any, class... Rest>
struct Distinct {
  using type = Any;
};
template <class... Had, class Next, class... Rest>
struct Distinct<AnyCompletion<Had...>, Next, Rest...>
    : std::conditional_t<(std::same_as<Next, Had> || ...), Distinct<AnyCompletion<Had...>, Rest...>,
                         Distinct<AnyCompletion<Had..., Next>, Rest...>> {};
template <class S>
using ReadOf = decltype(std::declval<S&>().read(0, std::declval<const ChunkKey&>(), 0,
                                                std::declval<MutableBytes>()));
template <class S>
using WriteOf =
    decltype(std::declval<S&>().write(std::declval<const ChunkKey&>(), std::declval<ConstBytes>()));
}  // namespace detail

/// Puts stores side by side, the fastest first. Their tiers are numbered through: with two stores
/// of one tier each, tier 0 is the first and tier 1 the second.
///
///     cake::TieredStorage store(memory, disk);   // writes go to disk
///
/// Needs:   the stores outlive it; at most kMaxTiers tiers in all
/// Thread:  any number of threads at once
template <StorageBackend... S>
requires(sizeof...(S) > 0) class TieredStorage {
  static constexpr std::size_t kStores = sizeof...(S);

 public:
  using Read = typename detail::Distinct<AnyCompletion<Status>, detail::ReadOf<S>...>::type;
  using Write = typename detail::Distinct<AnyCompletion<Status>, detail::WriteOf<S>...>::type;

  /// Errors:  throws Exception(invalid_argument) when there are more than kMaxTiers tiers
  explicit TieredStorage(S&... stores) : stores_(&stores...) {
    const std::array<std::uint32_t, kStores> counts{tiers_of(stores)...};
    for (std::size_t i = 0; i < kStores; ++i) first_[i + 1] = first_[i] + counts[i];
    if (tiers() > kMaxTiers) {
      throw Exception({Errc::invalid_argument, 0, "more than eight storage tiers"});
    }
  }

  /// Chooses the store that write() goes to; the last one when never called, which is the slowest
  /// and largest.
  ///
  /// Thread:  before other threads use the store
  /// Errors:  throws Exception(invalid_argument) when there is no such store
  void write_to(std::size_t store) {
    if (store >= kStores) throw Exception({Errc::invalid_argument, 0, "no such store to write to"});
    write_to_ = store;
  }

  std::uint32_t tiers() const { return first_[kStores]; }

  /// Asks every store. A tier whose object is shorter than another's is left out: it is truncated.
  /// A store that fails holds nothing; only when all fail does the call.
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    std::vector<StoredChunk> found(keys.size());
    std::optional<Error> failure;
    std::size_t answers = 0;
    each([&](std::size_t i, auto& store) {
      const Result<std::vector<StoredChunk>> part = store.lookup(keys);
      if (!part || part->size() != keys.size()) {
        if (!failure) {
          failure = part ? Error{Errc::io, 0, "a store answered for other keys"} : part.error();
        }
        return;
      }
      ++answers;
      for (std::size_t k = 0; k < keys.size(); ++k) merge(found[k], (*part)[k], first_[i]);
    });
    if (answers == 0) return *failure;
    return found;
  }

  Read read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    std::optional<Read> result;
    each([&](std::size_t i, auto& store) {
      if (tier < first_[i] || tier >= first_[i + 1]) return;
      result.emplace(store.read(tier - first_[i], key, offset, out));
    });
    if (!result) return Status(Error{Errc::invalid_argument, 0, "no such storage tier"});
    return std::move(*result);
  }

  Write write(const ChunkKey& key, ConstBytes bytes) {
    std::optional<Write> result;
    each([&](std::size_t i, auto& store) {
      if (i == write_to_) result.emplace(store.write(key, bytes));
    });
    return std::move(*result);
  }

  /// Erases everywhere, also behind a store that fails; returns the first failure.
  Status erase(const ChunkKey& key) {
    Status result;
    each([&](std::size_t, auto& store) {
      Status status = store.erase(key);
      if (result && !status) result = std::move(status);
    });
    return result;
  }

 private:
  template <class F>
  void each(F&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) { (f(I, *std::get<I>(stores_)), ...); }
    (std::index_sequence_for<S...>());
  }
  static void merge(StoredChunk& all, const StoredChunk& part, std::uint32_t first_tier) {
    if (!part.stored() || part.size < all.size) return;
    if (part.size > all.size) all = {part.size, 0};
    all.tiers |= part.tiers << first_tier;
  }

  std::tuple<S*...> stores_;
  std::array<std::uint32_t, kStores + 1> first_{};
  std::size_t write_to_ = kStores - 1;
};

}  // namespace cake
