// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "cake/queued.hpp"
#include "cake/ttft_bound.hpp"

namespace cake::inline CAKE_ABI {

namespace {

constexpr Time kSoonest = std::chrono::milliseconds(1);

/// Seconds that each lane needs: for what goes first, and for all that it has of the prompt.
struct LaneTimes {
  double ahead = 0;
  double latency = 0;
  double own = 0;
};
using AllLanes = std::array<LaneTimes, kMaxTiers>;

AllLanes times_of(const PromptNeeds& needs, const LanesState& state) {
  AllLanes times;
  const std::size_t n = std::min<std::size_t>(state.lanes.size(), kMaxTiers);
  for (std::size_t l = 0; l < n; ++l) {
    if (needs.bytes[l] == 0) continue;
    const LaneState& lane = state.lanes[l];
    const LinkEstimate rate = lane.rate.checked();
    std::uint64_t ahead = lane.in_flight;
    for (const std::uint64_t left : lane.left) ahead += left <= needs.bytes[l] ? left : 0;
    times[l] = {static_cast<double>(ahead) / rate.bytes_per_second, to_seconds(rate.latency),
                static_cast<double>(needs.bytes[l]) / rate.bytes_per_second};
  }
  return times;
}

/// Until the last read of the part of the stored tokens that is loaded.
double loads_end(const AllLanes& lanes, double part, bool alone) {
  double end = 0;
  for (const LaneTimes& lane : lanes) {
    if (lane.own <= 0) continue;
    end = std::max(end, (alone ? 0 : lane.ahead) + lane.latency + part * lane.own);
  }
  return part > 0 ? end : 0;
}

/// Until the first token: compute takes the first k of the stored tokens, lanes bring the others, then comes
/// the suffix. The best k. `busy`: the device has other things to compute first.
double seconds_to_first_token(const PromptNeeds& needs, const AllLanes& lanes, bool alone,
                              double busy) {
  if (!needs.cost) return std::max(busy, loads_end(lanes, 1, alone));
  const double first = needs.resident_tokens;
  const double n = needs.stored_tokens;
  const double step = std::max(1u, needs.max_step_tokens);
  const ComputeCost cost = needs.cost->checked();
  const auto computed = [&](double k) { return busy + cost.passes(first, first + k, step); };
  const auto loaded = [&](double k) { return n > 0 ? loads_end(lanes, (n - k) / n, alone) : 0; };
  return detail::minimax(n, computed, loaded) + cost.passes(first + n, first + needs.tokens, step);
}

/// Lanes read it into staging memory, which others have.
bool lacks_memory(const PromptNeeds& needs, const LanesState& state) {
  bool reads = false;
  bool others = state.prompts != 0;
  for (std::size_t l = 0; l < std::min<std::size_t>(state.lanes.size(), kMaxTiers); ++l) {
    reads = reads || (needs.bytes[l] != 0 && !state.lanes[l].lends);
    others = others || state.lanes[l].in_flight != 0;
  }
  return reads && others &&
         state.free_staging_bytes < std::min(needs.read_bytes, state.staging_bytes);
}

/// Until one read of another prompt has ended.
Time next_read_ends(const PromptNeeds& needs, const LanesState& state) {
  Time soonest = kNever;
  for (const LaneState& lane : state.lanes) {
    if (lane.in_flight == 0) continue;
    const LinkEstimate rate = lane.rate.checked();
    const double bytes = static_cast<double>(std::min(lane.in_flight, needs.read_bytes));
    soonest = std::min(soonest, rate.latency + from_seconds(bytes / rate.bytes_per_second));
  }
  return soonest == kNever ? kSoonest : std::max(kSoonest, soonest);
}

}  // namespace

Admission admit(const PromptNeeds& needs, const LanesState& lanes,
                const AdmissionOptions& options) {
  const AllLanes times = times_of(needs, lanes);
  const double busy = std::max(0.0, to_seconds(needs.device_busy));
  const double alone = seconds_to_first_token(needs, times, true, 0);
  const double behind_lanes = seconds_to_first_token(needs, times, false, 0);
  const double expected = seconds_to_first_token(needs, times, false, busy);
  const double waited = to_seconds(needs.waited);
  const double most =
      std::max(0.0, options.most_ahead) * std::max(alone, to_seconds(options.floor));

  Admission answer;
  answer.expected_ttft = from_seconds(waited + expected);
  answer.alone_ttft = from_seconds(waited + alone);
  const auto not_now = [&](WaitsFor what, Time again) {
    answer.waits_for = what;
    answer.ask_again = std::max(kSoonest, again);
    return answer;
  };
  if (lacks_memory(needs, lanes)) {
    return not_now(WaitsFor::staging_memory, next_read_ends(needs, lanes));
  }
  if (behind_lanes - alone > most && waited < most) {
    return not_now(WaitsFor::lanes,
                   from_seconds(std::min(behind_lanes - alone - most, most - waited)));
  }
  if (answer.expected_ttft > needs.ttft_target && answer.alone_ttft <= needs.ttft_target) {
    const Time late = answer.expected_ttft - needs.ttft_target;
    return not_now(WaitsFor::ttft_target,
                   std::min(late, needs.ttft_target - answer.alone_ttft + Time(1)));
  }
  return answer;
}

}  // namespace cake::inline CAKE_ABI
