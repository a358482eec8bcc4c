// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// When a run would end if it went on by one candidate: every chunk left is assigned to compute or to a
// lane, then compute and lanes are followed chunk by chunk. Linear in the chunks left; pure.
#pragma once

#include <cstdint>
#include <vector>

#include "cake/detail/planner/candidate.hpp"
#include "cake/detail/planner/snapshot.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A prediction. Units: seconds since the session began.
struct Forecast {
  double finish = 1e9;             // of the run
  double compute_done = 0;         // compute has done its chunks
  double loads_done = 0;           // the last load is resident
  std::uint32_t slice_layers = 0;  // layers of one slice of the last loads; 0: they come whole
  double layered_from = 0;         // loads that begin later than this come layer by layer
};

/// Owner of a chunk that is not a lane.
inline constexpr std::uint8_t kCompute = 0xff;
inline constexpr std::uint8_t kNobody = 0xfe;  // is being inserted, or all of it has been requested

struct AssignedChunk {
  double lands = 0;               // seconds: all of it will be resident then
  std::uint8_t owner = kCompute;  // a lane, kCompute or kNobody
};

/// Entry i belongs to RunSnapshot::chunks[i].
using Assignment = std::vector<AssignedChunk>;

/// `scratch` then holds the assignment of this candidate; its memory is used again.
Forecast forecast(const RunSnapshot& run, const Candidate& candidate, Assignment& scratch);

/// When a lane would begin to read this chunk. Unit: seconds.
inline double read_begins(const RunSnapshot& run, const ChunkLeft& chunk,
                          const AssignedChunk& assigned) {
  return assigned.lands -
         static_cast<double>(chunk.bytes) * run.lanes[assigned.owner].seconds_per_byte;
}

/// Calls visit(begin, end) for every run of chunks that compute has no part in, from the front.
template <class F>
void for_each_segment(const Assignment& assignment, F&& visit) {
  const auto n = static_cast<std::uint32_t>(assignment.size());
  for (std::uint32_t begin = 0; begin < n;) {
    std::uint32_t end = begin;
    while (end < n && assignment[end].owner != kCompute) ++end;
    if (end > begin) visit(begin, end);
    begin = end + 1;
  }
}

/// Calls visit(index) for every chunk that lanes read, in the order in which they do.
template <class F>
void in_load_order(const Assignment& assignment, F&& visit) {
  for_each_segment(assignment, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = end; i-- > begin;) {
      if (assignment[i].owner != kNobody) visit(i);
    }
  });
}

}  // namespace cake::inline CAKE_ABI::detail
