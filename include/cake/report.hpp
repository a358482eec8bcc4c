// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The report of one run: source, time and bytes of each chunk, the meet point, and the time to first
// token beside its bound. Values only.
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

/// out_of_window: no step needs anything of it.
enum class Source : std::uint8_t { none, resident, computed, loaded, out_of_window };

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
  friend bool operator==(const StepReport&, const StepReport&) = default;
};

struct LoadReport {
  Slice slice;
  LaneId lane = 0;
  std::uint64_t bytes = 0;
  Time issued{0};
  Time landed{0};
  Time resident{0};
  Errc outcome = Errc::ok;  // superseded: compute took it over, or the run ended first
  friend bool operator==(const LoadReport&, const LoadReport&) = default;
};

/// Units: tokens, bytes, nanoseconds since the run began. TTFT is the time from begin() to the end
/// of the last step.
struct CAKE_API PrefillReport {
  Status status;
  /// Error of the storage lookup, if it failed; the prefill then computes everything.
  Status lookup;
  /// The first failure of a read or insert. Its chunk was computed.
  Status load_error;
  /// `stored` and the other spans are empty here: they belonged to the session. Where layers have
  /// windows or states, the sizes count the other layers alone.
  PrefillSpec spec;
  Time ttft{0};
  /// Time for hashing and lookup, part of TTFT.
  Time planning{0};
  std::uint32_t tokens_resident = 0;
  std::uint32_t tokens_computed = 0;
  std::uint32_t tokens_loaded = 0;
  /// Of chunks that lie below every window, in a model whose layers all have windows or states.
  std::uint32_t tokens_out_of_window = 0;
  /// Bytes read from the store, including reads whose data was discarded.
  std::uint64_t bytes_read = 0;
  /// Bytes of windows and states that no step needs, of chunks that were loaded or lie below every
  /// window: they were not read for that.
  std::uint64_t bytes_out_of_window = 0;
  /// Chunks below the last stored one that had to be computed because no load brought them.
  std::uint32_t chunks_recomputed = 0;
  /// Chunks of which windows or states were read after all, since compute had to begin above them at
  /// a token that nobody had thought of: a load above had failed.
  std::uint32_t chunks_extended = 0;
  /// Reads that ended with an error, a wrong digest or a missed deadline.
  std::uint32_t failed_loads = 0;
  /// Reads whose chunk compute took over.
  std::uint32_t reads_superseded = 0;
  /// Token where the first loaded chunk begins; the end of the prefix if none was loaded.
  std::uint32_t meet_token = 0;
  /// The same, as the scheduler expected it at the start.
  std::uint32_t predicted_meet_token = 0;
  /// Requests of the scheduler that broke a rule and were not carried out.
  std::uint32_t scheduler_faults = 0;
  /// Measured in this run.
  Rates rates;
  /// The least time of any schedule at these rates. 0: the rate of the store or of the device is
  /// unknown, so there is no bound. Units: seconds.
  double bound_s = 0;
  std::vector<ChunkReport> chunks;  // [spec.end_chunk]
  std::vector<StepReport> steps;
  std::vector<LoadReport> loads;

  bool has_bound() const { return bound_s > 0; }
  /// Time to first token divided by the bound; 1 is perfect. 0: there is no bound.
  double bound_ratio() const { return bound_s > 0 ? seconds_of(ttft) / bound_s : 0; }
  static double seconds_of(Time t) { return static_cast<double>(t.count()) / 1e9; }

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
