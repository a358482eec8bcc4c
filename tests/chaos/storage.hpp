// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store that does everything that a store may not, over one whose objects are good.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage_backend.hpp"
#include "chaos/fate.hpp"

namespace cake::inline CAKE_ABI::chaos {

/// How often each thing happens; 0: never.
struct StoreSpec {
  std::uint32_t tiers = 1;
  std::uint32_t delay_us = 0;  // longest
  double error = 0;
  double hang = 0;     // writes nonsense to `out` until it ends
  double flip = 0;     // one bit of a read is wrong
  double lie = 0;      // ok, and nothing was filled in
  double throws = 0;   // any call
  double absent = 0;   // an object is not told
  double size = 0;     // an object of another size is told
  double bits = 0;     // tiers that there are not
  double no_tier = 0;  // an object in no tier
  double length = 0;   // an answer of another length
  double stuck = 0;    // a lookup comes late
};

inline StoreSpec random_store(Random& random) {
  StoreSpec spec;
  spec.tiers = random.between(1, 3);
  spec.delay_us = random.chance(0.5) ? 0 : 1500;
  if (random.chance(0.25)) return spec;
  const auto often = [&](double most) { return random.chance(0.4) ? most * random.unit() : 0; };
  spec.error = often(0.2);
  spec.hang = often(0.2);
  spec.flip = often(0.1);
  spec.lie = often(0.1);
  spec.throws = often(0.1);
  spec.absent = often(0.3);
  spec.size = often(0.05);
  spec.bits = often(0.5);
  spec.no_tier = often(0.2);
  spec.length = often(0.3);
  spec.stuck = often(0.3);
  return spec;
}

class ChaosStorage {
 public:
  struct Job {
    ChunkKey key;
    std::uint64_t offset = 0;
    MutableBytes out;
    Random random{0};
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    Status status;
  };
  class Read {
   public:
    Read(std::shared_ptr<Job> job, double throws, std::uint64_t seed)
        : job_(std::move(job)), throws_(throws), random_(seed) {}
    bool ready() {
      maybe_throw();
      const std::lock_guard lock(job_->mutex);
      return job_->done;
    }
    bool wait_for(std::chrono::nanoseconds span) {
      maybe_throw();
      std::unique_lock lock(job_->mutex);
      return job_->changed.wait_for(lock, std::min<std::chrono::nanoseconds>(span, kDay),
                                    [&] { return job_->done; });
    }
    /// Blocks until the end also where it throws, as the contract asks.
    Status wait() {
      std::unique_lock lock(job_->mutex);
      job_->changed.wait(lock, [&] { return job_->done; });
      maybe_throw();
      return job_->status;
    }

   private:
    static constexpr std::chrono::hours kDay{24};
    void maybe_throw() {
      if (random_.chance(throws_)) throw_something(random_);
    }
    std::shared_ptr<Job> job_;
    double throws_;
    Random random_;
  };

  ChaosStorage(MemoryStorage& inner, const StoreSpec& spec, std::uint64_t seed)
      : inner_(inner), spec_(spec), calls_(seed) {
    for (int i = 0; i < 6; ++i) {
      threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
    }
  }

  static constexpr StorageAbilities abilities{.tiers = true, .stored_bytes_differ = true};
  std::uint32_t tiers() const { return spec_.tiers; }

  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    Random random(calls_++);
    if (random.chance(spec_.stuck)) nap(random.below(60'000));
    if (random.chance(spec_.throws)) throw_something(random);
    if (random.chance(spec_.error)) return Error{Errc::io, 0, "chaos: lookup"};
    auto found = inner_.lookup(keys);
    for (StoredChunk& chunk : *found) {
      if (chunk.size == 0) continue;
      chunk.tiers = random.between(1, (1u << spec_.tiers) - 1);
      if (random.chance(spec_.absent)) chunk = {};
      if (random.chance(spec_.size)) chunk.size += 4096;
      if (random.chance(spec_.bits)) chunk.tiers |= ~0u << spec_.tiers;
      if (random.chance(spec_.no_tier)) chunk.tiers = 0;
    }
    if (random.chance(spec_.length)) found->resize(random.below(2 * count(keys) + 1));
    return found;
  }

  Read read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    require(tier < spec_.tiers, "a read of a tier that there is not");
    const std::uint64_t seed = calls_++;
    Random random(seed);
    if (random.chance(spec_.throws)) throw_something(random);
    auto job = std::make_shared<Job>();
    job->key = key;
    job->offset = offset;
    job->out = out;
    job->random = random;
    const std::lock_guard lock(mutex_);
    queue_.push_back(job);
    changed_.notify_one();
    return {std::move(job), spec_.throws / 4, seed + 1};
  }

  Status write(const ChunkKey& key, ConstBytes bytes) {
    Random random(calls_++);
    if (random.chance(spec_.throws)) throw_something(random);
    if (random.chance(spec_.error)) return Error{Errc::io, 0, "chaos: write"};
    return inner_.write(key, bytes);
  }

  /// Now and then somebody else stores the object again at once.
  Status erase(const ChunkKey& key) {
    Random random(calls_++);
    if (random.chance(spec_.throws)) throw_something(random);
    const auto object = inner_.get(key);
    Status status = inner_.erase(key);
    nap(random.below(50));
    return object && random.chance(0.7) ? inner_.write(key, *object) : status;
  }

  bool stored_bytes_differ(const ChunkKey&, std::uint64_t, ConstBytes) {
    Random random(calls_++);
    if (random.chance(2 * spec_.throws)) throw_something(random);
    return random.chance(0.3);
  }

 private:
  static std::uint32_t count(std::span<const ChunkKey> keys) {
    return static_cast<std::uint32_t>(keys.size());
  }

  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, stop, [&] { return !queue_.empty(); });
      if (queue_.empty()) return;
      const std::shared_ptr<Job> job = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      Status status = serve(*job);
      {
        const std::lock_guard job_lock(job->mutex);
        job->status = std::move(status);
        job->done = true;
        job->changed.notify_all();
      }
      lock.lock();
    }
  }

  Status serve(Job& job) {
    Random& random = job.random;
    nap(random.below(spec_.delay_us + 1));
    if (random.chance(spec_.hang)) {
      scribble(job);
      if (random.chance(0.5)) return Error{Errc::io, 0, "chaos: hung"};
    }
    if (random.chance(spec_.error)) {
      return Error{random.chance(0.5) ? Errc::io : Errc::corrupt, 0, "chaos: read"};
    }
    if (random.chance(spec_.lie)) return {};
    Status status = inner_.read(0, job.key, job.offset, job.out);
    if (status && random.chance(spec_.flip)) {
      job.out[random.below(static_cast<std::uint32_t>(job.out.size()))] ^= std::byte{1};
    }
    return status;
  }

  /// `out` belongs to the read until that is ready, and the read makes use of it.
  static void scribble(Job& job) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::milliseconds(job.random.between(5, 60));
    while (Clock::now() < end) {
      const auto value = static_cast<std::byte>(job.random.next());
      for (std::size_t i = 0; i < job.out.size(); i += 512) job.out[i] = value;
      nap(200);
    }
  }

  MemoryStorage& inner_;
  StoreSpec spec_;
  std::atomic<std::uint64_t> calls_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<std::jthread> threads_;  // end first, with an empty queue
};

/// The same with reads that block.
class BlockingChaosStorage {
 public:
  explicit BlockingChaosStorage(ChaosStorage& inner) : inner_(inner) {}
  // A read that blocks, and nobody who says whose fault wrong bytes are.
  static constexpr StorageAbilities abilities{.tiers = true};
  std::uint32_t tiers() const { return inner_.tiers(); }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return inner_.lookup(keys);
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return inner_.read(tier, key, offset, out).wait();
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return inner_.write(key, bytes); }
  Status erase(const ChunkKey& key) { return inner_.erase(key); }

 private:
  ChaosStorage& inner_;
};

static_assert(StorageBackend<ChaosStorage> && StorageBackend<BlockingChaosStorage>);

}  // namespace cake::inline CAKE_ABI::chaos
