// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the RAM tier of one device holds: a bounded number of chunks, of which the one goes that was used
// least recently. Names alone, no bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <unordered_map>

namespace cake::benchmarks {

class MemoryTier {
 public:
  /// Units: chunks
  explicit MemoryTier(std::size_t most) : most_(most) {}

  bool holds(std::uint64_t name) const { return where_.contains(name); }
  std::size_t size() const { return where_.size(); }
  /// It was used just now; true: it is there.
  bool use(std::uint64_t name) {
    const auto found = where_.find(name);
    if (found == where_.end()) return false;
    newest_first_.splice(newest_first_.begin(), newest_first_, found->second);
    return true;
  }
  void put(std::uint64_t name) {
    if (most_ == 0 || use(name)) return;
    if (where_.size() == most_) {
      where_.erase(newest_first_.back());
      newest_first_.pop_back();
    }
    newest_first_.push_front(name);
    where_[name] = newest_first_.begin();
  }

 private:
  std::size_t most_;
  std::list<std::uint64_t> newest_first_;
  std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> where_;
};

}  // namespace cake::benchmarks
