// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What stores, lanes and a loader have counted, as metrics.
#include "cake/loader.hpp"
#include "cake/metrics.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/tier_policy.hpp"
#include "catch.hpp"
#include "helpers.hpp"
#include "tests/prometheus_lines.hpp"
#include "tests/stored_prompt.hpp"
#include "tests/toy_engine.hpp"

using namespace cake;
using cake_metrics_test::PrometheusLines;

TEST_CASE("a prompt that was saved and loaded is found in all metrics") {
  const sample::Directory directory;
  PosixStorage store({.directory = directory.path(), .threads = 1});
  std::vector<TokenId> prompt;
  for (std::uint32_t t = 0; t < testing::kTokens; ++t) {
    prompt.push_back(static_cast<TokenId>(7 * t % 97));
  }
  LoaderOptions options;
  options.chunks.chunk_tokens = testing::kChunk;
  options.session = testing::kPatient;
  Metrics metrics;
  MetricsSnapshot now;
  {
    testing::ToyEngine engine(testing::kTokens);
    Loader loader(engine, store, options, LoadOnlyScheduler());
    metrics.add(loader.prefill(prompt));
    metrics.add(loader.save(prompt));
    engine.clear();
    metrics.add(loader.prefill(prompt));
    now = metrics.snapshot();
    now.lanes = lane_gauges(loader.lanes());
  }
  now.stores.push_back(store_counts(store.stats(), "disk"));
  const PrometheusLines lines(prometheus_text(metric_families(now)));
  CHECK(lines.at("cake_prefills_total{outcome=\"good\"}") == 2);
  CHECK(lines.at("cake_saved_chunks_total{outcome=\"written\"}") == testing::kChunks);
  CHECK(lines.at("cake_prefill_tokens_total{source=\"loaded\"}") ==
        testing::kChunks * testing::kChunk);
  CHECK(lines.at("cake_ttft_seconds_count") == 2);
  CHECK(lines.at("cake_lane_loads_total{lane=\"0\"}") >= 1);
  CHECK(lines.at("cake_lane_read_bytes_total{lane=\"0\"}") == lines.at("cake_read_bytes_total"));
  CHECK(lines.at("cake_store_published_objects_total{store=\"disk\"}") == testing::kChunks);
  CHECK(lines.at("cake_store_read_bytes_total{store=\"disk\"}") ==
        lines.at("cake_read_bytes_total"));
  CHECK(lines.at("cake_staging_free_bytes") <= lines.at("cake_staging_bytes"));
}

TEST_CASE("host memory and tiers tell what they hold and did") {
  HostStats host;
  host.capacity_bytes = 1000;
  host.used_bytes = 300;
  host.refused = 2;
  std::vector<TierStats> tiers(2);
  tiers[0].hits = 5;
  tiers[1].dropped = 3;
  MetricsSnapshot now;
  now.stores.push_back(store_counts(host, "memory"));
  for (StoreCounts& counts : store_counts(tiers, "tiers")) now.stores.push_back(std::move(counts));
  const PrometheusLines lines(prometheus_text(metric_families(now)));
  CHECK(lines.types().at("cake_store_used_bytes") == "gauge");
  CHECK(lines.at("cake_store_used_bytes{store=\"memory\"}") == 300);
  CHECK(lines.at("cake_store_refused_writes_total{store=\"memory\"}") == 2);
  CHECK(lines.at("cake_store_hits_total{store=\"tiers\",tier=\"0\"}") == 5);
  CHECK(lines.at("cake_store_dropped_objects_total{store=\"tiers\",tier=\"1\"}") == 3);
  CHECK_FALSE(lines.has("cake_store_hits_total{store=\"memory\"}"));
}
