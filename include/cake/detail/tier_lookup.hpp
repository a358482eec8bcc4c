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
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/detail/deadline_calls.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The destructor waits for lookups that were abandoned.
///
/// Thread:  Safe for concurrent use.
template <StorageBackend S>
class TierLookup {
  using Traits = storage_traits<S>;

 public:
  using Answer = Result<std::vector<StoredChunk>>;

  TierLookup(S& storage, std::uint32_t n_tiers) : storage_(storage), n_tiers_(n_tiers) {
    for (std::uint32_t t = 0; t < (asks_tiers ? n_tiers : 1); ++t) calls_.emplace_back();
  }

  /// As LaneHost::discard().
  void discard(LaneId tier, const ChunkKey& key) noexcept {
    (void)guarded(Errc::io, "erase", [&] { return Traits::erase_in_tier(storage_, tier, key); });
  }

  /// As LaneHost::lookup().
  Answer lookup(std::span<const ChunkKey> keys, const ChunkGeometry& geometry, Time timeout,
                const std::stop_token& stop_token, Status& problem) {
    std::optional<Answer> merged;
    if constexpr (Traits::abilities.lookup_never_blocks) {
      for (std::uint32_t t = 0; t < calls_.size(); ++t) {
        Status part;
        merge(merged, ask(keys, geometry, t, part), problem);
        if (problem) problem = part;
      }
      return merged ? std::move(*merged) : Answer(problem.error());
    }
    const auto owned = std::make_shared<const std::vector<ChunkKey>>(keys.begin(), keys.end());
    std::vector<std::shared_ptr<Asked>> all;
    const auto begun = DeadlineCalls::Clock::now();
    for (std::uint32_t t = 0; t < calls_.size(); ++t) {
      all.push_back(std::make_shared<Asked>(Asked{owned, std::nullopt, {}, nullptr}));
      // A tier whose last lookup still hangs is not waited for when there are others.
      if (calls_.size() > 1 && calls_[t].hanging() > 0) continue;
      all[t]->ticket = calls_[t].begin([this, asked = all[t].get(), keep = all[t], geometry, t] {
        asked->answer.emplace(ask(*asked->keys, geometry, t, asked->problem));
      });
    }
    for (std::uint32_t t = 0; t < calls_.size(); ++t) {
      const Time waited = calls_[t].hanging() > 0 ? timeout / 16 : timeout;
      const auto outcome = calls_[t].wait(all[t]->ticket, begun + waited, stop_token);
      if (outcome == DeadlineCalls::Outcome::done) {
        if (problem) problem = all[t]->problem;
        merge(merged, std::move(*all[t]->answer), problem);
      } else if (problem) {
        problem = no_answer(outcome, t, waited);
      }
    }
    if (!merged) return problem ? Error{Errc::io, 0, "lookup"} : problem.error();
    return std::move(*merged);
  }

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
  static constexpr bool asks_tiers = Traits::abilities.lookup_tier;

  /// One tier's answer beside that of the others; an error is noted and leaves them.
  void merge(std::optional<Answer>& merged, Answer answer, Status& problem) const {
    if (!answer) {
      if (problem) problem = answer.error();
      return;
    }
    if (!merged) {
      merged = std::move(answer);
      return;
    }
    for (std::size_t i = 0; i < answer->size(); ++i) {
      StoredChunk& chunk = (**merged)[i];
      const StoredChunk& more = (*answer)[i];
      if (!more.stored() || more.size < chunk.size) continue;
      if (more.size > chunk.size) chunk = {};  // of objects that hold more or fewer layers the most
      chunk.size = more.size;
      chunk.tiers |= more.tiers;
    }
  }

  Error no_answer(DeadlineCalls::Outcome outcome, std::uint32_t tier, Time waited) const {
    using Outcome = DeadlineCalls::Outcome;
    if (outcome == Outcome::canceled) return Error{Errc::canceled, 0, "lookup"};
    const std::string where =
        calls_.size() > 1 ? "lookup in tier " + std::to_string(tier) : "lookup";
    if (outcome == Outcome::refused) {
      return Error{Errc::timeout, 0,
                   where +
                       ": earlier lookups still hang, so it was not asked; look at the disk or "
                       "the server behind it"};
    }
    return Error{Errc::timeout, 0,
                 where + ": no answer within " + std::to_string(waited.count() / 1'000'000) +
                     " ms (SessionOptions::lookup_timeout); the prompt runs without it"};
  }

  Answer ask(std::span<const ChunkKey> keys, const ChunkGeometry& geometry, std::uint32_t tier,
             Status& problem) noexcept {
    return guarded(Errc::io, "lookup", [&]() -> Answer {
      Answer found = lookup_in(keys, tier);
      if (!found) return found;
      problem = Traits::lookup_problem(storage_);
      found->resize(keys.size());
      const std::uint32_t known = (1u << n_tiers_) - 1;
      for (std::size_t i = 0; i < keys.size(); ++i) {
        StoredChunk& chunk = (*found)[i];
        if (chunk.size != 0 && geometry.held_by(chunk.size) == 0) {
          if (Traits::abilities.erase_tier || !asks_tiers) discard(tier, keys[i]);
          chunk = {};
        }
        chunk.tiers &= known;
      }
      return found;
    });
  }
  Answer lookup_in(std::span<const ChunkKey> keys, std::uint32_t tier) {
    if constexpr (asks_tiers) {
      return storage_.lookup_tier(tier, keys);
    } else {
      return storage_.lookup(keys);  // all of it at once
    }
  }

  S& storage_;
  std::uint32_t n_tiers_;
  std::deque<DeadlineCalls> calls_;  // one for each tier that is asked
};

}  // namespace cake::inline CAKE_ABI::detail
