// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Whom a lane reads for next, when several sessions want some of it, and what an engine is told of that.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cake/detail/lane_order.hpp"
#include "cake/queued.hpp"
#include "src/core/io_lanes_inside.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// A read that takes so many times what it should is overdue, and at the earliest after the second.
constexpr int kOverdue = 4;
constexpr Time kOverdueFloor = std::chrono::milliseconds(20);
/// What waits in the background looks so often whether others want nothing more.
constexpr Time kBackgroundPoll = std::chrono::milliseconds(10);

}  // namespace

LaneLoad IoLanesCore::Inside::take_demands(LaneId id) noexcept {
  LaneLoad load{lanes[id].known.bytes_per_second, 0, 0};
  demands.clear();  // there is room for one of each client
  for (const auto& session : clients) {
    const LaneClient& client = *session->client;
    const Waited& waited = session->waited[id];
    demands.push_back({session->arrival, client.left_to_load(id), waited.alone, waited.overtaken,
                       client.load_by(), client.in_background()});
    if (!demands.back().background) load.all_left += demands.back().left;
    load.read = std::max(load.read, client.largest_read());
  }
  return load;
}

IoLanesCore::Inside::Attached* IoLanesCore::Inside::next_to_ask(LaneId id, Time* until) noexcept {
  if (until != nullptr) *until = kNever;
  if (clients.size() == 1) {
    return may_have_read(*clients.front(), id) ? clients.front().get() : nullptr;
  }
  const LaneLoad load = take_demands(id);
  const Time now = steady_now();
  const LaneChoice choice = detail::next_to_ask(
      demands, load, now, [&](std::size_t i) { return may_have_read(*clients[i], id); });
  if (!choice.first) return nullptr;
  Attached* const first = clients[*choice.first].get();
  if (demands[*choice.first].background) {
    const std::vector<Active>& active = lanes[id].active;
    const bool for_others = std::any_of(active.begin(), active.end(), [](const Active& a) {
      return a.reading && !a.client->in_background();
    });
    if (!choice.others_before && !for_others) return first;
    if (until != nullptr) *until = now + kBackgroundPoll;
    return nullptr;
  }
  if (!choice.others_before) return first;
  const auto busy = busy_for_others(lanes[id], *first->client, now);
  if (busy && until != nullptr) *until = *busy;
  return busy ? nullptr : first;
}

std::optional<Time> IoLanesCore::Inside::busy_for_others(const Lane& lane, const LaneClient& client,
                                                         Time now) const {
  // Such lanes have no link of their own, or look themselves how many reads are open.
  if (lane.lends || lane.by_threads) return std::nullopt;
  std::uint64_t bytes = 0;
  for (const Active& a : lane.active) bytes += a.ticket.bytes;
  const LinkEstimate& known = lane.known;
  const double takes =
      to_seconds(known.latency) + static_cast<double>(bytes) / known.bytes_per_second;
  const Time most = std::max(kOverdueFloor, from_seconds(kOverdue * takes));
  LaneFlight flight;
  bool others = false;
  Time until = kNever;
  for (const Active& a : lane.active) {
    if (!a.reading || now - a.since >= most) continue;
    ++flight.reads;
    flight.bytes += a.ticket.bytes;
    flight.newest = a.ticket.bytes;
    others = others || a.client.get() != &client;
    until = std::min(until, a.since + most);
  }
  if (!others || !keeps_busy(flight, known)) return std::nullopt;
  return until;
}

void IoLanesCore::Inside::note_overtaken(LaneId id, const Attached& session,
                                         std::uint64_t bytes) noexcept {
  for (const auto& other : clients) {
    if (other->arrival < session.arrival && may_have_read(*other, id)) {
      other->waited[id].overtaken += bytes;
    }
  }
}

std::uint64_t IoLanesCore::Inside::ahead(const LaneClient& client, LaneId id) noexcept {
  if (!several.load(std::memory_order_relaxed)) return 0;
  const std::lock_guard lock(mutex);
  const auto own = find(client);
  if (own == clients.end()) return 0;
  const LaneLoad load = take_demands(id);
  return bytes_ahead(demands, static_cast<std::size_t>(own - clients.begin()), load, steady_now());
}

LanesState IoLanesCore::state() const {
  LanesState state;
  const std::vector<LinkEstimate> rates = inside_->rates();
  const std::lock_guard lock(inside_->mutex);
  state.staging_bytes = inside_->pool.budget();
  state.free_staging_bytes = inside_->pool.room();
  state.lanes.resize(inside_->lanes.size());
  for (LaneId l = 0; l < state.lanes.size(); ++l) {
    LaneState& lane = state.lanes[l];
    lane.rate = rates[l];
    lane.lends = inside_->lanes[l].lends;
    for (const Inside::Active& a : inside_->lanes[l].active) {
      if (a.reading) lane.in_flight += a.ticket.bytes;
    }
    for (const auto& session : inside_->clients) {
      if (session->client->in_background()) continue;
      lane.left.push_back(session->client->left_to_load(l));
    }
    state.prompts = lane.left.size();
  }
  return state;
}

}  // namespace cake::inline CAKE_ABI::detail
