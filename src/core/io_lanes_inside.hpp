// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The lanes' threads and what they share, for the sources that are compiled into the library:
// io_lanes_core.cpp (sessions and whole reads), lane_prompts.cpp (whom a lane reads for next),
// lane_joins.cpp (reads for several sessions), lane_parts.cpp (reads in parts), lane_memory.cpp (staging memory, and who has it).
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/io_lanes_core.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lane_order.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/parked_read.hpp"
#include "cake/detail/process.hpp"
#include "cake/detail/read_table.hpp"
#include "cake/detail/saver_core.hpp"
#include "cake/detail/staging_pool.hpp"
#include "cake/detail/tier_lookup.hpp"
#include "cake/io_lanes.hpp"
#include "cake/staging.hpp"
#include "src/core/clock.hpp"
#include "src/core/lane_parts.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Its threads, and what they share. One object on the heap, so that a child process can leave it as
/// it is. No code of a session, a scheduler or the store runs under its mutex, but for
/// LaneClient::wanted().
struct IoLanesCore::Inside final : LaneHost {
  /// A session that is to have the bytes of another one's read as well, by a ticket of its own.
  struct Joined {
    std::shared_ptr<LaneClient> client;
    ReadTicket read;
  };
  struct Active {
    std::shared_ptr<LaneClient> client;
    std::uint64_t read = 0;
    std::uint64_t bytes = 0;  // of staging memory
    bool reading = true;
    std::size_t part = kWhole;
    Time since{0};           // steady_clock
    ReadTicket ticket = {};  // where it is whole
    bool joinable = false;   // its bytes are handed to others, too, that come before it has ended
    std::vector<Joined> joined = {};  // those
    unsigned invited = 0;             // sessions that are being asked: it does not end before
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
    LinkEstimate known;                     // its rate, as of the last session that came or went
    std::atomic<std::uint64_t> carried{0};  // bytes, for all sessions
  };
  /// So many reads of a lane may be of any size; more of them take no more than kSmallReads together.
  /// They keep a link busy; more buffers were slower (benchmarks/NOTES.md, Read path).
  static constexpr unsigned kFewReads = 4;
  static constexpr std::uint64_t kSmallReads = std::uint64_t{64} << 20;

  /// How long after a read was overdue at the latest a thread looks whether the lane is busy still.
  static constexpr Time kOverduePoll = std::chrono::milliseconds(1);

  /// Buffers that are kept for each thread: a large one and those for parts.
  static constexpr unsigned kKept = 3;

  /// What a lane was told when it asked a session for a read and got none.
  struct Refusal {
    std::uint64_t changes = 0;  // of the session, by then
    bool for_memory = false;    // there would be a read for more memory
    std::uint64_t freed = 0;    // memory changes by then
  };
  /// What the order of prompts keeps of one session and one lane, in bytes.
  struct Waited {
    std::uint64_t alone = 0;      // that were left to load when it came
    std::uint64_t overtaken = 0;  // carried for later sessions while it may have had a read
  };
  /// A session, and which of its changes each lane has seen.
  struct Attached {
    std::shared_ptr<LaneClient> client;
    std::uint64_t arrival = 0;  // counts sessions
    std::uint64_t changes = 1;
    bool asked = false;             // a lane's thread asks it at the moment
    std::vector<Refusal> refusals;  // [lane]
    std::vector<Waited> waited;     // [lane]
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

  Inside(std::unique_ptr<LaneStorage> storage_in, const LaneOptions& options_in);

  unsigned threads_per_lane() const { return options.threads == 0 ? kFewReads : options.threads; }
  std::uint32_t tier_count() const { return std::clamp(storage->tiers(), 1u, kMaxTiers); }

  bool start_thread(LaneId lane, unsigned number);

  void end();

  // ---- for sessions ----

  std::uint32_t lane_count() const noexcept override {
    return static_cast<std::uint32_t>(lanes.size());
  }
  std::uint32_t reads_at_once() const noexcept override { return threads_per_lane(); }
  std::uint64_t part_bytes() const noexcept override { return options.part_bytes; }
  std::uint64_t staging_budget() const noexcept override { return pool.budget(); }
  DeviceStaging* landing_device() const noexcept override { return device; }
  StagingMemory* staging_memory() const noexcept override {
    return device == nullptr ? options.staging : nullptr;
  }
  Status usable() const override { return made_here.check("an IoLanes"); }
  bool reading() const noexcept override;

  std::vector<LinkEstimate> rates() const override { return options.calibration->tiers(); }
  std::uint64_t carried(LaneId id) const noexcept override { return lanes[id].carried.load(); }
  std::uint64_t ahead(const LaneClient& client, LaneId id) noexcept override;
  Calibration& calibration() noexcept override { return *options.calibration; }

  void attach(std::shared_ptr<LaneClient> client) override;
  auto find(const LaneClient& client) {
    return std::find_if(clients.begin(), clients.end(),
                        [&](const auto& c) { return c->client.get() == &client; });
  }
  void detach(const LaneClient& client) noexcept override;
  void wake(const LaneClient& client) noexcept override;
  /// One waiting thread of each lane looks for work. One that was called and has not come yet will
  /// see what is new by now. Gives the lock back first: that is what a thread that wakes takes.
  void call_lanes(std::unique_lock<std::mutex>& lock) noexcept;
  /// Whether a waiting thread of the lane is to be notified.
  static bool call(Lane& lane) noexcept {
    return lane.waiting != 0 && !std::exchange(lane.called, true);
  }

  /// Memory is free again. Only lanes that were refused a read for want of some need to know, and
  /// those that ask for one with what there was before.
  void announce_memory() noexcept {
    if (memory_wanted || asking != 0) announce_room();
  }
  void announce_room() noexcept;

  bool down(LaneId id, std::uint64_t bytes) noexcept override;

  void give_back(const LaneClient& client, const ReadTicket& read, bool whole) noexcept override;
  void take_back(AlignedBuffer buffer, std::unique_lock<std::mutex>& lock) noexcept;

  // ---- for the store ----

  /// Offers the store a whole object for a faster tier. True: it has the buffer, which comes back by
  /// itself.
  bool offer(const ReadTicket& read, AlignedBuffer& buffer) noexcept;
  /// Reads go first: the store has a quarter of the memory, or one buffer where another one of its
  /// size is free, and nothing while a session waits for memory. A lane does not use what the store
  /// has, so that it may take what is left for its next read.
  bool lend_to_store(StoreLoan& loan, LaneId id, AlignedBuffer& buffer) noexcept;
  void end_store_loan(AlignedBuffer buffer) noexcept;

  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys,
                                          const ChunkGeometry& geometry, Time timeout,
                                          const std::stop_token& stop_token,
                                          Status& problem) override;
  void discard(LaneId tier, const ChunkKey& key) noexcept override { lookups.discard(tier, key); }
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                           ConstBytes bytes) noexcept override;

  // ---- lanes ----

  /// `dropped`: room for all buffers that are kept.
  void work(LaneId id, PartBuffers& buffers, StagingPool::Dropped& dropped) noexcept;

  /// A read that was claimed just now.
  void carry_out(LaneId id, Job& job, StagingPool::Dropped& dropped,
                 std::unique_lock<std::mutex>& lock) noexcept;

  void wait_for_work(LaneId id, std::unique_lock<std::mutex>& lock);
  /// Until the thread is called, or another one of its lane that has not come yet.
  static void wait(Lane& lane, std::unique_lock<std::mutex>& lock, Time most);

  /// The session may have a read for this lane, as far as the lane knows.
  bool may_have_read(const Attached& session, LaneId id) const;

  /// Asks the sessions for a read, one after the other as the order of prompts says.
  bool claim(LaneId id, Job& job, PartBuffers& buffers, StagingPool::Dropped& dropped,
             std::unique_lock<std::mutex>& lock) noexcept;

  // ---- whom a lane reads for next ----

  /// What each session wants of the lane, in `demands`.
  LaneLoad take_demands(LaneId id) noexcept;
  /// The session that is to be asked next: the first in order of those that may have a read. One that is
  /// not the first of all waits while the lane is busy with reads of others; `until`: when some of those
  /// will be overdue. Null: none.
  Attached* next_to_ask(LaneId id, Time* until = nullptr) noexcept;
  /// The reads of other sessions keep the lane at its rate: one more would only make them later. Returns
  /// when that is over at the latest; none: it is not so. A read that is overdue keeps nothing busy.
  std::optional<Time> busy_for_others(const Lane& lane, const LaneClient& client, Time now) const;
  /// The lane is to carry so many bytes for this session.
  void note_overtaken(LaneId id, const Attached& session, std::uint64_t bytes) noexcept;
  /// It has carried them.
  void count_carried(LaneId id, LaneClient& client, std::uint64_t bytes) noexcept {
    client.count_carried(id, bytes);  // first: what others carried is never counted too high
    lanes[id].carried += bytes;
  }

  /// Asks one session for a read, without the lock: memory for the largest one is set aside first.
  /// Whatever throws here, nothing was claimed.
  bool ask(LaneId id, Attached& session, Job& job, PartBuffers& buffers,
           StagingPool::Dropped& dropped, std::unique_lock<std::mutex>& lock) noexcept;

  /// The read is the lane's from now on. Needs no memory but staging memory.
  void begin(LaneId id, const std::shared_ptr<LaneClient>& client, const ReadTicket& read, Job& job,
             StagingPool::Dropped& dropped) noexcept;

  /// Room that all later push_backs of the lanes need. True, or it throws.
  bool reserve_room(std::size_t n_threads);

  /// Most bytes that a read of this lane may take. Beside a read of its own it leaves every other
  /// lane half of that one's share, and beside abandoned ones it takes no more than its own: a tier
  /// that stops answering has not taken all memory by then, and takes none later.
  std::uint64_t room_for(const Lane& lane) const;

  /// Beside the reads that it has and that somebody waits for.
  static std::uint64_t room_for_more(const Lane& lane);

  /// Of staging memory, for each lane that reads into it. There is at least one.
  std::uint64_t share_of_lane() const { return pool.budget() / readers; }
  std::uint64_t share_left(const Lane& lane) const;

  /// Without the lock: giving memory back may take long.
  void free_dropped(StagingPool::Dropped& dropped) noexcept;
  /// Likewise; of nothing where the pool kept the buffer.
  void free(AlignedBuffer unused, std::unique_lock<std::mutex>& lock) noexcept;
  void freed(std::uint64_t bytes) noexcept;

  /// May take long: locking pages into memory is a matter of milliseconds.
  bool allocate(Job& job) noexcept { return allocate(job.read.bytes, job.buffer); }
  bool allocate(std::uint64_t bytes, AlignedBuffer& buffer) noexcept;

  /// False: there was no memory for it just now.
  bool serve(LaneId id, Job& job, StagingPool::Dropped& dropped) noexcept;

  /// Makes the read and hands it over.
  void read(LaneId id, Job& job) noexcept;

  /// Hands over bytes where they lie in the store, for as long as the client uses them.
  void borrow(LaneId id, Job& job) noexcept;

  /// The store has done with the read, which brought so many bytes. Returns those that have joined it;
  /// nobody else does from now on.
  std::span<const Joined> note_end(LaneId id, const Job& job, std::uint64_t bytes) noexcept;

  // ---- reads for several sessions ----

  // Where a lane reads into staging memory, a chunk that several sessions want is read once: when a read
  // begins, all others are asked whether they want it (LaneClient::join()), and a session that comes is
  // asked about all that are under way. The thread that reads hands the bytes to each. When the read fails,
  // those that joined may have it read again; it goes on while any of them wants it.

  /// Asks all other sessions.
  void invite(LaneId id, const Job& job) noexcept;
  /// Asks a session that is new whether it wants what is under way.
  void invite_to_all(const std::shared_ptr<LaneClient>& client) noexcept;
  /// It has joined the read by that ticket, unless that has ended meanwhile.
  void join(LaneId id, const LaneClient& reader, std::uint64_t read, const Joined& joins) noexcept;
  bool join_under_way(Lane& lane, const std::shared_ptr<LaneClient>& client,
                      const ReadTicket& read) noexcept;
  /// Marks it as one that nobody joins from now on. Those that have joined stay where they are until the
  /// read is settled, which its own thread does.
  std::span<const Joined> end_joining(LaneId id, const Job& job, bool reading) noexcept;
  Active* find_active(LaneId id, const LaneClient& client, std::uint64_t read) noexcept;
  /// Those that have joined; nobody else does from now on.
  std::span<const Joined> take_joined(LaneId id, const Job& job) noexcept;
  /// The session may have what it joined read again.
  void hand_back(const Joined& joined) noexcept;
  static bool wanted(const Active& active) noexcept;
  bool wanted(LaneId id, const Job& job) noexcept;

  void keep_lent(LaneId id, Job& job, BorrowedBytes loan);

  // ---- reads in parts ----

  /// A buffer for a read of the client that is carried out in parts. Null: it is not, or there is no
  /// room, so that it may have to be carried out as a whole. May give the lock up for a while.
  PartBuffer* room_for_parts(LaneId id, const LaneClient& client, PartBuffers& buffers,
                             StagingPool::Dropped& dropped,
                             std::unique_lock<std::mutex>& lock) noexcept;

  /// A buffer of this thread that a part of so many bytes can be read into. Null: there is no memory
  /// for it. May give the lock up for a while.
  PartBuffer* buffer_of(LaneId id, std::uint64_t bytes, PartBuffers& buffers,
                        StagingPool::Dropped& dropped, std::unique_lock<std::mutex>& lock) noexcept;

  /// The buffers of a thread that has nothing to read. False: it had none.
  bool give_back(LaneId id, PartBuffers& buffers, std::unique_lock<std::mutex>& lock) noexcept;
  void give_back(LaneId id, PartBuffer& one, std::unique_lock<std::mutex>& lock) noexcept;

  /// Reads the head of the object, where it is needed, and lets all threads have the parts.
  void open(LaneId id, Job& job, std::unique_lock<std::mutex>& lock) noexcept;

  static LaneParts* first_left(const Lane& lane);
  /// There are parts for fewer than half of the threads, or none that can be taken: somebody asks for
  /// more before they run out, since a thread that has to be woken for each read comes late.
  static bool wants_reads(const Lane& lane);
  bool may_take_part(const Lane& lane) const;

  /// Takes the next part of the oldest read that has some left, and reads it. False: there is none,
  /// or no memory. True also after anything else that took time without the lock.
  bool take_part(LaneId id, PartBuffers& buffers, StagingPool::Dropped& dropped,
                 std::unique_lock<std::mutex>& lock) noexcept;
  /// It leaves the lane where none of it is left to take.
  static std::shared_ptr<LaneParts> found(Lane& lane, const LaneParts& one);
  /// Nobody waits for it any more.
  static void drop_parts(Lane& lane, LaneParts& one, std::unique_lock<std::mutex>& lock);

  void read_part_of(LaneId id, const LaneParts& parts, std::size_t number, PartBuffer& one,
                    PartBuffers& buffers) noexcept;

  void wait_for_insert(LaneId id, PartBuffers& buffers,
                       std::unique_lock<std::mutex>& lock) noexcept;
  /// Tells of inserts that are over; where it `waits`, of the one that began first at least.
  void finish_inserts(LaneId id, PartBuffers& buffers, bool waits) noexcept;

  /// Tells of inserts of other threads, which may be stuck in a read. True: some are not over.
  bool help(LaneId id, std::unique_lock<std::mutex>& lock) noexcept;

  /// The read is over for the lane: its buffer goes back to the pool, into quarantine, or stays
  /// with the client.
  void settle(LaneId id, Job& job, std::unique_lock<std::mutex>& lock);
  static void end_active(Lane& lane, const std::shared_ptr<LaneClient>& client, std::uint64_t read,
                         std::size_t part);
  /// The client may be the last one to know its session: it ends without the lock.
  static void end_client(std::shared_ptr<LaneClient>& client, std::unique_lock<std::mutex>& lock);

  /// Gives back what is no longer in quarantine.
  void release_ended(std::unique_lock<std::mutex>& lock);

  std::unique_ptr<LaneStorage> storage;
  LaneOptions options;
  DeviceStaging* device;
  const ForkGuard made_here;
  mutable std::mutex mutex;  // guards all below
  StagingPool pool;
  std::condition_variable memory_back;  // of the pool
  std::condition_variable answered;     // by all that were invited to a read
  std::deque<Lane> lanes;
  std::size_t readers = 0;  // lanes whose reads take staging memory
  std::vector<std::shared_ptr<Attached>> clients;
  std::vector<LaneDemand> demands;  // room for one of each client
  std::uint64_t arrivals = 0;
  std::atomic<bool> several{false};  // clients
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
  bool stop = false;
  std::vector<std::thread> threads;
  TierLookup lookups;  // ends first
  std::mutex saver_made;
  std::optional<SaverCore> saver;
};

}  // namespace cake::inline CAKE_ABI::detail
