// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What prefills, saves, lanes and stores have counted, as families of metrics and as the text that
// Prometheus reads. Nothing here measures: it adds up what reports and stats() say.
//
//     cake::Metrics metrics;                              // one per process
//     metrics.add(loader.prefill(prompt));                // after each prompt
//     cake::MetricsSnapshot now = metrics.snapshot();     // when somebody asks
//     now.lanes = cake::lane_gauges(loader.lanes());
//     now.stores.push_back(cake::store_counts(storage.stats(), "disk"));
//     std::string text = cake::prometheus_text(cake::metric_families(now));
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cake/export.hpp"
#include "cake/report.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

// ---- values ----

/// How often values fell below each bound.
struct CAKE_API HistogramCounts {
  std::vector<double> bounds;         // upper ones, ascending; the last bucket has none
  std::vector<std::uint64_t> counts;  // [bounds + 1], each bucket by itself
  double sum = 0;                     // of all values
  std::uint64_t count() const;
};

/// Of one metric: labels in the order in which they are written.
struct MetricSample {
  std::vector<std::pair<std::string, std::string>> labels;
  std::variant<std::uint64_t, double, HistogramCounts> value;
};

enum class MetricKind : std::uint8_t { counter, gauge, histogram };

/// Needs:   `name` and names of labels are letters, digits and _, and begin with a letter; the name of a
///          counter ends with _total
struct MetricFamily {
  std::string name;
  std::string help;
  MetricKind kind = MetricKind::counter;
  std::vector<MetricSample> samples;
};

/// The text format 0.0.4. Families of one name are written as one, where the first of them stands.
CAKE_API std::string prometheus_text(std::span<const MetricFamily> families);
/// What an answer of HTTP calls that text.
inline constexpr const char* kPrometheusContentType = "text/plain; version=0.0.4; charset=utf-8";

// ---- what is counted ----

/// Of saves. Units: chunks, bytes.
struct SaveCounts {
  std::uint64_t saves = 0, failed_saves = 0;
  std::uint64_t written = 0, present = 0, failed = 0, dropped = 0, partial = 0;
  std::uint64_t bytes = 0;
  std::uint64_t held_back = 0;
};

/// Of the reads of one lane, by all prompts.
struct LaneCounts {
  std::uint64_t loads = 0;   // reads
  std::uint64_t failed = 0;  // that ended with an error, a wrong digest or a missed deadline
  std::uint64_t superseded =
      0;                    // whose chunk compute took over, or that the end of the run came before
  std::uint64_t bytes = 0;  // of all of them
};

/// Of prefills. Units: tokens, chunks, bytes, seconds.
struct PrefillCounts {
  std::uint64_t prefills = 0;
  std::uint64_t failed = 0;  // whose status is an error; canceled ones are not in it
  std::uint64_t canceled = 0;
  std::uint64_t failed_lookups = 0;
  std::uint64_t tokens_resident = 0, tokens_computed = 0, tokens_loaded = 0,
                tokens_out_of_window = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t chunks_recomputed = 0;
  std::uint64_t failed_loads = 0, reads_superseded = 0;
  std::uint64_t scheduler_faults = 0;
  HistogramCounts ttft;         // of those that are good
  HistogramCounts planning;     // hashing and lookup, of the same
  HistogramCounts bound_ratio;  // TTFT by its bound, of those that have one
};

/// What lanes are like now. Units: bytes.
struct LaneGauges {
  std::vector<LinkEstimate> rates;  // [lanes]
  std::uint64_t staging_bytes = 0, free_staging_bytes = 0;
  std::uint64_t quarantined = 0;  // reads that nobody waits for and that have not ended
  std::uint64_t threads = 0;
};

/// One value of a store's stats().
struct StoreCount {
  std::string name;  // without unit and prefix: "reads", "read_bytes"
  std::string help;
  MetricKind kind = MetricKind::counter;
  std::uint64_t value = 0;
};

/// What a store has counted: store_counts() beside each store makes it. `tier`: of a store in tiers.
struct StoreCounts {
  std::string store;  // its name, for people
  std::string tier = {};
  std::vector<StoreCount> counts;
};

/// All that is known at one moment.
struct MetricsSnapshot {
  PrefillCounts prefills;
  SaveCounts saves;
  std::vector<LaneCounts> loads;  // [lanes]
  std::optional<LaneGauges> lanes = {};
  std::vector<StoreCounts> stores = {};
};

/// As families, named cake_*: counters end with _total, units are seconds, bytes, tokens, chunks.
CAKE_API std::vector<MetricFamily> metric_families(const MetricsSnapshot& snapshot);

/// Of an IoLanes.
template <class Lanes>
LaneGauges lane_gauges(const Lanes& lanes) {
  return {lanes.rates(), lanes.staging_bytes(), lanes.free_staging_bytes(), lanes.quarantined(),
          lanes.threads()};
}

/// Adds up reports. Adding one takes as long as looking at its loads: some hundred nanoseconds.
///
/// Thread:  Safe for concurrent use
class CAKE_API Metrics {
 public:
  /// Upper bounds of the buckets. Units: seconds; TTFT by its bound.
  static constexpr std::array kSeconds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                       0.5,   1.0,    2.5,   5.0,  10.0,  30.0, 60.0};
  static constexpr std::array kRatios{1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0};

  Metrics() = default;
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// One prefill has ended.
  void add(const PrefillReport& report) noexcept;
  /// One save has: SaveReport, of which this header knows no more than its members.
  template <class Report>
  requires requires(const Report& r) { r.written + r.present + r.dropped + r.held_back; }
  void add(const Report& report) noexcept {
    add_save(report.status.has_value(),
             {0, 0, report.written, report.present, report.failed, report.dropped, report.partial,
              report.bytes, report.held_back});
  }
  /// What was added so far.
  ///
  /// Errors:  throws std::bad_alloc
  MetricsSnapshot snapshot() const;

 private:
  template <std::size_t N>
  struct Buckets {
    std::array<std::uint64_t, N + 1> counts{};
    double sum = 0;
    void add(const std::array<double, N>& bounds, double value) noexcept;
    HistogramCounts counted(const std::array<double, N>& bounds) const;
  };
  void add_save(bool good, const SaveCounts& counts) noexcept;

  mutable std::mutex mutex_;
  PrefillCounts prefills_;  // without its histograms
  SaveCounts saves_;
  std::array<LaneCounts, kMaxTiers> loads_{};
  std::size_t lanes_ = 0;
  Buckets<kSeconds.size()> ttft_, planning_;
  Buckets<kRatios.size()> bound_ratio_;
};

}  // namespace cake::inline CAKE_ABI
