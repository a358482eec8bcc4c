// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <array>
#include <utility>

#include "cake/storage/s3.hpp"
#include "src/storage/counted.hpp"

namespace cake::inline CAKE_ABI {
namespace {

using Field = detail::CountedField<S3Stats>;
constexpr std::array kFields{
    Field{&S3Stats::requests, "requests", "Requests to the server, attempts included"},
    Field{&S3Stats::retries, "retries", "Of these, those after one that failed"},
    Field{&S3Stats::connects, "connects", "Connections that were opened"},
    Field{&S3Stats::reads, "reads", "Reads that were asked for"},
    Field{&S3Stats::canceled, "canceled", "Requests that nobody waited for any more"},
    Field{&S3Stats::read_bytes, "read_bytes", "Bytes of objects that arrived"},
    Field{&S3Stats::published, "published_objects", "Objects that writes made visible"},
    Field{&S3Stats::published_bytes, "published_bytes", "Bytes of these"},
    Field{&S3Stats::already_stored, "already_stored", "Writes of objects that were there already"},
    Field{&S3Stats::replaced, "replaced_objects",
          "Of the published ones, those over something damaged"},
    Field{&S3Stats::lookup_problems, "lookup_problems", "Keys that could not be looked up"},
};

}  // namespace

StoreCounts store_counts(const S3Stats& stats, std::string store) {
  return detail::counted<S3Stats>(stats, kFields, std::move(store));
}

}  // namespace cake::inline CAKE_ABI
