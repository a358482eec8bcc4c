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

#include "cake/export.hpp"
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

/// When a read that is issued now is given up: after `floor` and `allowed`. That presumes a
/// rate which `measured` reads have shown. Before the first one nobody knows it, and a read may
/// take 64 floors; each one that lands halves that. Compute takes over what it reaches meanwhile.
constexpr Time read_deadline(Time now, Time floor, Time allowed, std::uint32_t measured) {
  constexpr Time none{0};
  constexpr Time longest = kLongestRead;
  floor = floor < none ? none : floor < longest ? floor : longest;
  allowed = allowed < none ? none : allowed < longest ? allowed : longest;
  Time most = floor + allowed;
  if (measured < 6) most = std::max(most, floor * (64 >> measured));
  return now + (most < longest ? most : longest);
}
/// The same, `allowed` in seconds.
constexpr Time read_deadline(Time now, Time floor, double allowed, std::uint32_t measured) {
  constexpr double longest = to_seconds(kLongestRead);
  const double seconds = allowed > 0 ? (allowed < longest ? allowed : longest) : 0;
  return read_deadline(now, floor, Time(static_cast<Time::rep>(seconds * 1e9)), measured);
}

/// What is known of a lane, or guessed. LinkEstimator takes any values: a rate that is zero, negative
/// or no number means that nothing is known, everything else is brought into a sane range.
///
/// Units: bytes per second, reads; latency is from the call to the first byte. From the last byte to
/// resident KV it takes insert, and insert_per_byte seconds for each byte of the read.
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
  double insert_per_byte = 0;

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
    if (!(r.insert_per_byte > 0)) r.insert_per_byte = 0;
    r.insert_per_byte = std::min(r.insert_per_byte, 1.0);
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
class CAKE_API LinkEstimator {
 public:
  struct Flight {
    std::uint64_t load = 0;
    std::uint32_t chunk = 0;
    std::uint64_t bytes = 0;
    Time issued{0};
    Time lands{0};         // predicted
    bool at_once = false;  // the link had nothing else to carry when it was issued
    bool begun = true;     // else memory for it is being made: it is not on the link
  };

  LinkEstimator() = default;
  explicit LinkEstimator(const LinkEstimate& prior) : rate_(prior.checked()), prior_(prior) {}

  /// Times are those of a real machine: a read may be late by `lateness` because its thread was not run,
  /// reads of fewer than `unit` bytes count as the part of a read that they are, and an insert takes the
  /// longer the more bytes it has. Without this every moment and every read counts, and all inserts take
  /// as long, as is right in virtual time.
  void set_noise(Time lateness, std::uint64_t unit) {
    lateness_ = lateness;
    unit_ = static_cast<double>(unit);
  }

  /// Bytes that the lane has carried for other prompts, counted from some moment on. They count for what
  /// the lane is worth to all (learned()), not for what this prompt gets of it (rate()).
  void set_carried_for_others(std::uint64_t bytes) { others_ = std::max(others_, bytes); }
  /// The lane carries this many bytes for other prompts first, as far as is known at `now`.
  void set_ahead(std::uint64_t bytes, Time now) { others_until_ = carries_until(bytes, now); }
  /// When it will have carried so many.
  Time carries_until(std::uint64_t bytes, Time now) const;
  /// When it will have carried those that it carries first.
  Time others_until() const { return others_until_; }

  /// As known now; what this prompt gets while others use the lane as well.
  const LinkEstimate& rate() const { return rate_; }
  /// Whether a read of this session landed or was given up: else nothing is known that was not
  /// known before.
  bool measured() const { return landings_ + given_up_ != 0; }

  /// What the next session should start from, when `known` is what sessions that ended meanwhile
  /// have left: nothing that others measured is lost, and each side counts by its reads.
  LinkEstimate learned(const LinkEstimate& known, Time now) const;

  const std::vector<Flight>& in_flight() const { return flights_; }
  std::uint64_t bytes_in_flight() const { return bytes_in_flight_; }
  bool down() const { return down_; }
  void set_down(bool down) { down_ = down; }

  /// Makes room for one more read in flight, so that issue() needs no memory.
  void reserve();
  void issue(std::uint64_t load, std::uint32_t chunk, std::uint64_t bytes, Time now);

  /// The read has to wait for memory to be made; until it has begun() its time says nothing about the lane.
  void held_up(std::uint64_t load);
  /// It has its memory and is on the link now, behind those that are there.
  void begun(std::uint64_t load, Time now);

  /// A read ended, well or not. Only a good one (`ok`) says something about the rate.
  void landed(std::uint64_t load, bool ok, Time now);

  /// Nobody waits for the read any more: its time was over, or compute was faster. The lane has
  /// carried less than what is in flight, for as long as nothing has landed.
  void given_up(std::uint64_t load, Time now);

  /// How long the bytes of one read took from landing to resident KV.
  void inserted(Time took, std::uint64_t bytes);

  /// From the last byte of a read of so many bytes to resident KV.
  Time insert_of(double bytes) const {
    return rate_.insert + from_seconds(rate_.insert_per_byte * bytes);
  }

  /// When `more_bytes`, issued now, would be resident.
  Time ready_at(double more_bytes, Time now) const {
    if (!on_time(now)) return late_ready_at(more_bytes, now);
    return std::max({link_free_, others_until_, now}) + transfer(more_bytes) + rate_.latency +
           insert_of(more_bytes);
  }

  /// When the bytes on the link will be resident; `now` when there are none.
  Time drained_at(Time now) const;

  /// When one read will be resident.
  Time resident_at(const Flight& flight, Time now) const;

  /// Seconds per byte as things stand, for water filling over lanes.
  double seconds_per_byte(Time now) const { return slowdown(now) / rate_.bytes_per_second; }

  /// 1 while the oldest read is on time; else how many times slower than its rate the lane looks.
  double slowdown(Time now) const { return on_time(now) ? 1 : late(now); }

 private:
  /// Seventy years: some of it added up still fit.
  static constexpr Time kFar = kNever / 4;

  Time transfer(double bytes) const {
    const double s = bytes / rate_.bytes_per_second;
    return s < 2e9 ? Time(static_cast<Time::rep>(s * 1e9)) : kFar;
  }
  Time transfer(std::uint64_t bytes) const { return transfer(static_cast<double>(bytes)); }

  std::vector<Flight>::iterator find(std::uint64_t load);
  void put_on_link(const Flight& flight, Time now);
  void serve(std::vector<Flight>::iterator next, Time now);
  void remove(std::vector<Flight>::iterator flight, bool landed, Time now);
  bool on_time(Time now) const { return flights_.empty() || now <= flights_.front().lands; }
  double late(Time now) const;
  Time late_ready_at(double more_bytes, Time now) const;
  void limit(Time now);
  void first_look(double bytes, double took);
  void learn(const Flight& flight, Time now);
  double believable(double took, double expected);
  void follow_up(double bytes, double took);
  void learn_latency();
  void probe(const Flight& flight, Time now);
  double share() const;

  // What schedulers look at with every decision lies together.
  LinkEstimate rate_;
  std::vector<Flight> flights_;  // in the order of issue, those that wait for memory last
  std::uint64_t bytes_in_flight_ = 0;
  Time link_free_{0};
  Time others_until_{0};
  bool down_ = false;

  Time lateness_{0};
  double unit_ = 0;  // bytes
  LinkEstimate prior_;
  LinkEstimate before_;         // what was measured before reads were given up; 0 reads: nothing
  std::uint32_t landings_ = 0;  // of this session,
  std::uint32_t given_up_ = 0;  // and reads of it that were given up late
  std::uint32_t probed_ = 0;    // landings at this depth
  Time probe_began_{0};
  double probe_bytes_ = 0;
  Time last_landing_{-1};
  Time last_given_up_{-1};
  Time last_failed_{-1};         // a read that was the oldest one then
  double last_insert_ = -1;      // of what was expected; none yet: -1
  Time busy_since_{0};           // some read is in flight since then
  double first_took_ = 0;        // the first read of it: seconds,
  double first_bytes_ = 0;       // bytes,
  std::uint32_t followers_ = 0;  // and landings since
  double last_excess_ = -1;      // of the first read before, seconds; none yet: -1
  double weight_bytes_ = 0;
  double weight_s_ = 0;
  std::uint64_t others_ = 0;         // bytes that the lane has carried for others,
  std::uint64_t others_before_ = 0;  // by the moment since which the next landing counts,
  double last_others_ = 0;           // with the last landing,
  double weight_others_ = 0;         // and beside weight_bytes_
  double held_back_ = 0;             // seconds of a slow read that were not believed,
  std::uint32_t since_slow_ = 0;     // and landings since
  double round_bytes_ = 0;
  double round_s_ = 0;
  double round_others_ = 0;
  std::uint32_t round_ = 0;  // landings in it
};

}  // namespace cake::inline CAKE_ABI
