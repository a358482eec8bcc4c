// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One device of a fleet in virtual time: its prompts, its lanes and its passes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "benchmarks/fleet/fleet.hpp"
#include "benchmarks/fleet/memory_tier.hpp"
#include "benchmarks/fleet/workload.hpp"
#include "cake/detail/lane_order.hpp"
#include "cake/detail/read_table.hpp"
#include "cake/detail/session_core.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/testing/event_queue.hpp"
#include "cake/testing/kv_invariants.hpp"
#include "cake/testing/simulation_spec.hpp"

namespace cake::benchmarks {

/// Carries one read after the other.
struct SerialLink {
  SimulatedLink link;
  Time free{0};
  /// When the bytes are there.
  Time carry(std::uint64_t bytes, Time now) {
    free = link.passed(std::max(free, now), static_cast<double>(bytes));
    return free + link.latency;
  }
};

/// What all devices share.
struct FleetWorld {
  FleetWorld(const FleetSpec& spec_in, const FleetPolicy& policy_in, std::size_t requests)
      : spec(spec_in), policy(policy_in), store{spec.store} {
    result.ttft.assign(requests, kNever);
    stored.insert(spec.stored.begin(), spec.stored.end());
  }

  const FleetSpec& spec;
  const FleetPolicy& policy;
  FleetResult result;
  EventQueue events;
  Time now{0};
  SerialLink store;
  std::unordered_set<std::uint64_t> stored;  // names of chunks

  void fail(const std::string& what) {
    if (result.violation.empty()) {
      result.violation = what + " at " + std::to_string(now.count()) + " ns";
    }
  }
};

class Device {
 public:
  explicit Device(FleetWorld& world);

  /// A request has come.
  void arrive(std::size_t index, const Request& request);
  /// Everybody who could act now does.
  void turn();
  bool idle() const { return queue_.empty() && prompts_.empty(); }

 private:
  /// One prompt's run. Times within it count from `began`.
  struct Prompt {
    explicit Prompt(detail::AnyScheduler scheduler) : core(std::move(scheduler)) {}
    std::size_t index = 0;
    Time arrived{0};
    Time began{0};
    std::uint64_t arrival = 0;         // counts prompts of the device
    std::vector<std::uint64_t> names;  // of its full chunks
    detail::SessionCore core;
    KvInvariantChecker checker;
    std::array<std::uint64_t, kLanes> refused{};  // version at which the lane last got no read
    std::array<std::uint64_t, kLanes> alone{};    // bytes, as LaneDemand
    std::array<std::uint64_t, kLanes> overtaken{};
    std::array<std::uint64_t, kLanes> carried_before{};  // by the lane, when it began
    std::array<std::uint64_t, kLanes> carried{};         // for this prompt
    std::uint64_t asked = 0;  // version at which compute last got no step
    Time ask_again = kNever;  // for one, whatever the version
    bool closed = false;
  };
  using Shared = std::shared_ptr<Prompt>;
  struct Joined {
    Shared prompt;
    detail::ReadTicket ticket;
  };
  struct Read {
    LaneId lane = 0;
    std::uint64_t name = 0;
    Slice slice;
    std::uint64_t bytes = 0;
    Shared owner;                   // whom the lane reads for; null: a prefetch
    std::vector<Joined> wanted_by;  // the owner, and those that have joined
    bool absent = false;            // evicted since the lookup
  };
  struct Lane {
    LinkEstimate known;
    std::uint64_t carried = 0;
    std::vector<std::shared_ptr<Read>> reads;
  };
  struct Pass {
    Shared prompt;
    Step step;
    std::uint32_t layer = 0;  // gated: the next one
    Time waits_since{0};
    bool waiting = false;
  };
  struct Queued {
    std::size_t index = 0;
    const Request* request = nullptr;
    std::vector<std::uint64_t> names;  // of its full chunks,
    std::size_t to_prefetch = 0;       // of which so many, the first ones, were not looked at
  };

  Time since_begin(const Prompt& prompt) const { return world_.now - prompt.began; }
  void at(Time time, EventQueue::Act act);

  void begin_prompts();
  void begin(const Queued& queued);
  PrefillSpec spec_of(const Request& request, const Prompt& prompt) const;
  std::vector<StoredChunk> look_up(const Prompt& prompt);
  void end_prompts();
  void end(const Shared& prompt);
  void teach(const Prompt& prompt);

  bool serve(LaneId id);
  detail::LaneLoad take_demands(LaneId id);
  Shared next_to_ask(LaneId id);
  bool busy_for_others(const Lane& lane, const Prompt& prompt) const;
  std::uint64_t ahead(const Prompt& prompt, LaneId id);
  std::optional<detail::ReadTicket> ask(Prompt& prompt, LaneId id);
  void begin_read(const Shared& prompt, LaneId id, const detail::ReadTicket& ticket);
  void put_on_lane(const std::shared_ptr<Read>& read);
  bool prefetch();
  std::optional<Slice> next_to_prefetch(Queued& queued);
  void invite_to_all(const Shared& prompt);
  void join(Read& read, const Shared& prompt);
  void read_done(const std::shared_ptr<Read>& read);
  void land(const Joined& joined, bool absent);

  std::uint32_t left_to_compute(const Prompt& prompt) const;
  std::vector<Shared> by_turn() const;
  bool compute();
  void start(const Shared& prompt, const Step& step);
  void poke_gate();
  void end_pass(std::uint32_t tokens);
  Time duration(const Pass& pass) const;
  void wake_lanes();
  void plan_wake();

  FleetWorld& world_;
  MemoryTier memory_;
  SerialLink memory_link_;
  std::deque<Queued> queue_;
  std::vector<Shared> prompts_;  // by arrival
  std::array<Lane, kLanes> lanes_;
  std::vector<detail::LaneDemand> demands_;  // [prompt] of the lane that is asked for
  std::vector<std::uint64_t> left_;          // [prompt] bytes, whatever the order of lanes
  std::optional<Pass> pass_;
  std::uint64_t free_staging_;
  std::uint64_t arrivals_ = 0;
  std::uint64_t chunk_bytes_;
  Time wake_at_ = kNever;
};

}  // namespace cake::benchmarks
