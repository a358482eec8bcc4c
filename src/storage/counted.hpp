// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// From the stats() of a store to values that have names.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "cake/metrics.hpp"

namespace cake::inline CAKE_ABI::detail {

template <class Stats>
struct CountedField {
  std::uint64_t Stats::*field;
  const char* name;
  const char* help;
  MetricKind kind = MetricKind::counter;
};

template <class Stats>
StoreCounts counted(const Stats& stats, std::span<const CountedField<Stats>> fields,
                    std::string store) {
  StoreCounts counts{std::move(store), {}, {}};
  counts.counts.reserve(fields.size());
  for (const CountedField<Stats>& each : fields) {
    counts.counts.push_back({each.name, each.help, each.kind, stats.*each.field});
  }
  return counts;
}

}  // namespace cake::inline CAKE_ABI::detail
