// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the report of a real run says of the machine, as a machine that the simulation can run: so one
// sees whether simulation and device agree, and where the time to first token went. Pure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "cake/report.hpp"
#include "cake/testing/simulation_spec.hpp"

namespace cake::inline CAKE_ABI::testing {

/// Parts of a time to first token; they add up to it.
struct TtftParts {
  Time planning{0};   // hashing and lookup
  Time computing{0};  // the device had a step to compute
  Time gates{0};      // it had a gated step that took longer than that, or was void
  Time loads{0};      // it had none, while something was read or inserted
  Time idle{0};       // it had none, and nothing was on its way
};

namespace replay {

/// Seconds as a + b x, by least squares, neither of them below nothing.
inline std::pair<double, double> line_through(
    const std::vector<std::pair<double, double>>& points) {
  double n = 0, x1 = 0, x2 = 0, y1 = 0, xy = 0;
  for (const auto& [x, y] : points) {
    n += 1;
    x1 += x;
    x2 += x * x;
    y1 += y;
    xy += x * y;
  }
  const double spread = n * x2 - x1 * x1;
  if (spread > 1e-6 * n * x2) {
    const double b = (n * xy - x1 * y1) / spread;
    const double a = (y1 - b * x1) / n;
    if (a >= 0 && b >= 0) return {a, b};
    if (b < 0) return {y1 / n, 0};
  }
  return {0, x2 > 0 ? xy / x2 : 0};  // of one size: all of it by the byte
}

inline bool came(const LoadReport& load) {
  return load.outcome == Errc::ok && load.landed > load.issued && load.resident >= load.landed;
}

struct Transfer {
  Time begin, end;
  double bytes = 0;
};

/// A serial link on which these transfers would have ended when they did. One that began before another
/// one had ended waited for that; one that did not shows what each takes beside its bytes.
inline SimulatedLink link_of(std::vector<Transfer> transfers) {
  std::sort(transfers.begin(), transfers.end(),
            [](const Transfer& a, const Transfer& b) { return a.end < b.end; });
  double bytes = 0, seconds = 0;
  std::vector<std::pair<double, double>> alone;
  Time until{0};
  for (const Transfer& one : transfers) {
    if (one.begin < until) {
      bytes += one.bytes;
      seconds += to_seconds(one.end - until);
    } else {
      alone.emplace_back(one.bytes, to_seconds(one.end - one.begin));
    }
    until = one.end;
  }
  double per_byte = line_through(alone).second;
  if (bytes > 0 && (per_byte <= 0 || seconds / bytes < per_byte)) per_byte = seconds / bytes;
  double latency = 0;
  for (const auto& [size, took] : alone) {
    latency += std::max(0.0, took - per_byte * size) / static_cast<double>(alone.size());
  }
  return {{{Time{0}, per_byte > 0 ? 1 / per_byte : 1e18}}, from_seconds(latency)};
}

inline SimulatedLink reads_of(const PrefillReport& report, LaneId lane) {
  std::vector<Transfer> reads;
  for (const LoadReport& load : report.loads) {
    if (load.lane != lane || !came(load)) continue;
    reads.push_back({load.issued, load.landed, static_cast<double>(load.bytes)});
  }
  return link_of(std::move(reads));
}

inline SimulatedLink inserts_of(const PrefillReport& report) {
  std::vector<Transfer> inserts;
  for (const LoadReport& load : report.loads) {
    if (!came(load)) continue;
    inserts.push_back({load.landed, load.resident, static_cast<double>(load.bytes)});
  }
  return link_of(std::move(inserts));
}

/// Of [begin, end): how long some load was between its read's begin and its insert's end.
inline Time loading_within(const PrefillReport& report, Time begin, Time end) {
  std::vector<std::pair<Time, Time>> spans;
  for (const LoadReport& load : report.loads) {
    const Time over = std::max(load.landed, load.resident);
    if (over > begin && load.issued < end) {
      spans.emplace_back(std::max(begin, load.issued), std::min(end, over));
    }
  }
  std::sort(spans.begin(), spans.end());
  Time sum{0};
  for (const auto& [from, to] : spans) {
    sum += std::max(Time{0}, to - std::max(begin, from));
    begin = std::max(begin, to);
  }
  return sum;
}

}  // namespace replay

/// `cost`: of passes that nothing holds up; what a gated step takes beyond it is a wait.
inline TtftParts ttft_parts(const PrefillReport& report, const ComputeCost& cost) {
  TtftParts parts;
  parts.planning = std::min(report.planning, report.ttft);
  Time until = parts.planning;
  const auto gap = [&](Time end) {
    if (end <= until) return;
    const Time loading = replay::loading_within(report, until, end);
    parts.loads += loading;
    parts.idle += end - until - loading;
    until = end;
  };
  for (const StepReport& step : report.steps) {  // the device does one after the other
    if (step.ended <= until) continue;
    gap(step.issued);
    const Time took = step.ended - until;
    const Time work = step.voided ? Time{0}
                      : step.gated
                          ? from_seconds(cost.passes(step.tokens.begin, step.tokens.end,
                                                     std::max(1u, report.spec.max_step_tokens)))
                          : took;
    parts.computing += std::min(took, work);
    parts.gates += took - std::min(took, work);
    until = step.ended;
  }
  gap(report.ttft);
  return parts;
}

/// What passes took in this run over `cost`: of those that waited at no gate; 1 when there are none.
inline double slowdown(const PrefillReport& report, const ComputeCost& cost) {
  double took = 0, should = 0;
  Time until{0};
  for (const StepReport& step : report.steps) {
    const Time begin = std::max(step.issued, until);
    if (step.ended <= begin) continue;
    until = step.ended;
    if (step.gated || step.voided || step.tokens.empty()) continue;
    took += to_seconds(step.ended - begin);
    should += cost.pass(step.tokens.begin, step.tokens.end);
  }
  return should > 0 && took > 0 ? took / should : 1;
}

/// The machine of this run: a serial link for each lane, inserts that take turns, passes that cost
/// slowdown() times `cost`. Set `priors`, `workers`, `steps_in_flight` and `session` as the run had
/// them; simulate() then gives the time to first token without `report.planning`.
///
/// `stored`: of each chunk, [report.spec.end_chunk]
/// Needs:   a run that ended well, of a model whose layers are all alike
inline SimulationSpec replay_spec(const PrefillReport& report, std::vector<StoredChunk> stored,
                                  const ComputeCost& cost) {
  SimulationSpec spec;
  spec.prefill = report.spec;
  spec.stored = std::move(stored);
  spec.cost = cost.slower(slowdown(report, cost));
  for (LaneId lane = 0; lane < report.spec.n_lanes; ++lane) {
    spec.links.push_back(replay::reads_of(report, lane));
  }
  spec.priors.resize(report.spec.n_lanes);
  spec.inserts = replay::inserts_of(report);
  return spec;
}

}  // namespace cake::inline CAKE_ABI::testing
