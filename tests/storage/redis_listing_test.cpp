// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a server, or a cluster of them, holds.
#include <map>
#include <string>

#include "catch.hpp"
#include "listing_helpers.hpp"
#include "redis_process.hpp"

using namespace cake;
using namespace cake_redis_test;
using sample::content;
using sample::key_of;

namespace {

/// Stores some, and says what a listing has to name.
std::map<ChunkKey, std::uint64_t> fill(RedisStorage& store, std::uint64_t count) {
  std::map<ChunkKey, std::uint64_t> expected;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::size_t size = 4096 * (1 + i % 3);
    REQUIRE(store.write(key_of(i), content(i, size).bytes()));
    expected[key_of(i)] = size;
  }
  return expected;
}

}  // namespace

TEST_CASE("a listing names every object of a server, and nothing else") {
  if (redis_program() == nullptr) return;
  RedisProcess server(cake_loopback_test::free_ports(1)[0]);
  RedisStorage store(options_for(server.port()));
  CHECK(sample::all_of(store).objects.empty());
  const auto expected = fill(store, 1500);
  server.ask({"SET", "kv/v2:{notes}", "text"});
  server.ask({"SET", "kv/v20:{" + key_of(1).hex() + "}", "another prefix"});
  server.ask({"LPUSH", key_text(key_of(5000)), "no string"});
  const auto found = sample::all_of(store);
  CHECK(found.sizes() == expected);
  CHECK(found.others == 2);
  for (const char* const from : {"x", "1", "99999:0", "0:x", "0:", "-1:0"}) {
    CHECK(store.list(from).error().code == Errc::invalid_argument);
  }
  CHECK(store.lookup_problem());
}

TEST_CASE("a listing of a cluster goes through all its masters") {
  if (redis_program() == nullptr) return;
  RedisCluster cluster(3, false);
  RedisStorage store(options_for(cluster.node(1).port()));
  const auto expected = fill(store, 200);
  CHECK(sample::all_of(store).sizes() == expected);
  CHECK(store.stats().masters == 3);
}

TEST_CASE("a listing of a server that is gone is an error that names it") {
  if (redis_program() == nullptr) return;
  RedisProcess server(cake_loopback_test::free_ports(1)[0]);
  RedisOptions options = options_for(server.port());
  options.attempts = 1;
  RedisStorage store(options);
  server.kill();
  const auto listing = store.list();
  REQUIRE_FALSE(listing);
  CHECK(listing.error().context.find(std::to_string(server.port())) != std::string::npos);
}
