// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The staging memory of lanes: who may have how much, who has it, and when it is there again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/staging_pool.hpp"
#include "cake/staging.hpp"
#include "src/core/io_lanes_inside.hpp"

namespace cake::inline CAKE_ABI::detail {

void IoLanesCore::Inside::announce_room() noexcept {
  memory_wanted = set_aside_wanted = false;
  ++freed_memory;
  for (Lane& lane : lanes) lane.wake.notify_all();
}

bool IoLanesCore::Inside::down(LaneId id, std::uint64_t bytes) noexcept {
  Lane& lane = lanes[id];
  const unsigned busy = lane.busy.load(std::memory_order_relaxed);
  if (busy == 0 && !any_quarantined.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex);
  const auto stuck = [](const Active& a) { return a.reading && !wanted(a); };
  if (!std::all_of(lane.active.begin(), lane.active.end(), stuck)) return false;
  if (lane.active.size() >= lane.threads) return true;
  if (lane.lends) return false;
  // All other memory comes back soon; what abandoned reads hold does not.
  const auto held_by = [&](const Lane& l) {
    std::uint64_t held = l.quarantined_bytes;
    for (const Active& a : l.active) held += stuck(a) ? a.bytes : 0;
    return held;
  };
  std::uint64_t held = 0;
  for (const Lane& l : lanes) held += held_by(l);
  const std::uint64_t own = held_by(lane);
  const std::uint64_t share = share_of_lane();
  if (readers > 1 && own != 0 && share - std::min(share, own) < bytes) return true;
  return held != 0 && pool.budget() - held < bytes;
}

void IoLanesCore::Inside::take_back(AlignedBuffer buffer,
                                    std::unique_lock<std::mutex>& lock) noexcept {
  AlignedBuffer unused = pool.take_back(std::move(buffer));
  announce_memory();
  free(std::move(unused), lock);
}

bool IoLanesCore::Inside::offer(const ReadTicket& read, AlignedBuffer& buffer) noexcept {
  if (!storage->abilities.promote || device != nullptr) return false;
  const auto loan =
      value_or([] { return std::make_shared<StoreLoan>(); }, std::shared_ptr<StoreLoan>());
  const bool lends = loan && lend_to_store(*loan, read.lane, buffer);
  (void)guarded(Errc::io, "promote a chunk", [&]() -> Status {
    BorrowedBytes object;
    if (lends) object = BorrowedBytes(loan->buffer.bytes().first(read.bytes), loan);
    storage->promote(read.lane, read.key, std::move(object));
    return {};
  });
  return lends;
}

bool IoLanesCore::Inside::lend_to_store(StoreLoan& loan, LaneId id,
                                        AlignedBuffer& buffer) noexcept {
  const std::lock_guard lock(mutex);
  const std::uint64_t bytes = pool.cost(buffer.size());
  const bool one = store_has == 0 && bytes <= pool.room();
  if (stop || memory_wanted || (!one && store_has + bytes > pool.budget() / 4)) return false;
  store_has += bytes;
  lanes[id].used_bytes -= bytes;
  loan.lanes = this;
  loan.buffer = std::move(buffer);
  return true;
}

void IoLanesCore::Inside::end_store_loan(AlignedBuffer buffer) noexcept {
  std::unique_lock lock(mutex);
  const std::uint64_t bytes = pool.cost(buffer.size());
  take_back(std::move(buffer), lock);
  store_has -= bytes;
  store_gave_back.notify_all();  // with the lock: the lanes may end now
}

bool IoLanesCore::Inside::reserve_room(std::size_t n_threads) {
  const auto grow = [&](auto& list) {
    const std::size_t need = list.size() + n_threads;
    if (list.capacity() < need) list.reserve(2 * need);
  };
  grow(quarantine);
  grow(lent);
  for (Lane& lane : lanes) grow(lane.parts);
  return true;
}

std::uint64_t IoLanesCore::Inside::room_for(const Lane& lane) const {
  std::uint64_t room = pool.room();
  if (device != nullptr) room = std::min<std::uint64_t>(room, device->largest_gap());
  room -= std::min(room, set_aside);
  if (lane.used_bytes == 0 || readers == 1) return room;
  if (lane.quarantined_bytes != 0) return std::min(room, share_left(lane));
  const std::uint64_t share = share_of_lane();
  for (const Lane& other : lanes) {
    if (&other == &lane || other.lends || other.quarantined_bytes != 0) continue;
    const std::uint64_t left = share / 2 - std::min(share / 2, other.used_bytes);
    room -= std::min(room, left);
  }
  return room;
}

std::uint64_t IoLanesCore::Inside::room_for_more(const Lane& lane) {
  if (lane.active.size() < kFewReads) return ~std::uint64_t{0};
  unsigned reads = 0;
  std::uint64_t bytes = 0;
  for (const Active& a : lane.active) {
    if (a.reading && !wanted(a)) continue;
    ++reads;
    // Not of its buffer, which may be a larger one that was there.
    bytes += a.ticket.bytes != 0 ? StagingPool::cost(a.ticket.bytes) : a.bytes;
  }
  if (reads < kFewReads) return ~std::uint64_t{0};
  return kSmallReads - std::min(kSmallReads, bytes);
}

std::uint64_t IoLanesCore::Inside::share_left(const Lane& lane) const {
  const std::uint64_t share = share_of_lane();
  return share - std::min(share, lane.used_bytes);
}

void IoLanesCore::Inside::free_dropped(StagingPool::Dropped& dropped) noexcept {
  dropped.buffers.clear();
  if (dropped.held == 0) return;
  std::lock_guard lock(mutex);
  freed(std::exchange(dropped.held, 0));
}

void IoLanesCore::Inside::free(AlignedBuffer unused, std::unique_lock<std::mutex>& lock) noexcept {
  if (unused.size() == 0) return;
  const std::uint64_t bytes = pool.cost(unused.size());
  lock.unlock();
  unused = AlignedBuffer();
  lock.lock();
  freed(bytes);
}

void IoLanesCore::Inside::freed(std::uint64_t bytes) noexcept {
  pool.freed(bytes);
  memory_back.notify_all();
  announce_memory();
}

bool IoLanesCore::Inside::allocate(std::uint64_t bytes, AlignedBuffer& buffer) noexcept {
  if (device == nullptr) {  // other threads are giving back what this one was promised
    std::unique_lock lock(mutex);
    memory_back.wait(lock, [&] { return pool.fits(); });
  }
  return value_or(
      [&] {
        buffer = AlignedBuffer(bytes, options.staging);
        return true;
      },
      false);
}

void IoLanesCore::Inside::release_ended(std::unique_lock<std::mutex>& lock) {
  for (std::size_t i = 0; i < quarantine.size();) {
    if (!quarantine[i]->ended()) {
      ++i;
      continue;
    }
    std::unique_ptr<Parked> ended = std::move(quarantine[i]);
    quarantine.erase(quarantine.begin() + static_cast<std::ptrdiff_t>(i));
    const std::uint64_t bytes = pool.cost(ended->buffer.size());
    lanes[ended->lane].quarantined_bytes -= bytes;
    lanes[ended->lane].used_bytes -= bytes;
    AlignedBuffer unused = pool.take_back(std::move(ended->buffer));
    any_quarantined.store(!quarantine.empty(), std::memory_order_relaxed);
    announce_memory();
    free(std::move(unused), lock);
    lock.unlock();
    ended.reset();
    lock.lock();
  }
}

}  // namespace cake::inline CAKE_ABI::detail
