// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What lanes and saves ask of a store, of whatever type: they are compiled once.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/parked_read.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Errors:  exceptions of the store are passed on
/// Thread:  as the store
class LaneStorage {
 public:
  explicit LaneStorage(const StorageAbilities& can) : abilities(can) {}
  LaneStorage(const LaneStorage&) = delete;
  LaneStorage& operator=(const LaneStorage&) = delete;
  virtual ~LaneStorage() = default;

  virtual std::uint32_t tiers() = 0;
  virtual DeviceStaging* device_staging() = 0;
  /// Of this tier where the store can be asked so, else of all.
  virtual Result<std::vector<StoredChunk>> lookup(std::uint32_t tier,
                                                  std::span<const ChunkKey> keys) = 0;
  virtual Result<std::vector<StoredChunk>> lookup_all(std::span<const ChunkKey> keys) = 0;
  virtual Status lookup_problem() = 0;
  /// Returns when the object is written, or is not going to be.
  virtual Status write(const ChunkKey& key, ConstBytes bytes) = 0;
  /// As the ability write_in_place. Empty: the object is to be written.
  virtual Result<ObjectRoom> make_room(const ChunkKey& key, std::uint64_t bytes) = 0;
  virtual Status publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                         std::uint32_t seal) = 0;
  virtual Status erase(const ChunkKey& key) = 0;
  virtual Status erase_in_tier(std::uint32_t tier, const ChunkKey& key) = 0;
  virtual bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset, ConstBytes bytes) = 0;
  /// Reads. Where the store's reads end by themselves it only begins: the read is then in `parked`,
  /// and so is its status. `sink`: as of the ability read_pieces; null: nothing is told.
  virtual Status read(LaneId tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out,
                      std::shared_ptr<PieceSink> sink, std::unique_ptr<Parked>& parked) = 0;

  /// Whether the lane's own threads read this tier best, and such a read.
  virtual bool reads_on_caller(LaneId tier) = 0;
  virtual Status read_on_caller(LaneId tier, const ChunkKey& key, std::uint64_t offset,
                                MutableBytes out) = 0;
  /// Whether this tier lends its bytes in place.
  virtual bool lends(LaneId tier) = 0;
  virtual Result<BorrowedBytes> borrow(LaneId tier, const ChunkKey& key, std::uint64_t offset,
                                       std::uint64_t size) = 0;
  /// As storage_traits::promotes().
  virtual bool promotes(LaneId tier) = 0;
  /// As the ability promote.
  virtual void promote(LaneId tier, const ChunkKey& key, BorrowedBytes object) = 0;

  const StorageAbilities abilities;
};

template <StorageBackend S>
class LaneStorageOf final : public LaneStorage {
  using Traits = storage_traits<S>;

 public:
  explicit LaneStorageOf(S& storage) : LaneStorage(Traits::abilities), storage_(storage) {}

  std::uint32_t tiers() override { return Traits::tiers(storage_); }
  DeviceStaging* device_staging() override { return Traits::device_staging(storage_); }
  Result<std::vector<StoredChunk>> lookup([[maybe_unused]] std::uint32_t tier,
                                          std::span<const ChunkKey> keys) override {
    if constexpr (Traits::abilities.lookup_tier) {
      return storage_.lookup_tier(tier, keys);
    } else {
      return storage_.lookup(keys);  // all of it at once
    }
  }
  Result<std::vector<StoredChunk>> lookup_all(std::span<const ChunkKey> keys) override {
    return storage_.lookup(keys);
  }
  Status lookup_problem() override { return Traits::lookup_problem(storage_); }
  Status write(const ChunkKey& key, ConstBytes bytes) override {
    return cake::await_completion(storage_.write(key, bytes));
  }
  Result<ObjectRoom> make_room(const ChunkKey& key, std::uint64_t bytes) override {
    return Traits::make_room(storage_, key, bytes);
  }
  Status publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                 std::uint32_t seal) override {
    const Result<bool> shown = Traits::publish(storage_, key, std::move(room), bytes, seal);
    return shown ? Status() : Status(shown.error());
  }
  Status erase(const ChunkKey& key) override { return storage_.erase(key); }
  Status erase_in_tier(std::uint32_t tier, const ChunkKey& key) override {
    return Traits::erase_in_tier(storage_, tier, key);
  }
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset, ConstBytes bytes) override {
    return Traits::stored_bytes_differ(storage_, key, offset, bytes);
  }
  Status read(LaneId tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out,
              std::shared_ptr<PieceSink> sink,
              [[maybe_unused]] std::unique_ptr<Parked>& parked) override {
    using C = decltype(storage_.read(tier, key, offset, out));
    const auto begin = [&] {
      return sink ? Traits::read_pieces(storage_, tier, key, offset, out, std::move(sink))
                  : storage_.read(tier, key, offset, out);
    };
    if constexpr (std::same_as<C, Status>) {
      return begin();
    } else {
      auto read = std::make_unique<ParkedRead<C>>();
      read->begin(begin);
      parked = std::move(read);
      return {};
    }
  }
  bool reads_on_caller(LaneId tier) override { return Traits::reads_on_caller(storage_, tier); }
  Status read_on_caller(LaneId tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) override {
    return Traits::read_on_caller(storage_, tier, key, offset, out);
  }
  bool lends(LaneId tier) override { return Traits::lends(storage_, tier); }
  Result<BorrowedBytes> borrow(LaneId tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) override {
    return Traits::borrow(storage_, tier, key, offset, size);
  }
  bool promotes(LaneId tier) override { return Traits::promotes(storage_, tier); }
  void promote(LaneId tier, const ChunkKey& key, BorrowedBytes object) override {
    Traits::promote(storage_, tier, key, std::move(object));
  }

 private:
  S& storage_;
};

}  // namespace cake::inline CAKE_ABI::detail
