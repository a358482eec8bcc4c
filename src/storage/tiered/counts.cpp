// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <array>
#include <utility>

#include "cake/storage/tier_policy.hpp"
#include "src/storage/counted.hpp"

namespace cake::inline CAKE_ABI {
namespace {

using Field = detail::CountedField<TierStats>;
constexpr std::array kFields{
    Field{&TierStats::hits, "hits", "Keys that a lookup found there"},
    Field{&TierStats::reads, "reads", "Reads that were asked for"},
    Field{&TierStats::read_bytes, "read_bytes", "Bytes of objects that arrived"},
    Field{&TierStats::failed_reads, "failed_reads", "Reads that failed"},
    Field{&TierStats::writes, "published_objects", "Objects that writes made visible"},
    Field{&TierStats::written_bytes, "published_bytes", "Bytes of these"},
    Field{&TierStats::behind, "behind_objects",
          "Of the published ones, those that write-back made later"},
    Field{&TierStats::promoted, "promoted_objects",
          "Of the published ones, those that were read from a slower tier"},
    Field{&TierStats::failed_writes, "failed_writes", "Writes that failed"},
    Field{&TierStats::dropped, "dropped_objects",
          "Copies that were not made, since too many waited"},
};

}  // namespace

std::vector<StoreCounts> store_counts(const std::vector<TierStats>& tiers,
                                      const std::string& store) {
  std::vector<StoreCounts> all;
  for (const TierStats& stats : tiers) {
    all.push_back(detail::counted<TierStats>(stats, kFields, store));
    all.back().tier = std::to_string(all.size() - 1);
  }
  return all;
}

}  // namespace cake::inline CAKE_ABI
