// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// metrics [--port N]: what prefills, saves, lanes and stores have counted, as Prometheus scrapes it. Runs
// a few prompts over two tiers, and then serves http://127.0.0.1:N/metrics until the standard input
// ends.
#include "cake/metrics.hpp"

#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

#include "cake/cake.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/tiered.hpp"
#include "custom_engine.hpp"
#include "metrics_server.hpp"
#include "temporary_folder.hpp"

namespace {

using namespace cake;
using examples::TinyEngine;
using Store = TieredStorage<HostStorage, PosixStorage>;

constexpr std::uint32_t kTokens = 640;

std::vector<TokenId> text(std::uint32_t seed) {
  std::vector<TokenId> tokens(kTokens);
  for (TokenId& token : tokens) {
    seed = seed * 1664525 + 1013904223;
    token = static_cast<TokenId>((seed >> 8) % 32);
  }
  return tokens;
}

/// Three prompts, each twice: the second time there is something to load.
void run_prompts(Loader<TinyEngine, Store>& loader, Metrics& metrics) {
  for (const std::uint32_t seed : {1u, 2u, 3u, 1u, 2u, 3u}) {
    const std::vector<TokenId> prompt = text(seed);
    // [add]
    const PrefillReport report = loader.prefill(prompt);
    metrics.add(report);
    const SaveReport saved = loader.save(prompt);
    metrics.add(saved);
    // [/add]
    if (!report.status) throw Exception(report.status.error());
    if (!saved.status) throw Exception(saved.status.error());
  }
}

}  // namespace

int main(int argc, char** argv) try {
  std::uint16_t port = 0;
  if (argc == 3 && std::strcmp(argv[1], "--port") == 0) {
    port = static_cast<std::uint16_t>(std::stoul(argv[2]));
  } else if (argc != 1) {
    std::fputs("usage: metrics [--port N]\n", stderr);
    return 2;
  }
  const examples::TemporaryFolder folder;
  HostStorage host({.capacity_bytes = std::uint64_t{4} << 20});
  PosixStorage disk({.directory = folder.path() / "kv"});
  Store store({.write = WritePolicy::through}, host, disk);
  TinyEngine engine(kTokens);
  Loader<TinyEngine, Store> loader(engine, store, {.chunks = {.chunk_tokens = 64}});
  Metrics metrics;
  examples::MetricsServer server(port);
  run_prompts(loader, metrics);
  std::printf("http://127.0.0.1:%u/metrics, until the standard input ends\n", server.port());
  std::fflush(stdout);
  // [scrape]
  server.serve([&] {
    MetricsSnapshot now = metrics.snapshot();
    now.lanes = lane_gauges(loader.lanes());
    now.stores = store_counts(store.stats(), "tiers");
    now.stores.push_back(store_counts(host.stats(), "memory"));
    now.stores.push_back(store_counts(disk.stats(), "disk"));
    return prometheus_text(metric_families(now));
  });
  // [/scrape]
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "metrics: %s\n", e.what());
  return 1;
}
