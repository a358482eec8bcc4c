// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Objects that are to be copied into one store of a TieredStorage, and the threads that do it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "cake/detail/process.hpp"
#include "cake/detail/tier_access.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/storage/tier_policy.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

struct TierCopy {
  enum class Kind : std::uint8_t {
    promotion,  // of what was read from a slower store
    found,      // by a lookup, in a faster store alone
    behind,     // a write that the caller believes to be made
  };
  Kind kind = Kind::behind;
  ChunkKey key;
  std::uint64_t bytes = 0;
  std::uint32_t position = 0;  // of the first token
  std::size_t from = 0;        // a store that has it
  BorrowedBytes object;        // empty: it is read from there
  std::uint64_t number = 0;
};

/// Loans end without its mutex: that is the lender's code.
///
/// Thread:  Safe for concurrent use
class CopyQueue {
 public:
  CopyQueue(TierAccess& stores, std::size_t to, const TierOptions& options);
  CopyQueue(const CopyQueue&) = delete;
  CopyQueue& operator=(const CopyQueue&) = delete;

  /// One that is there already, or whose key is barred, is left out. What does not fit is dropped, or
  /// others are for it. Without memory it is dropped.
  void add(TierCopy copy) noexcept;
  /// So many bytes fit without dropping anything.
  bool has_room(std::uint64_t bytes) const noexcept;
  /// Nothing of this key is copied from here on. Waits for a copy that is being made.
  ///
  /// Errors:  throws std::bad_alloc
  void bar(const ChunkKey& key);
  /// Takes one bar() back.
  void unbar(const ChunkKey& key) noexcept;
  /// Waits for all that was added before. Returns the first failure since the last call.
  Status flush();
  /// Makes the copies that wait, but no promotions, and ends the threads.
  void end() noexcept;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Copies = std::list<TierCopy>;

  void serve() noexcept;
  void make(Lock& lock) noexcept;
  void let_reads_go_first() const noexcept;
  Result<bool> copy(const TierCopy& what) const;
  Status read_whole(const TierCopy& what, MutableBytes out) const;
  void note(const TierCopy& what, const Result<bool>& made) noexcept;
  bool take(Copies& one, Copies& dropped) noexcept;
  void drop(const TierCopy& what) noexcept;
  bool fits(std::uint64_t bytes) const noexcept;
  bool start_thread() noexcept;

  TierAccess& stores_;
  const std::size_t to_;
  const TierOptions& options_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  Copies waiting_;  // oldest first
  Copies running_;
  std::vector<ChunkKey> barred_;
  std::uint64_t bytes_ = 0;    // of both
  std::uint64_t numbers_ = 0;  // given
  Status failed_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace cake::inline CAKE_ABI::detail
