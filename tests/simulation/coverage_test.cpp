// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The rare turns that a run may take: the wild seeds reach each of them often enough that a rule
// which is broken only there is seen to be broken.
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

#include "catch.hpp"
#include "check.hpp"

namespace {

using namespace cake;
using namespace cake::testing;

using Counts = std::map<std::string, std::uint32_t>;

/// A gated step waited for a chunk that no lane read: the chunk timed out, but none of its reads.
bool gate_starved(const PrefillReport& report) {
  for (std::uint32_t c = 0; c < report.chunks.size(); ++c) {
    if (report.chunks[c].load_error != Errc::timeout) continue;
    if (std::none_of(report.loads.begin(), report.loads.end(), [c](const LoadReport& load) {
          return load.slice.chunk == c && load.outcome == Errc::timeout;
        })) {
      return true;
    }
  }
  return false;
}

void count_steps(const SimulationSpec& spec, const PrefillReport& report, Counts& counts) {
  bool passed = false;
  bool voided = false;
  bool behind = false;
  bool partial = false;
  for (std::size_t i = 0; i < report.steps.size(); ++i) {
    const StepReport& step = report.steps[i];
    passed = passed || (step.gated && !step.voided);
    voided = voided || (step.gated && step.voided);
    behind = behind || (i > 0 && step.issued < report.steps[i - 1].ended);
    partial = partial || (step.tokens.begin < spec.prefill.prefix_end() &&
                          step.tokens.begin % spec.prefill.chunk_tokens != 0);
  }
  counts["gated step that passed"] += passed;
  counts["void gate"] += voided;
  counts["step behind a running one"] += behind;
  counts["step that begins inside a chunk"] += partial;
}

void count(const SimulationSpec& spec, const SimulationResult& result, Counts& counts) {
  const PrefillReport& report = result.report;
  const auto any_load = [&](auto&& what) {
    return std::any_of(report.loads.begin(), report.loads.end(), what);
  };
  const auto ended = [&](Errc code) {
    return any_load([code](const LoadReport& load) { return load.outcome == code; });
  };
  counts["take-over"] += report.reads_superseded != 0;
  counts["late landing"] += result.late_landings != 0;
  counts["dead lane"] += result.dead_lanes != 0;
  counts["insert whose chunk was lost"] += result.lost_inserts != 0;
  counts["starved gate"] += gate_starved(report);
  counts["failed read"] += ended(Errc::io);
  counts["corrupt read"] += ended(Errc::corrupt);
  counts["failed insert"] += ended(Errc::device);
  counts["missed deadline"] += ended(Errc::timeout);
  counts["slice of some layers"] += any_load(
      [&](const LoadReport& load) { return load.slice.layers.size() < spec.prefill.n_layers; });
  counts["everybody idle"] += result.idle > Time{0};
  counts["canceled"] += report.status.code() == Errc::canceled;
  counts["meeting inside the prefix"] +=
      report.tokens_loaded != 0 && report.chunks.front().source == Source::computed;
  count_steps(spec, report, counts);
}

}  // namespace

TEST_CASE("the wild seeds reach every rare turn of a run") {
  // At least so many of 10,000 seeds. The counts are those of this planner: one that avoids a turn
  // altogether leaves it to the baselines.
  const Counts least = {
      {"take-over", 1000},
      {"late landing", 1000},
      {"dead lane", 50},
      {"insert whose chunk was lost", 10},
      {"starved gate", 5},
      {"failed read", 1000},
      {"corrupt read", 1000},
      {"failed insert", 1000},
      {"missed deadline", 300},
      {"slice of some layers", 300},
      {"everybody idle", 100},
      {"canceled", 500},
      {"meeting inside the prefix", 1000},
      {"gated step that passed", 100},
      {"void gate", 30},
      {"step behind a running one", 1000},
      {"step that begins inside a chunk", 300},
  };
  Counts counts;
  for (std::uint64_t seed = 0; seed < 10'000; ++seed) {
    SimulationSpec spec = wild_spec(seed);
    count(spec, simulate(spec, MeetInTheMiddleScheduler(wild_options(seed, spec))), counts);
    spec.faulty_scheduler = true;
    if (seed % 4 == 0) count(spec, simulate(spec, WaitsForEver{}), counts);
    if (seed % 4 == 1) count(spec, simulate(spec, AlwaysGates{}), counts);
    if (seed % 4 == 3) count(spec, simulate(spec, LayerByLayer{}), counts);
  }
  for (const auto& [turn, n] : least) {
    INFO(turn);
    CHECK(counts[turn] >= n);
  }
  CHECK(counts.size() == least.size());  // each that is counted has a least
}
