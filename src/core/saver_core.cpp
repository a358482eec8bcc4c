// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/saver_core.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/io_lanes_core.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/process.hpp"
#include "cake/saver.hpp"
#include "src/core/save_job.hpp"
#include "src/core/save_memory.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// Waits while the lanes read, at most so long.
void let_reads_go_first(const LaneHost* lanes, Time most) noexcept {
  if (lanes == nullptr) return;
  const auto until = std::chrono::steady_clock::now() + most;
  while (lanes->reading() && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

}  // namespace

/// Its threads, and what they share. One object on the heap, so that a child process can leave it as
/// it is. Engine and store are called without its mutex.
struct SaverCore::Inside {
  using Job = std::shared_ptr<SaveJob>;
  using Lock = std::unique_lock<std::mutex>;
  Inside(std::unique_ptr<LaneStorage> own_storage, IoLanesCore* lanes, const SaverOptions& how)
      : own(std::move(own_storage)),
        storage(own ? *own : lanes->storage()),
        host(lanes == nullptr ? nullptr : &lanes->host()),
        options(how),
        memory(how.memory_bytes) {
    const std::lock_guard lock(mutex);  // those that are made look how many there are
    threads.reserve(std::max(1u, options.threads));
    for (unsigned t = 0; t < std::max(1u, options.threads); ++t) {
      try {
        threads.emplace_back([this] { serve(); });
      } catch (const std::exception&) {  // with fewer; with none saves run on their callers
        break;
      }
    }
  }

  void end() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    changed.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  void serve() noexcept {
    Lock lock(mutex);
    while (!stop || !jobs.empty()) {
      if (!step(lock)) changed.wait(lock);
    }
    changed.notify_all();
  }

  // ---- what a thread does next ----

  /// Does one thing that can be done now. False: there is none.
  bool step(Lock& lock) noexcept {
    for (const Job& job : jobs) {
      if (job->phase == SaveJob::Phase::fresh && !job->on_caller()) return prepare(job, lock);
    }
    // What was just extracted is still in the cache. But one thread stays with the engines, whose
    // KV is waited for, while all others write.
    const bool others_left = writing + 1 < threads.size() || threads.size() < 2;
    if (!ready.empty() && others_left) return write(lock);
    for (const Job& job : jobs) {
      if (may_extract(*job) && !job->on_caller()) return extract(job, lock);
    }
    if (!ready.empty()) return write(lock);
    for (const Job& job : jobs) {
      if (job->all_written()) return check(job, lock);
    }
    return false;
  }

  /// By copy: it may be the last one to know the job.
  bool prepare(Job job, Lock& lock) noexcept {
    job->phase = SaveJob::Phase::preparing;
    lock.unlock();
    RecentKeys* const counted = options.write_after == 0 ? nullptr : &asked;
    const auto prepared = guarded(Errc::device, "save",
                                  [&] { return job->prepare(host, counted, options.write_after); });
    lock.lock();
    stats.held_back += job->report.held_back;
    job->open(prepared);
    drop_backlog();
    changed.notify_all();
    return true;
  }
  /// Drops chunks above the bound, over all saves those first that lie lowest in their prompt.
  void drop_backlog() noexcept {
    std::uint64_t bytes = 0;
    for (const Job& job : jobs) bytes += job->waiting() * job->object_bytes;
    while (bytes > options.backlog_bytes) {
      SaveJob* lowest = nullptr;
      for (const Job& job : jobs) {
        if (job->waiting() == 0) continue;
        if (lowest == nullptr || job->lowest() < lowest->lowest()) lowest = job.get();
      }
      ++lowest->first;
      ++lowest->report.dropped;
      ++stats.dropped;
      bytes -= lowest->object_bytes;
      lowest->tally.note(error_of(Errc::out_of_memory, 0,
                                  "save: chunks were dropped, because more wait than "
                                  "SaverOptions::backlog_bytes; the store is slower than what is "
                                  "to be saved"));
      if (lowest->all_extracted()) lowest->note_extracted();
    }
  }
  // ---- from the engine into memory ----
  /// The next chunk can be extracted, or those that wait are given up.
  bool may_extract(const SaveJob& job) const {
    if (job.phase != SaveJob::Phase::open || !job.may_extract()) return false;
    return job.stop_requested() || job.tally.given_up() || memory.has_room(job.object_bytes);
  }
  bool extract(Job job, Lock& lock) noexcept {
    if (job->stop_requested() || job->tally.given_up()) {
      if (!job->tally.given_up()) job->tally.note(error_of(Errc::canceled, 0, "save"));
      job->give_up();
      if (job->all_extracted()) job->note_extracted();
      changed.notify_all();
      return true;
    }
    const SaveChunk what = job->work.chunks()[--job->last];
    ++job->extracting;
    ++job->on_their_way;
    SaveObjects dropped;
    SaveObjects object = memory.take(*job, dropped);
    lock.unlock();
    dropped.clear();
    // What is extracted to where it stays is all the writing that there is.
    const bool in_place = storage.abilities.write_in_place && !job->on_caller();
    if (in_place) let_reads_go_first(host, options.wait_for_reads);
    Status why;
    std::uint32_t got = 0;
    const Status fits = guarded(Errc::out_of_memory, "save: memory for an object", [&]() -> Status {
      make_object(object, *job, what, options.staging);
      return {};
    });
    if (fits) got = job->work.extract(*object.front().writer, what, why);
    lock.lock();
    --job->extracting;
    ++job->taken;
    if (job->all_extracted()) job->note_extracted();
    if (job->tally.extracted(what, got, fits ? why : fits)) {
      SaveObject& made = object.front();
      made.job = job;
      made.what = what;
      made.got = got;
      ready.splice(ready.end(), object);
    } else {
      --job->on_their_way;
      give_back(std::move(object), lock, *job);
    }
    changed.notify_all();
    return true;
  }

  void give_back(SaveObjects object, Lock& lock, const SaveJob& job) noexcept {
    if (!object.empty()) object.front().job.reset();
    SaveObjects gone = memory.give_back(std::move(object), job.object_bytes);
    if (gone.empty()) return;
    lock.unlock();
    gone.clear();
    lock.lock();
  }

  // ---- from memory into the store ----

  bool write(Lock& lock) noexcept {
    SaveObjects object;
    object.splice(object.end(), ready, ready.begin());
    const Job job = object.front().job;
    const SaveChunk what = object.front().what;
    const std::uint32_t got = object.front().got;
    const bool given_up = job->tally.given_up();
    ++writing;
    lock.unlock();
    Result<std::uint64_t> bytes = error_of(Errc::io, 0, "save: the store was given up");
    if (!given_up) {
      if (!object.front().in_store) let_reads_go_first(host, options.wait_for_reads);
      bytes = guarded(Errc::io, "save: write", [&] {
        SaveObject& made = object.front();
        return job->work.write(*made.writer, what, got, std::move(made.room));
      });
    }
    lock.lock();
    --writing;
    if (given_up) {
      job->tally.lost(1);
    } else {
      job->tally.written(what, got, job->work.n_layers(), bytes);
    }
    if (bytes) {
      ++job->stored;
      job->stored_bytes += *bytes;
      ++stats.written;
      stats.written_bytes += *bytes;
    }
    --job->on_their_way;
    give_back(std::move(object), lock, *job);
    changed.notify_all();
    return true;
  }

  bool check(Job job, Lock& lock) noexcept {
    job->phase = SaveJob::Phase::checking;
    lock.unlock();
    const Status readable =
        guarded(Errc::io, "save", [&] { return job->work.check(job->tally.all(), job->report); });
    if (!readable) job->tally.note(readable.error());
    lock.lock();
    std::erase(jobs, job);
    job->note_done();
    changed.notify_all();
    return true;
  }

  // ---- the caller's side ----

  void add(const Job& job) {
    Lock lock(mutex);
    jobs.push_back(job);
    if (threads.empty()) {
      while (!job->done()) do_on_caller(job, lock);
      return;
    }
    if (job->on_caller()) (void)prepare(job, lock);
    while (job->on_caller() && job->waiting() != 0) {
      if (!may_extract(*job)) {
        changed.wait(lock);
      } else {
        (void)extract(job, lock);
      }
    }
    lock.unlock();
    changed.notify_all();
  }
  /// Without threads.
  void do_on_caller(const Job& job, Lock& lock) {
    if (job->phase == SaveJob::Phase::fresh) {
      (void)prepare(job, lock);
    } else if (may_extract(*job)) {
      (void)extract(job, lock);
    } else if (!step(lock)) {
      changed.wait(lock);  // another caller has the memory
    }
  }

  std::unique_ptr<LaneStorage> own;
  LaneStorage& storage;
  LaneHost* const host;
  const SaverOptions options;
  RecentKeys asked;  // has a lock of its own
  const ForkGuard made_here;
  mutable std::mutex mutex;  // guards all below
  std::condition_variable changed;
  std::vector<Job> jobs;  // oldest first
  SaveObjects ready;      // extracted, oldest first
  SaveMemory memory;
  std::size_t writing = 0;  // threads
  SaverStats stats;
  bool stop = false;
  std::vector<std::thread> threads;
};

SaverCore::SaverCore(std::unique_ptr<LaneStorage> storage, IoLanesCore* lanes,
                     const SaverOptions& options)
    : inside_(std::make_unique<Inside>(std::move(storage), lanes, options)) {}

SaverCore::~SaverCore() {
  if (inside_->made_here.in_child()) {
    abandon(std::move(inside_));
  } else {
    inside_->end();
  }
}

SaveTicket SaverCore::save(std::unique_ptr<SessionEngine> engine, Tokens tokens,
                           ChunkOptions chunks, std::stop_token stop) {
  auto job = std::make_shared<SaveJob>(std::move(engine), inside_->storage, tokens,
                                       std::move(chunks), std::move(stop));
  if (const Status here = inside_->made_here.check("a Saver"); !here) {
    job->report = save_refused(here.error(), tokens, job->options());
    job->note_done();
  } else {
    inside_->add(job);
  }
  return SaveTicket(std::move(job));
}

void SaverCore::flush() {
  std::vector<Inside::Job> all;
  {
    const std::lock_guard lock(inside_->mutex);
    all = inside_->jobs;
  }
  for (const Inside::Job& job : all) job->wait_done();
}

SaverStats SaverCore::stats() const {
  const std::lock_guard lock(inside_->mutex);
  SaverStats now = inside_->stats;
  now.memory_bytes = inside_->memory.used();
  for (const Inside::Job& job : inside_->jobs) {
    now.waiting += job->waiting();
    now.on_their_way += job->on_their_way;
  }
  return now;
}

}  // namespace cake::inline CAKE_ABI::detail
