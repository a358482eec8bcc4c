// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <array>
#include <utility>

#include "cake/storage/redis.hpp"
#include "src/storage/counted.hpp"

namespace cake::inline CAKE_ABI {
namespace {

using Field = detail::CountedField<RedisStats>;
constexpr std::array kFields{
    Field{&RedisStats::requests, "requests", "Requests to the server, attempts included"},
    Field{&RedisStats::retries, "retries", "Of these, those after one that failed"},
    Field{&RedisStats::redirections, "redirections", "Requests that a node sent to another one"},
    Field{&RedisStats::topologies, "topologies",
          "Times that the slots of a cluster were asked for"},
    Field{&RedisStats::connects, "connects", "Connections that were opened"},
    Field{&RedisStats::stalls, "stalls",
          "Connections that were closed because nothing moved any more"},
    Field{&RedisStats::reads, "reads", "Reads that were asked for"},
    Field{&RedisStats::canceled, "canceled", "Requests that nobody waited for any more"},
    Field{&RedisStats::read_bytes, "read_bytes", "Bytes of objects that arrived"},
    Field{&RedisStats::published, "published_objects", "Objects that writes made visible"},
    Field{&RedisStats::published_bytes, "published_bytes", "Bytes of these"},
    Field{&RedisStats::already_stored, "already_stored",
          "Writes of objects that were there already"},
    Field{&RedisStats::replaced, "replaced_objects",
          "Of the published ones, those over something damaged"},
    Field{&RedisStats::lookup_problems, "lookup_problems", "Keys that could not be looked up"},
};

}  // namespace

StoreCounts store_counts(const RedisStats& stats, std::string store) {
  return detail::counted<RedisStats>(stats, kFields, std::move(store));
}

}  // namespace cake::inline CAKE_ABI
