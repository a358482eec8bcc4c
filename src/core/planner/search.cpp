// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/planner/search.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "cake/detail/planner/tuning.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// When the last of what this lane reads will be resident, of what compute could have done by then; 0: none.
double late_landing(const RunSnapshot& run, LaneId lane) {
  double latest = 0;
  double done = run.compute_free_at;
  for (const ChunkLeft& left : run.chunks) {
    if ((left.on >> lane & 1) == 0 || !left.computable) continue;
    const double begin = static_cast<double>(left.chunk) * run.chunk_tokens;
    done += run.cost.pass(begin, begin + run.chunk_tokens);
    if (left.coming > done) latest = std::max(latest, left.coming);
  }
  return latest;
}

/// No candidate ends before this in which compute has so many tokens from the front on, so many chunks behind
/// them, and the suffix: it waits for nothing, and what comes behind takes no pass of its own.
double least_finish(const RunSnapshot& run, double tokens, double chunks) {
  const ComputeCost& cost = run.cost;
  const double end = run.front + tokens;
  const double all = tokens + chunks * run.chunk_tokens + run.n_tokens - run.suffix_begin;
  return run.compute_free_at + std::ceil(tokens / run.step_tokens) * cost.overhead +
         cost.per_token * all +
         cost.per_position * (end * end - static_cast<double>(run.front) * run.front);
}

/// Whether two of these lanes can read some chunk.
bool have_choice(const RunSnapshot& run, LaneMask lanes) {
  return std::any_of(run.tier_sets.begin(), run.tier_sets.end(),
                     [&](std::uint8_t set) { return std::popcount(set & lanes) > 1; });
}

class Search {
 public:
  Search(const RunSnapshot& run, Assignment& scratch)
      : run_(run),
        scratch_(scratch),
        n_(static_cast<std::uint32_t>(run.chunks.size())),
        any_begun_(std::any_of(run.chunks.begin(), run.chunks.end(),
                               [](const ChunkLeft& left) { return left.begun; })) {}

  /// `scratch` is then the assignment of the best candidate.
  void find() {
    compare({0, 0, false});
    if (any_begun_) compare({n_, 0, false});
    if (first_landing() < best_.finish) try_lanes();
    if (run_.n_lanes > 1) try_without_late_reads();
    visits_ += n_;
    if (!scratch_is_best_) best_ = forecast(run_, candidate_, scratch_);
  }

  const Candidate& candidate() const { return candidate_; }
  const Forecast& best() const { return best_; }
  std::uint64_t visits() const { return visits_; }

 private:
  /// Seconds in which compute waits in this candidate.
  double compare(const Candidate& candidate) {
    return note(candidate, forecast(run_, candidate, scratch_));
  }
  double note(const Candidate& candidate, const Forecast& found) {
    visits_ += n_;
    scratch_is_best_ = found.finish < best_.finish - margin_ * (best_.finish - run_.now);
    if (scratch_is_best_) {
      best_ = found;
      candidate_ = candidate;
    }
    return found.waits;
  }

  /// Meeting points of candidates that are alike otherwise. Those between which all chunks are
  /// compute's in any case are one, and are followed once.
  class MeetPoints {
   public:
    MeetPoints(Search& search, const Candidate& like) : search_(search), like_(like) {
      while (last_computed_ > 0 && !always_computed(last_computed_ - 1)) --last_computed_;
    }
    double compare(std::uint32_t meet) {
      like_.meet = meet;
      const std::uint32_t same = last_like(meet);
      for (std::size_t i = 0; i < n_; ++i) {
        if (seen_[i].meet != same) continue;
        search_.visits_ += search_.n_;
        return seen_[i].waits;
      }
      const double waits =
          n_ == 0 ? search_.compare(like_)
                  : search_.note(like_, forecast_again(search_.run_, like_, search_.scratch_));
      if (n_ < seen_.size()) seen_[n_++] = {same, waits};
      return waits;
    }

   private:
    struct Seen {
      std::uint32_t meet;
      double waits;
    };
    bool always_computed(std::uint32_t i) const {
      const ChunkLeft& left = search_.run_.chunks[i];
      if (left.computable && (left.on & ~like_.waits_for) != 0) return true;
      return (left.tiers & like_.lanes) == 0 && !(left.begun && left.bytes <= 0);
    }
    /// The suffix pass follows the loads only where no chunk behind the meeting point is computed.
    std::uint32_t last_like(std::uint32_t meet) const {
      const bool overlap = search_.run_.overlap_suffix;
      while (meet < search_.n_ && always_computed(meet)) {
        if (overlap && meet + 1 == last_computed_) break;
        ++meet;
      }
      return meet;
    }

    Search& search_;
    Candidate like_;
    std::uint32_t last_computed_ = search_.n_;  // past the last chunk that is always compute's
    std::size_t n_ = 0;
    std::array<Seen, 32> seen_;  // more are not remembered
  };

  /// Bisection by whether compute waits, then the neighbours of what it found.
  void try_meet_points(LaneMask lanes, bool scarce_first, LaneMask waits_for = ~LaneMask{0}) {
    MeetPoints points(*this, {0, lanes, scarce_first, waits_for});
    points.compare(0);
    if (any_begun_) points.compare(n_);
    std::uint32_t low = 0;
    std::uint32_t high = n_;
    while (high - low > 1 + n_ / kPlannerTuning.fine_search_chunks) {
      const std::uint32_t middle = (low + high) / 2;
      (points.compare(middle) > kPlannerTuning.no_wait_s ? low : high) = middle;
    }
    const std::uint32_t below = kPlannerTuning.neighbours_below;
    const std::uint32_t end = std::min(n_, low + kPlannerTuning.neighbours_above);
    for (std::uint32_t meet = low > below ? low - below : 1; meet < end; ++meet) {
      if (meet != low && meet != high) points.compare(meet);
    }
    if (passes_are_dear()) try_holes(points, lanes);
  }

  /// A pass more costs as much as the tokens of a chunk do.
  bool passes_are_dear() const {
    return n_ <= kPlannerTuning.fine_search_chunks &&
           run_.cost.pass(0, 1) > run_.cost.per_token * run_.chunk_tokens;
  }

  /// To compute all up to a hole may take fewer passes than to load what lies between two.
  void try_holes(MeetPoints& points, LaneMask lanes) {
    const auto is_hole = [&](const ChunkLeft& left) {
      return !left.begun && (left.tiers & lanes) == 0;
    };
    auto behind = std::count_if(run_.chunks.begin(), run_.chunks.end(), is_hole);
    std::uint32_t tried = 0;
    bool before = true;
    double below = 0;  // tokens that compute has below the hole
    for (std::uint32_t i = 0; i < n_ && tried < kPlannerTuning.most_holes; ++i) {
      const ChunkLeft& left = run_.chunks[i];
      const bool hole = is_hole(left);
      if (hole && !before) {
        if (may_win(least_finish(run_, below, static_cast<double>(behind)))) {
          points.compare(i);
        } else {
          visits_ += n_;
        }
        ++tried;
      }
      before = hole;
      behind -= hole;
      const std::uint32_t begin = left.chunk * run_.chunk_tokens;
      if (left.computable) below += begin + run_.chunk_tokens - std::max(run_.front, begin);
    }
  }

  bool may_win(double finish) const {
    const double rounding = 1e-9 * finish;
    return finish - rounding < best_.finish - margin_ * (best_.finish - run_.now);
  }

  /// No schedule that loads anything ends before this.
  double first_landing() const {
    double least = 1e18;
    for (const ChunkLeft& left : run_.chunks) {
      if (left.tiers != 0) least = std::min(least, static_cast<double>(left.bytes));
    }
    double first = 1e18;
    for (std::uint32_t l = 0; l < run_.n_lanes; ++l) {
      const LaneSnapshot& lane = run_.lanes[l];
      if ((run_.up >> l & 1) != 0) {
        first = std::min(first, lane.free_at + least * lane.seconds_per_byte);
      }
    }
    return first;
  }

  /// Sets of tiers that none of these lanes can read.
  std::uint32_t sets_without_lane(LaneMask lanes) const {
    std::uint32_t n = 0;
    for (const std::uint8_t set : run_.tier_sets) n += (set & lanes) == 0;
    return n;
  }

  LaneMask slowest(LaneMask lanes) const {
    std::uint32_t lane = kMaxTiers;
    for (std::uint32_t l = 0; l < run_.n_lanes; ++l) {
      if ((lanes >> l & 1) == 0) continue;
      if (lane == kMaxTiers || run_.lanes[l].seconds_per_byte > run_.lanes[lane].seconds_per_byte) {
        lane = l;
      }
    }
    return 1u << lane;
  }

  /// A chunk that only slow lanes hold may be better computed: the slowest lanes are left out in turn, where that
  /// leaves some chunk without a lane. Where passes are dear, every set of a few lanes is tried: what matters then is
  /// which chunks lie side by side.
  void try_lanes() {
    const bool fine = run_.tier_sets.size() > 1 && n_ <= kPlannerTuning.fine_search_chunks;
    const auto up = static_cast<std::uint32_t>(std::popcount(run_.up));
    if (fine && passes_are_dear() && up <= kPlannerTuning.few_lanes) {
      for (LaneMask lanes = run_.up; lanes != 0; lanes = (lanes - 1) & run_.up)
        try_set(lanes, true);
      return;
    }
    std::uint32_t without = 0;
    for (LaneMask lanes = run_.up; lanes != 0; lanes &= ~slowest(lanes)) {
      const std::uint32_t n = sets_without_lane(lanes);
      if (lanes != run_.up && n == without) continue;
      without = n;
      try_set(lanes, fine);
    }
  }
  void try_set(LaneMask lanes, bool fine) {
    const std::uint64_t before = visits_;
    try_meet_points(lanes, false);
    if (!fine) return;
    if (have_choice(run_, lanes)) return try_meet_points(lanes, true);
    visits_ += visits_ - before;  // all would be as they were
  }

  /// What a lane is reading may be later than compute would be with it, where others bring the rest: the latest
  /// lanes are not waited for, in turn.
  void try_without_late_reads() {
    margin_ = kPlannerTuning.take_over_share;
    LaneMask waits_for = ~LaneMask{0};
    for (std::uint32_t left = run_.n_lanes; left > 1; --left) {
      LaneMask lane = 0;
      double latest = 0;
      for (LaneId l = 0; l < run_.n_lanes; ++l) {
        const double at = (waits_for >> l & 1) != 0 ? late_landing(run_, l) : 0;
        if (at > latest) {
          latest = at;
          lane = 1u << l;
        }
      }
      if (lane == 0) return;
      waits_for &= ~lane;
      const LaneMask lanes = run_.up & waits_for;
      try_meet_points(lanes, candidate_.scarce_first, waits_for);
      if (candidate_.lanes != lanes) {
        try_meet_points(candidate_.lanes, candidate_.scarce_first, waits_for);
      }
    }
  }

  const RunSnapshot& run_;
  Assignment& scratch_;
  std::uint32_t n_;
  bool any_begun_;  // else that compute has all chunks is the schedule without lanes
  Candidate candidate_;
  double margin_ = 0;  // share of the time left that a candidate must save
  Forecast best_;
  bool scratch_is_best_ = false;
  std::uint64_t visits_ = 0;  // also of candidates that are like another one or cannot win
};

Schedule::Assumptions assumptions_of(const RunSnapshot& run, const Forecast& forecast) {
  Schedule::Assumptions assumed;
  assumed.cost = run.cost;
  assumed.cost_version = run.cost_version;
  assumed.slowdown = run.slowdown;
  assumed.step_tokens = run.step_tokens;
  assumed.lost_chunks = run.lost_chunks;
  assumed.up = run.up;
  assumed.overlap_suffix = run.overlap_suffix;
  assumed.finish = forecast.finish;
  for (std::uint32_t l = 0; l < run.n_lanes; ++l) {
    assumed.lanes[l] = {run.lanes[l].seconds_per_byte, run.lanes[l].latency,
                        run.lanes[l].others_until};
  }
  return assumed;
}

/// Chunks that come layer by layer go on where fewest layers of one were requested: those in front of it are a
/// round ahead.
void fill_queues(const RunSnapshot& run, const Assignment& assignment, Schedule& answer) {
  answer.queues.resize(run.n_lanes);
  for (LaneQueue& queue : answer.queues) queue.clear();
  std::array<float, kMaxTiers> most_left{};  // share of a chunk, of each lane
  in_load_order(assignment, [&](std::uint32_t i) {
    const ChunkLeft& left = run.chunks[i];
    const std::uint8_t owner = assignment.owner[i];
    LaneQueue& queue = answer.queues[owner];
    const bool layered = left.begun || (answer.forecast.slice_layers != 0 &&
                                        assignment.lands[i] > answer.forecast.layered_from);
    if (layered && left.bytes > most_left[owner] * left.all_bytes) {
      most_left[owner] = left.bytes / left.all_bytes;
      queue.at_layer = queue.layered.size();
    }
    (layered ? queue.layered : queue.whole).push_back(left.chunk);
  });
}

}  // namespace

void search(const RunSnapshot& run, Assignment& scratch, Schedule& answer) {
  Search found(run, scratch);
  found.find();
  answer.candidate = found.candidate();
  answer.forecast = found.best();
  answer.visits = found.visits();
  answer.assumptions = assumptions_of(run, found.best());
  answer.owner.assign(run.end_chunk, kCompute);
  answer.meet_token = run.prefix_end;
  for (std::size_t i = scratch.size(); i-- > 0;) {
    const std::uint32_t chunk = run.chunks[i].chunk;
    answer.owner[chunk] = scratch.owner[i];
    if (scratch.owner[i] != kCompute) {
      answer.meet_token = std::min(answer.meet_token, chunk * run.chunk_tokens);
    }
  }
  fill_queues(run, scratch, answer);
}

Schedule search(const RunSnapshot& run) {
  Assignment scratch;
  Schedule answer;
  search(run, scratch, answer);
  return answer;
}

}  // namespace cake::inline CAKE_ABI::detail
