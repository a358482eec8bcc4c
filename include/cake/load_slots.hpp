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

#include "cake/plan.hpp"

namespace cake {

/// A read that a lane is to make.
struct LoadOrder {
  std::uint64_t id = 0;
  Slice slice;
  LaneId lane = 0;
  std::uint64_t bytes = 0;
  Time deadline = kNever;
};

/// One read, from the order until its lane has answered.
struct LoadSlot {
  std::uint64_t id = 0;
  Slice slice = {};
  LaneId lane = 0;
  Time deadline = kNever;
  std::size_t report = 0;  // index of its report
  bool busy = false;       // the lane has not answered yet
  bool live = false;       // and holds the claim
  bool inserting = false;  // its bytes are on their way into KV
};

class LoadSlots {
 public:
  /// Makes room for one more, so that add() needs no memory.
  void reserve() {
    if (slots_.size() == slots_.capacity()) slots_.reserve(2 * slots_.size() + 8);
  }
  LoadSlot& add(const LoadSlot& slot) {
    for (LoadSlot& free : slots_) {
      if (!free.busy) return free = slot;
    }
    return slots_.emplace_back(slot);
  }
  const LoadSlot* find(std::uint64_t id) const {
    for (const LoadSlot& slot : slots_) {
      if (slot.busy && slot.id == id) return &slot;
    }
    return nullptr;
  }
  LoadSlot* find(std::uint64_t id) {
    for (LoadSlot& slot : slots_) {
      if (slot.busy && slot.id == id) return &slot;
    }
    return nullptr;
  }
  std::span<LoadSlot> all() { return slots_; }
  bool any_live() const {
    return std::any_of(slots_.begin(), slots_.end(),
                       [](const LoadSlot& s) { return s.busy && s.live; });
  }
  Time next_deadline() const {
    Time earliest = kNever;
    for (const LoadSlot& slot : slots_) {
      if (slot.live && !slot.inserting) earliest = std::min(earliest, slot.deadline);
    }
    return earliest;
  }
  /// Takes the claim from every read, or from those of one chunk. Inserts go on.
  void drop_reads() {
    for (LoadSlot& slot : slots_) slot.live = slot.live && slot.inserting;
  }
  void drop_reads(std::uint32_t chunk) {
    for (LoadSlot& slot : slots_) {
      if (slot.slice.chunk == chunk) slot.live = slot.live && slot.inserting;
    }
  }

 private:
  std::vector<LoadSlot> slots_;
};

}  // namespace cake
