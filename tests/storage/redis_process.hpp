// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Redis or Valkey as processes of the test: one server, or a cluster with replicas. CAKE_TEST_REDIS
// names the program of Redis, else it is the redis-server of the system; CAKE_TEST_VALKEY names that of
// Valkey.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cake/storage/redis.hpp"
#include "helpers.hpp"
#include "redis_wire.hpp"
#include "tests/child_process.hpp"

namespace cake_redis_test {

/// Null where there is none, and then it is said why a test is skipped.
inline const char* redis_program() {
  const char* const named = std::getenv("CAKE_TEST_REDIS");
  for (const char* const program : {named, "/usr/bin/redis-server", "/usr/bin/valkey-server"}) {
    if (program != nullptr && ::access(program, X_OK) == 0) return program;
  }
  std::printf(
      "[no Redis] skipped: no redis-server (bash tests/run.sh installs it; CAKE_TEST_REDIS=FILE "
      "names another one)\n");
  return nullptr;
}

/// The same of Valkey, which speaks the same protocol.
inline const char* valkey_program() {
  const char* const named = std::getenv("CAKE_TEST_VALKEY");
  if (named != nullptr && ::access(named, X_OK) == 0) return named;
  std::printf(
      "[no Valkey] skipped: CAKE_TEST_VALKEY names no program (bash tests/run.sh fetches it)\n");
  return nullptr;
}

class RedisProcess {
 public:
  using Words = std::vector<std::string>;

  /// Returns when it answers. `more`: arguments.
  explicit RedisProcess(int port, const Words& more = {}, const char* program = redis_program())
      : port_(port), more_(more), program_(program) {
    start();
  }

  int port() const { return port_; }
  void start_again() { start(); }
  void kill() { process_.kill(); }
  void freeze(bool stopped) const { process_.freeze(stopped); }
  std::string ask(const Words& words) const { return Talk(port_).ask(words); }
  std::string ask_with(const std::string& password, const Words& words) const {
    Talk talk(port_);
    talk.ask({"AUTH", password});
    return talk.ask(words);
  }

 private:
  void start() {
    const std::string folder = folder_.path().string();
    Words words{program_,     "--port",       std::to_string(port_),
                "--bind",     "127.0.0.1",    "--save",
                "",           "--appendonly", "no",
                "--dir",      folder,         "--repl-diskless-sync-delay",
                "0",          "--databases",  "1",
                "--loglevel", "warning"};
    words.insert(words.end(), more_.begin(), more_.end());
    process_.start(words, folder + "/log");
    for (int i = 0; i < 2000 && process_.runs(); ++i) {
      if (!ask({"PING"}).empty()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    throw std::runtime_error("Redis does not answer");
  }

  const int port_;
  const Words more_;
  const char* const program_;
  cake::sample::Directory folder_;
  cake_loopback_test::ChildProcess process_;
};

/// For a server of the tests: nothing ends by itself while the machine is slow.
inline cake::RedisOptions options_for(int port) {
  cake::RedisOptions options;
  options.host = "127.0.0.1";
  options.port = static_cast<std::uint16_t>(port);
  options.prefix = "kv/v2";
  options.read_timeout = options.write_timeout = options.call_timeout = std::chrono::minutes(2);
  options.connect_timeout = options.stall_timeout = std::chrono::minutes(1);
  return options;
}

inline std::string key_text(const cake::ChunkKey& key) { return "kv/v2:{" + key.hex() + "}"; }

inline std::string text_of(cake::ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Masters, and as many replicas, one for each.
class RedisCluster {
 public:
  static constexpr int kSlots = 16384;

  /// Returns when all slots have an owner, and each master has its replica.
  RedisCluster(int masters, bool replicas, const char* program = redis_program())
      : masters_(masters) {
    const int nodes = replicas ? 2 * masters : masters;
    for (const int port : cake_loopback_test::free_ports(static_cast<std::size_t>(nodes))) {
      nodes_.emplace_back(
          port,
          std::vector<std::string>{"--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
                                   "--cluster-replica-validity-factor", "0"},
          program);
    }
    for (int i = 0; i < nodes; ++i) {
      node(i).ask({"CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1)});
      if (i < masters) {
        node(i).ask({"CLUSTER", "ADDSLOTSRANGE", std::to_string(first_slot(i)),
                     std::to_string(first_slot(i + 1) - 1)});
      }
      node(i).ask({"CLUSTER", "MEET", "127.0.0.1", std::to_string(node(0).port())});
    }
    until([&] { return everybody_knows(nodes); }, "nodes do not find each other");
    for (int i = masters; i < nodes; ++i) {
      until(
          [&] {
            return node(i).ask({"CLUSTER", "REPLICATE", id_of(i - masters)}) == "+OK\r\n";
          },
          "a node does not become a replica");
    }
    until([&] { return all_good(replicas); }, "the cluster does not come up");
  }

  RedisProcess& node(int i) { return nodes_[static_cast<std::size_t>(i)]; }
  int size() const { return static_cast<int>(nodes_.size()); }
  int first_slot(int master) const { return kSlots * master / masters_; }
  /// The master that has a slot when nothing has moved.
  int master_of(unsigned slot) const {
    int master = 0;
    while (first_slot(master + 1) <= static_cast<int>(slot)) ++master;
    return master;
  }
  std::string id_of(int i) {
    const std::string answer = node(i).ask({"CLUSTER", "MYID"});
    return answer.substr(answer.find("\r\n") + 2, 40);
  }
  template <class F>
  static void until(F&& holds, const char* what) {
    for (int i = 0; i < 3000; ++i) {
      if (holds()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    throw std::runtime_error(what);
  }

 private:
  bool everybody_knows(int nodes) {
    const std::string known = "cluster_known_nodes" + number_of(nodes);
    for (int i = 0; i < nodes; ++i) {
      const std::string info = node(i).ask({"CLUSTER", "INFO"});
      if (info.find(known) == std::string::npos ||
          info.find("cluster_state:ok") == std::string::npos) {
        return false;
      }
    }
    return true;
  }
  /// Every node names every replica of every range, and replicas are linked to their masters.
  bool all_good(bool replicas) {
    for (const RedisProcess& each : nodes_) {
      const std::string slots = each.ask({"CLUSTER", "SLOTS"});
      for (const RedisProcess& other : nodes_) {
        if (slots.find(number_of(other.port())) == std::string::npos) return false;
      }
      if (each.ask({"CLUSTER", "INFO"}).find("cluster_state:ok") == std::string::npos) return false;
    }
    for (int i = masters_; replicas && i < size(); ++i) {
      if (node(i).ask({"INFO", "replication"}).find("master_link_status:up") == std::string::npos) {
        return false;
      }
    }
    return true;
  }

  const int masters_;
  std::deque<RedisProcess> nodes_;
};

}  // namespace cake_redis_test
