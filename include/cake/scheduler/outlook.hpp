// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How a run will go on from one moment, by what is known of passes and lanes: when it would end if
// compute went on to some token, and which token is best. Built for one decision and thrown away;
// pure.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "cake/board.hpp"
#include "cake/scheduler/cost_model.hpp"
#include "cake/scheduler/load_order.hpp"

namespace cake {

/// Units: seconds since the session began, tokens.
class Outlook {
 public:
  /// `step`: most tokens of a pass. `gated`: the suffix pass may start behind the loads. `layered`:
  /// the last loads come layer by layer already.
  Outlook(const Board& board, const ComputeCost& cost, std::uint32_t step, bool gated, bool layered,
          Time now)
      : board_(board),
        plan_(board.plan()),
        cost_(cost),
        forecast_(board, now),
        step_(std::max(1u, step)),
        gated_(gated),
        layered_(layered) {
    compute_free_ = seconds(now);
    double free = 0;
    for (const RunningStep& running : board.running()) {
      free = std::max(free, seconds(running.issued)) +
             cost.pass(running.tokens.begin, running.tokens.end);
    }
    compute_free_ = std::max(compute_free_, free);
    const double begin = std::max(plan_.prefix_end(), board.suffix_front());
    const double end = plan_.n_tokens;
    suffix_ = cost.passes(begin, end, step_);
    first_ = cost.pass(begin, std::min(end, begin + step_));
    per_layer_ = first_ / plan_.n_layers;
    for (LaneId l = 0; l < board.n_lanes(); ++l) {
      for (const LaneModel::Flight& flight : board.lane(l).in_flight()) {
        if (n_coming_ == coming_.size()) break;
        coming_[n_coming_++] = {flight.chunk, seconds(board.lane(l).resident_at(flight, now))};
      }
    }
    loads_ = forecast_.all(1);
    find_meet();
  }

  const LoadForecast& forecast() const { return forecast_; }
  double compute_free() const { return compute_free_; }
  /// When all loads will be resident if compute takes no more chunks.
  double loads() const { return loads_; }
  /// First suffix pass, less the one layer that no load can hide.
  double hideable() const { return first_ - per_layer_; }
  /// Token up to which compute should go, and the share of the open bytes that it takes by then.
  double meet() const { return meet_; }
  double computed_share() const { return computed_share_; }
  /// The same in whole chunks: computing is better up to here, and not beyond.
  std::uint32_t stop() const { return stop_; }
  /// End of the run if it goes so.
  double end() const { return end_; }
  std::uint32_t stop_chunk() const { return stop_ / plan_.chunk_tokens; }
  /// Nothing is loaded yet, and computing everything is quickest.
  bool compute_all() const { return compute_all_; }

  /// End of the run when compute goes on to token `to`, and then leaves the rest to the loads but
  /// for holes and suffix.
  double finish_from(std::uint32_t to) const {
    double open = 0;
    const std::uint32_t begin = board_.front_chunk();
    for (std::uint32_t c = begin; c < plan_.end_chunk && plan_.chunk_range(c).begin < to; ++c) {
      if (board_.state(c) == ChunkState::open) ++open;
    }
    return walk(to, compute_free_ + cost_.passes(board_.front(), to, step_), share_without(open),
                ~0u);
  }

  /// The chunk at the front is still being read. Would computing it, and perhaps more of those
  /// behind it, end sooner than waiting?
  bool better_taken_over() const {
    const double waited = walk(board_.front(), compute_free_, 1, ~0u);
    double computed = compute_free_;
    bool joins = false;
    std::uint32_t c = board_.front_chunk();
    for (std::uint32_t seen = 0; c < plan_.end_chunk && seen < kWalk; ++c, ++seen) {
      const ChunkState state = board_.state(c);
      if (state == ChunkState::resident) {
        joins = false;
        continue;
      }
      if (state != ChunkState::loading) break;
      const TokenRange tokens = plan_.chunk_range(c);
      const double cost = cost_.pass(std::max(board_.front(), tokens.begin), tokens.end);
      computed += joins ? cost - cost_.overhead : cost;
      joins = true;
      if (walk(tokens.end, computed, 1, c) + 0.01 * cost < waited) return true;
    }
    return false;
  }

 private:
  static constexpr std::uint32_t kWalk = 48;  // chunks that are looked at one by one
  struct Coming {
    std::uint32_t chunk = 0;
    double lands = 0;
  };

  double share_without(double chunks) const {
    const double open = forecast_.open_bytes();
    return open > 0 ? std::max(0.0, 1 - chunks * forecast_.chunk_bytes() / open) : 0;
  }

  /// Seconds of the last loads that come layer by layer, with `share` of the open bytes still to be
  /// loaded.
  double layered(double share) const {
    if (!gated_ || per_layer_ >= first_) return 0;
    if (layered_) return first_;
    const double pace = forecast_.pace();
    if (board_.n_lanes() > 1 || hideable() < forecast_.chunk_bytes() / 2 * pace) return 0;
    return std::min(hideable(), share * forecast_.open_bytes() * pace);
  }
  /// How much of the first suffix pass is left when the last load has landed.
  double exposed(double share) const {
    if (!gated_) return first_;
    return std::max(per_layer_,
                    first_ - std::min(layered(share), first_) * (1 - 1.0 / plan_.n_layers));
  }

  double lands(std::uint32_t chunk) const {
    double at = 0;
    for (std::size_t i = 0; i < n_coming_; ++i) {
      if (coming_[i].chunk == chunk) at = std::max(at, coming_[i].lands);
    }
    return at;
  }

  /// Walks up from token `to`, where compute arrives at `computed`: every hole waits for the
  /// segment below it. Reads of chunks up to `dropped` are taken over. What lies far ahead is taken
  /// in sum.
  double walk(std::uint32_t to, double computed, double share, std::uint32_t dropped) const {
    double loaded = forecast_.next(0);  // the lanes are free for open chunks
    double segment = 0;
    double open = 0;
    double tokens = static_cast<double>(board_.hole_tokens());
    double positions = board_.hole_positions();
    double runs = board_.hole_runs();
    std::uint32_t c = board_.front_chunk();
    bool in_run = false;
    for (; c < plan_.end_chunk && plan_.chunk_range(c).begin < to; ++c) {
      const bool hole = board_.state(c) == ChunkState::hole;
      if (hole) leave(c, tokens, positions);
      if (hole && !in_run) --runs;
      in_run = hole;
    }
    if (runs > 0 || in_run) {
      const std::uint32_t stop = std::min(plan_.end_chunk, c + kWalk);
      for (; c < stop; ++c) {
        const ChunkState state = board_.state(c);
        if (state == ChunkState::hole) {
          if (open > 0) loaded = std::max(loaded, forecast_.next(open * forecast_.chunk_bytes()));
          computed = std::max({computed, segment, open > 0 ? loaded : 0});
          const TokenRange t = plan_.chunk_range(c);
          computed += cost_.pass(t.begin, t.end) - (in_run ? cost_.overhead : 0);
          if (!in_run) --runs;
          leave(c, tokens, positions);
        } else if (state == ChunkState::open) {
          open += 1;
        } else if (state != ChunkState::resident && (dropped == ~0u || c > dropped)) {
          segment = std::max(segment, lands(c));
        }
        in_run = state == ChunkState::hole;
      }
    }
    computed += std::max(std::max(runs, 0.0), std::ceil(tokens / step_)) * cost_.overhead +
                tokens * cost_.per_token + positions * cost_.per_position;
    double end = forecast_.open(share);
    for (std::size_t i = 0; i < n_coming_; ++i) {
      if (dropped == ~0u || coming_[i].chunk > dropped) end = std::max(end, coming_[i].lands);
    }
    return std::max(computed + first_, end + exposed(share)) + suffix_ - first_;
  }
  void leave(std::uint32_t chunk, double& tokens, double& positions) const {
    const TokenRange t = plan_.chunk_range(chunk);
    tokens -= t.size();
    positions -= double(t.end) * t.end - double(t.begin) * t.begin;
  }

  /// The token where the falling end of the loads crosses the rising end of compute.
  void find_meet() {
    const double front = board_.front();
    const double per_chunk = plan_.chunk_tokens;
    const double open = forecast_.open_bytes() / forecast_.chunk_bytes();
    const double holes =
        std::max<double>(board_.hole_runs(), std::ceil(double(board_.hole_tokens()) / step_)) *
            cost_.overhead +
        double(board_.hole_tokens()) * cost_.per_token +
        board_.hole_positions() * cost_.per_position;
    const auto rising = [&](double tokens) {
      return compute_free_ + cost_.passes(front, front + tokens, step_) + holes + first_;
    };
    const auto falling = [&](double tokens) {
      const double share = share_without(tokens / per_chunk);
      return forecast_.all(share) + exposed(share);
    };
    double low = 0;
    double high = std::min<double>(
        plan_.prefix_end() - std::min(board_.front(), plan_.prefix_end()), open * per_chunk);
    if (rising(high) <= falling(high)) {
      low = high;
    } else {
      // A quarter of a chunk is near enough: what is left of the choice is made chunk by chunk.
      while (high - low > per_chunk / 4) {
        const double middle = (low + high) / 2;
        (rising(middle) < falling(middle) ? low : high) = middle;
      }
    }
    meet_ = front + low;
    computed_share_ = open > 0 ? std::min(1.0, low / per_chunk / open) : 0;
    choose_stop();
  }

  /// The crossing lies between two chunks: tries those around it, and computing everything.
  void choose_stop() {
    const std::uint32_t per_chunk = plan_.chunk_tokens;
    end_ = 1e9;
    stop_ = std::clamp(static_cast<std::uint32_t>(meet_) / per_chunk * per_chunk, board_.front(),
                       std::max(board_.front(), plan_.prefix_end()));
    const std::uint32_t below = stop_;
    if (plan_.end_chunk < board_.front_chunk() || below / per_chunk - board_.front_chunk() > 256)
      return;
    end_ = finish_from(below);
    const auto consider = [&](std::uint32_t to) {
      if (const double end = finish_from(to); end < end_) {
        end_ = end;
        stop_ = to;
      }
    };
    if (below >= board_.front() + per_chunk) consider(below - per_chunk);
    if (below < plan_.prefix_end()) consider((below / per_chunk + 1) * per_chunk);
    if (below > board_.front()) consider(board_.front());
    // Loading even one chunk may cost a pass of its own: not worth it where passes are few.
    if (board_.loaded_chunks() == 0 && board_.inserting_chunks() == 0) {
      compute_all_ = compute_free_ + cost_.passes(board_.front(), plan_.n_tokens, step_) <= end_;
    }
  }

  const Board& board_;
  const PrefillPlan& plan_;
  ComputeCost cost_;
  LoadForecast forecast_;
  std::uint32_t step_;
  bool gated_;
  bool layered_;
  double compute_free_ = 0;
  double suffix_ = 0;     // cost of the suffix,
  double first_ = 0;      // of the first pass over it,
  double per_layer_ = 0;  // and of one layer of that
  double loads_ = 0;
  double meet_ = 0;
  double computed_share_ = 0;
  std::uint32_t stop_ = 0;
  double end_ = 0;
  bool compute_all_ = false;
  std::array<Coming, 32> coming_{};  // reads on the lanes
  std::size_t n_coming_ = 0;
};

}  // namespace cake
