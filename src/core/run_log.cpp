// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/run_log.hpp"

#include <algorithm>
#include <string>

namespace cake::inline CAKE_ABI::detail {

void RunLog::begin(const RunView& view) {
  *this = RunLog();
  spec_ = view.spec();
  steps_.reserve(2 + spec_.n_tokens / std::max({1u, spec_.chunk_tokens, spec_.max_step_tokens}));
  chunks_.assign(spec_.end_chunk, {});
  for (std::uint32_t c = 0; c < spec_.end_chunk; ++c) {
    const bool there = spec_.chunk_range(c).end <= spec_.resident_tokens;
    if (view.state(c) == ChunkState::resident) {
      chunks_[c].source = there ? Source::resident : Source::out_of_window;
      if (!there) continue;
    }
    if (!spec_.stored[c].stored() || view.state(c) == ChunkState::hole) {
      chunks_[c].load_error = Errc::not_found;
    }
  }
  if (!spec_.reaches.empty()) {  // what every load has to bring is the other layers
    const std::uint32_t n = spec_.layers_needed(0, ~0u - 1);
    spec_.layer_bytes = spec_.payload_bytes({0, n}) / spec_.n_layers;
    if (n == 0) spec_.head_bytes = 0;
    spec_.foot_bytes = 0;
  }
  spec_.stored = {};
  spec_.layer_begins = {};
  spec_.reaches = spec_.positions = {};
}

void RunLog::reserve_step() {
  if (steps_.size() == steps_.capacity()) steps_.reserve(2 * steps_.size() + 16);
}

void RunLog::step(const RunningStep& step) {
  steps_.push_back({step.tokens, step.issued, Time{0}, step.gated, false});
}

void RunLog::step_computed(const RunningStep& ran, TokenRange done, Time now) {
  steps_[ran.id - 1].tokens = done;
  for (std::uint32_t c = spec_.chunk_of(done.begin);
       c < spec_.end_chunk && spec_.chunk_range(c).begin < done.end; ++c) {
    if (chunks_[c].source == Source::none) chunks_[c].begin = ran.issued;
    chunks_[c].source = Source::computed;
    chunks_[c].end = now;
  }
}

void RunLog::reserve_read() {
  if (loads_.size() == loads_.capacity()) loads_.reserve(2 * loads_.size() + 16);
}

void RunLog::read(const ReadTicket& ticket, Time now) {
  ChunkReport& chunk = chunks_[ticket.slice.chunk];
  if (ticket.slice.layers.begin == 0) chunk.begin = now;
  chunk.bytes += ticket.bytes;
  loads_.push_back(
      {ticket.slice, ticket.lane, ticket.bytes, now, Time{0}, Time{0}, Errc::superseded});
}

void RunLog::read_inserted(const ReadEntry& entry, Errc outcome, Time now) {
  LoadReport& record = loads_[entry.report];
  record.resident = now;
  record.outcome = outcome;
  if (outcome != Errc::ok) count_failure(entry);
}

void RunLog::read_failed(const ReadEntry& entry, Errc why, Time now) {
  count_failure(entry);
  loads_[entry.report].landed = now;
  loads_[entry.report].outcome = why;
}

void RunLog::read_returned(const ReadEntry& entry) {
  chunks_[entry.ticket.slice.chunk].bytes -= loads_[entry.report].bytes;
  loads_[entry.report].bytes = 0;
}

void RunLog::chunk_loaded(std::uint32_t chunk, LaneId lane, Time now) {
  chunks_[chunk].source = Source::loaded;
  chunks_[chunk].lane = lane;
  chunks_[chunk].end = now;
}

void RunLog::chunk_taken_over(std::uint32_t chunk) {
  ++reads_superseded_;
  if (chunks_[chunk].load_error == Errc::ok) chunks_[chunk].load_error = Errc::superseded;
}

void RunLog::count_failure(const ReadEntry& entry) {
  ++failed_loads_;
  if (first_failure_ != 0) return;
  first_failure_ = entry.ticket.id;
  first_failure_report_ = entry.report;
}

void RunLog::fill(PrefillReport& report) const {
  report.spec = spec_;
  report.failed_loads = failed_loads_;
  report.reads_superseded = reads_superseded_;
  report.chunks = chunks_;
  report.steps = steps_;
  report.loads = loads_;
  if (first_failure_ == 0) return;
  const LoadReport& load = loads_[first_failure_report_];
  report.load_error =
      Error{load.outcome, 0,
            "load of chunk " + std::to_string(load.slice.chunk) + " from tier " +
                std::to_string(load.lane) +
                (load.outcome == Errc::timeout ? ": not there by its deadline" : "")};
}

}  // namespace cake::inline CAKE_ABI::detail
