// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "ring_pool.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace cake::inline CAKE_ABI::detail {
namespace {

// Operations that one ring has in flight: while its thread verifies one, the disk has others to do.
constexpr std::size_t kDepth = 4;

// An operation that lasts longer does not count as one in flight.
constexpr std::chrono::milliseconds kStuck{250};

// A ring that takes nothing while it has nothing in flight is asked so many times, a millisecond
// apart, and then given up.
constexpr int kMostRefusals = 100;

/// Whether the kernel could not carry out a read in this way, which says nothing of the file.
bool refused_by_ring(int result, bool direct) {
  switch (-result) {
    case EAGAIN:
    case EBUSY:
    case ENOMEM:
    case ENOSYS:
    case EPERM:
    case ECANCELED:
      return true;
    case EINVAL:
    case EOPNOTSUPP:
      return !direct;
    default:
      return false;
  }
}

}  // namespace

RingPool::RingPool(StoreDirectory& store, GiveBack give_back)
    : store_(store), give_back_(std::move(give_back)) {
  start();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return opening_ == 0; });
  if (rings_ > 0) return;
  const int number = refusal_;
  lock.unlock();
  for (auto& worker : workers_) worker->thread.join();
  throw Exception(ring_refusal(number));
}

void RingPool::start() {
  // All memory first: a thread that runs must find its worker.
  const std::size_t wanted = store_.options().threads;
  workers_.reserve(wanted);
  for (std::size_t i = 0; i < wanted; ++i) workers_.push_back(std::make_unique<Worker>());
  const std::lock_guard lock(mutex_);  // no thread looks at the others before all are there
  refusal_ = EAGAIN;
  try {
    for (auto& worker : workers_) {
      worker->thread = std::thread([this, &me = *worker] { work(me); });
      ++opening_;
    }
  } catch (const std::system_error&) {  // fewer will do
  } catch (const std::bad_alloc&) {
  }
  workers_.resize(opening_);
}

RingPool::~RingPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    for (auto& worker : workers_) {
      if (worker->waiting) worker->ring->wake();
    }
  }
  for (auto& worker : workers_) worker->thread.join();
}

bool RingPool::submit(ReadOperations& operations) noexcept {
  if (operations.empty()) return true;
  const std::lock_guard lock(mutex_);
  if (rings_ == 0) return false;
  const std::size_t count = operations.size();
  queue_in_order(queue_, operations);
  wake(count);
  return true;
}

/// Wakes threads for so many operations. With the lock.
void RingPool::wake(std::size_t operations) {
  const std::size_t idle = std::min(idle_, operations);
  for (std::size_t i = 0; i < idle; ++i) changed_.notify_one();
  operations -= idle;
  for (auto& worker : workers_) {
    if (operations == 0) return;
    if (!worker->waiting) continue;
    worker->waiting = false;
    worker->ring->wake();
    --operations;
  }
}

/// The first operation that may run now, and that is not in the way of other files. With the lock.
ReadOperations::iterator RingPool::next() {
  const std::size_t most = rings_ * kDepth;
  return std::find_if(queue_.begin(), queue_.end(),
                      [&](const ReadOperation& one) { return one.file->in_rings < most; });
}

bool RingPool::open(Worker& me) {
  int number = ENOMEM;
  try {
    me.ring = store_.calls().make_ring(2 * kDepth);
    number = errno;
  } catch (const std::bad_alloc&) {
  }
  const std::lock_guard lock(mutex_);
  if (me.ring) {
    ++rings_;
  } else {
    refusal_ = number;
  }
  if (--opening_ == 0) changed_.notify_all();
  return me.ring != nullptr;
}

void RingPool::work(Worker& me) {
  if (!open(me)) return;
  while (true) {
    refill(me);
    RingCompletion over;
    if (!hand_over(me)) {
      return give_up(me);
    }
    if (me.ring->peek(over)) {
      arrived(me, over);
    } else if (me.in_flight > 0) {
      wait(me);
    } else if (!idle()) {
      return;
    }
  }
}

/// Waits until there is something to take. False: there never will be.
bool RingPool::idle() {
  std::unique_lock lock(mutex_);
  ++idle_;
  changed_.wait(lock, [&] { return stopping_ || next() != queue_.end(); });
  --idle_;
  return next() != queue_.end();
}

/// Waits until an operation is over, or there is another one to take and room for it.
void RingPool::wait(Worker& me) {
  const bool room = has_room(me);
  {
    const std::lock_guard lock(mutex_);
    // Idle threads were woken for what is there.
    if (room && idle_ == 0 && next() != queue_.end()) return;
    me.waiting = room;
  }
  me.ring->wait(me.ring->unsubmitted() > 0 ? std::chrono::milliseconds(1) : kStuck / 2);
  const std::lock_guard lock(mutex_);
  me.waiting = false;
}

bool RingPool::has_room(const Worker& me) const {
  return me.in_flight - me.stuck < kDepth && me.in_flight < kMostPlaces;
}

void RingPool::mark_stuck(Worker& me) {
  if (me.in_flight == me.stuck) return;
  const auto limit = Clock::now() - kStuck;
  for (Place& place : me.places) {
    if (place.operation.empty() || place.stuck || place.begun > limit) continue;
    place.stuck = true;
    ++me.stuck;
    ++store_.counters().stuck_reads;
  }
}

/// Takes operations as long as there is room for them.
void RingPool::refill(Worker& me) {
  mark_stuck(me);
  bool direct = true;
  while (direct && has_room(me)) {
    ReadOperations one;
    {
      const std::lock_guard lock(mutex_);
      // Idle threads were woken for it, and all together verify faster than this one alone.
      if (idle_ > 0 && me.in_flight > me.stuck) break;
      const auto operation = next();
      if (operation == queue_.end()) break;
      ++operation->file->in_rings;
      one.splice(one.end(), queue_, operation);
    }
    // From the page cache the kernel copies at once: one after the other, so that each is verified
    // while it is in this thread's cache.
    direct = one.front().file->direct;
    place(me, one);
  }
  const std::lock_guard lock(mutex_);
  if (next() != queue_.end()) wake(1);
}

void RingPool::place(Worker& me, ReadOperations& one) {
  if (one.front().read->failed) {  // another part failed already, and nobody wants the rest
    one.front().read->finish({});
    return release(one.front());
  }
  const auto free = std::find_if(me.places.begin(), me.places.end(),
                                 [](const Place& place) { return place.operation.empty(); });
  ReadOperation& operation = one.front();
  free->transfer = Transfer(*operation.file, operation.offset, operation.out);
  free->begun = Clock::now();
  free->operation.splice(free->operation.end(), one);
  ++me.in_flight;
  prepare(me, static_cast<std::size_t>(free - me.places.begin()));
}

/// Asks for the rest of an operation, or gives it back.
void RingPool::prepare(Worker& me, std::size_t at) {
  Transfer& transfer = me.places[at].transfer;
  transfer.ask();
  const MutableBytes rest = transfer.rest();
  const auto prepared = [&] {
    return me.ring->prepare_read(transfer.file().number(), rest.data(), rest.size(),
                                 transfer.offset(), at);
  };
  if (prepared()) return;
  // The ring is full of what was not handed over yet.
  if (hand_over(me) && prepared()) return;
  ReadOperations one;
  free_place(me, at, one);
  give_back(one);
}

/// Hands over what was prepared. What is refused now is handed over later. False: the ring refuses
/// everything, although nothing is in flight.
bool RingPool::hand_over(Worker& me) {
  for (int refusals = 0; me.ring->unsubmitted() > 0;) {
    const unsigned before = me.ring->unsubmitted();
    const int result = me.ring->submit();
    if (result == -EINTR || me.ring->unsubmitted() < before) continue;
    ++store_.counters().ring_retries;
    // What is over makes room.
    if (me.in_flight > before) return true;
    if (++refusals == kMostRefusals) return false;
    me.ring->wait(std::chrono::milliseconds(1));
  }
  return true;
}

void RingPool::arrived(Worker& me, const RingCompletion& over) {
  const auto at = static_cast<std::size_t>(over.tag);
  Transfer& transfer = me.places[at].transfer;
  auto next = Transfer::Next::later;
  Status outcome;
  if (!refused_by_ring(over.result, transfer.direct())) {
    try {
      next = transfer.answered(store_, over.result);
      outcome = transfer.outcome();
    } catch (const std::bad_alloc&) {
      next = Transfer::Next::over;
      outcome = no_memory();
    }
  }
  if (next == Transfer::Next::again) return prepare(me, at);
  ReadOperations one;
  free_place(me, at, one);
  if (next == Transfer::Next::later) return give_back(one);
  ++store_.counters().ring_reads;
  // Before this one is verified: the disk gets the next one to do.
  refill(me);
  static_cast<void>(hand_over(me));
  finish_operation(one.front(), std::move(outcome));
}

void RingPool::release(ReadOperation& operation) {
  const std::lock_guard lock(mutex_);
  --operation.file->in_rings;
}

void RingPool::free_place(Worker& me, std::size_t at, ReadOperations& to) {
  Place& place = me.places[at];
  --me.in_flight;
  if (place.stuck) --me.stuck;
  place.stuck = false;
  place.transfer = Transfer();
  release(place.operation.front());
  to.splice(to.end(), place.operation);
}

void RingPool::give_back(ReadOperations& operations) {
  if (operations.empty()) return;
  store_.counters().ring_refusals += operations.size();
  give_back_(operations);
}

/// The ring is closed, which drops what it did not take, and others do its work.
void RingPool::give_up(Worker& me) {
  me.ring.reset();
  ReadOperations all;
  for (std::size_t at = 0; at < kMostPlaces; ++at) {
    if (!me.places[at].operation.empty()) free_place(me, at, all);
  }
  {
    const std::lock_guard lock(mutex_);
    if (--rings_ == 0) all.splice(all.end(), queue_);
  }
  give_back(all);
}

}  // namespace cake::inline CAKE_ABI::detail
