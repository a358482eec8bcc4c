// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the bounded stores of one directory tell each other.
#pragma once

#include <cstdint>
#include <vector>

#include "directory.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The file `.evict.log`: records of 64 bytes, appended by whoever is about to write an object or has
/// decided to erase one, and read by all. What is told twice, or of an object that was never written,
/// does no harm: a record says what is under a key, not how much was added. One that is lost leaves
/// a store with an index that lacks an object until its next look.
///
/// Thread:  Requires external synchronization
class ChangeLog {
 public:
  struct Change {
    ChunkKey key;
    std::uint64_t bytes = 0;
    std::uint32_t position = 0;  // of the first token
    bool erased = false;
  };
  /// Of the others.
  struct News {
    std::vector<Change> changes;  // in the order in which they were told
    bool lost = false;            // something may be missing
  };

  /// Reads what is told from here on.
  explicit ChangeLog(StoreDirectory& store);

  /// False: the others do not learn of it before they look.
  bool tell(const Change& change);
  /// What was told since the last call.
  News read();
  /// Begins a new file where this one has become long. Its reader sees the change in both.
  ///
  /// Needs:   no other store does so meanwhile
  void shorten(std::uint64_t most = kLongest);

  static constexpr std::uint64_t kLongest = std::uint64_t{4} << 20;  // 65536 records

 private:
  void open();
  void read_on();
  /// Goes over to another file where this one is not the directory's any more.
  void follow();

  StoreDirectory& store_;
  const std::uint64_t writer_;  // who we are
  Fd file_;
  std::uint64_t offset_ = 0;  // up to which it was read
  News news_;
};

}  // namespace cake::inline CAKE_ABI::detail
