// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/tier_lookup.hpp"

#include <string>
#include <utility>

#include "cake/detail/guarded.hpp"

namespace cake::inline CAKE_ABI::detail {

TierLookup::TierLookup(LaneStorage& storage, std::uint32_t n_tiers)
    : storage_(storage), n_tiers_(n_tiers) {
  for (std::uint32_t t = 0; t < (asks_tiers() ? n_tiers : 1); ++t) calls_.emplace_back();
  for (std::uint32_t t = 0; t < n_tiers && in_memory_; ++t) {
    in_memory_ = storage.reads_on_caller(t);
  }
}

void TierLookup::discard(LaneId tier, const ChunkKey& key) noexcept {
  (void)guarded(Errc::io, "erase", [&] { return storage_.erase_in_tier(tier, key); });
}

TierLookup::Answer TierLookup::lookup(std::span<const ChunkKey> keys, const ChunkGeometry& geometry,
                                      Time timeout, const std::stop_token& stop_token,
                                      Status& problem) {
  std::optional<Answer> merged;
  if (storage_.abilities.lookup_never_blocks || in_memory_) {
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

void TierLookup::merge(std::optional<Answer>& merged, Answer answer, Status& problem) const {
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

Error TierLookup::no_answer(DeadlineCalls::Outcome outcome, std::uint32_t tier, Time waited) const {
  using Outcome = DeadlineCalls::Outcome;
  if (outcome == Outcome::canceled) return Error{Errc::canceled, 0, "lookup"};
  const std::string where = calls_.size() > 1 ? "lookup in tier " + std::to_string(tier) : "lookup";
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

TierLookup::Answer TierLookup::ask(std::span<const ChunkKey> keys, const ChunkGeometry& geometry,
                                   std::uint32_t tier, Status& problem) noexcept {
  return guarded(Errc::io, "lookup", [&]() -> Answer {
    Answer found = storage_.lookup(tier, keys);
    if (!found) return found;
    problem = storage_.lookup_problem();
    found->resize(keys.size());
    const std::uint32_t known = (1u << n_tiers_) - 1;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      StoredChunk& chunk = (*found)[i];
      if (chunk.size != 0 && geometry.held_by(chunk.size) == 0) {
        if (storage_.abilities.erase_tier || !asks_tiers()) discard(tier, keys[i]);
        chunk = {};
      }
      chunk.tiers &= known;
    }
    return found;
  });
}

}  // namespace cake::inline CAKE_ABI::detail
