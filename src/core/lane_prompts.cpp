// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Whom a lane reads for next, when several sessions want some of it.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "cake/detail/lane_order.hpp"
#include "src/core/io_lanes_inside.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// A read that takes so many times what it should is overdue, and at the earliest after the second.
constexpr int kOverdue = 4;
constexpr Time kOverdueFloor = std::chrono::milliseconds(20);

/// As SessionCore::has_room() for one session: bytes in flight cover the latency so many times, and the
/// newest read so many times.
constexpr double kWindowLatencies = 2;
constexpr double kWindowReads = 1.5;

}  // namespace

LaneLoad IoLanesCore::Inside::take_demands(LaneId id) noexcept {
  LaneLoad load{lanes[id].known.bytes_per_second, 0, 0};
  demands.clear();  // there is room for one of each client
  for (const auto& session : clients) {
    const LaneClient& client = *session->client;
    const Waited& waited = session->waited[id];
    demands.push_back({session->arrival, client.left_to_load(id), waited.alone, waited.overtaken,
                       client.load_by()});
    load.all_left += demands.back().left;
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
  Attached* first = nullptr;  // of those that may have a read
  LanePlace best;
  LanePlace best_of_all;
  bool any = false;
  for (std::size_t i = 0; i < clients.size(); ++i) {
    const bool asks = may_have_read(*clients[i], id);
    if (!asks && demands[i].left == 0) continue;
    const LanePlace place = place_of(demands[i], load, now);
    if (!any || place.before(best_of_all)) best_of_all = place;
    any = true;
    if (!asks || (first != nullptr && !place.before(best))) continue;
    first = clients[i].get();
    best = place;
  }
  if (first == nullptr || !best_of_all.before(best)) return first;
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
  std::uint32_t reads = 0;
  bool others = false;
  std::uint64_t newest = 0;
  Time until = kNever;
  bytes = 0;
  for (const Active& a : lane.active) {
    if (!a.reading || now - a.since >= most) continue;
    ++reads;
    bytes += a.ticket.bytes;
    newest = a.ticket.bytes;
    others = others || a.client.get() != &client;
    until = std::min(until, a.since + most);
  }
  const double window = kWindowLatencies * known.bytes_per_second * to_seconds(known.latency) +
                        kWindowReads * static_cast<double>(newest);
  if (!others || reads < known.depth || static_cast<double>(bytes) < window) return std::nullopt;
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

}  // namespace cake::inline CAKE_ABI::detail
