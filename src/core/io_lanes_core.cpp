// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/io_lanes_core.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/parked_read.hpp"
#include "cake/detail/saver_core.hpp"
#include "cake/detail/staging_pool.hpp"
#include "cake/engine.hpp"
#include "cake/io_lanes.hpp"
#include "cake/saver.hpp"
#include "cake/staging.hpp"
#include "src/core/io_lanes_inside.hpp"

namespace cake::inline CAKE_ABI::detail {

IoLanesCore::Inside::Inside(std::unique_ptr<LaneStorage> storage_in, const LaneOptions& options_in)
    : storage(std::move(storage_in)),
      options(options_in),
      device(options.device ? storage->device_staging() : nullptr),
      // An arena gives parts of any size for nothing, and what is kept would be missing there.
      pool(device == nullptr
               ? options.staging_bytes
               : std::min<std::uint64_t>(options.staging_bytes, device->arena().size()),
           device == nullptr ? std::size_t{kKept} * threads_per_lane() * tier_count() + 4 : 0),
      lookups(*storage, tier_count()) {
  if (device != nullptr) options.staging = device;
  if (options.calibration == nullptr) options.calibration = std::make_shared<Calibration>();
  options.calibration->use(tier_count()).value();
  const std::uint32_t n = tier_count();
  const std::size_t n_threads = std::size_t{n} * threads_per_lane();
  for (LaneId l = 0; l < n; ++l) {
    lanes.emplace_back();
    lanes.back().active.reserve(threads_per_lane());
    // Bytes that are to land in device memory are read there.
    lanes.back().lends = device == nullptr && storage->lends(l);
    readers += lanes.back().lends ? 0 : 1;
    lanes.back().by_threads = device == nullptr && !lanes.back().lends && options.part_bytes != 0 &&
                              storage->reads_on_caller(l);
    lanes.back().buffers = std::vector<PartBuffers>(threads_per_lane());
  }
  if (device == nullptr && options.staging != nullptr && readers != 0) {
    options.staging->reserve(pool.budget());  // else the first prompts wait for pages to be locked
  }
  reserve_room(n_threads);
  threads.reserve(n_threads);
  for (unsigned t = 0; t < threads_per_lane(); ++t) {
    for (LaneId l = 0; l < n; ++l) {
      if (!start_thread(l, t) && t == 0) {
        end();
        throw Exception({Errc::out_of_memory, EAGAIN,
                         "I/O lanes: cannot make a thread for each tier; the limit of threads "
                         "(ulimit -u, or the container's pids limit) or memory is used up"});
      }
    }
  }
}

bool IoLanesCore::Inside::start_thread(LaneId lane, unsigned number) {
  try {
    StagingPool::Dropped dropped;
    dropped.buffers.reserve(pool.most_kept());
    threads.emplace_back([this, lane, number, room = std::move(dropped)]() mutable {
      work(lane, lanes[lane].buffers[number], room);
    });
    ++lanes[lane].threads;
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void IoLanesCore::Inside::end() {
  {
    std::lock_guard lock(mutex);
    stop = true;
  }
  for (Lane& lane : lanes) lane.wake.notify_all();
  for (std::thread& thread : threads) thread.join();
  for (Lane& lane : lanes) lane.parts.clear();  // sessions may learn of it
  {
    std::unique_lock lock(mutex);
    store_gave_back.wait(lock, [&] { return store_has == 0; });
  }
  for (auto& parked : quarantine) {
    // Somebody may still write to the buffer of a read that never ends: it is not given back.
    if (!parked->finish()) abandon(std::move(parked));
  }
  quarantine.clear();
}

bool IoLanesCore::Inside::reading() const noexcept {
  return std::any_of(lanes.begin(), lanes.end(), [](const Lane& lane) {
    return lane.busy.load(std::memory_order_relaxed) != 0;
  });
}

void IoLanesCore::Inside::attach(std::shared_ptr<LaneClient> client) {
  auto session = std::make_shared<Attached>();
  session->client = std::move(client);
  session->refusals.resize(lanes.size());
  session->waited.resize(lanes.size());
  for (LaneId l = 0; l < lanes.size(); ++l) {
    session->waited[l].alone = session->client->left_to_load(l);
  }
  const std::vector<LinkEstimate> known = rates();
  std::unique_lock lock(mutex);
  demands.reserve(clients.size() + 1);
  clients.push_back(std::move(session));
  clients.back()->arrival = ++arrivals;
  clients.back()->asked = true;  // not before it has heard of what is under way
  several = clients.size() > 1;
  for (LaneId l = 0; l < lanes.size(); ++l) lanes[l].known = known[l].checked();
  const std::shared_ptr<Attached> attached = clients.back();
  lock.unlock();
  invite_to_all(attached->client);
  lock.lock();
  attached->asked = false;
  call_lanes(lock);
}

void IoLanesCore::Inside::detach(const LaneClient& client) noexcept {
  std::shared_ptr<Attached> gone;  // ends without the lock
  std::unique_lock lock(mutex);
  const auto found = find(client);
  if (found == clients.end()) return;
  gone = std::move(*found);
  clients.erase(found);
  several = clients.size() > 1;
  if (!clients.empty()) call_lanes(lock);  // it may have been the one that others waited for
}

void IoLanesCore::Inside::wake(const LaneClient& client) noexcept {
  std::unique_lock lock(mutex);
  const auto found = find(client);
  if (found == clients.end()) return;
  ++(*found)->changes;
  call_lanes(lock);
}

void IoLanesCore::Inside::call_lanes(std::unique_lock<std::mutex>& lock) noexcept {
  std::uint32_t called = 0;
  for (LaneId l = 0; l < lanes.size(); ++l) called |= std::uint32_t{call(lanes[l])} << l;
  lock.unlock();
  for (LaneId l = 0; called != 0; ++l, called >>= 1) {
    if ((called & 1) != 0) lanes[l].wake.notify_one();
  }
}

void IoLanesCore::Inside::give_back(const LaneClient& client, const ReadTicket& read,
                                    bool whole) noexcept {
  std::unique_lock lock(mutex);
  const auto found = std::find_if(lent.begin(), lent.end(), [&](const Lent& l) {
    return l.client == &client && l.read == read.id;
  });
  if (found == lent.end()) return;
  if (found->buffer.size() == 0) {
    const BorrowedBytes loan = std::move(found->loan);
    lent.erase(found);
    lock.unlock();  // the end of a loan is the store's
    return;
  }
  AlignedBuffer buffer = std::move(found->buffer);
  lent.erase(found);
  if (whole) {
    lock.unlock();
    if (offer(read, buffer)) return;
    lock.lock();
  }
  lanes[read.lane].used_bytes -= pool.cost(buffer.size());
  take_back(std::move(buffer), lock);
}

Result<std::vector<StoredChunk>> IoLanesCore::Inside::lookup(std::span<const ChunkKey> keys,
                                                             const ChunkGeometry& geometry,
                                                             Time timeout,
                                                             const std::stop_token& stop_token,
                                                             Status& problem) {
  return lookups.lookup(keys, geometry, timeout, stop_token, problem);
}

bool IoLanesCore::Inside::stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                                              ConstBytes bytes) noexcept {
  return value_or([&] { return storage->stored_bytes_differ(key, offset, bytes); }, false);
}

void IoLanesCore::Inside::work(LaneId id, PartBuffers& buffers,
                               StagingPool::Dropped& dropped) noexcept {
  const Lane& lane = lanes[id];
  std::unique_lock lock(mutex);
  while (!stop) {
    release_ended(lock);
    Job job;
    const bool room = buffers.free(0) != nullptr;
    if (room && wants_reads(lane) && claim(id, job, buffers, dropped, lock)) {
      carry_out(id, job, dropped, lock);
      continue;
    }
    if (room && take_part(id, buffers, dropped, lock)) continue;
    if (buffers.inserts()) {
      wait_for_insert(id, buffers, lock);
    } else if (!give_back(id, buffers, lock)) {
      wait_for_work(id, lock);
    }
  }
  lock.unlock();
  while (buffers.inserts()) finish_inserts(id, buffers, true);
  lock.lock();
  (void)give_back(id, buffers, lock);
}

void IoLanesCore::Inside::carry_out(LaneId id, Job& job, StagingPool::Dropped& dropped,
                                    std::unique_lock<std::mutex>& lock) noexcept {
  Lane& lane = lanes[id];
  const bool more = call(lane);  // there may be more for a second thread
  lock.unlock();
  if (more) lane.wake.notify_one();
  free_dropped(dropped);  // given back before new memory is taken
  if (job.parts) return open(id, job, lock);
  const bool served = serve(id, job, dropped);
  if (job.whole) job.kept = offer(job.read, job.buffer);
  lock.lock();
  settle(id, job, lock);
  if (!served && !stop) {  // others hold the memory: they give it back soon
    wait(lane, lock, std::chrono::milliseconds(1));
    for (const auto& session : clients) ++session->changes;
  }
}

void IoLanesCore::Inside::wait_for_work(LaneId id, std::unique_lock<std::mutex>& lock) {
  Time until = kNever;
  const auto ready = [&] {
    if (stop || may_take_part(lanes[id])) return true;
    return wants_reads(lanes[id]) && next_to_ask(id, &until) != nullptr;
  };
  while (!ready()) {
    if (!quarantine.empty() || help(id, lock)) {
      return wait(lanes[id], lock, std::chrono::milliseconds(2));
    }
    if (ready()) return;
    wait(lanes[id], lock,
         until == kNever ? kNever : std::max(until - steady_now(), Time{0}) + kOverduePoll);
  }
}

void IoLanesCore::Inside::wait(Lane& lane, std::unique_lock<std::mutex>& lock, Time most) {
  ++lane.waiting;
  if (most == kNever) {
    lane.wake.wait(lock);
  } else {
    lane.wake.wait_for(lock, most);
  }
  --lane.waiting;
  lane.called = false;
}

bool IoLanesCore::Inside::may_have_read(const Attached& session, LaneId id) const {
  const Refusal& refusal = session.refusals[id];
  return !session.asked && (refusal.changes != session.changes ||
                            (refusal.for_memory && refusal.freed != freed_memory));
}

bool IoLanesCore::Inside::claim(LaneId id, Job& job, PartBuffers& buffers,
                                StagingPool::Dropped& dropped,
                                std::unique_lock<std::mutex>& lock) noexcept {
  for (std::size_t tries = clients.size(); tries != 0 && !stop; --tries) {
    const Attached* const next = next_to_ask(id);
    if (next == nullptr) return false;
    std::shared_ptr<Attached> session = *find(*next->client);
    const bool claimed = ask(id, *session, job, buffers, dropped, lock);
    if (session.use_count() == 1) {  // it was detached meanwhile, and ends without the lock
      lock.unlock();
      session.reset();
      lock.lock();
      if (claimed) return true;
      continue;
    }
    // Those that found this thread asking. The session is asked again only when something changed,
    // so that this comes to an end.
    for (LaneId l = 0; l < lanes.size(); ++l) {
      if (l != id && may_have_read(*session, l) && call(lanes[l])) lanes[l].wake.notify_one();
    }
    if (claimed) return true;
  }
  return false;
}

bool IoLanesCore::Inside::ask(LaneId id, Attached& session, Job& job, PartBuffers& buffers,
                              StagingPool::Dropped& dropped,
                              std::unique_lock<std::mutex>& lock) noexcept {
  Lane& lane = lanes[id];
  Refusal refusal{session.changes, false, freed_memory};
  std::optional<ReadTicket> read;
  std::shared_ptr<LaneParts> parts;
  job.head = room_for_parts(id, *session.client, buffers, dropped, lock);
  if (job.head != nullptr) {
    parts = value_or([] { return std::make_shared<LaneParts>(); }, std::shared_ptr<LaneParts>());
  }
  if (session.asked) return false;  // by another thread meanwhile, which calls this one
  if (value_or([&] { return reserve_room(threads.capacity()); }, false)) {
    const std::uint64_t largest = session.client->largest_read();
    const bool any = lane.lends || parts != nullptr;  // its size does not matter
    const std::uint64_t most =
        any ? 0 : std::min({room_for(lane), room_for_more(lane), StagingPool::cost(largest)});
    const bool others_ask = asking != 0;
    lane.used_bytes += most;
    set_aside += most;
    ++asking;
    session.asked = true;
    lock.unlock();
    read = value_or(
        [&] { return session.client->next_read(id, any ? largest : most, refusal.for_memory); },
        std::optional<ReadTicket>());
    lock.lock();
    session.asked = false;
    --asking;
    set_aside -= most;
    lane.used_bytes -= most;
    // What was set aside is there for those who missed it, but not for this thread once more.
    const bool as_before = refusal.freed == freed_memory;
    if (set_aside_wanted || asking != 0) announce_room();
    if (as_before) refusal.freed = freed_memory;
    if (!read && refusal.for_memory) {
      memory_wanted = true;
      set_aside_wanted = set_aside_wanted || (others_ask && asking != 0);
    }
  }
  if (!read) {  // without memory, too: asked again at the next change
    session.refusals[id] = refusal;
    return false;
  }
  if (parts == nullptr && join_under_way(lane, session.client, *read)) return false;
  note_overtaken(id, session, read->bytes);
  job.parts = std::move(parts);
  begin(id, session.client, *read, job, dropped);
  return true;
}

void IoLanesCore::Inside::begin(LaneId id, const std::shared_ptr<LaneClient>& client,
                                const ReadTicket& read, Job& job,
                                StagingPool::Dropped& dropped) noexcept {
  Lane& lane = lanes[id];
  job.client = client;
  job.read = read;
  if (job.parts) {
    job.parts->client = client;
    job.parts->read = read;
    lane.parts.push_back(job.parts);
  }
  if (lane.lends || job.parts) {
    lane.active.push_back({client, read.id, 0, true, kWhole, steady_now(), read});
    lane.busy.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  job.buffer = pool.lend(read.bytes, pool.room() - std::min(pool.room(), set_aside), dropped);
  // Of an arena nobody else should take what was just seen to be free.
  if (device != nullptr) allocate(job);
  const std::uint64_t taken = pool.cost(job.buffer.size() != 0 ? job.buffer.size() : read.bytes);
  lane.used_bytes += taken;
  lane.active.push_back(
      {client, read.id, taken, true, kWhole, steady_now(), read, !client->keeps_bytes()});
  lane.busy.fetch_add(1, std::memory_order_relaxed);
}

bool IoLanesCore::Inside::serve(LaneId id, Job& job, StagingPool::Dropped& dropped) noexcept {
  if (lanes[id].lends) {
    borrow(id, job);
    return true;
  }
  const bool held_up = job.buffer.size() == 0;
  if (held_up) job.client->held_up(job.read);  // locking pages takes longer than reading them
  if (held_up && device == nullptr) allocate(job);
  if (job.buffer.size() == 0) {
    bool others = false;
    {
      std::lock_guard lock(mutex);
      pool.drop_all(dropped);
      // An arena may be shared with other lanes, whose reads end, too.
      others = device != nullptr || pool.lent() > pool.cost(job.read.bytes);
    }
    free_dropped(dropped);
    if (device == nullptr) allocate(job);
    if (job.buffer.size() == 0) {
      for (const Joined& j : take_joined(id, job)) hand_back(j);
      if (others) {
        job.client->returned(job.read);
      } else {
        job.client->failed(job.read, error_of(Errc::out_of_memory, 0, "staging memory"));
      }
      return !others;
    }
  }
  if (held_up) job.client->begun(job.read);
  read(id, job);
  return true;
}

void IoLanesCore::Inside::read(LaneId id, Job& job) noexcept {
  const MutableBytes out = job.buffer.bytes().first(job.read.bytes);
  // Kept until the bytes are handed over: the store may have let go of it by then.
  std::shared_ptr<DigestingSink> sink;
  if (device == nullptr && storage->abilities.read_pieces) sink = job.client->sink(job.read, out);
  invite(id, job);
  Status status;
  try {
    status = storage->read(id, job.read.key, job.read.offset, out, sink, job.parked);
    if (job.parked) {
      while (!job.parked->wait_for(std::chrono::milliseconds(2))) {
        if (wanted(id, job)) continue;
        job.parked->cancel();
        const Error why = error_of(Errc::timeout, 0, "read abandoned");
        for (const Joined& j : take_joined(id, job)) j.client->failed(j.read, why);
        return job.client->failed(job.read, why);
      }
      const std::unique_ptr<Parked> ended = std::move(job.parked);
      status = ended->wait();
    }
  } catch (...) {
    // Where the completion would not say whether the read has ended, job.parked keeps its buffer.
    const Error why = caught(Errc::io, "read of a chunk");
    for (const Joined& j : note_end(id, job, 0)) hand_back(j);
    return job.client->failed(job.read, why);
  }
  const std::span<const Joined> joined = note_end(id, job, status ? job.read.bytes : 0);
  if (!status) {
    for (const Joined& j : joined) hand_back(j);
    return job.client->failed(job.read, status.error());
  }
  if (job.client->keeps_bytes()) keep_lent(id, job, {});
  job.whole = job.client->landed(job.read, {.bytes = out, .sink = sink.get()});
  for (const Joined& j : joined) {
    const bool whole = j.client->landed(j.read, {.bytes = out, .sink = sink.get()});
    job.whole = job.whole || whole;
  }
}

void IoLanesCore::Inside::borrow(LaneId id, Job& job) noexcept {
  const ReadTicket& read = job.read;
  Result<BorrowedBytes> loan = guarded(Errc::io, "loan of a chunk's bytes", [&] {
    return storage->borrow(id, read.key, read.offset, read.bytes);
  });
  (void)note_end(id, job, loan ? read.bytes : 0);
  if (!loan) return job.client->failed(read, loan.error());
  const Landed landed{.bytes = loan->bytes(), .lent = true, .seal = loan->seal()};
  if (landed.bytes.size() != read.bytes) {
    return job.client->failed(read, error_of(Errc::io, 0, "the storage lent other bytes"));
  }
  if (job.client->keeps_bytes()) keep_lent(id, job, std::move(*loan));
  (void)job.client->landed(read, landed);
}

std::span<const IoLanesCore::Inside::Joined> IoLanesCore::Inside::note_end(
    LaneId id, const Job& job, std::uint64_t bytes) noexcept {
  count_carried(id, *job.client, bytes);
  return end_joining(id, job, false);
}

void IoLanesCore::Inside::keep_lent(LaneId id, Job& job, BorrowedBytes loan) {
  std::lock_guard lock(mutex);
  lent.push_back({job.client.get(), job.read.id, id, std::move(job.buffer), std::move(loan)});
  job.kept = true;
}

void IoLanesCore::Inside::settle(LaneId id, Job& job, std::unique_lock<std::mutex>& lock) {
  Lane& lane = lanes[id];
  lane.busy.fetch_sub(1, std::memory_order_relaxed);
  // Until here others see who has it by this read, and do not read it once more.
  Active* const active = find_active(id, *job.client, job.read.id);
  std::vector<Joined> joined;
  if (active != nullptr) joined = std::move(active->joined);
  end_active(lane, job.client, job.read.id, kWhole);
  if (job.parked) {
    job.parked->lane = id;
    job.parked->buffer = std::move(job.buffer);
    lane.quarantined_bytes += pool.cost(job.parked->buffer.size());
    quarantine.push_back(std::move(job.parked));
    any_quarantined.store(true, std::memory_order_relaxed);
  } else if (job.buffer.size() != 0) {
    lane.used_bytes -= pool.cost(job.buffer.size());
    take_back(std::move(job.buffer), lock);
  } else if (!job.kept && !lane.lends) {  // there was no memory for it
    lane.used_bytes -= pool.cost(job.read.bytes);
    pool.cancel(job.read.bytes);
    announce_memory();
  }
  for (Joined& j : joined) end_client(j.client, lock);
  end_client(job.client, lock);
}

void IoLanesCore::Inside::end_active(Lane& lane, const std::shared_ptr<LaneClient>& client,
                                     std::uint64_t read, std::size_t part) {
  std::erase_if(lane.active, [&](const Active& a) {
    return a.client == client && a.read == read && a.part == part;
  });
}

void IoLanesCore::Inside::end_client(std::shared_ptr<LaneClient>& client,
                                     std::unique_lock<std::mutex>& lock) {
  if (client.use_count() != 1) return;
  lock.unlock();
  client.reset();
  lock.lock();
}

IoLanesCore::IoLanesCore(std::unique_ptr<LaneStorage> storage, const LaneOptions& options)
    : inside_(std::make_unique<Inside>(std::move(storage), options)) {}
IoLanesCore::~IoLanesCore() {
  if (inside_->made_here.in_child()) {
    abandon(std::move(inside_));
  } else {
    inside_->saver.reset();  // its writes end first
    inside_->end();
  }
}

std::uint32_t IoLanesCore::lane_count() const { return inside_->lane_count(); }
DeviceStaging* IoLanesCore::device() const { return inside_->device; }
Status IoLanesCore::usable() const { return inside_->usable(); }
std::vector<LinkEstimate> IoLanesCore::rates() const { return inside_->rates(); }
std::uint64_t IoLanesCore::staging_bytes() const { return inside_->staging_budget(); }
std::size_t IoLanesCore::threads() const { return inside_->threads.size(); }
const std::shared_ptr<Calibration>& IoLanesCore::calibration() const {
  return inside_->options.calibration;
}
std::uint64_t IoLanesCore::free_staging_bytes() const {
  std::lock_guard lock(inside_->mutex);
  return inside_->pool.room();
}
std::size_t IoLanesCore::quarantined() const {
  std::lock_guard lock(inside_->mutex);
  return inside_->quarantine.size();
}
LaneHost& IoLanesCore::host() const { return *inside_; }
LaneStorage& IoLanesCore::storage() const { return *inside_->storage; }
SaverCore& IoLanesCore::saver() {
  const std::lock_guard lock(inside_->saver_made);
  if (!inside_->saver) {
    DeviceStaging* const device = inside_->device;
    SaverOptions how;
    how.staging = device == nullptr ? inside_->options.staging : device->host_memory();
    inside_->saver.emplace(nullptr, this, how);
  }
  return *inside_->saver;
}

}  // namespace cake::inline CAKE_ABI::detail
