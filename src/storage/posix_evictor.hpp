// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Keeps a PosixStorage below its capacity. The policy is described at PosixStorage.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "posix_directory.hpp"

namespace cake::detail {

/// Thread:  any number of threads at once; one of them evicts at a time
class Evictor {
 public:
  /// `forget` is told of every object that goes, so that no open file keeps its space.
  Evictor(StoreDirectory& store, std::function<void(const ChunkKey&)> forget)
      : store_(store), forget_(std::move(forget)) {}

  /// Sets room for an object aside, and evicts for it if need be. Every success is followed by
  /// settle().
  ///
  /// Errors:  out_of_memory: the object alone is larger than the capacity
  Status reserve(std::uint64_t bytes);
  /// What became of the room: the object was published or not.
  void settle(std::uint64_t bytes, bool published);
  /// Evicts so much although the capacity is not reached: the disk is full.
  void free_space(std::uint64_t bytes);

 private:
  std::uint64_t in_use() const { return counted_ + added_ + reserved_; }
  struct Candidate {
    ChunkKey key;
    std::uint64_t bytes = 0;
    std::int64_t used = 0;       // seconds
    int age = 0;                 // class: 0 below a minute, n from 2^(n-1) minutes
    std::uint32_t position = 0;  // of the first token
  };
  /// Looks at the directory.
  std::vector<Candidate> count();
  /// If more than `limit` is in use, evicts until it is at most `target`.
  void evict(std::uint64_t limit, std::uint64_t target);
  void remove(const Candidate& candidate);

  StoreDirectory& store_;
  std::function<void(const ChunkKey&)> forget_;
  std::mutex mutex_;
  bool known_ = false;          // counted_ was counted
  std::uint64_t counted_ = 0;   // by the last look at the directory
  std::uint64_t added_ = 0;     // published by us since
  std::uint64_t reserved_ = 0;  // being published by us
};

}  // namespace cake::detail
