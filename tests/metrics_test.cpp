// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/metrics.hpp"

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "cake/save.hpp"
#include "catch.hpp"
#include "prometheus_lines.hpp"

using namespace cake;
using namespace std::chrono_literals;
using cake_metrics_test::PrometheusLines;

namespace {

PrefillReport sample() {
  PrefillReport r;
  r.ttft = 20ms;
  r.planning = 300us;
  r.bound_s = 0.016;
  r.tokens_resident = 1;
  r.tokens_computed = 20;
  r.tokens_loaded = 300;
  r.bytes_read = 5000;
  r.chunks_recomputed = 2;
  r.failed_loads = 1;
  r.reads_superseded = 1;
  r.loads = {{{3, {48, 64}, {0, 2}}, 0, 2000, 0ms, 2ms, 3ms, Errc::ok},
             {{2, {32, 48}, {0, 2}}, 2, 2000, 0ms, 4ms, 5ms, Errc::superseded},
             {{1, {16, 32}, {0, 2}}, 2, 1000, 4ms, 5ms, 0ms, Errc::corrupt}};
  return r;
}

PrefillReport ended(Errc code) {
  PrefillReport r = sample();
  r.status = Error{code, 0, "ended"};
  return r;
}

PrometheusLines lines_of(const MetricsSnapshot& snapshot) {
  return PrometheusLines(prometheus_text(metric_families(snapshot)));
}

MetricFamily gauge(std::string name, std::vector<MetricSample> samples, std::string help = "Help") {
  return {std::move(name), std::move(help), MetricKind::gauge, std::move(samples)};
}

}  // namespace

TEST_CASE("reports are added up, by outcome, source and lane") {
  Metrics metrics;
  metrics.add(sample());
  metrics.add(sample());
  metrics.add(ended(Errc::device));
  metrics.add(ended(Errc::canceled));
  const MetricsSnapshot now = metrics.snapshot();
  CHECK(now.prefills.prefills == 4);
  CHECK(now.prefills.failed == 1);
  CHECK(now.prefills.canceled == 1);
  CHECK(now.prefills.tokens_loaded == 1200);
  CHECK(now.prefills.bytes_read == 20000);
  REQUIRE(now.loads.size() == 3);
  CHECK(now.loads[0].loads == 4);
  CHECK(now.loads[1].loads == 0);
  CHECK(now.loads[2].loads == 8);
  CHECK(now.loads[2].failed == 4);
  CHECK(now.loads[2].superseded == 4);
  CHECK(now.loads[2].bytes == 12000);
  const PrometheusLines lines = lines_of(now);
  CHECK(lines.at("cake_prefills_total{outcome=\"good\"}") == 2);
  CHECK(lines.at("cake_prefills_total{outcome=\"failed\"}") == 1);
  CHECK(lines.at("cake_prefills_total{outcome=\"canceled\"}") == 1);
  CHECK(lines.at("cake_prefill_tokens_total{source=\"computed\"}") == 80);
  CHECK(lines.at("cake_lane_failed_loads_total{lane=\"2\"}") == 4);
}

TEST_CASE("times of prefills that did not end well are in no histogram") {
  Metrics metrics;
  metrics.add(ended(Errc::device));
  metrics.add(ended(Errc::canceled));
  CHECK(metrics.snapshot().prefills.ttft.count() == 0);
  PrefillReport without_bound = sample();
  without_bound.bound_s = 0;
  metrics.add(without_bound);
  const PrefillCounts counts = metrics.snapshot().prefills;
  CHECK(counts.ttft.count() == 1);
  CHECK(counts.planning.count() == 1);
  CHECK(counts.bound_ratio.count() == 0);
}

TEST_CASE("a value falls into the bucket of the least bound that is not below it") {
  Metrics metrics;
  for (const auto ttft : {Time{0}, Time{1ms}, Time{1001us}, Time{60s}, Time{61s}}) {
    PrefillReport report = sample();
    report.ttft = ttft;
    metrics.add(report);
  }
  const HistogramCounts ttft = metrics.snapshot().prefills.ttft;
  REQUIRE(ttft.counts.size() == ttft.bounds.size() + 1);
  CHECK(ttft.counts[0] == 2);
  CHECK(ttft.counts[1] == 1);
  CHECK(ttft.counts[ttft.counts.size() - 2] == 1);
  CHECK(ttft.counts.back() == 1);
  CHECK(std::fabs(ttft.sum - 121.002001) < 1e-9);
}

TEST_CASE("buckets of a histogram are written cumulatively, up to +Inf, with sum and count") {
  const MetricFamily family{"cake_t_seconds",
                            "Times",
                            MetricKind::histogram,
                            {{{{"lane", "1"}}, HistogramCounts{{0.5, 2}, {3, 0, 4}, 12.5}}}};
  const std::string text = prometheus_text(std::vector{family});
  CHECK(text ==
        "# HELP cake_t_seconds Times\n"
        "# TYPE cake_t_seconds histogram\n"
        "cake_t_seconds_bucket{lane=\"1\",le=\"0.5\"} 3\n"
        "cake_t_seconds_bucket{lane=\"1\",le=\"2\"} 3\n"
        "cake_t_seconds_bucket{lane=\"1\",le=\"+Inf\"} 7\n"
        "cake_t_seconds_sum{lane=\"1\"} 12.5\n"
        "cake_t_seconds_count{lane=\"1\"} 7\n");
}

TEST_CASE("labels and help are escaped as the format wants it") {
  const std::string text = prometheus_text(std::vector{
      gauge("cake_x", {{{{"store", "a\\b\"c\nd"}}, std::uint64_t{1}}}, "one \\ two\n\"three\"")});
  CHECK(text ==
        "# HELP cake_x one \\\\ two\\n\"three\"\n"
        "# TYPE cake_x gauge\n"
        "cake_x{store=\"a\\\\b\\\"c\\nd\"} 1\n");
}

TEST_CASE("numbers are written so that none is lost") {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  const std::string text = prometheus_text(
      std::vector{gauge("a", {{{}, std::numeric_limits<std::uint64_t>::max()}}),
                  gauge("b", {{{}, 0.1}}), gauge("c", {{{}, kInfinite}}),
                  gauge("d", {{{}, -kInfinite}}), gauge("e", {{{}, std::nan("")}})});
  for (const char* const line :
       {"\na 18446744073709551615\n", "\nb 0.1\n", "\nc +Inf\n", "\nd -Inf\n", "\ne NaN\n"}) {
    CHECK(text.find(line) != std::string::npos);
  }
}

TEST_CASE("families of one name are told once, and their samples stand together") {
  const std::string text = prometheus_text(
      std::vector{gauge("a", {{{{"store", "x"}}, std::uint64_t{1}}}), gauge("b", {{{}, 2.0}}),
                  gauge("a", {{{{"store", "y"}}, std::uint64_t{3}}})});
  CHECK(text ==
        "# HELP a Help\n# TYPE a gauge\na{store=\"x\"} 1\na{store=\"y\"} 3\n"
        "# HELP b Help\n# TYPE b gauge\nb 2\n");
}

TEST_CASE("saves are added up") {
  Metrics metrics;
  SaveReport report;
  report.written = 3;
  report.present = 2;
  report.dropped = 1;
  report.bytes = 300;
  metrics.add(report);
  report.status = Error{Errc::io, 0, "full"};
  report.failed = 4;
  metrics.add(report);
  const PrometheusLines lines = lines_of(metrics.snapshot());
  CHECK(lines.at("cake_saves_total{outcome=\"good\"}") == 1);
  CHECK(lines.at("cake_saves_total{outcome=\"failed\"}") == 1);
  CHECK(lines.at("cake_saved_chunks_total{outcome=\"written\"}") == 6);
  CHECK(lines.at("cake_saved_chunks_total{outcome=\"failed\"}") == 4);
  CHECK(lines.at("cake_saved_chunks_total{outcome=\"dropped\"}") == 2);
  CHECK(lines.at("cake_saved_bytes_total") == 600);
}

TEST_CASE("a whole snapshot is text that keeps every rule of the format") {
  Metrics metrics;
  metrics.add(sample());
  MetricsSnapshot now = metrics.snapshot();
  LinkEstimate rate;
  rate.bytes_per_second = 2.5e9;
  rate.latency = 80us;
  now.lanes = LaneGauges{{rate, rate}, 1000, 400, 1, 8};
  now.stores.push_back(
      {"disk",
       "",
       {{"reads", "Reads", MetricKind::counter, 7}, {"used_bytes", "Used", MetricKind::gauge, 9}}});
  now.stores.push_back({"all", "1", {{"reads", "Reads", MetricKind::counter, 8}}});
  const PrometheusLines lines = lines_of(now);
  CHECK(lines.at("cake_lane_bytes_per_second{lane=\"1\"}") == 2.5e9);
  CHECK(lines.at("cake_lane_latency_seconds{lane=\"0\"}") == 80e-6);
  CHECK(lines.at("cake_staging_free_bytes") == 400);
  CHECK(lines.at("cake_store_reads_total{store=\"disk\"}") == 7);
  CHECK(lines.at("cake_store_reads_total{store=\"all\",tier=\"1\"}") == 8);
  CHECK(lines.at("cake_store_used_bytes{store=\"disk\"}") == 9);
  CHECK(lines.at("cake_ttft_seconds_bucket{le=\"0.025\"}") == 1);
  CHECK(lines.at("cake_ttft_seconds_bucket{le=\"0.01\"}") == 0);
  CHECK(lines.at("cake_ttft_bound_ratio_bucket{le=\"1.2\"}") == 0);
  CHECK(lines.at("cake_ttft_bound_ratio_bucket{le=\"1.5\"}") == 1);
  CHECK(lines.types().at("cake_ttft_seconds") == "histogram");
  CHECK(lines.helps().size() == lines.types().size());
}

TEST_CASE("threads that add at once lose nothing") {
  constexpr std::uint64_t kThreads = 8, kEach = 2000;
  Metrics metrics;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        const PrefillReport report = sample();
        for (std::uint64_t i = 0; i < kEach; ++i) {
          metrics.add(report);
          if (i % 100 == 0) {
            const MetricsSnapshot now = metrics.snapshot();
            // Of one moment, whatever the others do.
            if (now.prefills.ttft.count() != now.prefills.prefills) std::abort();
          }
        }
      });
    }
  }
  const MetricsSnapshot now = metrics.snapshot();
  CHECK(now.prefills.prefills == kThreads * kEach);
  CHECK(now.prefills.tokens_loaded == 300 * kThreads * kEach);
  CHECK(now.loads[2].loads == 2 * kThreads * kEach);
}
