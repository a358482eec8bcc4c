// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The reads of one session that lanes have under way. Pure; one thread at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A read that a lane is to make.
struct ReadTicket {
  std::uint64_t id = 0;
  Slice slice;
  LaneId lane = 0;
  std::uint64_t bytes = 0;
  Time deadline = kNever;
};

/// One read, from the order until its lane has answered.
struct ReadEntry {
  std::uint64_t id = 0;
  Slice slice = {};
  LaneId lane = 0;
  Time deadline = kNever;
  std::size_t report = 0;  // index of its report
  bool busy = false;       // the lane has not answered yet
  bool live = false;       // and holds the claim
  bool inserting = false;  // its bytes are on their way into KV
};

class ReadTable {
 public:
  /// Makes room for one more, so that add() needs no memory.
  void reserve() {
    if (reads_.size() == reads_.capacity()) reads_.reserve(2 * reads_.size() + 8);
  }
  ReadEntry& add(const ReadEntry& entry) {
    for (ReadEntry& free : reads_) {
      if (!free.busy) return free = entry;
    }
    return reads_.emplace_back(entry);
  }
  const ReadEntry* find(std::uint64_t id) const {
    for (const ReadEntry& entry : reads_) {
      if (entry.busy && entry.id == id) return &entry;
    }
    return nullptr;
  }
  ReadEntry* find(std::uint64_t id) {
    for (ReadEntry& entry : reads_) {
      if (entry.busy && entry.id == id) return &entry;
    }
    return nullptr;
  }
  std::span<ReadEntry> all() { return reads_; }
  bool any_live() const {
    return std::any_of(reads_.begin(), reads_.end(),
                       [](const ReadEntry& e) { return e.busy && e.live; });
  }
  Time next_deadline() const {
    Time earliest = kNever;
    for (const ReadEntry& entry : reads_) {
      if (entry.live && !entry.inserting) earliest = std::min(earliest, entry.deadline);
    }
    return earliest;
  }
  /// Takes the claim from every read, or from those of one chunk. Inserts go on.
  void revoke_reads() {
    for (ReadEntry& entry : reads_) entry.live = entry.live && entry.inserting;
  }
  void revoke_reads(std::uint32_t chunk) {
    for (ReadEntry& entry : reads_) {
      if (entry.slice.chunk == chunk) entry.live = entry.live && entry.inserting;
    }
  }

 private:
  std::vector<ReadEntry> reads_;
};

}  // namespace cake::inline CAKE_ABI::detail
