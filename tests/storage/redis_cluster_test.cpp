// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Clusters of Redis and Valkey, whose slots move and whose nodes die.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "cake/storage/redis.hpp"
#include "cake/testing/check_storage.hpp"
#include "contract.hpp"
#include "redis_process.hpp"
#include "saved_prompt.hpp"
#include "src/storage/redis/slots.hpp"

using namespace cake;
using namespace cake_redis_test;
using namespace std::chrono_literals;
using cake::testing::kChunk;
using cake::testing::kChunks;
using cake::testing::kTokens;
using sample::content;
using sample::equal;
using sample::fetch;
using sample::key_of;
using sample::look;

namespace {

constexpr std::size_t kSize = std::size_t{1} << 20;
constexpr std::uint64_t kKeys = 24;

unsigned slot_of(std::uint64_t key) { return detail::redis_slot(key_text(key_of(key))); }

/// Waits for a failover, however slow the machine is.
RedisOptions patient(RedisCluster& cluster, int node = 0) {
  RedisOptions options = options_for(cluster.node(node).port());
  options.attempts = 60;
  return options;
}

/// Takes a slot from one master to another, as an operator does.
class Migration {
 public:
  Migration(RedisCluster& cluster, unsigned slot, int from, int to)
      : cluster_(cluster), slot_(std::to_string(slot)), from_(from), to_(to) {
    ok(to_, {"CLUSTER", "SETSLOT", slot_, "IMPORTING", cluster_.id_of(from_)});
    ok(from_, {"CLUSTER", "SETSLOT", slot_, "MIGRATING", cluster_.id_of(to_)});
  }
  void move(const std::string& key) {
    ok(from_,
       {"MIGRATE", "127.0.0.1", std::to_string(cluster_.node(to_).port()), key, "0", "20000"});
  }
  void finish() {
    const std::string owner = cluster_.id_of(to_);
    ok(to_, {"CLUSTER", "SETSLOT", slot_, "NODE", owner});
    ok(from_, {"CLUSTER", "SETSLOT", slot_, "NODE", owner});
  }

 private:
  void ok(int node, const std::vector<std::string>& words) {
    const std::string answer = cluster_.node(node).ask(words);
    INFO(answer);
    CHECK(answer.starts_with("+"));
  }
  RedisCluster& cluster_;
  const std::string slot_;
  const int from_, to_;
};

/// As a store, and with each key at the node that has its slot.
void check_cluster(RedisCluster& cluster) {
  RedisStorage store(patient(cluster, 1));
  REQUIRE(store.check_access());
  CHECK(testing::check(store) == testing::Failures{});
  sample::check_contract(store);
  sample::check_concurrent(store, 200);
  CHECK(store.stats().cluster);
  CHECK(store.stats().masters == 3);
  CHECK(store.stats().redirections == 0);
  std::vector<ChunkKey> keys;
  for (std::uint64_t k = 0; k < kKeys; ++k) {
    keys.push_back(key_of(k));
    CHECK(store.write_new(key_of(k), content(k, 4096).bytes()).value());
    const std::string key = key_text(key_of(k));
    CHECK(cluster.node(0).ask({"CLUSTER", "KEYSLOT", key}) == number_of(slot_of(k)));
    CHECK(cluster.node(cluster.master_of(slot_of(k))).ask({"EXISTS", key}) == ":1\r\n");
  }
  const auto found = store.lookup(keys);
  REQUIRE(found);
  for (const StoredChunk& chunk : *found) CHECK(chunk.size == 4096);
  CHECK(store.stats().redirections == 0);
}

/// A slot that moves, and what is asked of it before, meanwhile and afterwards.
void check_migration(RedisCluster& cluster) {
  RedisStorage store(patient(cluster));
  constexpr std::uint64_t kMoved = 100;
  const auto object = content(kMoved, kSize);
  const std::string key = key_text(key_of(kMoved));
  REQUIRE(store.write(key_of(kMoved), object.bytes()));
  const auto right = [&] {
    return equal(fetch(store, key_of(kMoved), kSize).bytes(), object.bytes());
  };
  const int from = cluster.master_of(slot_of(kMoved));
  const int to = (from + 1) % 3;
  Migration migration(cluster, slot_of(kMoved), from, to);
  CHECK(right());  // not moved yet
  CHECK(store.stats().redirections == 0);
  migration.move(key);
  CHECK(right());  // ASK
  CHECK(store.stats().redirections > 0);
  CHECK(look(store, key_of(kMoved)).size == kSize);
  // What is written anew goes where the slot will be.
  REQUIRE(store.erase(key_of(kMoved)));
  CHECK(store.write_new(key_of(kMoved), object.bytes()).value());
  CHECK_FALSE(store.write_new(key_of(kMoved), object.bytes()).value());
  CHECK(cluster.node(from).ask({"CLUSTER", "COUNTKEYSINSLOT", std::to_string(slot_of(kMoved))}) ==
        ":0\r\n");
  migration.finish();
  CHECK(right());  // MOVED
  RedisCluster::until([&] { return right() && store.stats().topologies > 1; },
                      "the slots are not asked for again");
  const std::uint64_t before = store.stats().redirections;
  CHECK(right());
  CHECK(store.stats().redirections == before);
  REQUIRE(store.erase(key_of(kMoved)));
}

}  // namespace

TEST_CASE(
    "a cluster keeps the contract of a store, with keys where their slots are, also as they move") {
  if (redis_program() == nullptr) return;
  RedisCluster cluster(3, false);
  check_cluster(cluster);
  check_migration(cluster);
}

TEST_CASE("Valkey keeps the contract of a store, alone and as a cluster, also as slots move") {
  const char* const program = valkey_program();
  if (program == nullptr) return;
  {
    const RedisProcess server(cake_loopback_test::free_ports(1)[0], {}, program);
    RedisStorage store(options_for(server.port()));
    REQUIRE(store.check_access());
    CHECK(testing::check(store) == testing::Failures{});
    sample::check_contract(store);
    sample::check_concurrent(store, 200);
  }
  RedisCluster cluster(3, false, program);
  check_cluster(cluster);
  check_migration(cluster);
}

TEST_CASE("a master that is killed is replaced by its replica, and no object is lost") {
  if (redis_program() == nullptr) return;
  RedisCluster cluster(3, true);
  RedisStorage store(patient(cluster));
  std::vector<ChunkKey> keys;
  for (std::uint64_t k = 0; k < kKeys; ++k) {
    keys.push_back(key_of(k));
    CHECK(store.write_new(key_of(k), content(k, kSize).bytes()).value());
  }
  for (int i = 0; i < 3; ++i) cluster.node(i).ask({"WAIT", "1", "20000"});
  cluster.node(0).kill();
  for (std::uint64_t k = 0; k < kKeys; ++k) {
    CHECK(equal(fetch(store, key_of(k), kSize).bytes(), content(k, kSize).bytes()));
  }
  const auto found = store.lookup(keys);
  REQUIRE(found);
  for (const StoredChunk& chunk : *found) CHECK(chunk.size == kSize);
  CHECK(store.stats().topologies > 1);
  CHECK(store.stats().retries > 0);
  // The node of the URL is gone, and the others are known.
  for (std::uint64_t k = 0; k < kKeys; ++k) CHECK(store.erase(key_of(k)));
  CHECK(store.write_new(key_of(1), content(1, kSize).bytes()).value());
}

TEST_CASE("a master that hangs is replaced by its replica, and its connections are given up") {
  if (redis_program() == nullptr) return;
  RedisCluster cluster(3, true);
  RedisOptions options = patient(cluster, 1);
  options.stall_timeout = options.connect_timeout = 300ms;
  RedisStorage store(options);
  for (std::uint64_t k = 0; k < kKeys; ++k) {
    CHECK(store.write_new(key_of(k), content(k, kSize).bytes()).value());
  }
  for (int i = 0; i < 3; ++i) cluster.node(i).ask({"WAIT", "1", "20000"});
  cluster.node(2).freeze(true);
  for (std::uint64_t k = 0; k < kKeys; ++k) {
    CHECK(equal(fetch(store, key_of(k), kSize).bytes(), content(k, kSize).bytes()));
  }
  CHECK(store.stats().stalls > 0);
  cluster.node(2).freeze(false);
}

TEST_CASE("a prefill whose cluster loses a node computes what that node had") {
  if (redis_program() == nullptr) return;
  RedisCluster cluster(3, false);
  for (int i = 0; i < 3; ++i) {
    cluster.node(i).ask({"CONFIG", "SET", "cluster-require-full-coverage", "no"});
  }
  RedisOptions options = options_for(cluster.node(0).port());
  options.attempts = 2;
  RedisStorage store(options);
  sample::SavedPrompt<RedisStorage> saved(store);
  CHECK(saved.run().tokens_loaded == kChunk * kChunks);
  const std::string lost = cluster.node(2).ask({"DBSIZE"});
  const auto chunks = static_cast<std::uint32_t>(std::stoi(lost.substr(1)));
  cluster.node(2).kill();
  const PrefillReport report = saved.run();
  CHECK(report.tokens_loaded == kChunk * (kChunks - chunks));
  CHECK(report.tokens_loaded + report.tokens_computed == kTokens);
  if (chunks == 0) return;
  CHECK_FALSE(store.lookup_problem());
  const std::string where =
      std::string("at 127.0.0.1").append(number_of(cluster.node(2).port()), 0, 6);
  CHECK(store.lookup_problem().error().context.find(where) != std::string::npos);
}

TEST_CASE("slots that move while threads read and write cost no object") {
  if (redis_program() == nullptr) return;
  RedisCluster cluster(3, false);
  RedisStorage store(patient(cluster));
  constexpr std::uint64_t kMoved = 200;
  const auto object = content(kMoved, 64 * 4096);
  REQUIRE(store.write(key_of(kMoved), object.bytes()));
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, right{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!done) {
        const bool same =
            equal(fetch(store, key_of(kMoved), object.size()).bytes(), object.bytes());
        ++(same ? right : wrong);
      }
    });
  }
  int at = cluster.master_of(slot_of(kMoved));
  for (int round = 0; round < 6; ++round) {
    const int to = (at + 1) % 3;
    Migration migration(cluster, slot_of(kMoved), at, to);
    migration.move(key_text(key_of(kMoved)));
    migration.finish();
    at = to;
    const int before = right;
    RedisCluster::until([&] { return right > before + 3; }, "reads do not go on");
  }
  done = true;
  for (auto& reader : readers) reader.join();
  CHECK(wrong == 0);
  CHECK(store.stats().redirections > 0);
}
