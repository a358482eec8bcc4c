// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <array>
#include <utility>

#include "cake/storage/host.hpp"
#include "src/storage/counted.hpp"

namespace cake::inline CAKE_ABI {
namespace {

using Field = detail::CountedField<HostStats>;
constexpr std::array kFields{
    Field{&HostStats::capacity_bytes, "capacity_bytes", "Bytes that the store can hold",
          MetricKind::gauge},
    Field{&HostStats::plain_bytes, "plain_bytes", "Of these, bytes that are not page-locked",
          MetricKind::gauge},
    Field{&HostStats::used_bytes, "used_bytes", "Bytes that objects take now", MetricKind::gauge},
    Field{&HostStats::objects, "objects", "Objects that are held now", MetricKind::gauge},
    Field{&HostStats::in_use, "in_use_objects", "Of these, those that are lent or being read",
          MetricKind::gauge},
    Field{&HostStats::reads, "reads", "Reads that were asked for"},
    Field{&HostStats::read_bytes, "read_bytes", "Bytes of objects that arrived"},
    Field{&HostStats::loans, "loans", "Loans of bytes where they lie"},
    Field{&HostStats::loan_bytes, "loan_bytes", "Bytes of these"},
    Field{&HostStats::published, "published_objects", "Objects that writes made visible"},
    Field{&HostStats::published_bytes, "published_bytes", "Bytes of these"},
    Field{&HostStats::already_stored, "already_stored",
          "Writes of objects that were there already"},
    Field{&HostStats::unverified, "unverified_objects",
          "Of the published ones, those that are no chunk objects"},
    Field{&HostStats::evicted, "evicted_objects", "Objects that made room for others"},
    Field{&HostStats::evicted_bytes, "evicted_bytes", "Bytes of these"},
    Field{&HostStats::refused, "refused_writes", "Writes for which nothing could be evicted"},
    Field{&HostStats::damaged, "damaged_writes", "Writes of chunk objects that were not whole"},
};

}  // namespace

StoreCounts store_counts(const HostStats& stats, std::string store) {
  return detail::counted<HostStats>(stats, kFields, std::move(store));
}

}  // namespace cake::inline CAKE_ABI
