// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Loads from a cluster of Redis, verified, beside redis-benchmark's GET of values that are as large as a
// piece, in the same run, by turns; both throw away what they got.
//
//     redis_bench [ROUNDS]                     a cluster of three of its own on loopback
//     redis_bench redis://HOST:PORT/PREFIX [ROUNDS]
//
// Stores 512 MiB there, which are erased at the end. Needs the program redis-benchmark. The servers
// share the processors with both.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "cake/storage/redis.hpp"
#include "remote_load.hpp"
#include "tests/storage/redis_process.hpp"

namespace {

using namespace cake;

/// redis-benchmark, by as many connections and with as many requests ahead as a store has.
class Peer {
 public:
  explicit Peer(const RedisOptions& options, bool cluster)
      : options_(options),
        command_("REDISCLI_AUTH='" + options.credentials.password + "' redis-benchmark -h " +
                 options.host + " -p " + std::to_string(options.port) + " -d " +
                 std::to_string(options.piece_bytes) + (cluster ? " --cluster" : " --threads 2") +
                 " --csv -r 64 -P 1 -c " + std::to_string(cluster ? 12 : 4)) {
    // So that there is a value to get: one for each node, which it chooses the tag of.
    run("set", 200);
  }
  double get() { return run("get", 1000) * static_cast<double>(options_.piece_bytes) / 1e9; }

 private:
  /// Requests per second.
  double run(const char* test, int requests) {
    const std::string command =
        command_ + " -n " + std::to_string(requests) + " -t " + test + " 2>/dev/null";
    std::FILE* const out = ::popen(command.c_str(), "r");
    double rate = 0;
    char line[512];
    while (out != nullptr && std::fgets(line, sizeof line, out) != nullptr) {
      double found = 0;
      if (std::sscanf(line, "\"%*[A-Z]\",\"%lf\"", &found) == 1) rate = found;
    }
    if (out == nullptr || ::pclose(out) != 0 || rate <= 0) {
      throw Exception({Errc::io, 0, "redis-benchmark failed; is the program installed?"});
    }
    return rate;
  }
  const RedisOptions options_;
  const std::string command_;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    std::unique_ptr<cake_redis_test::RedisCluster> own;
    RedisOptions options;
    const bool named = argc > 1 && std::string(argv[1]).starts_with("redis");
    if (named) {
      options = redis_options(argv[1]).value();
    } else {
      if (cake_redis_test::redis_program() == nullptr) return 2;
      own = std::make_unique<cake_redis_test::RedisCluster>(3, false);
      options.host = "127.0.0.1";
      options.port = static_cast<std::uint16_t>(own->node(0).port());
    }
    if (const char* const piece = std::getenv("CAKE_BENCH_PIECE")) {
      options.piece_bytes = static_cast<std::size_t>(std::atoi(piece));
    }
    const int rounds = argc > (named ? 2 : 1) ? std::atoi(argv[named ? 2 : 1]) : 7;
    RedisStorage store(options);
    cake_bench::RemoteLoad<RedisStorage> load(store);
    Peer peer(options, store.stats().cluster);
    std::printf("%u masters, pieces of %zu KiB; ", store.stats().masters,
                options.piece_bytes >> 10);
    cake_bench::compare(
        "theirs", rounds, [&] { return load.load(); }, [&] { return peer.get(); });
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "redis_bench: %s\n", e.what());
    return 1;
  }
}
