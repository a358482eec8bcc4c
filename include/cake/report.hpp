// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What happened in one prompt's run: where each chunk came from, when, how many bytes, where the
// two ends met, and how near the time to first token came to the bound. Values only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/scheduler.hpp"
#include "cake/ttft_bound.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

enum class Source : std::uint8_t { none, resident, computed, loaded };

struct ChunkReport {
  Source source = Source::none;
  LaneId lane = 0;             // loaded: by which lane
  Time begin{0};               // of the first work that produced it
  Time end{0};                 // resident since
  std::uint64_t bytes = 0;     // read for it, bytes that were discarded included
  Errc load_error = Errc::ok;  // why its load failed or was dropped, if one was
};

struct StepReport {
  TokenRange tokens;
  Time issued{0};
  Time ended{0};
  bool gated = false;
  bool voided = false;  // a load below it failed: issued again later
};

struct LoadReport {
  Slice slice;
  LaneId lane = 0;
  std::uint64_t bytes = 0;
  Time issued{0};
  Time landed{0};
  Time resident{0};
  Errc outcome = Errc::ok;  // superseded: compute took it over, or the run ended first
};

/// Units: tokens, bytes, nanoseconds since the run began. TTFT is the time from begin() to the end
/// of the last step.
struct CAKE_API PrefillReport {
  Status status;
  Status lookup;      // why nothing is known of the store, if so; the run went on without it
  Status load_error;  // the first failure of a read or insert, in words; its chunk was computed
  PrefillSpec spec;   // `stored` is empty here: it lived in the session
  Time ttft{0};
  Time planning{0};  // identity and lookup, part of TTFT
  std::uint32_t tokens_resident = 0;
  std::uint32_t tokens_computed = 0;
  std::uint32_t tokens_loaded = 0;
  std::uint64_t bytes_read = 0;
  std::uint32_t chunks_recomputed =
      0;  // chunks below the last stored one that had to be computed for want of a load
  std::uint32_t failed_loads =
      0;  // reads that ended with an error, a bad digest or a missed deadline
  std::uint32_t reads_superseded = 0;  // loads that compute overtook
  std::uint32_t meet_token =
      0;  // actual: where the first loaded chunk begins (the prefix's end if none was)
  std::uint32_t predicted_meet_token = 0;  // as the scheduler saw it at the start
  std::uint32_t scheduler_faults =
      0;        // orders of the scheduler that broke a rule and were not carried out
  Rates rates;  // of this run's own passes and reads
  /// The least time of any schedule at these rates, seconds; 0: nothing is known of the store's or
  /// of the device's rate, so that there is none.
  double bound_s = 0;
  std::vector<ChunkReport> chunks;  // [spec.end_chunk]
  std::vector<StepReport> steps;
  std::vector<LoadReport> loads;

  bool has_bound() const { return bound_s > 0; }
  /// Time to first token over the bound; 1 is perfect, and no run is below it. 0: there is no
  /// bound.
  double bound_ratio() const { return bound_s > 0 ? seconds_of(ttft) / bound_s : 0; }
  static double seconds_of(Time t) { return static_cast<double>(t.count()) * 1e-9; }

  /// Fills the sums from chunks, steps and loads.
  void summarize();
  /// Fills `rates` and bound_s from this run's own passes and reads. per_token and per_position
  /// that are set already count by their ratio alone: how attention grows cannot be seen in one
  /// run.
  ///
  /// No bound when the run failed, no pass took any time, or chunks are stored and no read landed.
  void set_bound();
  /// Lanes over time in `width` columns: `#` computing, `=` loading, `.` idle.
  std::string timeline(std::size_t width = 80) const;
  /// Trace events for chrome://tracing and ui.perfetto.dev, as one JSON object.
  std::string chrome_trace() const;

 private:
  double compute_rates();
  double load_rate() const;
};

}  // namespace cake::inline CAKE_ABI
