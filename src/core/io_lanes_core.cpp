// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/io_lanes_core.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
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
#include "cake/detail/process.hpp"
#include "cake/detail/saver_core.hpp"
#include "cake/detail/staging_pool.hpp"
#include "cake/detail/tier_lookup.hpp"
#include "cake/engine.hpp"
#include "cake/io_lanes.hpp"
#include "cake/saver.hpp"
#include "cake/staging.hpp"
#include "src/core/lane_parts.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Its threads, and what they share. One object on the heap, so that a child process can leave it as
/// it is. No code of a session, a scheduler or the store runs under its mutex, but for
/// LaneClient::wanted().
struct IoLanesCore::Inside final : LaneHost {
  struct Active {
    std::shared_ptr<LaneClient> client;
    std::uint64_t read = 0;
    std::uint64_t bytes = 0;  // of staging memory
    bool reading = true;
    std::size_t part = kWhole;
  };
  static constexpr std::size_t kWhole = ~std::size_t{0};
  struct Lane {
    std::condition_variable wake;
    unsigned waiting = 0;                 // threads
    bool called = false;                  // one of them, which has not seen it yet
    std::vector<Active> active;           // room for one of each thread
    std::uint64_t quarantined_bytes = 0;  // by reads of this lane
    std::uint64_t used_bytes = 0;         // lent to this lane or set aside for it, those included
    unsigned threads = 0;                 // that there are
    bool lends = false;                   // its tier lends bytes: its reads take no staging memory
    bool by_threads = false;              // its threads read themselves, in parts
    std::vector<std::shared_ptr<LaneParts>> parts;  // of which some are left, oldest first
    std::vector<PartBuffers> buffers;               // of its threads
    std::atomic<unsigned> busy{0};
  };
  /// So many reads of a lane may be of any size; more of them take no more than kSmallReads together.
  /// They keep a link busy; more buffers were slower (benchmarks/NOTES.md, Read path).
  static constexpr unsigned kFewReads = 4;
  static constexpr std::uint64_t kSmallReads = std::uint64_t{64} << 20;

  /// Buffers that are kept for each thread: a large one and those for parts.
  static constexpr unsigned kKept = 3;

  /// What a lane was told when it asked a session for a read and got none.
  struct Refusal {
    std::uint64_t changes = 0;  // of the session, by then
    bool for_memory = false;    // there would be a read for more memory
    std::uint64_t freed = 0;    // memory changes by then
  };
  /// A session, and which of its changes each lane has seen.
  struct Attached {
    std::shared_ptr<LaneClient> client;
    std::uint64_t changes = 1;
    bool asked = false;             // a lane's thread asks it at the moment
    std::vector<Refusal> refusals;  // [lane]
  };
  /// One read on its way through a lane.
  struct Job {
    std::shared_ptr<LaneClient> client;
    ReadTicket read;
    AlignedBuffer buffer;
    std::unique_ptr<Parked> parked;    // a read that has not ended
    bool kept = false;                 // the client, or the store, keeps the buffer
    bool whole = false;                // it holds a whole object that was verified
    std::shared_ptr<LaneParts> parts;  // it is carried out in parts, and has no buffer of its own,
    PartBuffer* head = nullptr;        // but one of the thread for its head
  };
  /// A buffer that is lent to the store. Comes back on any thread.
  struct StoreLoan {
    StoreLoan() = default;
    StoreLoan(const StoreLoan&) = delete;
    StoreLoan& operator=(const StoreLoan&) = delete;
    ~StoreLoan() {
      if (lanes != nullptr) lanes->end_store_loan(std::move(buffer));
    }
    Inside* lanes = nullptr;
    AlignedBuffer buffer;
  };
  /// Bytes that a client keeps, of the lanes or of the store.
  struct Lent {
    const LaneClient* client = nullptr;
    std::uint64_t read = 0;
    LaneId lane = 0;
    AlignedBuffer buffer;
    BorrowedBytes loan;
  };

  Inside(std::unique_ptr<LaneStorage> storage_in, const LaneOptions& options_in)
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
      lanes.back().by_threads = device == nullptr && !lanes.back().lends &&
                                options.part_bytes != 0 && storage->reads_on_caller(l);
      lanes.back().buffers = std::vector<PartBuffers>(threads_per_lane());
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

  unsigned threads_per_lane() const { return options.threads == 0 ? kFewReads : options.threads; }
  std::uint32_t tier_count() const { return std::clamp(storage->tiers(), 1u, kMaxTiers); }

  bool start_thread(LaneId lane, unsigned number) {
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

  void end() {
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

  // ---- for sessions ----

  std::uint32_t lane_count() const noexcept override {
    return static_cast<std::uint32_t>(lanes.size());
  }
  std::uint32_t reads_at_once() const noexcept override { return threads_per_lane(); }
  std::uint64_t part_bytes() const noexcept override { return options.part_bytes; }
  std::uint64_t staging_budget() const noexcept override { return pool.budget(); }
  DeviceStaging* landing_device() const noexcept override { return device; }
  Status usable() const override { return made_here.check("an IoLanes"); }
  bool reading() const noexcept override {
    return std::any_of(lanes.begin(), lanes.end(), [](const Lane& lane) {
      return lane.busy.load(std::memory_order_relaxed) != 0;
    });
  }

  std::vector<LinkEstimate> rates() const override { return options.calibration->tiers(); }
  Calibration& calibration() noexcept override { return *options.calibration; }

  void attach(std::shared_ptr<LaneClient> client) override {
    auto session = std::make_shared<Attached>();
    session->client = std::move(client);
    session->refusals.resize(lanes.size());
    std::unique_lock lock(mutex);
    clients.push_back(std::move(session));
    call_lanes(lock);
  }
  auto find(const LaneClient& client) {
    return std::find_if(clients.begin(), clients.end(),
                        [&](const auto& c) { return c->client.get() == &client; });
  }
  void detach(const LaneClient& client) noexcept override {
    std::shared_ptr<Attached> gone;  // ends without the lock
    std::lock_guard lock(mutex);
    const auto found = find(client);
    if (found == clients.end()) return;
    gone = std::move(*found);
    clients.erase(found);
  }
  void wake(const LaneClient& client) noexcept override {
    std::unique_lock lock(mutex);
    const auto found = find(client);
    if (found == clients.end()) return;
    ++(*found)->changes;
    call_lanes(lock);
  }
  /// One waiting thread of each lane looks for work. One that was called and has not come yet will
  /// see what is new by now. Gives the lock back first: that is what a thread that wakes takes.
  void call_lanes(std::unique_lock<std::mutex>& lock) noexcept {
    std::uint32_t called = 0;
    for (LaneId l = 0; l < lanes.size(); ++l) called |= std::uint32_t{call(lanes[l])} << l;
    lock.unlock();
    for (LaneId l = 0; called != 0; ++l, called >>= 1) {
      if ((called & 1) != 0) lanes[l].wake.notify_one();
    }
  }
  /// Whether a waiting thread of the lane is to be notified.
  static bool call(Lane& lane) noexcept {
    return lane.waiting != 0 && !std::exchange(lane.called, true);
  }

  /// Memory is free again. Only lanes that were refused a read for want of some need to know, and
  /// those that ask for one with what there was before.
  void announce_memory() noexcept {
    if (memory_wanted || asking != 0) announce_room();
  }
  void announce_room() noexcept {
    memory_wanted = set_aside_wanted = false;
    ++freed_memory;
    for (Lane& lane : lanes) lane.wake.notify_all();
  }

  bool down(LaneId id, std::uint64_t bytes) noexcept override {
    Lane& lane = lanes[id];
    const unsigned busy = lane.busy.load(std::memory_order_relaxed);
    if (busy == 0 && !any_quarantined.load(std::memory_order_relaxed)) return false;
    std::lock_guard lock(mutex);
    const auto stuck = [](const Active& a) { return a.reading && !a.client->wanted(a.read); };
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

  void give_back(const LaneClient& client, const ReadTicket& read, bool whole) noexcept override {
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
  void take_back(AlignedBuffer buffer, std::unique_lock<std::mutex>& lock) noexcept {
    AlignedBuffer unused = pool.take_back(std::move(buffer));
    announce_memory();
    free(std::move(unused), lock);
  }

  // ---- for the store ----

  /// Offers the store a whole object for a faster tier. True: it has the buffer, which comes back by
  /// itself.
  bool offer(const ReadTicket& read, AlignedBuffer& buffer) noexcept {
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
  /// Reads go first: the store has a quarter of the memory, or one buffer where another one of its
  /// size is free, and nothing while a session waits for memory. A lane does not use what the store
  /// has, so that it may take what is left for its next read.
  bool lend_to_store(StoreLoan& loan, LaneId id, AlignedBuffer& buffer) noexcept {
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
  void end_store_loan(AlignedBuffer buffer) noexcept {
    std::unique_lock lock(mutex);
    const std::uint64_t bytes = pool.cost(buffer.size());
    take_back(std::move(buffer), lock);
    store_has -= bytes;
    store_gave_back.notify_all();  // with the lock: the lanes may end now
  }

  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys,
                                          const ChunkGeometry& geometry, Time timeout,
                                          const std::stop_token& stop_token,
                                          Status& problem) override {
    return lookups.lookup(keys, geometry, timeout, stop_token, problem);
  }
  void discard(LaneId tier, const ChunkKey& key) noexcept override { lookups.discard(tier, key); }
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                           ConstBytes bytes) noexcept override {
    return value_or([&] { return storage->stored_bytes_differ(key, offset, bytes); }, false);
  }

  // ---- lanes ----

  /// `dropped`: room for all buffers that are kept.
  void work(LaneId id, PartBuffers& buffers, StagingPool::Dropped& dropped) noexcept {
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

  /// A read that was claimed just now.
  void carry_out(LaneId id, Job& job, StagingPool::Dropped& dropped,
                 std::unique_lock<std::mutex>& lock) noexcept {
    Lane& lane = lanes[id];
    const bool more = call(lane);  // there may be more for a second thread
    lock.unlock();
    if (more) lane.wake.notify_one();
    free(dropped);  // given back before new memory is taken
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

  void wait_for_work(LaneId id, std::unique_lock<std::mutex>& lock) {
    const auto ready = [&] {
      if (stop || may_take_part(lanes[id])) return true;
      return wants_reads(lanes[id]) &&
             std::any_of(clients.begin(), clients.end(),
                         [&](const auto& session) { return may_have_read(*session, id); });
    };
    while (!ready()) {
      if (!quarantine.empty() || help(id, lock)) {
        return wait(lanes[id], lock, std::chrono::milliseconds(2));
      }
      if (ready()) return;
      wait(lanes[id], lock, kNever);
    }
  }
  /// Until the thread is called, or another one of its lane that has not come yet.
  static void wait(Lane& lane, std::unique_lock<std::mutex>& lock, Time most) {
    ++lane.waiting;
    if (most == kNever) {
      lane.wake.wait(lock);
    } else {
      lane.wake.wait_for(lock, most);
    }
    --lane.waiting;
    lane.called = false;
  }

  /// The session may have a read for this lane, as far as the lane knows.
  bool may_have_read(const Attached& session, LaneId id) const {
    const Refusal& refusal = session.refusals[id];
    return !session.asked && (refusal.changes != session.changes ||
                              (refusal.for_memory && refusal.freed != freed_memory));
  }

  /// Asks the sessions in turn for a read.
  bool claim(LaneId id, Job& job, PartBuffers& buffers, StagingPool::Dropped& dropped,
             std::unique_lock<std::mutex>& lock) noexcept {
    for (std::size_t i = 0; i < clients.size() && !stop; ++i) {
      std::shared_ptr<Attached> session = clients[(turn + i) % clients.size()];
      if (!may_have_read(*session, id)) continue;
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

  /// Asks one session for a read, without the lock: memory for the largest one is set aside first.
  /// Whatever throws here, nothing was claimed.
  bool ask(LaneId id, Attached& session, Job& job, PartBuffers& buffers,
           StagingPool::Dropped& dropped, std::unique_lock<std::mutex>& lock) noexcept {
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
    ++turn;
    job.parts = std::move(parts);
    begin(id, session.client, *read, job, dropped);
    return true;
  }

  /// The read is the lane's from now on. Needs no memory but staging memory.
  void begin(LaneId id, const std::shared_ptr<LaneClient>& client, const ReadTicket& read, Job& job,
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
      lane.active.push_back({client, read.id, 0, true});
      lane.busy.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    job.buffer = pool.lend(read.bytes, pool.room() - std::min(pool.room(), set_aside), dropped);
    // Of an arena nobody else should take what was just seen to be free.
    if (device != nullptr) allocate(job);
    const std::uint64_t taken = pool.cost(job.buffer.size() != 0 ? job.buffer.size() : read.bytes);
    lane.used_bytes += taken;
    lane.active.push_back({client, read.id, taken, true});
    lane.busy.fetch_add(1, std::memory_order_relaxed);
  }

  /// Room that all later push_backs of the lanes need. True, or it throws.
  bool reserve_room(std::size_t n_threads) {
    const auto grow = [&](auto& list) {
      const std::size_t need = list.size() + n_threads;
      if (list.capacity() < need) list.reserve(2 * need);
    };
    grow(quarantine);
    grow(lent);
    for (Lane& lane : lanes) grow(lane.parts);
    return true;
  }

  /// Most bytes that a read of this lane may take. Beside a read of its own it leaves every other
  /// lane half of that one's share, and beside abandoned ones it takes no more than its own: a tier
  /// that stops answering has not taken all memory by then, and takes none later.
  std::uint64_t room_for(const Lane& lane) const {
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

  /// Beside the reads that it has and that somebody waits for.
  static std::uint64_t room_for_more(const Lane& lane) {
    if (lane.active.size() < kFewReads) return ~std::uint64_t{0};
    unsigned reads = 0;
    std::uint64_t bytes = 0;
    for (const Active& a : lane.active) {
      if (a.reading && !a.client->wanted(a.read)) continue;
      ++reads;
      bytes += a.bytes;
    }
    if (reads < kFewReads) return ~std::uint64_t{0};
    return kSmallReads - std::min(kSmallReads, bytes);
  }

  /// Of staging memory, for each lane that reads into it. There is at least one.
  std::uint64_t share_of_lane() const { return pool.budget() / readers; }
  std::uint64_t share_left(const Lane& lane) const {
    const std::uint64_t share = share_of_lane();
    return share - std::min(share, lane.used_bytes);
  }

  /// Without the lock: giving memory back may take long.
  void free(StagingPool::Dropped& dropped) noexcept {
    dropped.buffers.clear();
    if (dropped.held == 0) return;
    std::lock_guard lock(mutex);
    freed(std::exchange(dropped.held, 0));
  }
  /// Likewise; of nothing where the pool kept the buffer.
  void free(AlignedBuffer unused, std::unique_lock<std::mutex>& lock) noexcept {
    if (unused.size() == 0) return;
    const std::uint64_t bytes = pool.cost(unused.size());
    lock.unlock();
    unused = AlignedBuffer();
    lock.lock();
    freed(bytes);
  }
  void freed(std::uint64_t bytes) noexcept {
    pool.freed(bytes);
    memory_back.notify_all();
    announce_memory();
  }

  /// May take long: locking pages into memory is a matter of milliseconds.
  bool allocate(Job& job) noexcept { return allocate(job.read.bytes, job.buffer); }
  bool allocate(std::uint64_t bytes, AlignedBuffer& buffer) noexcept {
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

  /// False: there was no memory for it just now.
  bool serve(LaneId id, Job& job, StagingPool::Dropped& dropped) noexcept {
    if (lanes[id].lends) {
      borrow(id, job);
      return true;
    }
    if (job.buffer.size() == 0 && device == nullptr) allocate(job);
    if (job.buffer.size() == 0) {
      bool others = false;
      {
        std::lock_guard lock(mutex);
        pool.drop_all(dropped);
        // An arena may be shared with other lanes, whose reads end, too.
        others = device != nullptr || pool.lent() > pool.cost(job.read.bytes);
      }
      free(dropped);
      if (device == nullptr) allocate(job);
      if (job.buffer.size() == 0) {
        if (others) {
          job.client->returned(job.read);
        } else {
          job.client->failed(job.read, error_of(Errc::out_of_memory, 0, "staging memory"));
        }
        return !others;
      }
    }
    read(id, job);
    return true;
  }

  /// Makes the read and hands it over.
  void read(LaneId id, Job& job) noexcept {
    const MutableBytes out = job.buffer.bytes().first(job.read.bytes);
    // Kept until the bytes are handed over: the store may have let go of it by then.
    std::shared_ptr<DigestingSink> sink;
    if (device == nullptr && storage->abilities.read_pieces) sink = job.client->sink(job.read, out);
    Status status;
    try {
      status = storage->read(id, job.read.key, job.read.offset, out, sink, job.parked);
      if (job.parked) {
        while (!job.parked->wait_for(std::chrono::milliseconds(2))) {
          if (job.client->wanted(job.read.id)) continue;
          job.parked->cancel();
          return job.client->failed(job.read, error_of(Errc::timeout, 0, "read abandoned"));
        }
        const std::unique_ptr<Parked> ended = std::move(job.parked);
        status = ended->wait();
      }
    } catch (...) {
      // Where the completion would not say whether the read has ended, job.parked keeps its buffer.
      const Error why = caught(Errc::io, "read of a chunk");
      note_end(id, job);
      return job.client->failed(job.read, why);
    }
    note_end(id, job);
    if (!status) return job.client->failed(job.read, status.error());
    if (job.client->keeps_bytes()) keep_lent(id, job, {});
    job.whole = job.client->landed(job.read, {.bytes = out, .sink = sink.get()});
  }

  /// Hands over bytes where they lie in the store, for as long as the client uses them.
  void borrow(LaneId id, Job& job) noexcept {
    const ReadTicket& read = job.read;
    Result<BorrowedBytes> loan = guarded(Errc::io, "loan of a chunk's bytes", [&] {
      return storage->borrow(id, read.key, read.offset, read.bytes);
    });
    note_end(id, job);
    if (!loan) return job.client->failed(read, loan.error());
    const Landed landed{.bytes = loan->bytes(), .lent = true, .seal = loan->seal()};
    if (landed.bytes.size() != read.bytes) {
      return job.client->failed(read, error_of(Errc::io, 0, "the storage lent other bytes"));
    }
    if (job.client->keeps_bytes()) keep_lent(id, job, std::move(*loan));
    (void)job.client->landed(read, landed);
  }

  void note_end(LaneId id, const Job& job) {
    std::lock_guard lock(mutex);
    for (Active& a : lanes[id].active) {
      if (a.client == job.client && a.read == job.read.id && a.part == kWhole) a.reading = false;
    }
  }

  void keep_lent(LaneId id, Job& job, BorrowedBytes loan) {
    std::lock_guard lock(mutex);
    lent.push_back({job.client.get(), job.read.id, id, std::move(job.buffer), std::move(loan)});
    job.kept = true;
  }

  // ---- reads in parts ----

  /// A buffer for a read of the client that is carried out in parts. Null: it is not, or there is no
  /// room, so that it may have to be carried out as a whole. May give the lock up for a while.
  PartBuffer* room_for_parts(LaneId id, const LaneClient& client, PartBuffers& buffers,
                             StagingPool::Dropped& dropped,
                             std::unique_lock<std::mutex>& lock) noexcept {
    const std::uint64_t bytes = lanes[id].by_threads ? client.part_bytes() : 0;
    return bytes == 0 ? nullptr : buffer_of(id, bytes, buffers, dropped, lock);
  }

  /// A buffer of this thread that a part of so many bytes can be read into. Null: there is no memory
  /// for it. May give the lock up for a while.
  PartBuffer* buffer_of(LaneId id, std::uint64_t bytes, PartBuffers& buffers,
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
    free(dropped);
    const bool there = allocate(bytes, one->buffer);
    lock.lock();
    if (there) return one;
    lanes[id].used_bytes -= std::exchange(one->taken, 0);
    pool.cancel(bytes);
    announce_memory();
    return nullptr;
  }

  /// The buffers of a thread that has nothing to read. False: it had none.
  bool give_back(LaneId id, PartBuffers& buffers, std::unique_lock<std::mutex>& lock) noexcept {
    bool any = false;
    for (PartBuffer& one : buffers.both) {
      any = any || one.taken != 0;
      give_back(id, one, lock);
    }
    return any;
  }
  void give_back(LaneId id, PartBuffer& one, std::unique_lock<std::mutex>& lock) noexcept {
    if (one.taken == 0) return;
    lanes[id].used_bytes -= std::exchange(one.taken, 0);
    AlignedBuffer buffer = std::move(one.buffer);
    one.buffer = AlignedBuffer();
    take_back(std::move(buffer), lock);
  }

  /// Reads the head of the object, where it is needed, and lets all threads have the parts.
  void open(LaneId id, Job& job, std::unique_lock<std::mutex>& lock) noexcept {
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

  static LaneParts* first_left(const Lane& lane) {
    const auto found = std::find_if(lane.parts.begin(), lane.parts.end(),
                                    [](const auto& parts) { return parts->left(); });
    return found == lane.parts.end() ? nullptr : found->get();
  }
  /// There are parts for fewer than half of the threads, or none that can be taken: somebody asks for
  /// more before they run out, since a thread that has to be woken for each read comes late.
  static bool wants_reads(const Lane& lane) {
    if (first_left(lane) == nullptr) return true;
    std::size_t left = 0;
    for (const auto& parts : lane.parts) {
      left += parts->parted == nullptr ? 1 : parts->parted->parts().size() - parts->next;
    }
    return 2 * left < lane.threads;
  }
  bool may_take_part(const Lane& lane) const {
    const LaneParts* const parts = first_left(lane);
    return parts != nullptr && (room_for(lane) >= StagingPool::cost(parts->client->part_bytes()) ||
                                !parts->client->wanted(parts->read.id));
  }

  /// Takes the next part of the oldest read that has some left, and reads it. False: there is none,
  /// or no memory. True also after anything else that took time without the lock.
  bool take_part(LaneId id, PartBuffers& buffers, StagingPool::Dropped& dropped,
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
  /// It leaves the lane where none of it is left to take.
  static std::shared_ptr<LaneParts> found(Lane& lane, const LaneParts& one) {
    const auto place = std::find_if(lane.parts.begin(), lane.parts.end(),
                                    [&](const auto& parts) { return parts.get() == &one; });
    std::shared_ptr<LaneParts> parts = *place;
    if (!parts->left()) lane.parts.erase(place);
    return parts;
  }
  /// Nobody waits for it any more.
  static void drop_parts(Lane& lane, LaneParts& one, std::unique_lock<std::mutex>& lock) {
    one.next = one.parted->parts().size();
    std::shared_ptr<LaneParts> parts = found(lane, one);
    lock.unlock();
    parts.reset();
    lock.lock();
  }

  void read_part_of(LaneId id, const LaneParts& parts, std::size_t number, PartBuffer& one,
                    PartBuffers& buffers) noexcept {
    PartedRead& parted = *parts.parted;
    const ReadPart& part = parted.parts()[number];
    const MutableBytes out = one.buffer.bytes().first(part.bytes);
    std::optional<SliceDigests> digests = parted.digests(number, out);
    const Status status = read_part(*storage, id, parts.read.key, part.offset, out, digests,
                                    [&] { finish_inserts(id, buffers, false); });
    if (!status) return parted.failed(status.error());
    std::unique_ptr<PendingInsert> insert =
        parted.landed(number, out, digests ? &*digests : nullptr);
    if (insert) one.begin(std::move(insert), parts.parted, parts.read);
  }

  void wait_for_insert(LaneId id, PartBuffers& buffers,
                       std::unique_lock<std::mutex>& lock) noexcept {
    lock.unlock();
    finish_inserts(id, buffers, true);
    lock.lock();
  }
  /// Tells of inserts that are over; where it `waits`, of the one that began first at least.
  void finish_inserts(LaneId id, PartBuffers& buffers, bool waits) noexcept {
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

  /// Tells of inserts of other threads, which may be stuck in a read. True: some are not over.
  bool help(LaneId id, std::unique_lock<std::mutex>& lock) noexcept {
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

  /// The read is over for the lane: its buffer goes back to the pool, into quarantine, or stays
  /// with the client.
  void settle(LaneId id, Job& job, std::unique_lock<std::mutex>& lock) {
    Lane& lane = lanes[id];
    lane.busy.fetch_sub(1, std::memory_order_relaxed);
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
    end_client(job.client, lock);
  }
  static void end_active(Lane& lane, const std::shared_ptr<LaneClient>& client, std::uint64_t read,
                         std::size_t part) {
    std::erase_if(lane.active, [&](const Active& a) {
      return a.client == client && a.read == read && a.part == part;
    });
  }
  /// The client may be the last one to know its session: it ends without the lock.
  static void end_client(std::shared_ptr<LaneClient>& client, std::unique_lock<std::mutex>& lock) {
    if (client.use_count() != 1) return;
    lock.unlock();
    client.reset();
    lock.lock();
  }

  /// Gives back what is no longer in quarantine.
  void release_ended(std::unique_lock<std::mutex>& lock) {
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

  std::unique_ptr<LaneStorage> storage;
  LaneOptions options;
  DeviceStaging* device;
  const ForkGuard made_here;
  mutable std::mutex mutex;  // guards all below
  StagingPool pool;
  std::condition_variable memory_back;  // of the pool
  std::deque<Lane> lanes;
  std::size_t readers = 0;  // lanes whose reads take staging memory
  std::vector<std::shared_ptr<Attached>> clients;
  std::vector<std::unique_ptr<Parked>> quarantine;
  std::vector<Lent> lent;
  std::atomic<bool> any_quarantined{false};
  std::uint64_t store_has = 0;  // bytes of buffers that are lent to the store
  std::condition_variable store_gave_back;
  std::size_t asking = 0;          // threads that ask a session
  std::uint64_t set_aside = 0;     // bytes, by those
  bool set_aside_wanted = false;   // some session was refused a read while there were such
  bool memory_wanted = false;      // some session was refused a read for want of memory
  std::uint64_t freed_memory = 0;  // counts how often there was some again for those
  std::size_t turn = 0;
  bool stop = false;
  std::vector<std::thread> threads;
  TierLookup lookups;  // ends first
  std::mutex saver_made;
  std::optional<SaverCore> saver;
};

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
