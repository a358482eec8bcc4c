// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <array>
#include <utility>

#include "cake/storage/posix.hpp"
#include "src/storage/counted.hpp"

namespace cake::inline CAKE_ABI {
namespace {

using Field = detail::CountedField<PosixStats>;
constexpr std::array kFields{
    Field{&PosixStats::reads, "reads", "Reads that were asked for"},
    Field{&PosixStats::read_bytes, "read_bytes", "Bytes of objects that arrived"},
    Field{&PosixStats::published, "published_objects", "Objects that writes made visible"},
    Field{&PosixStats::published_bytes, "published_bytes", "Bytes of these"},
    Field{&PosixStats::already_stored, "already_stored",
          "Writes of objects that were there already"},
    Field{&PosixStats::replaced, "replaced_objects",
          "Of the published ones, those over something damaged"},
    Field{&PosixStats::evicted, "evicted_objects", "Objects that made room for others"},
    Field{&PosixStats::evicted_bytes, "evicted_bytes", "Bytes of these"},
    Field{&PosixStats::eviction_failures, "eviction_failures",
          "Objects that were to be evicted and could not be erased"},
    Field{&PosixStats::expired, "expired_objects", "Of the evicted ones, those older than the ttl"},
    Field{&PosixStats::first_reads, "first_reads",
          "Objects that were read for the first time since they were published"},
    Field{&PosixStats::refused, "refused_writes", "Writes that no room could be made for"},
    Field{&PosixStats::lookup_problems, "lookup_problems", "Keys that could not be looked up"},
    Field{&PosixStats::reopened, "reopened",
          "Times that the directory was found to be another one"},
    Field{&PosixStats::stuck_reads, "stuck_reads", "Operations of reads that lasted over 0.25 s"},
    Field{&PosixStats::direct_refusals, "direct_refusals",
          "Times that the file system refused O_DIRECT"},
    Field{&PosixStats::ring_refusals, "ring_refusals", "Operations that io_uring refused"},
    Field{&PosixStats::leftovers, "leftover_files",
          "Temporary files of dead writers that were removed"},
};

}  // namespace

StoreCounts store_counts(const PosixStats& stats, std::string store) {
  return detail::counted<PosixStats>(stats, kFields, std::move(store));
}

}  // namespace cake::inline CAKE_ABI
