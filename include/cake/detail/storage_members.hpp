// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The members of a store that it may leave out, each as a concept, so that what wraps a store has
// just those that the store has. They are described at StorageBackend.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/engine.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

template <class S>
concept HasDeviceStaging = requires(S& s) {
  { s.device_staging() } -> std::convertible_to<DeviceStaging*>;
};
template <class S>
concept HasStoredBytesDiffer = requires(S& s, const ChunkKey& key, std::uint64_t offset,
                                        ConstBytes bytes) {
  { s.stored_bytes_differ(key, offset, bytes) } -> std::convertible_to<bool>;
};
template <class S>
concept HasWriteNew = requires(S& s, const ChunkKey& key, ConstBytes bytes) {
  { s.write_new(key, bytes) } -> std::same_as<Result<bool>>;
};
template <class S>
concept HasLookupProblem = requires(S& s) {
  { s.lookup_problem() } -> std::same_as<Status>;
};

template <class S>
concept HasLookupTier = requires(S& s, std::uint32_t tier, std::span<const ChunkKey> keys) {
  { s.lookup_tier(tier, keys) } -> std::same_as<Result<std::vector<StoredChunk>>>;
};
template <class S>
concept HasEraseTier = requires(S& s, std::uint32_t tier, const ChunkKey& key) {
  { s.erase_tier(tier, key) } -> std::same_as<Status>;
};

/// Whether lookup() is a matter of memory alone, so that it needs no deadline.
template <class S>
constexpr bool lookup_never_blocks() {
  if constexpr (requires { S::lookup_never_blocks; }) {
    return S::lookup_never_blocks;
  } else {
    return false;
  }
}

/// lookup() of one tier; of a store that cannot be asked so, that tier's part of its whole answer.
template <StorageBackend S>
Result<std::vector<StoredChunk>> lookup_in_tier(S& storage, std::uint32_t tier,
                                                std::span<const ChunkKey> keys) {
  if constexpr (HasLookupTier<S>) {
    return storage.lookup_tier(tier, keys);
  } else {
    Result<std::vector<StoredChunk>> found = storage.lookup(keys);
    if (found) {
      for (StoredChunk& chunk : *found) chunk.tiers &= 1u << tier;
    }
    return found;
  }
}
/// erase() in one tier, or, of a store that cannot do that, in all of its own.
template <StorageBackend S>
Status erase_in_tier(S& storage, std::uint32_t tier, const ChunkKey& key) {
  if constexpr (HasEraseTier<S>) {
    return storage.erase_tier(tier, key);
  } else {
    return storage.erase(key);
  }
}

/// The memory that a store reads into at full speed; null: it has none.
template <StorageBackend S>
DeviceStaging* device_staging_of(S& storage) {
  if constexpr (HasDeviceStaging<S>) {
    return storage.device_staging();
  } else {
    return nullptr;
  }
}

/// Why the last lookup() left out some keys; ok: it did not, or the store does not say.
template <StorageBackend S>
Status lookup_problem_of(S& storage) {
  if constexpr (HasLookupProblem<S>) {
    return storage.lookup_problem();
  } else {
    return {};
  }
}

/// Writes, and tells whether this call made the object visible. A store that does not say counts
/// as having done so.
template <StorageBackend S>
Result<bool> write_and_tell(S& storage, const ChunkKey& key, ConstBytes bytes) {
  if constexpr (HasWriteNew<S>) {
    return storage.write_new(key, bytes);
  } else {
    const Status status = cake::await_completion(storage.write(key, bytes));
    if (!status) return status.error();
    return true;
  }
}

}  // namespace cake::inline CAKE_ABI::detail
