// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake asks of a store of chunk objects. A store's author writes the members that the concept
// lists, puts a static_assert beside the type, and runs cake::testing::check() on it, which tests
// what a concept cannot say.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// Keeps chunk objects by key, in one or several tiers.
///
///     Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey>);  // one entry per key
///     // ok: every byte arrived
///     Completion read(std::uint32_t tier, ChunkKey, std::uint64_t offset, MutableBytes out);
///     Completion write(ChunkKey, ConstBytes);  // all or nothing; the first one wins
///     Status erase(ChunkKey);                  // not there is ok
///
///     // Optional:
///     std::uint32_t tiers();  // 1 when absent
///     // Memory alone: asked on the caller's thread; any other store on one with a deadline.
///     static constexpr bool lookup_never_blocks = true;
///     // Why a part of the last lookup's keys could not be looked up; ok when all could.
///     Status lookup_problem();
///     // As lookup(), of one tier: all are then asked at once, and one that hangs delays none.
///     Result<std::vector<StoredChunk>> lookup_tier(std::uint32_t tier, std::span<const ChunkKey>);
///     // As erase(), of one tier: where an object is damaged, good ones of other tiers stay.
///     Status erase_tier(std::uint32_t tier, ChunkKey);
///     // Memory that read() fills at full speed, or null.
///     DeviceStaging* device_staging();
///     // Whether these bytes of a read, which failed verification, are not the stored ones. A
///     // chunk whose bytes are is damaged, and erased.
///     bool stored_bytes_differ(ChunkKey, std::uint64_t offset, ConstBytes);
///     // write(), blocking, and whether this call made the object visible; false: one was there
///     Result<bool> write_new(ChunkKey, ConstBytes);
///     Status lookup_problem();                 // why the last lookup() left some keys out; ok:
///     none
///
/// `out` stays valid until the completion is ready, also after the read was abandoned; a backend
/// copies the keys it keeps. `out`, `offset` and its size are multiples of 4 KiB whenever the
/// object's size is.
///
/// Thread:  any number of threads at once
template <class S>
concept StorageBackend = requires(S& s, std::span<const ChunkKey> keys, const ChunkKey& key,
                                  std::uint32_t tier, std::uint64_t offset, MutableBytes out,
                                  ConstBytes in) {
  { s.lookup(keys) } -> std::same_as<Result<std::vector<StoredChunk>>>;
  { s.read(tier, key, offset, out) } -> Completion;
  { s.write(key, in) } -> Completion;
  { s.erase(key) } -> std::same_as<Status>;
};

template <StorageBackend S>
std::uint32_t tiers_of(S& storage) {
  if constexpr (requires {
                  { storage.tiers() } -> std::convertible_to<std::uint32_t>;
                }) {
    return storage.tiers();
  } else {
    return 1;
  }
}

}  // namespace cake::inline CAKE_ABI
