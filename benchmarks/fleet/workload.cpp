// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "benchmarks/fleet/workload.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/scheduler/link_estimator.hpp"
#include "tests/simulation/random.hpp"

namespace cake::benchmarks {

namespace {

using testing::Random;

std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
  return Random(a ^ Random(b).next()).next();
}

/// Draws 0..n-1, k as often as (k + 1) to the power of -s.
class Zipf {
 public:
  Zipf(std::uint32_t n, double s) {
    double sum = 0;
    for (std::uint32_t k = 1; k <= n; ++k) up_to_.push_back(sum += std::pow(k, -s));
  }
  std::uint32_t draw(Random& r) const {
    const double at = r.unit() * up_to_.back();
    const auto found = std::upper_bound(up_to_.begin(), up_to_.end(), at);
    const auto index = static_cast<std::size_t>(found - up_to_.begin());
    return static_cast<std::uint32_t>(std::min(index, up_to_.size() - 1));
  }

 private:
  std::vector<double> up_to_;
};

/// Arrivals of a Poisson process of two states.
class Arrivals {
 public:
  Arrivals(const WorkloadSpec& spec, Random& r)
      : spec_(spec), random_(r), state_ends_(exponential(spec.calm_seconds)) {}
  double next() {
    for (;;) {
      const double gap = exponential(1 / (burst_ ? spec_.burst_rate : spec_.calm_rate));
      if (now_ + gap < state_ends_) return now_ += gap;
      now_ = state_ends_;  // the process has no memory: it begins anew in the other state
      burst_ = !burst_;
      state_ends_ += exponential(burst_ ? spec_.burst_seconds : spec_.calm_seconds);
    }
  }

 private:
  double exponential(double mean) { return -mean * std::log1p(-random_.unit()); }

  const WorkloadSpec& spec_;
  Random& random_;
  double now_ = 0;
  bool burst_ = false;
  double state_ends_;
};

std::uint32_t length(const std::uint32_t (&range)[2], Random& r) {
  return static_cast<std::uint32_t>(r.scale(range[0], range[1]));
}

}  // namespace

std::uint32_t Request::tokens() const {
  std::uint32_t sum = 0;
  for (const Segment& segment : prompt) sum += segment.tokens;
  return sum;
}

std::vector<std::uint64_t> chunk_names(std::span<const Segment> prompt,
                                       std::uint32_t chunk_tokens) {
  std::vector<std::uint64_t> names;
  std::uint64_t name = 0;
  std::uint32_t filled = 0;  // of the chunk
  for (const Segment& segment : prompt) {
    for (std::uint32_t at = 0; at < segment.tokens;) {
      const std::uint32_t taken = std::min(chunk_tokens - filled, segment.tokens - at);
      name = mixed(mixed(name, segment.name), (std::uint64_t{at} << 32) + taken);
      at += taken;
      filled += taken;
      if (filled < chunk_tokens) continue;
      names.push_back(name);
      filled = 0;
    }
  }
  return names;
}

std::vector<Request> make_workload(const WorkloadSpec& spec) {
  Random r(spec.seed);
  Arrivals arrivals(spec, r);
  const Zipf systems(spec.systems, spec.zipf);
  const Zipf documents(spec.documents, spec.zipf);
  std::uint64_t next_name = 0;
  const auto lengths = [&](std::uint32_t n, const std::uint32_t(&range)[2]) {
    std::vector<Segment> all;
    for (std::uint32_t i = 0; i < n; ++i) all.push_back({++next_name, length(range, r)});
    return all;
  };
  const std::vector<Segment> system = lengths(spec.systems, spec.system_tokens);
  const std::vector<Segment> document = lengths(spec.documents, spec.document_tokens);
  std::vector<std::uint32_t> system_of;  // [document]
  for (std::uint32_t i = 0; i < spec.documents; ++i) system_of.push_back(systems.draw(r));
  std::vector<std::vector<Segment>> conversations;  // the newest turn of each, oldest first
  std::vector<Request> all;
  all.reserve(spec.requests);
  while (all.size() < spec.requests) {
    std::vector<Segment> prompt;
    if (!conversations.empty() && r.chance(spec.goes_on)) {
      const auto chosen = r.below(static_cast<std::uint32_t>(conversations.size()));
      prompt = conversations[chosen];
      conversations.erase(conversations.begin() + chosen);
    } else {
      const std::uint32_t chosen = documents.draw(r);
      prompt = {system[system_of[chosen]], document[chosen]};
    }
    prompt.push_back({++next_name, length(spec.turn_tokens, r)});
    conversations.push_back(prompt);
    if (conversations.size() > spec.open_turns) conversations.erase(conversations.begin());
    all.push_back({from_seconds(arrivals.next()), r.below(spec.devices), std::move(prompt)});
  }
  return all;
}

}  // namespace cake::benchmarks
