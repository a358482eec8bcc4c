// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How a run could go on from one moment: who would get which chunk, compute or a lane, and when the
// run would then end. Follows a schedule chunk by chunk, by what is known of passes and lanes, and
// picks the best of a few dozen. Linear in the chunks that are left; pure.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/detail/planner/schedule.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"

namespace cake::inline CAKE_ABI::detail {

class SchedulePlanner {
 public:
  static constexpr std::uint8_t kCompute = 0xff;
  static constexpr std::uint32_t kMany =
      512;  // items; with more, schedules are compared less finely
  static constexpr std::uint8_t kNobody = 0xfe;  // is being inserted, or all of it is on a lane

  /// Takes in how things stand. `step`: most tokens of a pass; `gated`: the suffix pass may start
  /// behind the loads; `without`: bit set of lanes that are not to be used.
  void look(const RunView& view, const ComputeCost& cost, double step, bool gated, Time now,
            std::uint32_t without = 0) {
    spec_ = &view.spec();
    cost_ = cost;
    step_ = std::max(1.0, step);
    now_ = to_seconds(now);
    front_ = view.front();
    visits_ = 0;
    compute_free_ = 0;
    for (const RunningStep& running : view.running()) {
      compute_free_ = std::max(compute_free_, to_seconds(running.begins)) +
                      cost.pass(running.tokens.begin, running.tokens.end);
    }
    compute_free_ = std::max(compute_free_, now_);
    suffix_begin_ = std::max(spec_->prefix_end(), view.suffix_front());
    const double end = spec_->n_tokens;
    suffix_ = cost.passes(suffix_begin_, end, step_);
    first_ = cost.pass(suffix_begin_, std::min(end, suffix_begin_ + step_));
    gated_ = gated && spec_->n_layers > 1;
    take_lanes(view, now, without);
    take_items(view, now);
  }

  /// The best schedule found; owners and orders of load are its own from now on.
  const Schedule& choose() {
    best_ = Schedule();
    consider(0, 0, false);
    consider(static_cast<std::uint32_t>(items_.size()), 0, false);
    if (first_landing() < best_.end) choose_lanes();
    best_ = follow(best_.stop, best_.lanes, best_.few_first);
    return best_;
  }

  /// A chunk that is left, as the last schedule followed deals with it.
  struct Item {
    std::uint32_t chunk = 0;
    std::uint8_t tiers = 0;   // that can still read what is left of it
    std::uint8_t owner = 0;   // lane, kCompute or kNobody
    bool computable = false;  // nobody inserts into it
    bool begun = false;       // some of its layers have been asked for
    float bytes = 0;          // that have not been asked for
    double coming = 0;        // what has been asked for will be resident then
    double lands = 0;         // all of it
  };
  std::span<const Item> items() const { return items_; }
  double begins(const Item& item) const {
    return item.lands - static_cast<double>(item.bytes) * pace_[item.owner];
  }
  double compute_free() const { return compute_free_; }
  std::uint64_t visits() const { return visits_; }
  double pace(LaneId lane) const { return pace_[lane]; }
  /// Of one read on this lane, from the call to resident KV, without the bytes.
  double latency(LaneId lane) const { return latency_[lane]; }

  /// A slice should be worth its latency.
  static double slice_bytes(const LinkEstimate& rate) {
    return 2 * to_seconds(rate.latency + rate.insert) * rate.bytes_per_second;
  }

  /// Calls back with every item that the lanes read, in the order of load.
  template <class F>
  void in_load_order(F&& visit) {
    for_segments([&](std::uint32_t begin, std::uint32_t end) {
      for (std::uint32_t i = end; i-- > begin;) {
        if (items_[i].owner != kNobody) visit(items_[i]);
      }
    });
  }

  /// Deals out all items and follows what comes of it.
  Schedule follow(std::uint32_t stop, std::uint32_t lanes, bool few_first) {
    visits_ += items_.size();
    deal(stop, lanes, few_first);
    Schedule schedule;
    schedule.stop = stop;
    schedule.lanes = lanes;
    schedule.few_first = few_first;
    schedule.up = up_;
    std::array<double, kMaxTiers> free = base_;
    in_load_order([&](Item& item) {
      free[item.owner] += static_cast<double>(item.bytes) * pace_[item.owner];
      item.lands = std::max(item.coming, free[item.owner]);
    });
    walk(schedule);
    return schedule;
  }

 private:
  void take_lanes(const RunView& view, Time now, std::uint32_t without) {
    n_lanes_ = view.n_lanes();
    up_ = 0;
    slice_bytes_ = 0;
    for (std::uint32_t l = 0; l < n_lanes_; ++l) {
      const LinkEstimator& lane = view.lane(l);
      base_[l] = to_seconds(lane.ready_at(0, now));
      pace_[l] = lane.seconds_per_byte(now);
      const LinkEstimate& rate = lane.rate();
      latency_[l] = to_seconds(rate.latency + rate.insert);
      if (lane.down() || (without >> l & 1) != 0) continue;
      up_ |= 1u << l;
      slice_bytes_ = std::max(slice_bytes_, slice_bytes(rate));
    }
  }

  void take_items(const RunView& view, Time now) {
    items_.clear();
    sets_.clear();
    const std::uint32_t n_layers = spec_->n_layers;
    whole_bytes_ = static_cast<double>(spec_->read_bytes({0, n_layers}));
    const auto whole = static_cast<float>(whole_bytes_);
    for (std::uint32_t c = view.front_chunk(); c < spec_->end_chunk; ++c) {
      const ChunkState state = view.state(c);
      if (state == ChunkState::resident) continue;
      if (state == ChunkState::computing &&
          (c != view.front_chunk() || front_ % spec_->chunk_tokens == 0))
        continue;
      Item item;
      item.chunk = c;
      item.computable = state != ChunkState::inserting;
      if (state == ChunkState::open) {
        item.bytes = whole;
        item.tiers = static_cast<std::uint8_t>(spec_->stored[c].tiers);
      } else if (!view.unloadable(c) &&
                 (state == ChunkState::loading || state == ChunkState::inserting)) {
        const std::uint32_t issued = view.layers_issued(c);
        if (issued < n_layers) {
          item.bytes = static_cast<float>(spec_->read_bytes({issued, n_layers}));
          item.tiers = static_cast<std::uint8_t>(spec_->stored[c].tiers);
        }
        item.coming = now_;
        item.begun = true;
      }
      if (item.tiers != 0 && std::find(sets_.begin(), sets_.end(), item.tiers) == sets_.end()) {
        sets_.push_back(item.tiers);
      }
      items_.push_back(item);
    }
    std::sort(sets_.begin(), sets_.end(), [](std::uint8_t a, std::uint8_t b) {
      const int x = std::popcount(a);
      const int y = std::popcount(b);
      return x != y ? x < y : a < b;
    });
    for (LaneId l = 0; l < n_lanes_; ++l) {
      for (const LinkEstimator::Flight& flight : view.lane(l).in_flight()) {
        const auto at =
            std::lower_bound(items_.begin(), items_.end(), flight.chunk,
                             [](const Item& i, std::uint32_t c) { return i.chunk < c; });
        if (at == items_.end() || at->chunk != flight.chunk) continue;
        at->coming = std::max(at->coming, to_seconds(view.lane(l).resident_at(flight, now)));
      }
    }
  }

  /// Calls back with every run of items that compute has no part in, from the front.
  template <class F>
  void for_segments(F&& visit) {
    const auto n = static_cast<std::uint32_t>(items_.size());
    for (std::uint32_t begin = 0; begin < n;) {
      std::uint32_t end = begin;
      while (end < n && items_[end].owner != kCompute) ++end;
      if (end > begin) visit(begin, end);
      begin = end + 1;
    }
  }

  /// Gives every item an owner: each to the lane that would be done with it first.
  void deal(std::uint32_t stop, std::uint32_t lanes, bool few_first) {
    bool choice = false;
    for (std::uint32_t i = 0; i < items_.size(); ++i) {
      Item& item = items_[i];
      const std::uint32_t holders = item.tiers & lanes;
      item.lands = item.coming;
      if (item.begun && item.bytes <= 0) {  // all of it is on its way
        item.owner = i < stop && item.computable ? kCompute : kNobody;
      } else if (holders == 0 || (i < stop && item.computable)) {
        item.owner = kCompute;
      } else {
        item.owner = static_cast<std::uint8_t>(std::countr_zero(holders));
        choice = choice || !std::has_single_bit(holders);
      }
    }
    if (!choice) return;
    std::array<double, kMaxTiers> free = base_;
    const auto give = [&](Item& item) {
      const std::uint32_t holders = item.tiers & lanes;
      double soonest = 1e18;
      for (std::uint32_t l = 0; l < n_lanes_; ++l) {
        if ((holders >> l & 1) == 0) continue;
        const double done = free[l] + static_cast<double>(item.bytes) * pace_[l];
        if (done < soonest) {
          soonest = done;
          item.owner = static_cast<std::uint8_t>(l);
        }
      }
      free[item.owner] = soonest;
    };
    if (!few_first) return in_load_order(give);
    for_segments([&](std::uint32_t begin, std::uint32_t end) {
      for (const std::uint8_t set : sets_) {
        for (std::uint32_t i = end; i-- > begin;) {
          if (items_[i].tiers == set && items_[i].owner < kNobody) give(items_[i]);
        }
      }
    });
  }

  /// Compute goes up: every run of its chunks waits for what is loaded below it; the last one takes
  /// the suffix along.
  void walk(Schedule& schedule) const {
    const double per_chunk = spec_->chunk_tokens;
    double t = compute_free_;
    double below = 0;
    double begin = 0;
    double end = 0;  // of the run
    bool holes = false;
    for (std::uint32_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      if (item.owner != kCompute) {
        below = std::max(below, item.lands);
        continue;
      }
      const double from = std::max<double>(front_, item.chunk * per_chunk);
      if (from != end) {
        t += cost_.passes(begin, end, step_);
        t = std::max(t, below);
        begin = from;
      }
      end = (item.chunk + 1) * per_chunk;
      holes = holes || i >= schedule.stop;
    }
    schedule.loaded = below;
    if (end == suffix_begin_ && end > begin) {
      schedule.computed = t;
      schedule.end = t + cost_.passes(begin, spec_->n_tokens, step_);
      return;
    }
    t += cost_.passes(begin, end, step_);
    schedule.computed = t;
    schedule.end = std::max(t, below) + suffix_;
    if (gated_ && !holes) layer(schedule);
  }

  /// The suffix pass behind loads that come layer by layer: no longer than it can hide.
  void layer(Schedule& schedule) const {
    const double one = static_cast<double>(spec_->layer_bytes);
    const auto layers =
        static_cast<std::uint32_t>(std::max(1.0, std::ceil(slice_bytes_ / std::max(1.0, one))));
    if (2 * layers > spec_->n_layers) return;
    const double groups = std::ceil(static_cast<double>(spec_->n_layers) / layers);
    const double from = schedule.loaded - first_ * (1 - 1 / groups);
    const double slice = static_cast<double>(spec_->read_bytes({0, layers}));
    std::array<double, kMaxTiers> took{};   // [lane] by these chunks from their first layer on,
    std::array<double, kMaxTiers> left{};   // by what has not been asked for,
    std::array<double, kMaxTiers> fresh{};  // and by the first slices among that
    std::array<double, kMaxTiers> end{};
    std::array<std::uint32_t, kMaxTiers> n{};
    for (const Item& item : items_) {
      if (item.owner >= kNobody || !(item.begun || begins(item) >= from)) continue;
      ++n[item.owner];
      end[item.owner] = std::max(end[item.owner], item.lands);
      took[item.owner] += whole_bytes_ * pace_[item.owner];
      left[item.owner] += static_cast<double>(item.bytes) * pace_[item.owner];
      if (!item.begun) fresh[item.owner] += slice * pace_[item.owner];
    }
    double start = schedule.computed;  // of the pass
    double last = schedule.loaded;
    for (std::uint32_t l = 0; l < n_lanes_; ++l) {
      if (n[l] == 0) continue;
      start = std::max({start, end[l] - took[l] * (1 - 1 / groups), end[l] - left[l] + fresh[l]});
      if (n[l] < 3) last = std::max(last, end[l] + latency_[l]);
    }
    for (const Item& item : items_) {  // whole ones must be there before the pass begins
      if (item.owner == kCompute) continue;
      if (item.owner == kNobody || !(item.begun || begins(item) >= from))
        start = std::max(start, item.lands);
    }
    const double done = std::max(start + first_, last + first_ / groups) + suffix_ - first_;
    if (done < schedule.end) {
      schedule.end = done;
      schedule.layers = layers;
      schedule.layered_from = from;
    }
  }

  /// Sets of tiers that none of these lanes can read.
  std::uint32_t without_lane(std::uint32_t lanes) const {
    std::uint32_t n = 0;
    for (const std::uint8_t set : sets_) n += (set & lanes) == 0;
    return n;
  }

  void consider(std::uint32_t stop, std::uint32_t lanes, bool few_first) {
    const Schedule schedule = follow(stop, lanes, few_first);
    if (schedule.end < best_.end) best_ = schedule;
  }

  void choose_stop(std::uint32_t lanes, bool few_first) {
    const auto n = static_cast<std::uint32_t>(items_.size());
    consider(0, lanes, few_first);
    consider(n, lanes, few_first);
    std::uint32_t low = 0;
    std::uint32_t high = n;
    while (high - low > 1 + n / kMany) {
      const std::uint32_t middle = (low + high) / 2;
      const Schedule schedule = follow(middle, lanes, few_first);
      if (schedule.end < best_.end) best_ = schedule;
      (schedule.computed + (gated_ ? first_ : 0) < schedule.loaded ? low : high) = middle;
    }
    for (std::uint32_t stop = low > 1 ? low - 1 : 1; stop < std::min(n, low + 3); ++stop) {
      consider(stop, lanes, few_first);
    }
  }

  /// No schedule that loads anything ends before this.
  double first_landing() const {
    double least = 1e18;
    for (const Item& item : items_) {
      if (item.tiers != 0) least = std::min(least, static_cast<double>(item.bytes));
    }
    double first = 1e18;
    for (std::uint32_t l = 0; l < n_lanes_; ++l) {
      if ((up_ >> l & 1) != 0) first = std::min(first, base_[l] + least * pace_[l]);
    }
    return first;
  }

  void choose_lanes() {
    // A chunk that only slow lanes hold may be better computed: leave out the slowest in turn,
    // where that leaves some chunk without a lane.
    std::uint32_t without = 0;
    for (std::uint32_t lanes = up_; lanes != 0;) {
      if (const std::uint32_t n = without_lane(lanes); lanes == up_ || n != without) {
        without = n;
        choose_stop(lanes, false);
        if (sets_.size() > 1 && items_.size() <= kMany) choose_stop(lanes, true);
      }
      std::uint32_t slowest = kMaxTiers;
      for (std::uint32_t l = 0; l < n_lanes_; ++l) {
        if ((lanes >> l & 1) == 0) continue;
        if (slowest == kMaxTiers || pace_[l] > pace_[slowest]) slowest = l;
      }
      lanes &= ~(1u << slowest);
    }
  }

  const PrefillSpec* spec_ = nullptr;
  ComputeCost cost_;
  double step_ = 1;
  double now_ = 0;
  std::uint32_t front_ = 0;
  bool gated_ = false;
  double compute_free_ = 0;
  double suffix_begin_ = 0;
  double suffix_ = 0;  // cost of the suffix,
  double first_ = 0;   // and of the first pass over it
  double slice_bytes_ = 0;
  double whole_bytes_ = 0;
  std::uint32_t n_lanes_ = 0;
  std::uint32_t up_ = 0;                     // lanes that are not down
  std::array<double, kMaxTiers> base_{};     // [lane] when it is free
  std::array<double, kMaxTiers> pace_{};     // [lane] seconds per byte
  std::array<double, kMaxTiers> latency_{};  // [lane]
  std::vector<Item> items_;                  // in the order of tokens
  std::vector<std::uint8_t> sets_;           // of tiers that occur, small ones first
  Schedule best_;
  std::uint64_t visits_ = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
