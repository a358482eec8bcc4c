// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How the threads of a lane carry out reads in parts.
#include "src/core/lane_parts.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/parted_read.hpp"
#include "cake/detail/staging_pool.hpp"
#include "src/core/io_lanes_inside.hpp"

namespace cake::inline CAKE_ABI::detail {

PartBuffer* IoLanesCore::Inside::room_for_parts(LaneId id, const LaneClient& client,
                                                PartBuffers& buffers, StagingPool::Dropped& dropped,
                                                std::unique_lock<std::mutex>& lock) noexcept {
  const std::uint64_t bytes = lanes[id].by_threads ? client.part_bytes() : 0;
  return bytes == 0 ? nullptr : buffer_of(id, bytes, buffers, dropped, lock);
}

PartBuffer* IoLanesCore::Inside::buffer_of(LaneId id, std::uint64_t bytes, PartBuffers& buffers,
                                           StagingPool::Dropped& dropped,
                                           std::unique_lock<std::mutex>& lock) noexcept {
  PartBuffer* const one = buffers.free(bytes);
  if (one == nullptr || one->buffer.size() >= bytes) return one;
  give_back(id, *one, lock);
  if (room_for(lanes[id]) < StagingPool::cost(bytes)) {
    memory_wanted = true;
    set_aside_wanted = set_aside_wanted || asking != 0;
    return nullptr;
  }
  one->buffer = pool.lend(bytes, pool.room() - std::min(pool.room(), set_aside), dropped);
  one->taken = StagingPool::cost(std::max<std::uint64_t>(one->buffer.size(), bytes));
  lanes[id].used_bytes += one->taken;
  if (one->buffer.size() != 0) return one;
  lock.unlock();
  free_dropped(dropped);
  const bool there = allocate(bytes, one->buffer);
  lock.lock();
  if (there) return one;
  lanes[id].used_bytes -= std::exchange(one->taken, 0);
  pool.cancel(bytes);
  announce_memory();
  return nullptr;
}

bool IoLanesCore::Inside::give_back(LaneId id, PartBuffers& buffers,
                                    std::unique_lock<std::mutex>& lock) noexcept {
  bool any = false;
  for (PartBuffer& one : buffers.both) {
    any = any || one.taken != 0;
    give_back(id, one, lock);
  }
  return any;
}

void IoLanesCore::Inside::give_back(LaneId id, PartBuffer& one,
                                    std::unique_lock<std::mutex>& lock) noexcept {
  if (one.taken == 0) return;
  lanes[id].used_bytes -= std::exchange(one.taken, 0);
  AlignedBuffer buffer = std::move(one.buffer);
  one.buffer = AlignedBuffer();
  take_back(std::move(buffer), lock);
}

void IoLanesCore::Inside::open(LaneId id, Job& job, std::unique_lock<std::mutex>& lock) noexcept {
  std::shared_ptr<PartedRead> parted = job.client->in_parts(job.read);
  bool good = parted != nullptr;
  if (!good) job.client->failed(job.read, error_of(Errc::out_of_memory, 0, "a read in parts"));
  if (good) {
    const MutableBytes head = job.head->buffer.bytes().first(parted->head_bytes());
    const Status status = guarded(Errc::io, "read of a chunk", [&]() -> Status {
      if (head.empty()) return {};
      return storage->read_on_caller(id, job.read.key, 0, head);
    });
    if (!status) parted->failed(status.error());
    good = status && parted->open(head);
    if (!good) parted.reset();
  }
  lock.lock();
  Lane& lane = lanes[id];
  if (good) {
    job.parts->parted = std::move(parted);
    if (job.parts->parted->parts().size() > 1) lane.wake.notify_all();
  } else {
    std::erase(lane.parts, job.parts);
  }
  job.parts.reset();  // there is another one to know of it, or it knows nothing
  job.kept = true;
  settle(id, job, lock);
}

LaneParts* IoLanesCore::Inside::first_left(const Lane& lane) {
  const auto found = std::find_if(lane.parts.begin(), lane.parts.end(),
                                  [](const auto& parts) { return parts->left(); });
  return found == lane.parts.end() ? nullptr : found->get();
}

bool IoLanesCore::Inside::wants_reads(const Lane& lane) {
  if (first_left(lane) == nullptr) return true;
  std::size_t left = 0;
  for (const auto& parts : lane.parts) {
    left += parts->parted == nullptr ? 1 : parts->parted->parts().size() - parts->next;
  }
  return 2 * left < lane.threads;
}

bool IoLanesCore::Inside::may_take_part(const Lane& lane) const {
  const LaneParts* const parts = first_left(lane);
  return parts != nullptr && (room_for(lane) >= StagingPool::cost(parts->client->part_bytes()) ||
                              !parts->client->wanted(parts->read.id));
}

bool IoLanesCore::Inside::take_part(LaneId id, PartBuffers& buffers, StagingPool::Dropped& dropped,
                                    std::unique_lock<std::mutex>& lock) noexcept {
  Lane& lane = lanes[id];
  LaneParts* const next = first_left(lane);
  if (next == nullptr) return false;
  if (!next->client->wanted(next->read.id)) {
    drop_parts(lane, *next, lock);
    return true;
  }
  const std::uint64_t bytes = next->client->part_bytes();
  PartBuffer* const one = buffers.free(bytes);
  if (one->buffer.size() < bytes) {
    return buffer_of(id, bytes, buffers, dropped, lock) != nullptr;
  }
  const std::size_t part = next->next++;
  std::shared_ptr<LaneParts> parts = found(lane, *next);
  std::shared_ptr<LaneClient> client = parts->client;
  const std::uint64_t read = parts->read.id;
  lane.active.push_back({client, read, one->taken, true, part});
  lane.busy.fetch_add(1, std::memory_order_relaxed);
  lock.unlock();
  buffers.turn = one == &buffers.both[0] ? 1 : 0;
  read_part_of(id, *parts, part, *one, buffers);
  parts.reset();  // the last one to know of it tells the session
  lock.lock();
  lane.busy.fetch_sub(1, std::memory_order_relaxed);
  end_active(lane, client, read, part);
  end_client(client, lock);
  return true;
}

std::shared_ptr<LaneParts> IoLanesCore::Inside::found(Lane& lane, const LaneParts& one) {
  const auto place = std::find_if(lane.parts.begin(), lane.parts.end(),
                                  [&](const auto& parts) { return parts.get() == &one; });
  std::shared_ptr<LaneParts> parts = *place;
  if (!parts->left()) lane.parts.erase(place);
  return parts;
}

void IoLanesCore::Inside::drop_parts(Lane& lane, LaneParts& one,
                                     std::unique_lock<std::mutex>& lock) {
  one.next = one.parted->parts().size();
  std::shared_ptr<LaneParts> parts = found(lane, one);
  lock.unlock();
  parts.reset();
  lock.lock();
}

void IoLanesCore::Inside::read_part_of(LaneId id, const LaneParts& parts, std::size_t number,
                                       PartBuffer& one, PartBuffers& buffers) noexcept {
  PartedRead& parted = *parts.parted;
  const ReadPart& part = parted.parts()[number];
  const MutableBytes out = one.buffer.bytes().first(part.bytes);
  std::optional<SliceDigests> digests = parted.digests(number, out);
  const Status status = read_part(*storage, id, parts.read.key, part.offset, out, digests,
                                  [&] { finish_inserts(id, buffers, false); });
  if (!status) return parted.failed(status.error());
  count_carried(id, *parts.client, part.bytes);
  std::unique_ptr<PendingInsert> insert = parted.landed(number, out, digests ? &*digests : nullptr);
  if (insert) one.begin(std::move(insert), parts.parted, parts.read);
}

void IoLanesCore::Inside::wait_for_insert(LaneId id, PartBuffers& buffers,
                                          std::unique_lock<std::mutex>& lock) noexcept {
  lock.unlock();
  finish_inserts(id, buffers, true);
  lock.lock();
}

void IoLanesCore::Inside::finish_inserts(LaneId id, PartBuffers& buffers, bool waits) noexcept {
  for (std::size_t i = 0; i < buffers.both.size(); ++i) {
    PartBuffer& one = buffers.both[(buffers.turn + i) % buffers.both.size()];
    if (!one.inserts()) continue;
    const std::optional<ReadTicket> whole = one.finish(std::exchange(waits, false));
    if (!whole || !storage->abilities.promote) continue;
    (void)guarded(Errc::io, "promote a chunk", [&]() -> Status {
      storage->promote(id, whole->key, {});
      return {};
    });
  }
}

bool IoLanesCore::Inside::help(LaneId id, std::unique_lock<std::mutex>& lock) noexcept {
  std::vector<PartBuffers>& all = lanes[id].buffers;
  const auto busy = [&] {
    return std::any_of(all.begin(), all.end(), [](const PartBuffers& b) { return b.inserts(); });
  };
  if (!busy()) return false;
  lock.unlock();
  for (PartBuffers& other : all) finish_inserts(id, other, false);
  lock.lock();
  return busy();
}

}  // namespace cake::inline CAKE_ABI::detail
