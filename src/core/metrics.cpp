// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/metrics.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <numeric>

namespace cake::inline CAKE_ABI {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;
using Families = std::vector<MetricFamily>;

// ---- text ----

/// As a line wants it: \ and the end of a line are written as two characters, and in labels " is, too.
std::string escaped(const std::string& text, bool label) {
  std::string safe;
  for (const char c : text) {
    if (c == '\\') {
      safe += "\\\\";
    } else if (c == '\n') {
      safe += "\\n";
    } else if (c == '"' && label) {
      safe += "\\\"";
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string number_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

std::string label_text(const Labels& labels, const char* more = nullptr,
                       const std::string& value = {}) {
  std::string text;
  const auto add = [&](const std::string& name, const std::string& of) {
    text += text.empty() ? "{" : ",";
    text += name + "=\"" + escaped(of, true) + "\"";
  };
  for (const auto& [name, of] : labels) add(name, of);
  if (more != nullptr) add(more, value);
  return text.empty() ? text : text + "}";
}

void write_histogram(std::string& text, const std::string& name, const Labels& labels,
                     const HistogramCounts& histogram) {
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
    below += histogram.counts[i];
    const bool last = i == histogram.bounds.size();
    text += name + "_bucket" +
            label_text(labels, "le", last ? "+Inf" : number_text(histogram.bounds[i])) + " " +
            std::to_string(below) + "\n";
  }
  text += name + "_sum" + label_text(labels) + " " + number_text(histogram.sum) + "\n";
  text += name + "_count" + label_text(labels) + " " + std::to_string(below) + "\n";
}

void write_sample(std::string& text, const std::string& name, const MetricSample& sample) {
  if (const auto* const histogram = std::get_if<HistogramCounts>(&sample.value)) {
    return write_histogram(text, name, sample.labels, *histogram);
  }
  const auto* const whole = std::get_if<std::uint64_t>(&sample.value);
  text +=
      name + label_text(sample.labels) + " " +
      (whole != nullptr ? std::to_string(*whole) : number_text(std::get<double>(sample.value))) +
      "\n";
}

const char* kind_text(MetricKind kind) {
  switch (kind) {
    case MetricKind::counter:
      return "counter";
    case MetricKind::gauge:
      return "gauge";
    case MetricKind::histogram:
      return "histogram";
  }
  return "untyped";
}

// ---- families ----

template <class Value>
MetricFamily one(std::string name, std::string help, MetricKind kind, Value value,
                 Labels labels = {}) {
  MetricFamily family{std::move(name), std::move(help), kind, {}};
  family.samples.push_back({std::move(labels), std::move(value)});
  return family;
}

struct Counter {
  const char* name;
  const char* help;
  std::uint64_t value;
};

void add_counters(Families& to, std::initializer_list<Counter> counters,
                  const Labels& labels = {}) {
  for (const Counter& counter : counters) {
    to.push_back(one(counter.name, counter.help, MetricKind::counter, counter.value, labels));
  }
}

/// One family whose samples differ in one label.
void add_split(Families& to, const char* name, const char* help, const char* label,
               std::initializer_list<std::pair<const char*, std::uint64_t>> values) {
  MetricFamily family{name, help, MetricKind::counter, {}};
  for (const auto& [of, value] : values) family.samples.push_back({{{label, of}}, value});
  to.push_back(std::move(family));
}

void add_prefills(Families& to, const PrefillCounts& p) {
  add_split(to, "cake_prefills_total", "Prefills that have ended, by how", "outcome",
            {{"good", p.prefills - p.failed - p.canceled},
             {"failed", p.failed},
             {"canceled", p.canceled}});
  add_split(to, "cake_prefill_tokens_total", "Tokens of prompts, by where their KV came from",
            "source",
            {{"resident", p.tokens_resident},
             {"computed", p.tokens_computed},
             {"loaded", p.tokens_loaded},
             {"out_of_window", p.tokens_out_of_window}});
  add_counters(
      to,
      {{"cake_failed_lookups_total", "Prompts whose lookup failed, so that all was computed",
        p.failed_lookups},
       {"cake_read_bytes_total", "Bytes read from stores for prompts", p.bytes_read},
       {"cake_recomputed_chunks_total",
        "Chunks that are stored and had to be computed because no load brought them",
        p.chunks_recomputed},
       {"cake_failed_loads_total",
        "Reads that ended with an error, a wrong digest or a missed deadline", p.failed_loads},
       {"cake_superseded_loads_total", "Reads whose chunk compute took over", p.reads_superseded},
       {"cake_scheduler_faults_total",
        "Requests of a scheduler that broke a rule and were not carried out", p.scheduler_faults}});
  to.push_back(one("cake_ttft_seconds", "Time to first token of good prefills",
                   MetricKind::histogram, p.ttft));
  to.push_back(one("cake_planning_seconds", "Of that, time for hashing and lookup",
                   MetricKind::histogram, p.planning));
  to.push_back(one("cake_ttft_bound_ratio",
                   "Time to first token divided by the least time of any schedule",
                   MetricKind::histogram, p.bound_ratio));
}

void add_saves(Families& to, const SaveCounts& s) {
  add_split(to, "cake_saves_total", "Saves that have ended, by how", "outcome",
            {{"good", s.saves - s.failed_saves}, {"failed", s.failed_saves}});
  add_split(to, "cake_saved_chunks_total", "Chunks of saves, by what became of them", "outcome",
            {{"written", s.written},
             {"present", s.present},
             {"failed", s.failed},
             {"dropped", s.dropped},
             {"held_back", s.held_back}});
  add_counters(to, {{"cake_partial_chunks_total",
                     "Chunks that were written without windows or states that the engine had not",
                     s.partial},
                    {"cake_saved_bytes_total", "Bytes of the chunks that were written", s.bytes}});
}

void add_loads(Families& to, const std::vector<LaneCounts>& loads) {
  for (std::size_t lane = 0; lane < loads.size(); ++lane) {
    const LaneCounts& l = loads[lane];
    add_counters(to,
                 {{"cake_lane_loads_total", "Reads of a lane", l.loads},
                  {"cake_lane_failed_loads_total", "Of these, that failed", l.failed},
                  {"cake_lane_superseded_loads_total",
                   "Of these, that were not needed any more when they ended", l.superseded},
                  {"cake_lane_read_bytes_total", "Bytes of the reads of a lane", l.bytes}},
                 {{"lane", std::to_string(lane)}});
  }
}

void add_lanes(Families& to, const LaneGauges& lanes) {
  const auto gauge = [&](const char* name, const char* help, auto value, Labels labels = {}) {
    to.push_back(one(name, help, MetricKind::gauge, value, std::move(labels)));
  };
  for (std::size_t lane = 0; lane < lanes.rates.size(); ++lane) {
    const LinkEstimate& rate = lanes.rates[lane];
    const Labels labels{{"lane", std::to_string(lane)}};
    gauge("cake_lane_bytes_per_second", "Rate of a lane as it is estimated now",
          rate.bytes_per_second, labels);
    gauge("cake_lane_latency_seconds", "Latency of a lane as it is estimated now",
          PrefillReport::seconds_of(rate.latency), labels);
  }
  gauge("cake_staging_bytes", "Staging memory of all lanes", lanes.staging_bytes);
  gauge("cake_staging_free_bytes", "Staging memory that is free", lanes.free_staging_bytes);
  gauge("cake_quarantined_reads", "Reads that nobody waits for and that have not ended",
        lanes.quarantined);
  gauge("cake_lane_threads", "Threads of all lanes", lanes.threads);
}

void add_store(Families& to, const StoreCounts& store) {
  Labels labels{{"store", store.store}};
  if (!store.tier.empty()) labels.emplace_back("tier", store.tier);
  for (const StoreCount& count : store.counts) {
    const bool counter = count.kind == MetricKind::counter;
    to.push_back(one("cake_store_" + count.name + (counter ? "_total" : ""), count.help, count.kind,
                     count.value, labels));
  }
}

}  // namespace

std::uint64_t HistogramCounts::count() const {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

std::string prometheus_text(std::span<const MetricFamily> families) {
  std::string text;
  for (std::size_t i = 0; i < families.size(); ++i) {
    const std::string& name = families[i].name;
    const auto same = [&](const MetricFamily& other) { return other.name == name; };
    const auto until = families.first(i);
    if (std::any_of(until.begin(), until.end(), same)) continue;
    text += "# HELP " + name + " " + escaped(families[i].help, false) + "\n";
    text += "# TYPE " + name + " " + kind_text(families[i].kind) + "\n";
    for (const MetricFamily& family : families.subspan(i)) {
      if (!same(family)) continue;
      for (const MetricSample& sample : family.samples) write_sample(text, name, sample);
    }
  }
  return text;
}

std::vector<MetricFamily> metric_families(const MetricsSnapshot& snapshot) {
  Families families;
  add_prefills(families, snapshot.prefills);
  add_saves(families, snapshot.saves);
  add_loads(families, snapshot.loads);
  if (snapshot.lanes) add_lanes(families, *snapshot.lanes);
  for (const StoreCounts& store : snapshot.stores) add_store(families, store);
  return families;
}

// ---- collecting ----

namespace {

LaneCounts& operator+=(LaneCounts& to, const LaneCounts& more) {
  to.loads += more.loads;
  to.failed += more.failed;
  to.superseded += more.superseded;
  to.bytes += more.bytes;
  return to;
}

/// Loads of one lane in a row are counted without memory: they are what adding a report takes long for.
std::array<LaneCounts, kMaxTiers> by_lane(const std::vector<LoadReport>& loads) {
  std::array<LaneCounts, kMaxTiers> lanes{};
  LaneCounts run;
  LaneId lane = 0;
  const auto flush = [&] {
    if (lane < lanes.size()) lanes[lane] += run;
    run = {};
  };
  for (const LoadReport& load : loads) {
    if (load.lane != lane) {
      flush();
      lane = load.lane;
    }
    const bool superseded = load.outcome == Errc::superseded;
    run.loads += 1;
    run.bytes += load.bytes;
    run.superseded += superseded ? 1 : 0;
    run.failed += load.outcome != Errc::ok && !superseded ? 1 : 0;
  }
  flush();
  return lanes;
}

}  // namespace

template <std::size_t N>
void Metrics::Buckets<N>::add(const std::array<double, N>& bounds, double value) noexcept {
  const auto at = std::lower_bound(bounds.begin(), bounds.end(), value);
  ++counts[static_cast<std::size_t>(at - bounds.begin())];
  sum += value;
}

template <std::size_t N>
HistogramCounts Metrics::Buckets<N>::counted(const std::array<double, N>& bounds) const {
  return {{bounds.begin(), bounds.end()}, {counts.begin(), counts.end()}, sum};
}

void Metrics::add(const PrefillReport& report) noexcept {
  const auto lanes = by_lane(report.loads);
  const std::lock_guard lock(mutex_);
  PrefillCounts& p = prefills_;
  ++p.prefills;
  const Errc code = report.status.code();
  if (code == Errc::canceled) {
    ++p.canceled;
  } else if (code != Errc::ok) {
    ++p.failed;
  }
  if (!report.lookup) ++p.failed_lookups;
  p.tokens_resident += report.tokens_resident;
  p.tokens_computed += report.tokens_computed;
  p.tokens_loaded += report.tokens_loaded;
  p.tokens_out_of_window += report.tokens_out_of_window;
  p.bytes_read += report.bytes_read;
  p.chunks_recomputed += report.chunks_recomputed;
  p.failed_loads += report.failed_loads;
  p.reads_superseded += report.reads_superseded;
  p.scheduler_faults += report.scheduler_faults;
  for (std::size_t lane = 0; lane < loads_.size(); ++lane) {
    if (lanes[lane].loads == 0) continue;
    lanes_ = std::max(lanes_, lane + 1);
    loads_[lane] += lanes[lane];
  }
  if (code != Errc::ok) return;
  ttft_.add(kSeconds, PrefillReport::seconds_of(report.ttft));
  planning_.add(kSeconds, PrefillReport::seconds_of(report.planning));
  if (report.has_bound()) bound_ratio_.add(kRatios, report.bound_ratio());
}

void Metrics::add_save(bool good, const SaveCounts& counts) noexcept {
  const std::lock_guard lock(mutex_);
  ++saves_.saves;
  if (!good) ++saves_.failed_saves;
  saves_.written += counts.written;
  saves_.present += counts.present;
  saves_.failed += counts.failed;
  saves_.dropped += counts.dropped;
  saves_.held_back += counts.held_back;
  saves_.partial += counts.partial;
  saves_.bytes += counts.bytes;
}

MetricsSnapshot Metrics::snapshot() const {
  MetricsSnapshot now;
  const std::lock_guard lock(mutex_);
  now.prefills = prefills_;
  now.prefills.ttft = ttft_.counted(kSeconds);
  now.prefills.planning = planning_.counted(kSeconds);
  now.prefills.bound_ratio = bound_ratio_.counted(kRatios);
  now.saves = saves_;
  now.loads.assign(loads_.begin(), loads_.begin() + static_cast<std::ptrdiff_t>(lanes_));
  return now;
}

}  // namespace cake::inline CAKE_ABI
