// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a bounded PosixStorage knows of its objects, so that eviction need not look at all files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI::detail {

struct KnownObject {
  std::uint64_t bytes = 0;
  std::int64_t used = 0;        // seconds: the last read or the publication
  std::uint32_t position = 0;   // of the first token
  bool position_known = false;  // else it is in the object's header
  bool arriving = false;        // another store is about to write it
  std::int8_t keep = 0;         // it counts as so many classes of age younger
  std::int64_t published = 0;   // seconds; 0: its age does not matter
};

/// Objects by key, and in the order in which they were used. About 200 bytes each. Does no I/O.
///
/// Thread:  Requires external synchronization
class ObjectIndex {
 public:
  struct Entry {
    ChunkKey key;
    KnownObject object;
  };

  /// Adds one or replaces what is known of it. A position that is not known keeps a known one.
  void put(const ChunkKey& key, KnownObject object);
  /// Bytes of what was known; 0: nothing.
  std::uint64_t remove(const ChunkKey& key);
  void clear();

  std::uint64_t bytes() const { return bytes_; }
  std::size_t size() const { return size_; }
  /// Of the objects in the oldest class of age, the `most` that were used first.
  std::vector<Entry> oldest(std::int64_t now, std::size_t most) const;

  /// Up to `most` of those that were published at `time` or before, the first ones first.
  std::vector<Entry> published_by(std::int64_t time, std::size_t most) const;

  /// A look at the whole directory begins; what it finds is put().
  void begin_look() { ++look_; }
  /// The look is through with the folder `number` (the first byte of its keys): what it has not
  /// found there is gone, unless it was put meanwhile.
  void end_folder(std::uint8_t number);

 private:
  struct Kept {
    KnownObject object;
    std::uint64_t look = 0;  // in which it was put last
  };
  using Folder = std::unordered_map<ChunkKey, Kept>;
  Folder& folder(const ChunkKey& key) { return folders_[static_cast<std::uint8_t>(key.bytes[0])]; }
  const Folder& folder(const ChunkKey& key) const {
    return folders_[static_cast<std::uint8_t>(key.bytes[0])];
  }

  std::array<Folder, 256> folders_;
  using Order = std::set<std::pair<std::int64_t, ChunkKey>>;
  void leave(const KnownObject& object, const ChunkKey& key);

  std::map<std::int8_t, Order> order_;  // by `keep`; then by the time of the last use
  Order published_;                     // by the time of the publication, where it matters
  std::size_t size_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t look_ = 0;
};

/// Classes of age double: 0 below a minute, n from 2^(n-1) minutes on.
int age_class(std::int64_t now, std::int64_t used);

/// KnownObject::keep. What was never read counts as four times as old: it is on probation, so that
/// prompts that come once do not push out what is read again. Each step of priority counts as four
/// times as young.
constexpr std::int8_t keep_of(bool was_read, int priority) {
  return static_cast<std::int8_t>((was_read ? 0 : -2) + 2 * priority);
}

}  // namespace cake::inline CAKE_ABI::detail
