// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A bounded map that forgets what was not used for the longest time.
#pragma once

#include <cstddef>
#include <list>
#include <utility>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// For a handful of entries: a search looks at all of them.
template <class Key, class Value>
class RecentCache {
 public:
  explicit RecentCache(std::size_t capacity) : capacity_(capacity) {}

  /// Null when it is not there. Counts as a use.
  Value* find(const Key& key) {
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (!(entry->first == key)) continue;
      entries_.splice(entries_.begin(), entries_, entry);
      return &entry->second;
    }
    return nullptr;
  }
  /// Adds what is not there yet. Null when the capacity is 0.
  Value* add(const Key& key, Value value) {
    if (capacity_ == 0) return nullptr;
    if (entries_.size() == capacity_) entries_.pop_back();
    entries_.emplace_front(key, std::move(value));
    return &entries_.front().second;
  }
  void clear() { entries_.clear(); }
  std::size_t size() const { return entries_.size(); }

 private:
  std::size_t capacity_;
  std::list<std::pair<Key, Value>> entries_;  // the latest used first
};

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
