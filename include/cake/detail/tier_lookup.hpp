// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What all tiers of a store hold of a prompt, in bounded time: a tier that hangs leaves the answers
// of the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/detail/deadline_calls.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The destructor waits for lookups that were abandoned.
///
/// Thread:  Safe for concurrent use.
class TierLookup {
 public:
  using Answer = Result<std::vector<StoredChunk>>;

  TierLookup(LaneStorage& storage, std::uint32_t n_tiers);

  /// As LaneHost::discard().
  void discard(LaneId tier, const ChunkKey& key) noexcept;

  /// As LaneHost::lookup().
  Answer lookup(std::span<const ChunkKey> keys, const ChunkGeometry& geometry, Time timeout,
                const std::stop_token& stop_token, Status& problem);

 private:
  /// What a call of lookup owns, so that nobody needs to wait for it.
  struct Asked {
    std::shared_ptr<const std::vector<ChunkKey>> keys;
    std::optional<Answer> answer;
    Status problem;  // of a part of the answer
    DeadlineCalls::Ticket ticket;
  };

  /// One tier after the other where the store can be asked so, all at once: a tier that does not
  /// answer leaves the others'.
  bool asks_tiers() const { return storage_.abilities.lookup_tier; }

  /// One tier's answer beside that of the others; an error is noted and leaves them.
  void merge(std::optional<Answer>& merged, Answer answer, Status& problem) const;

  Error no_answer(DeadlineCalls::Outcome outcome, std::uint32_t tier, Time waited) const;

  Answer ask(std::span<const ChunkKey> keys, const ChunkGeometry& geometry, std::uint32_t tier,
             Status& problem) noexcept;

  LaneStorage& storage_;
  std::uint32_t n_tiers_;
  bool in_memory_ = true;            // all tiers: then a lookup blocks no more than a read does
  std::deque<DeadlineCalls> calls_;  // one for each tier that is asked
};

}  // namespace cake::inline CAKE_ABI::detail
