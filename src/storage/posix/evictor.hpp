// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Keeps a PosixStorage below its capacity. The policy is described at PosixStorage.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "directory.hpp"
#include "index.hpp"
#include "look.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Each write does a bounded part of the work: it looks at some files, reads some headers and
/// erases some objects, at least as much as it adds.
///
/// Thread:  Safe for concurrent use; no lock is held over a system call
class Evictor {
 public:
  /// `forget` is told of every object that goes, so that no open file keeps its space.
  Evictor(StoreDirectory& store, std::function<void(const ChunkKey&)> forget);
  /// Evicts until no more than so many bytes are in use, however long it takes, and by the age and the
  /// position of all objects. Of an evictor of its own, which begins by looking at the whole store; what
  /// the store does not trust stays.
  ///
  /// Errors:  as PosixStorage::trim()
  static Result<PosixTrim> trim(StoreDirectory& store, std::function<void(const ChunkKey&)> forget,
                                std::uint64_t bytes);

  /// Sets room for an object aside, and evicts for it if need be. Every success is followed by
  /// settle().
  ///
  /// Errors:  out_of_memory: the object alone is larger than the capacity, or nothing can be erased
  Status reserve(std::uint64_t bytes);
  /// What became of the room: the object was published or not; none: nobody knows.
  void settle(const ChunkKey& key, ConstBytes object, std::optional<bool> published);
  /// An object is to be erased by other means. Its bytes; 0: it was not known.
  std::uint64_t erased(const ChunkKey& key);
  /// It could not be: so many bytes are there as before.
  void kept(std::uint64_t bytes);
  /// Evicts so much although the capacity is not reached: the disk is full.
  void free_space(std::uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  using Candidate = ObjectIndex::Entry;
  /// How far an eviction goes.
  struct Aim {
    std::uint64_t limit = 0;   // above this, something must go ...
    std::uint64_t target = 0;  // ... until so much is in use, or the work has lasted long enough
    std::uint64_t bytes = 0;   // at least twice as many go before a call ends above the limit
    bool thorough = false;     // whatever it takes, and whatever headers have to be read
  };
  struct Outcome {
    std::uint64_t erased = 0;      // objects
    std::uint64_t freed = 0;       // bytes
    std::optional<Error> failure;  // why something could not be erased
  };
  std::uint64_t in_use() const { return index_.bytes() + reserved_ + unseen_; }
  void look(Clock::time_point until);
  Outcome evict(const Aim& aim, Clock::time_point until);
  /// The next ones to go, the first of them first.
  std::vector<Candidate> candidates(std::size_t most, std::size_t& headers_left,
                                    Clock::time_point until);
  /// True: it is gone, or known to be younger. False: it cannot be erased.
  bool remove(const Candidate& candidate, std::int64_t now, Outcome& outcome);
  /// As remove(), of what the index does not have any more.
  bool erase(const Candidate& candidate, std::int64_t now, Outcome& outcome);
  /// Needs:   the mutex. An object that the index has not
  void put_known(const ChunkKey& key, const KnownObject& object);
  /// Needs:   the mutex. So many bytes may be there of which the index knows nothing: they count until
  ///          a new look is over
  void lose_sight(std::uint64_t bytes);
  /// Needs:   the mutex. What is known may be wrong: a new look begins
  void doubt();

  StoreDirectory& store_;
  std::function<void(const ChunkKey&)> forget_;
  std::mutex mutex_;
  ObjectIndex index_;
  std::unique_ptr<DirectoryLook> look_;  // null: over, or another thread goes on with it
  std::uint64_t number_of_look_ = 0;
  bool looking_ = true;           // a look is not over
  bool complete_ = false;         // one was
  std::uint64_t added_ = 0;       // published by us since the last one began
  std::uint64_t reserved_ = 0;    // being published by us
  std::uint64_t unseen_ = 0;      // see lose_sight()
  std::uint64_t generation_ = 0;  // of the directory that is known
};

}  // namespace cake::inline CAKE_ABI::detail
