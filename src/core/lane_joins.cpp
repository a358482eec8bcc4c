// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reads whose bytes several sessions want: prompts with a common prefix.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "src/core/io_lanes_inside.hpp"

namespace cake::inline CAKE_ABI::detail {

void IoLanesCore::Inside::invite(LaneId id, const Job& job) noexcept {
  if (!several.load(std::memory_order_relaxed) || job.client->keeps_bytes()) return;
  const auto others = value_or(
      [&] {
        const std::lock_guard lock(mutex);
        std::vector<std::shared_ptr<LaneClient>> all;
        all.reserve(clients.size());
        for (const auto& session : clients) {
          if (session->client != job.client) all.push_back(session->client);
        }
        return all;
      },
      std::vector<std::shared_ptr<LaneClient>>());
  for (const std::shared_ptr<LaneClient>& other : others) {
    const std::optional<ReadTicket> read = other->join(job.read);
    if (read) join(id, *job.client, job.read.id, {other, *read});
  }
}

void IoLanesCore::Inside::invite_to_all(const std::shared_ptr<LaneClient>& client) noexcept {
  if (!several.load(std::memory_order_relaxed) || client->keeps_bytes()) return;
  for (LaneId l = 0; l < lanes.size(); ++l) {
    const auto under_way = value_or(
        [&] {
          const std::lock_guard lock(mutex);
          std::vector<Joined> all;
          all.reserve(lanes[l].active.size());
          for (Active& a : lanes[l].active) {
            if (a.joinable && a.reading && a.client != client && wanted(a)) {
              ++a.invited;
              all.push_back({a.client, a.ticket});
            }
          }
          return all;
        },
        std::vector<Joined>());
    for (const Joined& reader : under_way) {
      const std::optional<ReadTicket> read = client->join(reader.read);
      if (read) join(l, *reader.client, reader.read.id, {client, *read});
      const std::lock_guard lock(mutex);
      Active* const active = find_active(l, *reader.client, reader.read.id);
      if (active != nullptr && --active->invited == 0) answered.notify_all();
    }
  }
}

/// A session may have claimed the same bytes itself: as long as no thread has begun to read them for it, it
/// joins with that claim.
void IoLanesCore::Inside::join(LaneId id, const LaneClient& reader, std::uint64_t read,
                               const Joined& joins) noexcept {
  const bool joined = value_or(
      [&] {
        const std::lock_guard lock(mutex);
        if (!joins.read.joined && find_active(id, *joins.client, joins.read.id)) return true;
        Active* const active = find_active(id, reader, read);
        if (active == nullptr || !active->joinable) return !joins.read.joined;
        active->joined.push_back(joins);
        return true;
      },
      !joins.read.joined);
  if (!joined) hand_back(joins);
}

/// The other way: bytes that a session has just claimed are being read for another one, or were meanwhile. That
/// one may have left since, while its thread still hands them over.
bool IoLanesCore::Inside::join_under_way(Lane& lane, const std::shared_ptr<LaneClient>& client,
                                         const ReadTicket& read) noexcept {
  if (client->keeps_bytes()) return false;
  if (!client->wanted(read.id)) return true;
  for (Active& a : lane.active) {
    if (a.client == client) continue;
    for (const Joined& j : a.joined) {
      if (j.client == client && j.read.id == read.id) return true;
    }
    const bool same = a.joinable && a.reading && a.ticket.key == read.key &&
                      a.ticket.offset == read.offset && a.ticket.bytes == read.bytes;
    if (!same || !wanted(a)) continue;
    return value_or(
        [&] {
          a.joined.push_back({client, read});
          return true;
        },
        false);
  }
  return false;
}

IoLanesCore::Inside::Active* IoLanesCore::Inside::find_active(LaneId id, const LaneClient& client,
                                                              std::uint64_t read) noexcept {
  std::vector<Active>& active = lanes[id].active;
  const auto found = std::find_if(active.begin(), active.end(), [&](const Active& a) {
    return a.client.get() == &client && a.read == read && a.part == kWhole;
  });
  return found == active.end() ? nullptr : &*found;
}

std::span<const IoLanesCore::Inside::Joined> IoLanesCore::Inside::end_joining(
    LaneId id, const Job& job, bool reading) noexcept {
  std::unique_lock lock(mutex);
  Active* active = nullptr;
  answered.wait(lock, [&] {
    active = find_active(id, *job.client, job.read.id);
    return active == nullptr || active->invited == 0;
  });
  if (active == nullptr) return {};
  active->joinable = false;
  active->reading = reading;
  return active->joined;
}

std::span<const IoLanesCore::Inside::Joined> IoLanesCore::Inside::take_joined(
    LaneId id, const Job& job) noexcept {
  return end_joining(id, job, true);
}

void IoLanesCore::Inside::hand_back(const Joined& joined) noexcept {
  joined.client->returned(joined.read);
  wake(*joined.client);
}

bool IoLanesCore::Inside::wanted(const Active& active) noexcept {
  return active.client->wanted(active.read) ||
         std::any_of(active.joined.begin(), active.joined.end(),
                     [](const Joined& j) { return j.client->wanted(j.read.id); });
}

bool IoLanesCore::Inside::wanted(LaneId id, const Job& job) noexcept {
  if (job.client->wanted(job.read.id)) return true;
  const std::lock_guard lock(mutex);
  const Active* const active = find_active(id, *job.client, job.read.id);
  return active != nullptr && wanted(*active);
}

}  // namespace cake::inline CAKE_ABI::detail
