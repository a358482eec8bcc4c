// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the report of a run will say of each chunk, step and read. Pure; one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cake/detail/read_table.hpp"
#include "cake/export.hpp"
#include "cake/report.hpp"
#include "cake/scheduler.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Steps are named by their id, which counts from 1; reads by the index that read() returns.
class CAKE_API RunLog {
 public:
  void begin(const RunView& view);

  /// Makes room for one more, so that step() needs no memory.
  void reserve_step();
  void step(const RunningStep& step);
  void step_ended(const RunningStep& ran, Time now) { steps_[ran.id - 1].ended = now; }
  void step_voided(const RunningStep& ran) { steps_[ran.id - 1].voided = true; }
  /// These tokens of it are computed.
  void step_computed(const RunningStep& ran, TokenRange done, Time now);

  /// As reserve_step().
  void reserve_read();
  std::size_t next_read() const { return loads_.size(); }
  void read(const ReadTicket& ticket, Time now);
  void read_landed(const ReadEntry& entry, Time now) { loads_[entry.report].landed = now; }
  Time landed_at(const ReadEntry& entry) const { return loads_[entry.report].landed; }
  void read_inserted(const ReadEntry& entry, Errc outcome, Time now);
  void read_failed(const ReadEntry& entry, Errc why, Time now);
  /// Nothing was read after all.
  void read_returned(const ReadEntry& entry);

  void chunk_loaded(std::uint32_t chunk, LaneId lane, Time now);
  void chunk_taken_over(std::uint32_t chunk);
  void chunk_lost(std::uint32_t chunk, Errc why) {
    chunks_[chunk].load_error = why;
    if (chunks_[chunk].source != Source::computed) chunks_[chunk].source = Source::none;
  }

  /// The first read that failed while it was wanted; 0 while there is none.
  std::uint64_t first_failure() const { return first_failure_; }
  /// Adds what is known to a report; its sums are not made yet.
  void fill(PrefillReport& report) const;

 private:
  void count_failure(const ReadEntry& entry);

  PrefillSpec spec_;
  std::vector<ChunkReport> chunks_;
  std::vector<StepReport> steps_;
  std::vector<LoadReport> loads_;
  std::uint32_t failed_loads_ = 0;
  std::uint32_t reads_superseded_ = 0;
  std::uint64_t first_failure_ = 0;       // read
  std::size_t first_failure_report_ = 0;  // index of its report
};

}  // namespace cake::inline CAKE_ABI::detail
