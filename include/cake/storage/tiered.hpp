// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Combines several stores as tiers of one, each with its own I/O lane.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/tier_counters.hpp"
#include "cake/detail/tier_policies.hpp"
#include "cake/detail/tier_stores.hpp"
#include "cake/engine.hpp"
#include "cake/staging.hpp"
#include "cake/storage/tier_policy.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

/// The completion of one of several stores. An exception of its wait() becomes the status; those of
/// ready() and wait_for() are passed on.
template <Completion... C>
class AnyCompletion {
 public:
  template <class One>
  requires(std::same_as<One, C> || ...) AnyCompletion(One one, detail::TierCall call = {})
      : one_(std::move(one)), call_(std::move(call)) {}

  bool ready() {
    return std::visit([](auto& c) { return is_ready(c); }, one_);
  }
  Status wait() {
    Status status = detail::guarded(Errc::io, "wait for a store", [&] {
      return std::visit([](auto& c) { return cake::await_completion(std::move(c)); }, one_);
    });
    call_.ended(status.has_value());
    return status;
  }
  bool wait_for(std::chrono::nanoseconds span) {
    return std::visit([&](auto& c) { return cake::completed_within(c, span); }, one_);
  }
  void cancel() noexcept {
    static_cast<void>(detail::value_or(
        [this] {
          std::visit([](auto& c) { cake::cancel_completion(c); }, one_);
          return true;
        },
        false));
  }

 private:
  static bool is_ready(Status&) { return true; }
  template <AsyncCompletion One>
  static bool is_ready(One& c) {
    return c.ready();
  }
  std::variant<C...> one_;
  detail::TierCall call_;
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

/// Stores side by side, the fastest first. Their tiers are numbered consecutively: with two stores
/// of one tier each, tier 0 is the first and tier 1 the second. If one store fails or throws, the
/// others still answer.
///
///     cake::TieredStorage store(memory, disk);   // writes go to disk
///     cake::TieredStorage store({.write = cake::WritePolicy::back, .promote = cake::Promotion::on_hit},
///                               memory, disk);   // to memory, and to disk later
///
/// A chunk is promoted when a lane has read it whole, from the memory that it was read into, and into
/// all faster stores. What a lookup() finds only in stores before the last one of a write, though
/// the policy is write-through or write-back, is copied into the others where there is room: so a
/// save repairs what an earlier one could not write.
///
/// device_staging() is that of the first store that has one. Other stores read into host memory
/// first, and such reads block.
///
/// Needs:   the stores outlive it; at most kMaxTiers tiers in all
/// Thread:  Safe for concurrent use. In a child process after fork() nothing is copied between
///          stores, and writes of a policy are refused
template <StorageBackend... S>
requires(sizeof...(S) > 0) class TieredStorage {
  static constexpr std::size_t kStores = sizeof...(S);

 public:
  using Read = typename detail::Distinct<AnyCompletion<Status>, detail::ReadOf<S>...>::type;
  using Write = typename detail::Distinct<AnyCompletion<Status>, detail::WriteOf<S>...>::type;
  static constexpr StorageAbilities abilities{
      .tiers = true,
      .lookup_never_blocks = (storage_traits<S>::abilities.lookup_never_blocks && ...),
      .lookup_problem = true,
      .lookup_tier = true,
      .erase_tier = true,
      .device_staging = (storage_traits<S>::abilities.device_staging || ...),
      .stored_bytes_differ = (storage_traits<S>::abilities.stored_bytes_differ || ...),
      .write_new = (storage_traits<S>::abilities.write_new && ...),
      .write_in_place = (storage_traits<S>::abilities.write_in_place || ...),
      .borrow = (storage_traits<S>::abilities.borrow || ...),
      .read_pieces = (storage_traits<S>::abilities.read_pieces || ...),
      .read_on_caller = (storage_traits<S>::abilities.read_on_caller || ...),
      .promote = true};

  /// Errors:  throws Exception(invalid_argument) when there are more than kMaxTiers tiers
  explicit TieredStorage(S&... stores) : TieredStorage(TierOptions(), stores...) {}
  explicit TieredStorage(const TierOptions& options, S&... stores)
      : stores_(stores...), policies_(stores_, options) {
    if (tiers() > kMaxTiers) {
      throw Exception({Errc::invalid_argument, 0, "a TieredStorage of more than eight tiers"});
    }
  }
  /// Makes the copies of write-back that wait: as long as the slower stores take for them.
  /// Promotions that wait are dropped.
  ~TieredStorage() = default;
  TieredStorage(const TieredStorage&) = delete;
  TieredStorage& operator=(const TieredStorage&) = delete;

  /// Chooses the last store that write() goes to; the last one of all when never called, which is
  /// the slowest and largest.
  ///
  /// Thread:  Requires external synchronization: call it before other threads use the store
  /// Errors:  throws Exception(invalid_argument) when there is no such store
  void write_to(std::size_t store) {
    if (store >= kStores)
      throw Exception({Errc::invalid_argument, 0,
                       "write_to names a store that the TieredStorage does not have"});
    write_to_ = store;
  }

  std::uint32_t tiers() const { return stores_.tiers(); }

  /// What was done with each tier since the store was made.
  std::vector<TierStats> stats() const { return stores_.stats(); }

  /// Waits until all that was written before is in every store that it is for, or is not going to be,
  /// and for promotions.
  ///
  /// Errors:  why a store lacks something that write() said was taken, the first time since the last
  ///          call; unsupported in a child process after fork()
  Status flush() { return policies_.flush(); }

  /// Asks the store of one tier alone.
  Result<std::vector<StoredChunk>> lookup_tier(std::uint32_t tier, std::span<const ChunkKey> keys) {
    {
      const std::lock_guard lock(mutex_);
      lookup_problem_ = {};  // of a lookup() in all of them
    }
    Result<std::vector<StoredChunk>> found =
        Error{Errc::invalid_argument, 0,
              "a call names a storage tier that the TieredStorage does not have"};
    stores_.at_tier(tier, [&](std::size_t i, auto& store, std::uint32_t own) {
      found = contained("lookup of a store",
                        [&] { return traits(store).lookup_in_tier(store, own, keys); });
      if (!found) return;
      if (found->size() != keys.size()) {
        found = wrong_size(found->size(), keys.size());
        return;
      }
      for (StoredChunk& chunk : *found) {
        chunk.tiers <<= stores_.first_tier(i);
        stores_.count_hits(chunk);
      }
    });
    return found;
  }
  /// Erases in the store of this tier alone. As erase(), it forgets copies of the key.
  Status erase_tier(std::uint32_t tier, const ChunkKey& key) {
    Status status = Error{Errc::invalid_argument, 0,
                          "a call names a storage tier that the TieredStorage does not have"};
    stores_.at_tier(tier, [&](std::size_t, auto& store, std::uint32_t own) {
      status = contained("erase of a store", [&] {
        const detail::TierPolicies::Bar bar(policies_, key);
        return traits(store).erase_in_tier(store, own, key);
      });
    });
    return status;
  }

  /// Asks every store. If their objects of a key differ in size, the first page of each is read:
  /// the size that a header confirms is taken, else the largest one, and tiers with another size
  /// are left out. A store that fails counts as empty, and lookup_problem() says why. The call
  /// fails only if all stores fail.
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    std::vector<std::array<StoredChunk, kStores>> found(keys.size());
    std::optional<Error> failure;
    std::uint32_t answers = 0;  // bits of stores
    stores_.each([&](std::size_t i, auto& store) {
      auto part = look_up(store, keys);
      if (!part) {
        if (!failure) failure = part.error();
        return;
      }
      answers |= 1u << i;
      for (std::size_t k = 0; k < keys.size(); ++k) {
        found[k][i] = {(*part)[k].size, (*part)[k].tiers & stores_.own_tiers(i)};
      }
    });
    {
      const std::lock_guard lock(mutex_);
      lookup_problem_ = failure ? Status(*failure) : Status();
    }
    if (answers == 0) return *failure;
    std::vector<StoredChunk> all(keys.size());
    for (std::size_t k = 0; k < keys.size(); ++k) {
      all[k] = merge(keys[k], found[k]);
      stores_.count_hits(all[k]);
      repair(keys[k], all[k].size, found[k], answers);
    }
    return all;
  }

  /// Why the last lookup() left out keys: the error of a store, or its own lookup_problem().
  Status lookup_problem() {
    Status result;
    {
      const std::lock_guard lock(mutex_);
      result = lookup_problem_;
    }
    stores_.each([&](std::size_t, auto& store) {
      if (result) result = traits(store).lookup_problem(store);
    });
    return result;
  }

  Read read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return read_from(tier, key, offset, out, nullptr);
  }
  Read read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out,
                   std::shared_ptr<PieceSink> sink) requires(abilities.read_pieces) {
    return read_from(tier, key, offset, out, std::move(sink));
  }
  /// A tier's store says so.
  bool reads_on_caller(std::uint32_t tier) requires(abilities.read_on_caller) {
    bool result = false;
    stores_.at_tier(tier, [&](std::size_t, auto& store, std::uint32_t own) {
      result = traits(store).reads_on_caller(store, own);
    });
    return result;
  }
  Status read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) requires(abilities.read_on_caller) {
    Status result = Error{Errc::invalid_argument, 0,
                          "a call names a storage tier that the TieredStorage does not have"};
    stores_.at_tier(tier, [&](std::size_t i, auto& store, std::uint32_t own) {
      detail::TierCall call(detail::TierCall::Kind::read, out.size(),
                            stores_.shared_counters(tier));
      note_reader(out.data(), i);
      result = contained("read of a store", [&] {
        return traits(store).read_on_caller(store, own, key, offset, out);
      });
      call.ended(result.has_value());
    });
    return result;
  }
  /// A tier lends if its store does.
  bool lends(std::uint32_t tier) requires(abilities.borrow) {
    bool result = false;
    stores_.at_tier(tier, [&](std::size_t, auto& store, std::uint32_t own) {
      result = traits(store).lends(store, own);
    });
    return result;
  }
  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) requires(abilities.borrow) {
    Result<BorrowedBytes> result =
        Error{Errc::invalid_argument, 0,
              "a call names a storage tier that the TieredStorage does not have"};
    stores_.at_tier(tier, [&](std::size_t i, auto& store, std::uint32_t own) {
      detail::TierCall call(detail::TierCall::Kind::read, size, stores_.shared_counters(tier));
      result = contained("borrow from a store",
                         [&] { return traits(store).borrow(store, own, key, offset, size); });
      call.ended(result.has_value());
      if (result) note_reader(result->bytes().data(), i);
    });
    return result;
  }
  /// Promotion::on_hit, and there is a faster store. (Of tiers of one store that promotes it is not known.)
  bool promotes(std::uint32_t tier) {
    bool result = false;
    stores_.at_tier(tier, [&](std::size_t i, auto&, std::uint32_t) {
      result = policies_.options().promote == Promotion::on_hit && policies_.promotes(i);
    });
    return result;
  }
  /// Into the faster stores, as TierOptions::promote says. A store of tiers is offered it, too.
  void promote(std::uint32_t tier, const ChunkKey& key, BorrowedBytes object) noexcept {
    stores_.at_tier(tier, [&]<class One>(std::size_t i, One& store, std::uint32_t own) {
      (void)contained("promote a chunk", [&]() -> Status {
        if constexpr (storage_traits<One>::abilities.promote) {
          const auto all = std::make_shared<const BorrowedBytes>(std::move(object));
          store.promote(own, key, BorrowedBytes(all->bytes(), all));
          object = BorrowedBytes(all->bytes(), all);
        }
        policies_.promote(key, std::move(object), i);
        return {};
      });
    });
  }

  /// As TierOptions::write says. Blocks, unless that is WritePolicy::last.
  ///
  /// Errors:  those of the last store; of write-back, those of all that it is for: where one takes the
  ///          object the write is good, and flush() tells of the others
  Write write(const ChunkKey& key, ConstBytes bytes) {
    if (policies_.options().write != WritePolicy::last) {
      const Result<bool> taken = policies_.write(key, bytes, write_to_);
      return Write(taken ? Status() : Status(taken.error()));
    }
    std::optional<Write> result;
    stores_.each([&](std::size_t i, auto& store) {
      if (i != write_to_) return;
      detail::TierCall call(detail::TierCall::Kind::write, bytes.size(),
                            stores_.shared_counters(stores_.first_tier(i)));
      try {
        result.emplace(store.write(key, bytes), std::move(call));
      } catch (...) {
        call.ended(false);
        result.emplace(Status(detail::caught(Errc::io, "write of a store")));
      }
    });
    return std::move(*result);
  }
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) requires(abilities.write_new) {
    const bool alone = policies_.options().write == WritePolicy::last;
    return alone ? stores_.write(write_to_, key, bytes) : policies_.write(key, bytes, write_to_);
  }

  /// In the store that a write goes to first: the one that write_to() names, or of write-back the first.
  ///
  /// Errors:  unsupported: that store has no rooms, or the policy is write-through; else the store's
  Result<ObjectRoom> make_room(const ChunkKey& key,
                               std::uint64_t bytes) requires(abilities.write_in_place) {
    const WritePolicy policy = policies_.options().write;
    if (policy == WritePolicy::through) {
      return Error{Errc::unsupported, 0, "a write-through has no rooms for objects"};
    }
    return stores_.make_room(policy == WritePolicy::back ? 0 : write_to_, key, bytes);
  }
  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal)  //
      requires(abilities.write_in_place) {
    return policies_.options().write == WritePolicy::back
               ? policies_.publish(key, std::move(room), bytes, seal, write_to_)
               : stores_.publish(write_to_, key, std::move(room), bytes, seal);
  }

  /// Erases in all stores, also after one has failed; returns the first failure. Copies of the key
  /// that wait are forgotten, and one that is being made is waited for.
  Status erase(const ChunkKey& key) {
    return contained("erase", [&] {
      const detail::TierPolicies::Bar bar(policies_, key);
      Status result;
      stores_.each([&](std::size_t, auto& store) {
        Status status = contained("erase of a store", [&] { return store.erase(key); });
        if (result && !status) result = std::move(status);
      });
      return result;
    });
  }

  DeviceStaging* device_staging() requires(abilities.device_staging) { return device_of_all(); }

  /// Asks the store that read into this memory last.
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                           ConstBytes bytes) requires(abilities.stored_bytes_differ) {
    std::size_t reader = kStores;
    {
      const std::lock_guard lock(mutex_);
      const auto it = readers_.find(bytes.data());
      if (it != readers_.end()) reader = it->second;
    }
    bool result = false;
    stores_.each([&]<class One>(std::size_t i, One& store) {
      if constexpr (storage_traits<One>::abilities.stored_bytes_differ) {
        if (i != reader) return;
        try {
          result = store.stored_bytes_differ(key, offset, bytes);
        } catch (...) {  // nothing is known of its own reads, then
        }
      }
    });
    return result;
  }

 private:
  template <class One>
  static storage_traits<One> traits(One&) {
    return {};
  }
  template <class F>
  static auto contained(const char* what, F&& f) {
    return detail::guarded(Errc::io, what, std::forward<F>(f));
  }

  static Error wrong_size(std::size_t entries, std::size_t keys) {
    return {Errc::io, 0,
            "lookup of a store returned " + std::to_string(entries) + " entries for " +
                std::to_string(keys) + " keys"};
  }

  template <class One>
  static Result<std::vector<StoredChunk>> look_up(One& store, std::span<const ChunkKey> keys) {
    try {
      auto part = store.lookup(keys);
      if (part && part->size() != keys.size()) {
        return wrong_size(part->size(), keys.size());
      }
      return part;
    } catch (...) {
      return detail::caught(Errc::io, "lookup of a store");
    }
  }

  StoredChunk merge(const ChunkKey& key, const std::array<StoredChunk, kStores>& parts) {
    StoredChunk all;
    bool differ = false;
    for (const StoredChunk& part : parts) {
      if (!part.stored()) continue;
      differ = differ || (all.size != 0 && part.size != all.size);
      all.size = std::max(all.size, part.size);
    }
    if (differ) all.size = confirmed_size(key, parts, all.size);
    for (std::size_t i = 0; i < kStores; ++i) {
      if (parts[i].stored() && parts[i].size == all.size)
        all.tiers |= parts[i].tiers << stores_.first_tier(i);
    }
    return all;
  }

  /// The stores that answered and have no object of this key are told of those that have.
  void repair(const ChunkKey& key, std::uint64_t bytes,
              const std::array<StoredChunk, kStores>& parts, std::uint32_t answers) noexcept {
    std::uint32_t held = 0, any = 0;
    for (std::size_t i = 0; i < kStores; ++i) {
      if (!parts[i].stored()) continue;
      any |= 1u << i;
      held |= parts[i].size == bytes ? 1u << i : 0;
    }
    policies_.found(key, bytes, held, answers & ~any, write_to_);
  }

  /// The size of an object whose header confirms it; `otherwise` when there is none.
  std::uint64_t confirmed_size(const ChunkKey& key, const std::array<StoredChunk, kStores>& parts,
                               std::uint64_t otherwise) {
    std::uint64_t confirmed = 0;
    stores_.each([&](std::size_t i, auto& store) {
      if (!parts[i].stored() || parts[i].size < kIoAlignment) return;
      try {
        const AlignedBuffer page(kIoAlignment);
        const auto tier = static_cast<std::uint32_t>(std::countr_zero(parts[i].tiers));
        if (!cake::await_completion(store.read(tier, key, 0, page.bytes()))) return;
        const auto chunk = peek_chunk(page.bytes());
        if (chunk && chunk->key == key && chunk->object_bytes == parts[i].size) {
          confirmed = std::max(confirmed, parts[i].size);
        }
      } catch (...) {  // then it confirms nothing
      }
    });
    return confirmed != 0 ? confirmed : otherwise;
  }

  DeviceStaging* device_of_all() {
    DeviceStaging* device = nullptr;
    stores_.each([&](std::size_t, auto& store) {
      if (device == nullptr) device = traits(store).device_staging(store);
    });
    return device;
  }

  Read read_from(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out,
                 std::shared_ptr<PieceSink> sink) {
    std::optional<Read> result;
    stores_.at_tier(tier, [&](std::size_t i, auto& store, std::uint32_t own) {
      detail::TierCall call(detail::TierCall::Kind::read, out.size(),
                            stores_.shared_counters(tier));
      try {
        DeviceStaging* const device = device_of_all();
        const bool by_host = device != nullptr && !out.empty() && device->contains(out.data()) &&
                             traits(store).device_staging(store) != device;
        note_reader(out.data(), by_host ? kStores : i);
        if (by_host) {
          result.emplace(read_by_host(store, *device, own, key, offset, out), std::move(call));
        } else if (sink) {
          result.emplace(traits(store).read_pieces(store, own, key, offset, out, std::move(sink)),
                         std::move(call));
        } else {
          result.emplace(store.read(own, key, offset, out), std::move(call));
        }
      } catch (...) {
        call.ended(false);
        result.emplace(Status(detail::caught(Errc::io, "read of a store")));
      }
    });
    if (!result)
      return Status(Error{Errc::invalid_argument, 0,
                          "a call names a storage tier that the TieredStorage does not have"});
    return std::move(*result);
  }

  template <class One>
  static Status read_by_host(One& store, DeviceStaging& device, std::uint32_t tier,
                             const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    const AlignedBuffer buffer(out.size(), device.host_memory());
    if (auto status = cake::await_completion(store.read(tier, key, offset, buffer.bytes()));
        !status) {
      return status;
    }
    if (auto status = device.use_on_this_thread(); !status) return status;
    return device.from_host(out.data(), buffer.data(), out.size());
  }

  /// Records which store reads into this memory; kStores: one without stored_bytes_differ().
  void note_reader(const std::byte* to, std::size_t store) {
    if constexpr (abilities.stored_bytes_differ) {
      const std::lock_guard lock(mutex_);
      // Staging memory is reused, so the table stays small; if it does not, start over.
      if (readers_.size() >= 65536) readers_.clear();
      readers_[to] = store;
    }
  }

  detail::TierStores<S...> stores_;
  std::size_t write_to_ = kStores - 1;
  std::mutex mutex_;
  Status lookup_problem_;
  std::unordered_map<const std::byte*, std::size_t> readers_;
  detail::TierPolicies policies_;  // its copies end first
};

}  // namespace cake::inline CAKE_ABI
