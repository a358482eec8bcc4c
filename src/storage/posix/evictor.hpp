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

#include "change_log.hpp"
#include "directory.hpp"
#include "eviction_turn.hpp"
#include "index.hpp"
#include "look.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Each write does a bounded part of the work: it looks at some files, reads some headers and
/// erases some objects, at least as much as it adds.
///
/// Thread:  Safe for concurrent use; but for the log of the changes no lock is held over a system call
class Evictor {
 public:
  /// `forget` is told of every object that goes, so that no open file keeps its space. Without `active`
  /// it evicts nothing.
  Evictor(StoreDirectory& store, std::function<void(const ChunkKey&)> forget, bool active);
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
  /// Errors:  out_of_memory: the object alone is larger than the capacity, nothing can be erased, or
  ///          another store evicts and does not come to an end; io
  Status reserve(const ChunkKey& key, ConstBytes object);
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
  /// Evicts until there is room for so many bytes, which are reserved.
  Status make_room(std::uint64_t bytes, Clock::time_point until);
  /// Who evicts for a write: this store, as the only one or, where there are no locks, as all do; or
  /// another one, and there is room without that.
  enum class Turn { ours, of_all, of_another };
  /// Errors:  out_of_memory: another store evicts, and there is no room yet
  Result<Turn> wait_for_turn(std::uint64_t bytes);
  Result<Turn> wait_to_trim();
  /// How far to go. Needs:   the mutex
  Aim aim_for(std::uint64_t bytes, std::uint64_t short_of) const;
  /// Whether there is room for so many bytes after an eviction: within the capacity; on the file system,
  /// of which `before` lacked.
  ///
  /// Errors:  out_of_memory; io
  Status check_capacity(std::uint64_t bytes, const Outcome& outcome);
  Status check_free(std::uint64_t bytes, std::uint64_t before, const Outcome& outcome);
  /// Space that was freed may be a while in coming: then no more is evicted for it.
  ///
  /// Errors:  out_of_memory: it has not come yet
  Status check_late(std::uint64_t short_of);
  /// Learns what others told, and tells them.
  void learn();
  void tell(const ChangeLog::Change& change);
  /// Tells that a write that was told of has left nothing, if so.
  void tell_absent(const ChunkKey& key) noexcept;
  /// What is known of an object that is written at this moment.
  KnownObject just_written(KnownObject object) const;
  /// Erases objects that are older than the ttl, a bounded number of them.
  void expire();
  /// What is known of a candidate now, if it is not to go yet.
  std::optional<KnownObject> younger(const Candidate& candidate, const struct stat& info,
                                     int priority, std::int64_t now) const;
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
  const std::uint64_t capacity_;  // without one all that the file system has
  std::function<void(const ChunkKey&)> forget_;
  std::optional<EvictionTurn> turn_;  // none: this one neither writes nor trims
  std::mutex log_mutex_;              // taken before the other one
  std::optional<ChangeLog> log_;      // none: there are no locks, either
  std::mutex mutex_;
  ObjectIndex index_;
  std::unique_ptr<DirectoryLook> look_;  // null: over, or another thread goes on with it
  std::uint64_t number_of_look_ = 0;
  bool looking_ = true;             // a look is not over
  bool complete_ = false;           // one was
  std::uint64_t added_ = 0;         // published by us since the last one began
  std::uint64_t reserved_ = 0;      // being published by us
  std::uint64_t unseen_ = 0;        // see lose_sight()
  std::uint64_t generation_ = 0;    // of the directory that is known
  bool look_again_ = false;         // something may have been missed
  std::uint64_t late_ = 0;          // bytes that were freed for keep_free and are not free yet,
  Clock::time_point late_until_{};  // for so long
};

}  // namespace cake::inline CAKE_ABI::detail
