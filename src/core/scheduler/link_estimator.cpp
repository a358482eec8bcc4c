// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/link_estimator.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "cake/detail/planner/tuning.hpp"

namespace cake::inline CAKE_ABI {

using detail::kLinkTuning;

LinkEstimate LinkEstimator::learned(const LinkEstimate& known, Time now) const {
  LinkEstimator end = *this;
  if (!flights_.empty() && flights_.front().begun && end.slowdown(now) > 1)
    end.limit(now);  // reads that have not come back yet
  LinkEstimate mine = end.rate_;
  if (!end.measured()) {
    LinkEstimate same = known.checked();
    same.unused = std::min(same.unused + 1, 1u << 20);
    return same;
  }
  mine.unused = 0;
  mine.bytes_per_second = std::min(mine.bytes_per_second / share(), 1e15);
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
  mine.insert_per_byte = share * mine.insert_per_byte + (1 - share) * others.insert_per_byte;
  mine.measured = std::max(mine.measured, others.measured);
  return mine;
}

/// Of what the lane carried, the part that this prompt got. 1: it had the lane alone.
double LinkEstimator::share() const {
  return weight_others_ > 0 ? weight_bytes_ / (weight_bytes_ + weight_others_) : 1;
}

Time LinkEstimator::carries_until(std::uint64_t bytes, Time now) const {
  if (bytes == 0) return Time{0};
  return std::min(now + transfer(share() * static_cast<double>(bytes)), kFar);
}

void LinkEstimator::reserve() {
  if (flights_.size() == flights_.capacity()) flights_.reserve(2 * flights_.size() + 8);
}

void LinkEstimator::issue(std::uint64_t load, std::uint32_t chunk, std::uint64_t bytes, Time now) {
  if (weight_s_ == 0 && rate_.measured != 0) {  // what was known weighs as much as one read
    const double read = std::max(unit_, static_cast<double>(bytes));
    weight_s_ = std::max(1e-9, read / rate_.bytes_per_second);
    weight_bytes_ = weight_s_ * rate_.bytes_per_second;
  }
  put_on_link({load, chunk, bytes, now}, now);
}

/// In front of those that wait for memory.
void LinkEstimator::put_on_link(const Flight& flight, Time now) {
  const auto at =
      std::find_if(flights_.begin(), flights_.end(), [](const Flight& f) { return !f.begun; });
  if (at == flights_.begin()) {
    busy_since_ = now;
    others_before_ = others_;
  }
  const bool at_once = at == flights_.begin() || std::prev(at)->lands <= now + rate_.latency;
  bytes_in_flight_ += flight.bytes;
  const auto put = flights_.insert(at, flight);
  put->at_once = at_once;
  serve(put, now);
}

void LinkEstimator::held_up(std::uint64_t load) {
  const auto flight = find(load);
  if (flight != flights_.end()) flight->begun = false;
}

void LinkEstimator::begun(std::uint64_t load, Time now) {
  const auto flight = find(load);
  if (flight == flights_.end() || flight->begun) return;
  const Flight read{flight->load, flight->chunk, flight->bytes, now};
  remove(flight, false, now);
  put_on_link(read, now);
}

void LinkEstimator::landed(std::uint64_t load, bool ok, Time now) {
  const auto flight = find(load);
  if (flight == flights_.end()) return;
  if (ok) {
    learn(*flight, now);
    probe(*flight, now);
  }
  if (!ok && flight == flights_.begin()) {
    last_failed_ = now;
    others_before_ = others_;
  }
  remove(flight, ok, now);
}

void LinkEstimator::given_up(std::uint64_t load, Time now) {
  const auto flight = find(load);
  if (flight == flights_.end()) return;
  if (flights_.front().begun && slowdown(now) > 1) {
    limit(now);
    last_given_up_ = now;
    others_before_ = others_;
  }
  remove(flight, false, now);
}

/// Corrects both parts by the error of their sum, each by its share in it: large reads say what a byte
/// takes, small ones what each insert does. A single slow one is not believed before the next.
void LinkEstimator::inserted(Time took, std::uint64_t bytes) {
  const double seconds = to_seconds(std::clamp(took, Time{0}, Time(std::chrono::hours(1))));
  const double expected = to_seconds(insert_of(static_cast<double>(bytes)));
  const double said =
      last_insert_ < 0 ? seconds : std::min(seconds, std::max(last_insert_, expected));
  const bool unknown = rate_.insert_per_byte == 0 && rate_.insert == Time{0} && unit_ > 0;
  const double error = (said - expected) / (unknown ? 1 : kLinkTuning.insert_divisor);
  const double part = unit_ > 0 ? unit_ / kLinkTuning.insert_unit : 1;
  const double x = unit_ > 0 ? static_cast<double>(bytes) / part : 0;
  rate_.insert = std::max(Time{0}, rate_.insert + from_seconds(error / (1 + x * x)));
  rate_.insert_per_byte = std::max(0.0, rate_.insert_per_byte + error * x / (1 + x * x) / part);
  last_insert_ = seconds;
}

Time LinkEstimator::drained_at(Time now) const {
  return flights_.empty() ? now : resident_at(flights_.back(), now);
}

Time LinkEstimator::resident_at(const Flight& flight, Time now) const {
  const double slow = slowdown(now);
  const Time insert = insert_of(static_cast<double>(flight.bytes));
  if (slow <= 1) return std::max(flight.lands, now) + insert;
  double bytes = 0;
  for (const Flight& f : flights_) {
    bytes += static_cast<double>(f.bytes);
    if (f.load == flight.load) break;
  }
  return now + transfer(bytes * slow) + insert;
}

std::vector<LinkEstimator::Flight>::iterator LinkEstimator::find(std::uint64_t load) {
  return std::find_if(flights_.begin(), flights_.end(),
                      [&](const Flight& f) { return f.load == load; });
}

/// Those behind it come the earlier. Those before it wait for it only where it `landed`: then it was
/// served first after all.
void LinkEstimator::remove(std::vector<Flight>::iterator flight, bool landed, Time now) {
  bytes_in_flight_ -= flight->bytes;
  const auto next = flights_.erase(flight);
  serve(landed ? flights_.begin() : next, now);
}

/// When this read and those behind it land, served one after the other.
void LinkEstimator::serve(std::vector<Flight>::iterator next, Time now) {
  const Time free_at = next == flights_.begin() ? now : std::prev(next)->lands;
  link_free_ = free_at - std::min(free_at, rate_.latency);
  for (; next != flights_.end(); ++next) {
    link_free_ = std::min(std::max(link_free_, next->issued) + transfer(next->bytes), kFar);
    next->lands = link_free_ + rate_.latency;
  }
}

/// As slowdown(), once the oldest read should have landed.
double LinkEstimator::late(Time now) const {
  const Flight& oldest = flights_.front();
  const Time grace = oldest.lands - oldest.issued;
  if (now - oldest.lands <= std::max(grace / kLinkTuning.grace_divisor, lateness_)) return 1;
  const double age = to_seconds(now - std::max({oldest.issued, last_landing_, last_failed_}));
  return std::max(1.0, age * rate_.bytes_per_second / static_cast<double>(bytes_in_flight_));
}

/// As ready_at(), once the oldest read should have landed.
Time LinkEstimator::late_ready_at(double more_bytes, Time now) const {
  const double slow = late(now);
  const double ahead = slow > 1 ? static_cast<double>(bytes_in_flight_) : 0;
  const Time base = slow > 1 ? now : std::max(link_free_, now);
  return base + transfer((ahead + more_bytes) * slow) + rate_.latency + insert_of(more_bytes);
}

/// Takes the rate that the lane looks to have for a limit. A rate that was measured is not given
/// up at once, but remembered until the next landing tells which of both is right.
void LinkEstimator::limit(Time now) {
  const double slow = slowdown(now);
  if (rate_.measured != 0 && slow > kLinkTuning.remember_slowdown) {
    before_ = rate_;
    rate_.measured = 0;
    rate_.bytes_per_second /= std::min(slow, kLinkTuning.most_slowdown);
  } else {
    rate_.bytes_per_second /= slow;
  }
  rate_.bytes_per_second = std::max(1.0, rate_.bytes_per_second);
  ++given_up_;
}

/// The first landing on a lane of which nothing is known, or only a limit.
void LinkEstimator::first_look(double bytes, double took) {
  const double rate = bytes / took;
  const bool back = before_.measured != 0 && std::abs(std::log(rate / before_.bytes_per_second)) <
                                                 std::abs(std::log(rate / rate_.bytes_per_second));
  weight_bytes_ = weight_s_ = weight_others_ = round_bytes_ = round_s_ = round_others_ = 0;
  round_ = 0;
  if (!back) return;
  rate_.bytes_per_second = before_.bytes_per_second;
  rate_.measured = before_.measured;
  weight_bytes_ = bytes;
  weight_s_ = bytes / rate_.bytes_per_second;
}

void LinkEstimator::learn(const Flight& flight, Time now) {
  // The read that found the lane empty waited for the latency as well; for any other one the lane
  // was at work since the last landing.
  const bool first = last_landing_ <= busy_since_ && last_failed_ <= busy_since_;
  const Time since = std::max({last_landing_, busy_since_, last_given_up_});
  const auto bytes = static_cast<double>(flight.bytes);
  last_others_ = static_cast<double>(others_ - others_before_);
  others_before_ = others_;
  rate_.latency = std::min(rate_.latency, now - flight.issued);
  const bool idled = !first && flight.at_once;  // the link had nothing to carry before
  const Time from = idled ? std::max(since, flight.issued + rate_.latency) : since;
  double took = to_seconds(std::max(now - from, Time{0}));
  if (last_failed_ > since) {
    // How long the lane was at the failed one, nobody knows: as long as fits what is known.
    took = std::min(took, std::max(bytes / rate_.bytes_per_second, to_seconds(now - last_failed_)));
  }
  last_landing_ = now;
  ++landings_;
  if (first) {
    first_took_ = took;
    first_bytes_ = bytes;
    followers_ = 0;
    took -= std::min(rate_.measured != 0 ? took : 0.999 * took, to_seconds(rate_.latency));
  }
  if (rate_.measured == 0) first_look(bytes, std::max(took, 1e-9));
  const double expected = bytes / rate_.bytes_per_second;
  if (rate_.measured != 0) {
    const double believed = believable(took, expected);
    if (believed < took) last_others_ *= believed / took;
    took = std::max(believed, kLinkTuning.least_share * expected);
  }
  // Reads at once may land at once: one round of them counts as one.
  const double part = unit_ > bytes ? bytes / unit_ : 1;
  const double keep = 1 - part * kLinkTuning.fade / rate_.depth;
  weight_bytes_ = keep * weight_bytes_ + bytes;
  weight_s_ = keep * weight_s_ + std::max(took, 1e-12);
  weight_others_ = keep * weight_others_ + last_others_;
  follow_up(bytes, took);
  rate_.bytes_per_second = std::clamp(weight_bytes_ / weight_s_, 1.0, 1e15);
  rate_.measured = std::min(rate_.measured + 1, LinkEstimate::kSure);
  rate_.unused = 0;
  before_.measured = 0;
  // What the first one took beyond its bytes is known once the rate is.
  if (!first && ++followers_ == kLinkTuning.latency_followers) learn_latency();
}

/// A read that took many times what it should counts as one that took some times; when another
/// one follows soon, both count in full.
double LinkEstimator::believable(double took, double expected) {
  const double most = kLinkTuning.most_believed * rate_.depth * expected;
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
void LinkEstimator::follow_up(double bytes, double took) {
  round_bytes_ += bytes;
  round_s_ += took;
  round_others_ += last_others_;
  if (++round_ < std::max(kLinkTuning.round_landings, 2 * rate_.depth)) return;
  if (round_bytes_ < unit_) return;  // a moment in which some small reads landed at once
  if (round_bytes_ * weight_s_ > kLinkTuning.faster_round * weight_bytes_ * round_s_ &&
      round_s_ > 0) {
    weight_bytes_ = round_bytes_;
    weight_s_ = round_s_;
    weight_others_ = round_others_;
  }
  round_ = 0;
  round_bytes_ = round_s_ = round_others_ = 0;
}

/// The smaller of two excesses: one read that was late for once is no latency. Threads that are not run
/// only ever add to it, so that less is believed at once, and a little more not soon.
void LinkEstimator::learn_latency() {
  const double excess = std::max(0.0, first_took_ - first_bytes_ / rate_.bytes_per_second);
  const double said = last_excess_ < 0 ? excess : std::min(excess, last_excess_);
  last_excess_ = excess;
  const Time latency = std::min(from_seconds(said), Time(std::chrono::hours(1)));
  const Time more = latency - rate_.latency;
  const bool noise = lateness_ > Time{0} && prior_.measured != 0 && more < lateness_;
  rate_.latency += noise ? (more < Time{0} ? more : more / 8) : more / 2;
}

/// One link is as fast with two reads as with ten; a device or a pool of threads may not be.
/// While twice as many reads at once make the whole faster by a tenth, there are twice as many;
/// a rate that has doubled or halved since is looked into again.
void LinkEstimator::probe(const Flight& flight, Time now) {
  if (rate_.settled) {
    const double change = rate_.bytes_per_second / rate_.shallower;
    if (change > kLinkTuning.unsettle_below && change < kLinkTuning.unsettle_above) return;
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
  probe_bytes_ += static_cast<double>(flight.bytes) + last_others_;
  if (probed_ <= 2 * rate_.depth) return;  // reads that began together land together: two rounds
  const double rate = probe_bytes_ / std::max(1e-9, to_seconds(now - probe_began_));
  probed_ = 0;
  const bool faster = rate > kLinkTuning.deeper_gain * rate_.shallower;
  rate_.settled = !faster || rate_.depth >= kLinkTuning.most_depth;
  if (!rate_.settled) {
    rate_.depth *= 2;
  } else if (!faster) {
    rate_.depth = std::max(2u, rate_.depth / 2);
  }
  rate_.shallower = rate;
}

}  // namespace cake::inline CAKE_ABI
