// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What is known of one I/O lane: a serial link of some bandwidth with some latency, the reads that
// are on it, and so when the next bytes will have landed. Pure arithmetic over times that it is
// told; one thread at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

constexpr double to_seconds(Time t) { return static_cast<double>(t.count()) * 1e-9; }
/// kNever for what does not fit, and for what is no number.
constexpr Time from_seconds(double s) {
  if (s > -9e9 && s < 9e9) return Time(static_cast<Time::rep>(s * 1e9));
  return s < 0 ? -kNever : kNever;
}

/// No read is waited for longer than this.
inline constexpr Time kLongestRead = std::chrono::minutes(10);

/// When a read that is issued now is given up: after `floor` and `allowed` seconds. That presumes a
/// rate which `measured` reads have shown. Before the first one nobody knows it, and a read may
/// take 64 floors; each one that lands halves that. Compute takes over what it reaches meanwhile.
constexpr Time read_deadline(Time now, Time floor, double allowed, std::uint32_t measured) {
  constexpr double longest = to_seconds(kLongestRead);
  floor = std::clamp(floor, Time{0}, kLongestRead);
  Time most = floor + from_seconds(allowed > 0 ? std::min(allowed, longest) : 0);
  if (measured < 6) most = std::max(most, floor * (64 >> measured));
  return now + std::min(most, kLongestRead);
}

/// What is known of a lane, or guessed. LinkEstimator takes any values: a rate that is zero, negative
/// or no number means that nothing is known, everything else is brought into a sane range.
///
/// Units: bytes per second, reads; latency is from the call to the first byte, insert from the last
/// byte to resident KV.
struct LinkEstimate {
  double bytes_per_second = 1e9;
  Time latency{0};
  Time insert{0};
  std::uint32_t depth = 2;  // reads at once that it takes to reach that rate,
  double shallower = 0;     // the rate with half as many (0: not known),
  bool settled = false;     // and whether twice as many were no faster, or are too many
  /// Reads that landed and that the rate rests on, at most kSure. 0: nobody measured it, it is a
  /// guess or, after reads that did not come in time, a limit.
  std::uint32_t measured = 0;
  std::uint32_t unused = 0;  // prompts in a row in which no read told anything about it

  static constexpr std::uint32_t kSure = 16;
  friend bool operator==(const LinkEstimate&, const LinkEstimate&) = default;

  /// In the range that arithmetic can stand.
  LinkEstimate checked() const {
    constexpr Time most = std::chrono::hours(1);
    LinkEstimate r = *this;
    if (!(r.bytes_per_second > 0)) {
      r.bytes_per_second = LinkEstimate().bytes_per_second;
      r.measured = 0;
    }
    r.bytes_per_second = std::clamp(r.bytes_per_second, 1.0, 1e15);
    r.latency = std::clamp(r.latency, Time{0}, most);
    r.insert = std::clamp(r.insert, Time{0}, most);
    r.depth = std::clamp(r.depth, 1u, 1024u);
    if (!(r.shallower > 0) || !std::isfinite(r.shallower)) {
      r.shallower = 0;
      r.settled = false;
    }
    r.measured = std::min(r.measured, kSure);
    return r;
  }
};

/// Follows one lane. Reads are taken to be served in the order of issue at one rate, which is what
/// a link or a saturated device does; every landing corrects rate and latency. While the oldest
/// read is overdue the rate is taken to be at most bytes in flight / time since the last landing
/// (or the issue of the oldest), so that a stalled lane looks slower the longer it stalls; a read
/// that is given up leaves that limit behind. One odd read says little: a rate that was measured
/// moves by much only when a second one confirms it.
class LinkEstimator {
 public:
  struct Flight {
    std::uint64_t load = 0;
    std::uint32_t chunk = 0;
    std::uint64_t bytes = 0;
    Time issued{0};
    Time lands{0};  // predicted
  };

  LinkEstimator() = default;
  explicit LinkEstimator(const LinkEstimate& prior) : prior_(prior), rate_(prior.checked()) {}

  /// As known now.
  const LinkEstimate& rate() const { return rate_; }
  /// Whether a read of this session landed or was given up: else nothing is known that was not
  /// known before.
  bool measured() const { return landings_ + given_up_ != 0; }

  /// What the next session should start from, when `known` is what sessions that ended meanwhile
  /// have left: nothing that others measured is lost, and each side counts by its reads.
  LinkEstimate learned(const LinkEstimate& known, Time now) const {
    LinkEstimator end = *this;
    if (end.slowdown(now) > 1) end.limit(now);  // reads that have not come back yet
    LinkEstimate mine = end.rate_;
    if (!end.measured()) {
      LinkEstimate same = known.checked();
      same.unused = std::min(same.unused + 1, 1u << 20);
      return same;
    }
    mine.unused = 0;
    const LinkEstimate others = known.checked();
    if (known == prior_ || others.measured == 0) return mine;
    if (mine.measured == 0) return others;  // they saw it work meanwhile
    const double share =
        std::min(landings_, LinkEstimate::kSure) /
        static_cast<double>(std::min(landings_, LinkEstimate::kSure) + others.measured);
    mine.bytes_per_second =
        1 / (share / mine.bytes_per_second + (1 - share) / others.bytes_per_second);
    mine.latency =
        from_seconds(share * to_seconds(mine.latency) + (1 - share) * to_seconds(others.latency));
    mine.insert =
        from_seconds(share * to_seconds(mine.insert) + (1 - share) * to_seconds(others.insert));
    mine.measured = std::max(mine.measured, others.measured);
    return mine;
  }

  const std::vector<Flight>& in_flight() const { return flights_; }
  std::uint64_t bytes_in_flight() const { return bytes_in_flight_; }
  bool down() const { return down_; }
  void set_down(bool down) { down_ = down; }

  /// Makes room for one more read in flight, so that issue() needs no memory.
  void reserve() {
    if (flights_.size() == flights_.capacity()) flights_.reserve(2 * flights_.size() + 8);
  }
  void issue(std::uint64_t load, std::uint32_t chunk, std::uint64_t bytes, Time now) {
    if (weight_s_ == 0 && rate_.measured != 0) {  // what was known weighs as much as one read
      weight_s_ = std::max(1e-9, static_cast<double>(bytes) / rate_.bytes_per_second);
      weight_bytes_ = weight_s_ * rate_.bytes_per_second;
    }
    link_free_ = std::min(std::max(link_free_, now) + transfer(bytes), kFar);
    if (flights_.empty()) busy_since_ = now;
    flights_.push_back({load, chunk, bytes, now, link_free_ + rate_.latency});
    bytes_in_flight_ += bytes;
  }

  /// A read ended, well or not. Only a good one (`ok`) says something about the rate.
  void landed(std::uint64_t load, bool ok, Time now) {
    const auto flight = find(load);
    if (flight == flights_.end()) return;
    if (ok) {
      learn(*flight, now);
      probe(*flight, now);
    }
    remove(flight, now);
  }

  /// Nobody waits for the read any more: its time was over, or compute was faster. The lane has
  /// carried less than what is in flight, for as long as nothing has landed.
  void given_up(std::uint64_t load, Time now) {
    const auto flight = find(load);
    if (flight == flights_.end()) return;
    if (slowdown(now) > 1) {
      limit(now);
      last_given_up_ = now;
    }
    remove(flight, now);
  }

  /// How long the bytes of one read took from landing to resident KV.
  void inserted(Time took) {
    took = std::clamp(took, Time{0}, Time(std::chrono::hours(1)));
    // A single slow one is not believed before the next.
    const Time said =
        took > rate_.insert ? std::min(took, std::max(last_insert_, rate_.insert)) : took;
    rate_.insert += ((last_insert_ < Time{0} ? took : said) - rate_.insert) / 4;
    last_insert_ = took;
  }

  /// When `more_bytes`, issued now, would be resident.
  Time ready_at(double more_bytes, Time now) const {
    const double slow = slowdown(now);
    const double ahead = slow > 1 ? static_cast<double>(bytes_in_flight_) : 0;
    const Time base = slow > 1 ? now : std::max(link_free_, now);
    return base + transfer((ahead + more_bytes) * slow) + rate_.latency + rate_.insert;
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
    return now + transfer(bytes * slow) + rate_.insert;
  }

  /// Seconds per byte as things stand, for water filling over lanes.
  double seconds_per_byte(Time now) const { return slowdown(now) / rate_.bytes_per_second; }

 private:
  /// Seventy years: some of it added up still fit.
  static constexpr Time kFar = kNever / 4;

  Time transfer(double bytes) const {
    const double s = bytes / rate_.bytes_per_second;
    return s < 2e9 ? Time(static_cast<Time::rep>(s * 1e9)) : kFar;
  }
  Time transfer(std::uint64_t bytes) const { return transfer(static_cast<double>(bytes)); }

  std::vector<Flight>::iterator find(std::uint64_t load) {
    return std::find_if(flights_.begin(), flights_.end(),
                        [&](const Flight& f) { return f.load == load; });
  }
  void remove(std::vector<Flight>::iterator flight, Time now) {
    bytes_in_flight_ -= flight->bytes;
    flights_.erase(flight);
    // Those left have the link to themselves from now on.
    link_free_ = now - std::min(now, rate_.latency);
    for (Flight& f : flights_) {
      link_free_ = std::min(std::max(link_free_, f.issued) + transfer(f.bytes), kFar);
      f.lands = link_free_ + rate_.latency;
    }
  }

  /// 1 while the oldest read is on time; else how many times slower than its rate the lane looks.
  double slowdown(Time now) const {
    if (flights_.empty()) return 1;
    const Flight& oldest = flights_.front();
    const Time grace = oldest.lands - oldest.issued;
    if (now <= oldest.lands || now - oldest.lands <= grace / 4) return 1;
    const double age = to_seconds(now - std::max(oldest.issued, last_landing_));
    return std::max(1.0, age * rate_.bytes_per_second / static_cast<double>(bytes_in_flight_));
  }

  /// Takes the rate that the lane looks to have for a limit. A rate that was measured is not given
  /// up at once, but remembered until the next landing tells which of both is right.
  void limit(Time now) {
    const double slow = slowdown(now);
    if (rate_.measured != 0 && slow > 2) {
      before_ = rate_;
      rate_.measured = 0;
      rate_.bytes_per_second /= std::min(slow, 8.0);
    } else {
      rate_.bytes_per_second /= slow;
    }
    rate_.bytes_per_second = std::max(1.0, rate_.bytes_per_second);
    ++given_up_;
  }

  /// The first landing on a lane of which nothing is known, or only a limit.
  void first_look(double bytes, double took) {
    const double rate = bytes / took;
    const bool back =
        before_.measured != 0 && std::abs(std::log(rate / before_.bytes_per_second)) <
                                     std::abs(std::log(rate / rate_.bytes_per_second));
    weight_bytes_ = weight_s_ = round_bytes_ = round_s_ = 0;
    round_ = 0;
    if (!back) return;
    rate_.bytes_per_second = before_.bytes_per_second;
    rate_.measured = before_.measured;
    weight_bytes_ = bytes;
    weight_s_ = bytes / rate_.bytes_per_second;
  }

  void learn(const Flight& flight, Time now) {
    // The read that found the lane empty waited for the latency as well; for any other one the lane
    // was at work since the last landing.
    const bool first = last_landing_ <= busy_since_;
    double took = to_seconds(now - std::max({last_landing_, busy_since_, last_given_up_}));
    const auto bytes = static_cast<double>(flight.bytes);
    last_landing_ = now;
    ++landings_;
    if (first) {
      rate_.latency = std::min(rate_.latency, now - flight.issued);
      first_took_ = took;
      first_bytes_ = bytes;
      followers_ = 0;
      took -= std::min(rate_.measured != 0 ? took : 0.999 * took, to_seconds(rate_.latency));
    }
    if (rate_.measured == 0) first_look(bytes, std::max(took, 1e-9));
    const double expected = bytes / rate_.bytes_per_second;
    if (rate_.measured != 0) took = std::max(believable(took, expected), 0.01 * expected);
    // Reads at once may land at once: one round of them counts as one.
    const double keep = 1 - 0.6 / rate_.depth;
    weight_bytes_ = keep * weight_bytes_ + bytes;
    weight_s_ = keep * weight_s_ + std::max(took, 1e-12);
    follow_up(bytes, took);
    rate_.bytes_per_second = std::clamp(weight_bytes_ / weight_s_, 1.0, 1e15);
    rate_.measured = std::min(rate_.measured + 1, LinkEstimate::kSure);
    rate_.unused = 0;
    before_.measured = 0;
    // What the first one took beyond its bytes is known once the rate is.
    if (!first && ++followers_ == 4) learn_latency();
  }

  /// A read that took many times what it should counts as one that took some times; when another
  /// one follows soon, both count in full.
  double believable(double took, double expected) {
    const double most = 4 * rate_.depth * expected;
    if (took <= most) {
      if (++since_slow_ > 2 * rate_.depth) held_back_ = 0;
      return took;
    }
    const double before = held_back_;
    held_back_ = took - most;
    since_slow_ = 0;
    return before > 0 ? took + before : most;
  }

  /// Slow reads weigh by their time, so that a lane that has become much faster would be known late
  /// only: some rounds that were much faster are believed.
  void follow_up(double bytes, double took) {
    round_bytes_ += bytes;
    round_s_ += took;
    if (++round_ < std::max(4u, 2 * rate_.depth)) return;
    if (round_bytes_ * weight_s_ > 2.5 * weight_bytes_ * round_s_ && round_s_ > 0) {
      weight_bytes_ = round_bytes_;
      weight_s_ = round_s_;
    }
    round_ = 0;
    round_bytes_ = round_s_ = 0;
  }

  /// The smaller of two excesses: one read that was late for once is no latency.
  void learn_latency() {
    const double excess = std::max(0.0, first_took_ - first_bytes_ / rate_.bytes_per_second);
    const double said = last_excess_ < 0 ? excess : std::min(excess, last_excess_);
    last_excess_ = excess;
    const Time latency = std::min(from_seconds(said), Time(std::chrono::hours(1)));
    rate_.latency += (latency - rate_.latency) / 2;
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
    const double rate = probe_bytes_ / std::max(1e-9, to_seconds(now - probe_began_));
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

  LinkEstimate prior_;
  LinkEstimate rate_;
  LinkEstimate before_;         // what was measured before reads were given up; 0 reads: nothing
  std::uint32_t landings_ = 0;  // of this session,
  std::uint32_t given_up_ = 0;  // and reads of it that were given up late
  std::uint32_t probed_ = 0;    // landings at this depth
  Time probe_began_{0};
  double probe_bytes_ = 0;
  std::vector<Flight> flights_;  // in the order of issue
  std::uint64_t bytes_in_flight_ = 0;
  Time link_free_{0};
  Time last_landing_{-1};
  Time last_given_up_{-1};
  Time last_insert_{-1};
  Time busy_since_{0};           // some read is in flight since then
  double first_took_ = 0;        // the first read of it: seconds,
  double first_bytes_ = 0;       // bytes,
  std::uint32_t followers_ = 0;  // and landings since
  double last_excess_ = -1;      // of the first read before, seconds; none yet: -1
  double weight_bytes_ = 0;
  double weight_s_ = 0;
  double held_back_ = 0;          // seconds of a slow read that were not believed,
  std::uint32_t since_slow_ = 0;  // and landings since
  double round_bytes_ = 0;
  double round_s_ = 0;
  std::uint32_t round_ = 0;  // landings in it
  bool down_ = false;
};

}  // namespace cake::inline CAKE_ABI
