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

#include "cake/identity.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// One read, from its claim to its report. Session and lanes hold copies, or its id.
///
/// Units: bytes; `offset` is in the stored object
struct ReadTicket {
  std::uint64_t id = 0;  // counts from 1 within a session
  Slice slice = {};
  LaneId lane = 0;
  ChunkKey key = {};
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  Time deadline = kNever;
  bool joined = false;  // a lane reads it for another session, and hands it to this one as well
};

/// How a read stands. Its lane has answered when it is free.
enum class ReadPhase : std::uint8_t {
  free,       // its place in the table may be used again
  reading,    // and holds the claim
  dropped,    // its lane has it still, but nobody waits for it
  inserting,  // its bytes are on their way into KV
};

struct ReadEntry {
  ReadTicket ticket;
  std::size_t report = 0;  // index of its report
  ReadPhase phase = ReadPhase::free;
  bool lent = false;  // what is being inserted lies in the store

  bool holds_claim() const { return phase == ReadPhase::reading || phase == ReadPhase::inserting; }
};

/// Every read from its claim until its lane has answered. What is being inserted stays so until it
/// is in.
class ReadTable {
 public:
  /// Makes room for one more, so that add() needs no memory.
  void reserve() {
    if (reads_.size() == reads_.capacity()) reads_.reserve(2 * reads_.size() + 8);
  }
  void add(const ReadTicket& ticket, std::size_t report) {
    const ReadEntry entry{ticket, report, ReadPhase::reading};
    for (ReadEntry& slot : reads_) {
      if (slot.phase == ReadPhase::free) {
        slot = entry;
        return;
      }
    }
    reads_.push_back(entry);
  }
  /// Null once its lane has answered.
  const ReadEntry* find(std::uint64_t id) const {
    const auto entry = std::find_if(reads_.begin(), reads_.end(), [&](const ReadEntry& e) {
      return e.phase != ReadPhase::free && e.ticket.id == id;
    });
    return entry == reads_.end() ? nullptr : &*entry;
  }
  std::span<const ReadEntry> all() const { return reads_; }
  /// Something is being read or inserted.
  bool any_claim() const {
    return std::any_of(reads_.begin(), reads_.end(),
                       [](const ReadEntry& e) { return e.holds_claim(); });
  }
  Time next_deadline() const {
    Time earliest = kNever;
    for (const ReadEntry& entry : reads_) {
      if (entry.phase == ReadPhase::reading) earliest = std::min(earliest, entry.ticket.deadline);
    }
    return earliest;
  }

  void begin_insert(std::uint64_t id, bool lent) {
    for (ReadEntry& entry : reads_) {
      if (entry.phase == ReadPhase::free || entry.ticket.id != id) continue;
      entry.phase = ReadPhase::inserting;
      entry.lent = lent;
    }
  }
  /// Its lane has answered, or its bytes are in.
  void end(std::uint64_t id) { set(id, ReadPhase::free); }
  /// Nobody waits for it any more.
  void drop(std::uint64_t id) { set(id, ReadPhase::dropped); }
  /// Takes the claim from every read, or from those of one chunk. Inserts go on.
  void drop_reads() {
    for (ReadEntry& entry : reads_) drop(entry);
  }
  void drop_reads_of(std::uint32_t chunk) {
    for (ReadEntry& entry : reads_) {
      if (entry.ticket.slice.chunk == chunk) drop(entry);
    }
  }

 private:
  static void drop(ReadEntry& entry) {
    if (entry.phase == ReadPhase::reading) entry.phase = ReadPhase::dropped;
  }
  void set(std::uint64_t id, ReadPhase phase) {
    for (ReadEntry& entry : reads_) {
      if (entry.phase != ReadPhase::free && entry.ticket.id == id) entry.phase = phase;
    }
  }

  std::vector<ReadEntry> reads_;
};

}  // namespace cake::inline CAKE_ABI::detail
