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
  double waits = 0;                // in which compute has nothing to do, all together; not a moment
  std::uint32_t slice_layers = 0;  // layers of one slice of the last loads; 0: they come whole
  double layered_from = 0;         // loads that end later than this come layer by layer
};

/// Owner of a chunk that is not a lane.
inline constexpr std::uint8_t kCompute = 0xff;
inline constexpr std::uint8_t kNobody = 0xfe;  // is being inserted, or all of it has been requested

/// Who gets each chunk left. Entry i belongs to RunSnapshot::chunks[i].
struct Assignment {
  std::vector<double> lands;  // seconds: all of it will be resident then; not of what is compute's
  std::vector<std::uint8_t> owner;         // a lane, kCompute or kNobody
  std::vector<std::uint8_t> owner_from_0;  // of the same candidate with a meeting point of 0
  bool choice = false;                     // some chunk could go to more than one lane then

  std::size_t size() const { return owner.size(); }
};

/// `scratch` then holds the assignment of this candidate; its memory is used again.
Forecast forecast(const RunSnapshot& run, const Candidate& candidate, Assignment& scratch);
/// The same for a candidate that differs from the one before by its meeting point alone.
Forecast forecast_again(const RunSnapshot& run, const Candidate& candidate, Assignment& scratch);

/// Calls visit(begin, end) for every run of chunks that compute has no part in, from the front.
template <class F>
void for_each_segment(const Assignment& assignment, F&& visit) {
  const std::uint8_t* owner = assignment.owner.data();
  const auto n = static_cast<std::uint32_t>(assignment.size());
  for (std::uint32_t begin = 0; begin < n;) {
    std::uint32_t end = begin;
    while (end < n && owner[end] != kCompute) ++end;
    if (end > begin) visit(begin, end);
    begin = end + 1;
  }
}

/// Calls visit(index) for every chunk that lanes read, in the order in which they do.
template <class F>
void in_load_order(const Assignment& assignment, F&& visit) {
  const std::uint8_t* owner = assignment.owner.data();
  for_each_segment(assignment, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = end; i-- > begin;) {
      if (owner[i] != kNobody) visit(i);
    }
  });
}

}  // namespace cake::inline CAKE_ABI::detail
