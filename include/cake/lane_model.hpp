// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What is known of one I/O lane: a serial link of some bandwidth with some latency, the reads that
// are on it, and so when the next bytes will have landed. Pure arithmetic over times that it is
// told; one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cake/plan.hpp"

namespace cake {

constexpr double seconds(Time t) { return static_cast<double>(t.count()) * 1e-9; }
constexpr Time from_seconds(double s) {
  return s < 9e9 ? Time(static_cast<Time::rep>(s * 1e9)) : kNever;
}

/// Units: bytes per second, reads; latency is from the call to the first byte, insert from the last
/// byte to resident KV.
struct LaneRate {
  double bytes_per_second = 1e9;
  Time latency{0};
  Time insert{0};
  std::uint32_t depth = 2;  // reads at once that it takes to reach that rate,
  double shallower = 0;     // the rate with half as many (0: not known),
  bool settled = false;     // and whether twice as many were tried in vain, or are too many
};

/// Follows one lane. Reads are taken to be served in the order of issue at one rate, which is what
/// a link or a saturated device does; every landing corrects rate and latency. While the oldest
/// read is overdue the rate is taken to be at most bytes in flight / age, so that a stalled lane
/// looks slower the longer it stalls.
class LaneModel {
 public:
  struct Flight {
    std::uint64_t load = 0;
    std::uint32_t chunk = 0;
    std::uint64_t bytes = 0;
    Time issued{0};
    Time lands{0};  // predicted
  };

  LaneModel() = default;
  explicit LaneModel(const LaneRate& prior) : rate_(prior) {}

  /// As known now; also the next session's prior.
  const LaneRate& rate() const { return rate_; }
  const std::vector<Flight>& in_flight() const { return flights_; }
  std::uint64_t bytes_in_flight() const { return bytes_in_flight_; }
  bool down() const { return down_; }
  void set_down(bool down) { down_ = down; }

  /// Makes room for one more read in flight, so that issue() needs no memory.
  void reserve() {
    if (flights_.size() == flights_.capacity()) flights_.reserve(2 * flights_.size() + 8);
  }
  void issue(std::uint64_t load, std::uint32_t chunk, std::uint64_t bytes, Time now) {
    if (weight_s_ == 0) {  // the prior weighs as much as one read
      weight_s_ = std::max(1e-9, static_cast<double>(bytes) / rate_.bytes_per_second);
      weight_bytes_ = weight_s_ * rate_.bytes_per_second;
    }
    link_free_ = std::max(link_free_, now) + transfer(bytes);
    if (flights_.empty()) busy_since_ = now;
    flights_.push_back({load, chunk, bytes, now, link_free_ + rate_.latency});
    bytes_in_flight_ += bytes;
  }

  /// A read ended, well or not. Only a good one (`ok`) says something about the rate.
  void landed(std::uint64_t load, bool ok, Time now) {
    const auto flight = std::find_if(flights_.begin(), flights_.end(),
                                     [&](const Flight& f) { return f.load == load; });
    if (flight == flights_.end()) return;
    if (ok) {
      learn(*flight, now);
      probe(*flight, now);
    }
    bytes_in_flight_ -= flight->bytes;
    flights_.erase(flight);
    // Those left have the link to themselves from now on.
    link_free_ = now - std::min(now, rate_.latency);
    for (Flight& f : flights_) {
      link_free_ = std::max(link_free_, f.issued) + transfer(f.bytes);
      f.lands = link_free_ + rate_.latency;
    }
  }

  /// How long the bytes of one read took from landing to resident KV.
  void inserted(Time took) { rate_.insert += (took - rate_.insert) / 4; }

  /// When `more_bytes`, issued now, would be resident.
  Time ready_at(double more_bytes, Time now) const {
    const double slow = slowdown(now);
    const Time base = slow > 1 ? now + from_seconds(static_cast<double>(bytes_in_flight_) * slow /
                                                    rate_.bytes_per_second)
                               : std::max(link_free_, now);
    return base + from_seconds(more_bytes * slow / rate_.bytes_per_second) + rate_.latency +
           rate_.insert;
  }

  /// When the bytes on the link will be resident; `now` when there are none.
  Time drained_at(Time now) const {
    return flights_.empty() ? now : resident_at(flights_.back(), now);
  }

  /// When one read will be resident.
  Time resident_at(const Flight& flight, Time now) const {
    const double slow = slowdown(now);
    if (slow <= 1) return std::max(flight.lands, now) + rate_.insert;
    double bytes = 0;
    for (const Flight& f : flights_) {
      bytes += static_cast<double>(f.bytes);
      if (f.load == flight.load) break;
    }
    return now + from_seconds(bytes * slow / rate_.bytes_per_second) + rate_.insert;
  }

  /// Seconds per byte as things stand, for water filling over lanes.
  double seconds_per_byte(Time now) const { return slowdown(now) / rate_.bytes_per_second; }

 private:
  Time transfer(std::uint64_t bytes) const {
    return from_seconds(static_cast<double>(bytes) / rate_.bytes_per_second);
  }

  /// 1 while the oldest read is on time; else how many times slower than its rate the lane looks.
  double slowdown(Time now) const {
    if (flights_.empty()) return 1;
    const Flight& oldest = flights_.front();
    const Time grace = oldest.lands - oldest.issued;
    if (now <= oldest.lands + grace / 4) return 1;
    const double age = seconds(now - oldest.issued);
    return std::max(1.0, age * rate_.bytes_per_second / static_cast<double>(bytes_in_flight_));
  }

  void learn(const Flight& flight, Time now) {
    // The read that found the lane empty waited for the latency as well; for any other one the lane
    // was at work since the last landing.
    const bool first = last_landing_ <= busy_since_;
    double took = seconds(now - std::max(last_landing_, busy_since_));
    last_landing_ = now;
    const double expected = static_cast<double>(flight.bytes) / rate_.bytes_per_second;
    if (first) {
      first_took_ = took;
      first_bytes_ = static_cast<double>(flight.bytes);
      followers_ = 0;
      took -= std::min(took, seconds(rate_.latency));
    }
    // Reads at once may land at once: one round of them counts as one.
    const double keep = 1 - 0.6 / rate_.depth;
    weight_bytes_ = keep * weight_bytes_ + static_cast<double>(flight.bytes);
    weight_s_ = keep * weight_s_ + std::max(took, 0.01 * expected);
    rate_.bytes_per_second = weight_bytes_ / weight_s_;
    // What the first one took beyond its bytes is known once the rate is.
    if (!first && ++followers_ == 4) {
      const double excess = std::max(0.0, first_took_ - first_bytes_ / rate_.bytes_per_second);
      rate_.latency += (from_seconds(excess) - rate_.latency) / 2;
    }
  }

  /// One link is as fast with two reads as with ten; a device or a pool of threads may not be.
  /// While twice as many reads at once make the whole faster by a tenth, there are twice as many;
  /// a rate that has doubled or halved since is looked into again.
  void probe(const Flight& flight, Time now) {
    if (rate_.settled) {
      const double change = rate_.bytes_per_second / rate_.shallower;
      if (change > 0.5 && change < 2) return;
      rate_.settled = false;  // not the lane that it was
      rate_.shallower = 0;
    }
    if (flights_.size() + 1 < rate_.depth) {  // it was not what held the rate down
      probed_ = 0;
      return;
    }
    if (probed_++ == 0) {
      probe_began_ = now;
      probe_bytes_ = 0;
      return;
    }
    probe_bytes_ += static_cast<double>(flight.bytes);
    if (probed_ <= 2 * rate_.depth) return;  // reads that began together land together: two rounds
    const double rate = probe_bytes_ / std::max(1e-9, seconds(now - probe_began_));
    probed_ = 0;
    const bool faster = rate > 1.1 * rate_.shallower;
    rate_.settled = !faster || rate_.depth >= kMaxDepth;
    if (!rate_.settled) {
      rate_.depth *= 2;
    } else if (!faster) {
      rate_.depth = std::max(2u, rate_.depth / 2);
    }
    rate_.shallower = rate;
  }

  static constexpr std::uint32_t kMaxDepth = 16;

  LaneRate rate_;
  std::uint32_t probed_ = 0;  // landings at this depth
  Time probe_began_{0};
  double probe_bytes_ = 0;
  std::vector<Flight> flights_;  // in the order of issue
  std::uint64_t bytes_in_flight_ = 0;
  Time link_free_{0};
  Time last_landing_{-1};
  Time busy_since_{0};           // some read is in flight since then
  double first_took_ = 0;        // the first read of it: seconds,
  double first_bytes_ = 0;       // bytes,
  std::uint32_t followers_ = 0;  // and landings since
  double weight_bytes_ = 0;
  double weight_s_ = 0;
  bool down_ = false;
};

}  // namespace cake
