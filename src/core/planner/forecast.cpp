// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/forecast.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>
#include <vector>

#include "cake/detail/planner/tuning.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// Gives every chunk an owner by the candidate without its meeting point; of several lanes the first.
void assign_from_0(const RunSnapshot& run, const Candidate& candidate, Assignment& assignment) {
  const auto n = static_cast<std::uint32_t>(run.chunks.size());
  assignment.lands.resize(n);
  assignment.owner.resize(n);
  assignment.owner_from_0.resize(n);
  const ChunkLeft* chunks = run.chunks.data();
  double* lands = assignment.lands.data();
  std::uint8_t* owners = assignment.owner_from_0.data();
  const LaneMask lanes = candidate.lanes;
  bool choice = false;
  for (std::uint32_t i = 0; i < n; ++i) {
    const ChunkLeft& left = chunks[i];
    const LaneMask holders = left.tiers & lanes;
    const bool late = (left.on & ~candidate.waits_for) != 0;
    const bool computed = late && left.computable;
    std::uint8_t owner = 0;
    if (left.begun && left.bytes <= 0) {  // all of it has been requested
      owner = computed ? kCompute : kNobody;
    } else if (holders == 0 || computed) {
      owner = kCompute;
    } else {
      owner = static_cast<std::uint8_t>(std::countr_zero(holders));
      choice = choice || (holders & (holders - 1)) != 0;
    }
    lands[i] = left.coming;
    owners[i] = owner;
  }
  assignment.choice = choice;
}

/// Compute has all below the meeting point that nobody inserts into.
void assign_below(const RunSnapshot& run, std::uint32_t meet, Assignment& assignment) {
  const auto n = static_cast<std::uint32_t>(run.chunks.size());
  const ChunkLeft* chunks = run.chunks.data();
  const std::uint8_t* from_0 = assignment.owner_from_0.data();
  std::uint8_t* owners = assignment.owner.data();
  for (std::uint32_t i = 0; i < meet; ++i) owners[i] = chunks[i].computable ? kCompute : from_0[i];
  std::copy(from_0 + meet, from_0 + n, owners + meet);
}

/// Compute has the front, and begins where windows or states are read for it first.
bool reads_for_front(const RunSnapshot& run, const Assignment& assignment) {
  return run.begin_from != run.context_from && assignment.owner.front() == kCompute &&
         !run.chunks.front().hole;
}

/// When each lane is done with what goes before the chunks.
void lanes_free(const RunSnapshot& run, const Assignment& assignment,
                std::array<double, kMaxTiers>& free) {
  if (assignment.size() != 0 && run.partial && reads_for_front(run, assignment)) {
    free = run.begin_loads;
    return;
  }
  for (std::uint32_t l = 0; l < run.n_lanes; ++l) free[l] = run.lanes[l].free_at;
}

/// Each chunk goes to the lane that would be done with it first. Where chunks are asked in the order in which they
/// are read, that is also when they land.
void share_among_lanes(const RunSnapshot& run, const Candidate& candidate, Assignment& assignment) {
  const std::uint32_t n_lanes = run.n_lanes;
  std::array<double, kMaxTiers> free{};
  std::array<double, kMaxTiers> seconds_per_byte{};
  lanes_free(run, assignment, free);
  for (std::uint32_t l = 0; l < n_lanes; ++l) {
    seconds_per_byte[l] = run.lanes[l].seconds_per_byte;
  }
  const LaneMask lanes = candidate.lanes;
  const ChunkLeft* chunks = run.chunks.data();
  std::uint8_t* owners = assignment.owner.data();
  double* lands = assignment.lands.data();
  const auto give = [&](std::uint32_t i) {
    const ChunkLeft& left = chunks[i];
    const LaneMask holders = left.tiers & lanes;
    const auto bytes = static_cast<double>(left.bytes);
    double soonest = 1e18;
    std::uint32_t owner = owners[i];
    for (std::uint32_t l = 0; l < n_lanes; ++l) {
      if ((holders >> l & 1) == 0) continue;
      const double done = std::max(free[l], left.rest_from) + bytes * seconds_per_byte[l];
      if (done < soonest) {
        soonest = done;
        owner = l;
      }
    }
    owners[i] = static_cast<std::uint8_t>(owner);
    lands[i] = std::max(left.coming, soonest);
    free[owner] = soonest;
  };
  if (!candidate.scarce_first) return in_load_order(assignment, give);
  for_each_segment(assignment, [&](std::uint32_t begin, std::uint32_t end) {
    for (const std::uint8_t set : run.tier_sets) {
      for (std::uint32_t i = end; i-- > begin;) {
        if (chunks[i].tiers == set && owners[i] < kNobody) give(i);
      }
    }
  });
}

/// Every lane reads its chunks one after the other.
void follow_lanes(const RunSnapshot& run, Assignment& assignment) {
  std::array<double, kMaxTiers> free{};
  lanes_free(run, assignment, free);
  const ChunkLeft* chunks = run.chunks.data();
  const std::uint8_t* owner = assignment.owner.data();
  double* lands = assignment.lands.data();
  in_load_order(assignment, [&](std::uint32_t i) {
    double& lane = free[owner[i]];
    lane = std::max(lane, chunks[i].rest_from) +
           static_cast<double>(chunks[i].bytes) * run.lanes[owner[i]].seconds_per_byte;
    lands[i] = std::max(chunks[i].coming, lane);
  });
}

/// When the pass can begin at the soonest, so that none of its layers waits for what comes layer by layer on this
/// lane, what is needed first before the rest, and the last of it at `end`. `chunks`: how many, by their needs.
double soonest_pass(const RunSnapshot& run, LaneId lane, double end,
                    std::span<const std::uint32_t> chunks) {
  double soonest = 0;
  for (std::uint32_t layer = 0; layer < run.n_layers; ++layer) {
    double behind = 0;  // bytes, in what is read after that layer
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const GateNeeds& needs = run.gate_needs[i];
      behind += chunks[i] * static_cast<double>(needs.all_bytes - needs.bytes[layer]);
    }
    const double computed = run.first_pass_s * layer / run.n_layers;
    soonest = std::max(soonest, end - behind * run.lanes[lane].seconds_per_byte - computed);
  }
  return soonest;
}

/// The suffix pass behind loads that come layer by layer, no longer than it can hide. Shortens the forecast if
/// that helps.
void overlap_suffix(const RunSnapshot& run, const Assignment& assignment, Forecast& best) {
  const auto one = static_cast<double>(run.layer_bytes);
  const auto layers =
      static_cast<std::uint32_t>(std::max(1.0, std::ceil(run.slice_bytes / std::max(1.0, one))));
  if (2 * layers > run.n_layers) return;
  const double groups = std::ceil(static_cast<double>(run.n_layers) / layers);
  const double from = best.loads_done - run.first_pass_s * (1 - 1 / groups);
  const auto slice = static_cast<double>(run.head_bytes + layers * run.layer_bytes);
  const auto comes_layered = [&](std::size_t i) {
    return run.chunks[i].begun || assignment.lands[i] > from;
  };
  struct Lane {
    double took = 0;   // seconds: by these chunks from their first layer on,
    double left = 0;   // by what has not been requested,
    double fresh = 0;  // and by the first slices among that
    double end = 0;
    std::uint32_t n = 0;
  };
  std::array<Lane, kMaxTiers> lanes{};
  const std::size_t n_needs = run.gate_needs.size();
  std::vector<std::uint32_t> chunks(n_needs * run.n_lanes);  // [lanes][needs]
  double start = best.compute_done;                          // of the pass
  for (std::size_t i = 0; i < assignment.size(); ++i) {
    const std::uint8_t owner = assignment.owner[i];
    if (owner == kCompute) continue;
    if (owner == kNobody || !comes_layered(i)) {  // must be there before the pass
      start = std::max(start, assignment.lands[i]);
      continue;
    }
    const double seconds_per_byte = run.lanes[owner].seconds_per_byte;
    Lane& lane = lanes[owner];
    ++lane.n;
    lane.end = std::max(lane.end, assignment.lands[i]);
    lane.took += static_cast<double>(run.chunks[i].all_bytes) * seconds_per_byte;
    lane.left += static_cast<double>(run.chunks[i].bytes) * seconds_per_byte;
    if (!run.chunks[i].begun) lane.fresh += slice * seconds_per_byte;
    if (n_needs != 0) ++chunks[owner * n_needs + run.chunks[i].needs];
  }
  double last = best.loads_done;
  for (std::uint32_t l = 0; l < run.n_lanes; ++l) {
    const Lane& lane = lanes[l];
    if (lane.n == 0) continue;
    const double soonest =
        n_needs == 0
            ? lane.end - lane.took * (1 - 1 / groups)
            : soonest_pass(run, l, lane.end, std::span(chunks).subspan(l * n_needs, n_needs));
    start = std::max({start, soonest, lane.end - lane.left + lane.fresh});
    if (lane.n < kPlannerTuning.few_layered_chunks) {
      last = std::max(last, lane.end + run.lanes[l].latency);
    }
  }
  const double done = std::max(start + run.first_pass_s, last + run.first_pass_s / groups) +
                      run.split_suffix_s - run.first_pass_s;
  if (done < best.finish) {
    best.waits -= best.finish - done;
    best.finish = done;
    best.slice_layers = layers;
    best.layered_from = from;
  }
}

/// Where compute begins for a run of chunks that begins with chunk i, at token `from`; `end`: of the
/// run before. Below a chunk that could be loaded windows and states are missing: they are loaded late
/// (below the front), or what lies between is computed as well.
double begin_of_run(const RunSnapshot& run, std::uint32_t i, double from, double end) {
  if (!run.partial || run.chunks[i].hole) return from;
  return i == 0 ? run.begin_from : std::max<double>(end, run.context_from);
}

/// Compute goes up: every run of its chunks waits for what is loaded below it; the last one takes the suffix
/// along.
Forecast follow_compute(const RunSnapshot& run, const Candidate& candidate,
                        const Assignment& assignment) {
  const ComputeCost cost = run.cost;
  const double chunk_tokens = run.chunk_tokens;
  const double front = run.front;
  const auto n = static_cast<std::uint32_t>(assignment.size());
  const ChunkLeft* chunks = run.chunks.data();
  const std::uint8_t* owners = assignment.owner.data();
  const double* lands = assignment.lands.data();
  Forecast result;
  double t = run.compute_free_at;
  double below = 0;
  double begin = 0;
  double end = 0;  // of the run of chunks
  bool holes = false;
  for (std::uint32_t i = 0; i < n; ++i) {
    if (owners[i] != kCompute) {
      below = std::max(below, lands[i]);
      continue;
    }
    const std::uint32_t chunk = chunks[i].chunk;
    const double from = std::max(front, chunk * chunk_tokens);
    if (from != end) {
      t += cost.passes(begin, end, run.step_tokens);
      result.waits += std::max(0.0, below - t);
      t = std::max(t, below);
      begin = begin_of_run(run, i, from, end);
      if (i == 0 && run.partial && !run.chunks[0].hole) t = std::max(t, run.begin_at);
    }
    end = (chunk + 1) * chunk_tokens;
    holes = holes || i >= candidate.meet;
  }
  result.loads_done = below;
  if (end == run.suffix_begin && end > begin) {
    result.compute_done = t;
    result.finish = t + cost.passes(begin, run.n_tokens, run.step_tokens);
    return result;
  }
  t += cost.passes(begin, end, run.step_tokens);
  result.compute_done = t;
  result.waits += std::max(0.0, below - t);
  result.finish = std::max(t, below) + run.suffix_s;
  if (run.overlap_suffix && !holes) overlap_suffix(run, assignment, result);
  return result;
}

}  // namespace

Forecast forecast(const RunSnapshot& run, const Candidate& candidate, Assignment& scratch) {
  assign_from_0(run, candidate, scratch);
  return forecast_again(run, candidate, scratch);
}

Forecast forecast_again(const RunSnapshot& run, const Candidate& candidate, Assignment& scratch) {
  assign_below(run, candidate.meet, scratch);
  if (scratch.choice) share_among_lanes(run, candidate, scratch);
  if (!scratch.choice || candidate.scarce_first) follow_lanes(run, scratch);
  return follow_compute(run, candidate, scratch);
}

}  // namespace cake::inline CAKE_ABI::detail
