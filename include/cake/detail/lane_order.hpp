// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which of several prompts a lane reads for next: the one with the least left to load, unless an
// earlier one was passed over for too long or a target for the time to first token is at stake.
// Pure functions: the time is an argument.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "cake/scheduler/link_estimator.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// What a prompt wants of one lane.
///
/// Units: bytes of this lane
struct LaneDemand {
  std::uint64_t arrival = 0;    // smaller: it came first
  std::uint64_t left = 0;       // that still have to be loaded for the prompt
  std::uint64_t alone = 0;      // the same when it came: its time, had it the lane alone
  std::uint64_t overtaken = 0;  // carried for prompts that came later while this one wanted some
  Time load_by = kNever;        // all of it is to be there by then; kNever: it has no target
  bool background = false;      // behind all others, by arrival
};

/// No prompt waits longer than so many times its own time alone behind prompts that came later.
inline constexpr std::uint64_t kMostOvertaken = 4;

/// One more read of `read` bytes for a later prompt, and it would have waited longer than that.
constexpr bool waited_long(const LaneDemand& prompt, std::uint64_t read) {
  return prompt.overtaken + read > kMostOvertaken * std::max(prompt.alone, read);
}

/// A prompt's place in the order; the smallest one is first.
struct LanePlace {
  enum class Rank : std::uint8_t { waited_long, target_at_stake, least_left, background };
  Rank rank = Rank::least_left;
  Time latest_start = kNever;  // of its loads, if its target is to be met
  std::uint64_t left = 0;
  std::uint64_t arrival = 0;

  bool before(const LanePlace& other) const {
    if (rank != other.rank) return rank < other.rank;
    if (rank == Rank::target_at_stake && latest_start != other.latest_start) {
      return latest_start < other.latest_start;
    }
    if (rank == Rank::least_left && left != other.left) return left < other.left;
    return arrival < other.arrival;
  }
};

/// The lane as the order sees it. `read`: bytes of one read; `all_left`: bytes that all prompts together
/// still have to load, but for those in the background.
struct LaneLoad {
  double bytes_per_second = 1e9;
  std::uint64_t read = 0;
  std::uint64_t all_left = 0;
};

/// First come prompts that have waited as long as they may, by arrival. Then those with a target that
/// they would miss if all others went first, and can still meet, by the latest start of their loads.
/// Then all others, the least left first, and behind them what is loaded for prompts that have not begun.
inline LanePlace place_of(const LaneDemand& prompt, const LaneLoad& lane, Time now) {
  LanePlace place{LanePlace::Rank::least_left, kNever, prompt.left, prompt.arrival};
  if (prompt.background) {
    place.rank = LanePlace::Rank::background;
    return place;
  }
  const auto seconds = [&](std::uint64_t bytes) {
    return static_cast<double>(bytes) / lane.bytes_per_second;
  };
  if (prompt.load_by != kNever) {
    place.latest_start = prompt.load_by - from_seconds(seconds(prompt.left));
  }
  const std::uint64_t others = lane.all_left - std::min(lane.all_left, prompt.left);
  if (waited_long(prompt, lane.read)) {
    place.rank = LanePlace::Rank::waited_long;
  } else if (place.latest_start != kNever && place.latest_start >= now &&
             to_seconds(place.latest_start - now) < seconds(others)) {
    place.rank = LanePlace::Rank::target_at_stake;
  }
  return place;
}

/// Whom a lane asks for a read next.
struct LaneChoice {
  std::optional<std::size_t> first;  // of those that may have one; none: nobody may
  bool others_before = false;        // somebody goes before it, and has none to ask for just now
};

/// `asks(i)`: prompt i may have a read. A prompt with nothing left that has none is in nobody's way.
template <class Asks>
LaneChoice next_to_ask(std::span<const LaneDemand> prompts, const LaneLoad& lane, Time now,
                       Asks&& asks) {
  LaneChoice choice;
  LanePlace best;
  std::optional<LanePlace> best_of_all;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const bool may_have_read = asks(i);
    if (!may_have_read && prompts[i].left == 0) continue;
    const LanePlace place = place_of(prompts[i], lane, now);
    if (!best_of_all || place.before(*best_of_all)) best_of_all = place;
    if (!may_have_read || (choice.first && !place.before(best))) continue;
    choice.first = i;
    best = place;
  }
  choice.others_before = choice.first && best_of_all->before(best);
  return choice;
}

/// None: there is no prompt.
inline std::optional<std::size_t> first_in_order(std::span<const LaneDemand> prompts,
                                                 const LaneLoad& lane, Time now) {
  return next_to_ask(prompts, lane, now, [](std::size_t) { return true; }).first;
}

/// What a lane is reading.
struct LaneFlight {
  std::uint32_t reads = 0;
  std::uint64_t bytes = 0;
  std::uint64_t newest = 0;  // bytes of the newest read
};

/// It keeps the lane at its rate, so that one more read would only make others later: as
/// SessionCore::has_room() for one session, bytes in flight cover the latency twice, and one and a half
/// of the newest read.
inline bool keeps_busy(const LaneFlight& flight, const LinkEstimate& lane) {
  const double window = 2 * lane.bytes_per_second * to_seconds(lane.latency) +
                        1.5 * static_cast<double>(flight.newest);
  return flight.reads >= lane.depth && static_cast<double>(flight.bytes) >= window;
}

/// Bytes that the lane carries for others before it carries some for this prompt, as things stand.
inline std::uint64_t bytes_ahead(std::span<const LaneDemand> prompts, std::size_t prompt,
                                 const LaneLoad& lane, Time now) {
  const LanePlace own = place_of(prompts[prompt], lane, now);
  std::uint64_t ahead = 0;
  for (const LaneDemand& other : prompts) {
    if (place_of(other, lane, now).before(own)) ahead += other.left;
  }
  return ahead;
}

}  // namespace cake::inline CAKE_ABI::detail
