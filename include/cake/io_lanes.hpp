// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The I/O lanes: threads that read, one group per storage tier, with the staging memory that they
// read into. They live as long as the engine and serve all its sessions. A read that nobody wants
// any more is left to itself: its buffer is quarantined until the read has really ended. No
// exception of a store or a session leaves a lane.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/deadline_calls.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/parked_read.hpp"
#include "cake/detail/process.hpp"
#include "cake/detail/staging_pool.hpp"
#include "cake/detail/storage_members.hpp"
#include "cake/engine.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

struct LaneOptions {
  unsigned threads = 4;  // of each lane: most reads at once
  std::uint64_t staging_bytes = std::uint64_t{256}
                                << 20;  // of all lanes together, quarantined buffers included
  StagingMemory* staging = nullptr;     // where it comes from; null: plain host memory
  bool device = false;  // from the storage's device_staging(), if it has one: inserts take it
  LinkEstimate prior = {1e9, std::chrono::microseconds(100),
                        Time{0}};  // until something was measured
};

/// Needs:   `storage` outlives the lanes
/// Errors:  the constructor throws Exception(out_of_memory) when not even one thread a lane can be
/// made
/// Thread:  Safe for concurrent use. In a child process after fork() nothing but the destructor may
///          be called; it then leaves everything as it is.
template <StorageBackend S>
class IoLanes {
 public:
  explicit IoLanes(S& storage, const LaneOptions& options = {})
      : core_(std::make_unique<Core>(storage, options)) {}
  /// Waits for every read and lookup, also those that were abandoned.
  ~IoLanes() {
    if (core_->made_here.in_child()) {
      detail::abandon(std::move(core_));
    } else {
      core_->end();
    }
  }
  IoLanes(const IoLanes&) = delete;
  IoLanes& operator=(const IoLanes&) = delete;

  S& storage() { return core_->storage; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(core_->lanes.size()); }
  /// Threads that there are, of all lanes together: fewer than asked for where the system has no
  /// more.
  std::size_t threads() const { return core_->threads.size(); }
  /// Where landed bytes lie; null: on the host.
  DeviceStaging* device() const { return core_->device; }
  /// Unsupported in a child process, where the threads do not exist.
  Status usable() const { return core_->made_here.check("an IoLanes"); }

  /// Asks the store what it holds, for at most `timeout`, and not once `stop` was requested.
  /// Objects of another size than `object_bytes` are erased, so that the next save can put them
  /// right, and are absent in the answer. One entry for each key, whatever the store answers. A
  /// tier that fails or does not answer leaves what the others hold; `problem` is then the first
  /// error.
  ///
  /// Errors:  timeout, canceled, out_of_memory; else what the store says
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys,
                                          std::uint64_t object_bytes, Time timeout,
                                          const std::stop_token& stop, Status& problem) {
    return core_->lookup(keys, object_bytes, timeout, stop, problem);
  }
  /// Erases what a lane has found to be damaged: in its tier, where the store can; never throws.
  void discard(LaneId lane, const ChunkKey& key) noexcept { core_->discard(lane, key); }

  /// Measured so far, over all sessions.
  std::vector<LinkEstimate> rates() const {
    std::lock_guard lock(core_->mutex);
    std::vector<LinkEstimate> rates;
    for (const Lane& lane : core_->lanes) rates.push_back(lane.rate);
    return rates;
  }
  /// What a session has measured, beside what others have told meanwhile; the prior of the next one.
  void learn(LaneId lane, const LinkEstimator& model, Time now) {
    std::lock_guard lock(core_->mutex);
    LinkEstimate& rate = core_->lanes[lane].rate;
    rate = model.learned(rate, now);
  }

  void attach(std::shared_ptr<detail::LaneClient> client) {
    {
      std::lock_guard lock(core_->mutex);
      core_->clients.push_back(std::move(client));
    }
    wake();
  }
  void detach(const detail::LaneClient& client) {
    std::lock_guard lock(core_->mutex);
    std::erase_if(core_->clients, [&](const auto& c) { return c.get() == &client; });
  }
  /// Something changed: there may be something to read.
  void wake() noexcept {
    std::lock_guard lock(core_->mutex);
    core_->announce();
  }
  /// The client has done with the bytes of a read that it kept.
  void give_back(const detail::LaneClient& client, std::uint64_t read) noexcept {
    core_->give_back(client, read);
  }

  /// Nothing will come over this lane for now: every thread of it is stuck in a read that nobody
  /// wants, or such reads hold the staging memory that the next read of `bytes` would need.
  bool down(LaneId lane, std::uint64_t bytes = 0) { return core_->down(lane, bytes); }
  /// Bytes of staging memory that there are for all lanes together.
  std::uint64_t staging_bytes() const { return core_->pool.budget(); }
  /// Bytes of it that are free; all of them when nothing is being read or quarantined.
  std::uint64_t free_staging_bytes() const {
    std::lock_guard lock(core_->mutex);
    return core_->pool.room();
  }
  std::size_t quarantined() const {
    std::lock_guard lock(core_->mutex);
    return core_->quarantine.size();
  }

 private:
  struct Active {
    std::shared_ptr<detail::LaneClient> client;
    std::uint64_t read = 0;
    std::uint64_t bytes = 0;  // of staging memory
    bool reading = true;
  };
  struct Lane {
    explicit Lane(const LinkEstimate& prior) : rate(prior) {}
    LinkEstimate rate;
    std::condition_variable wake;
    std::vector<Active> active;           // room for one of each thread
    std::uint64_t quarantined_bytes = 0;  // by reads of this lane
    std::uint64_t used_bytes = 0;         // lent to this lane, those included
    unsigned threads = 0;                 // that there are
    std::atomic<unsigned> busy{0};
  };
  /// One read on its way through a lane.
  struct Job {
    std::shared_ptr<detail::LaneClient> client;
    detail::ReadTicket read;
    AlignedBuffer buffer;
    std::unique_ptr<detail::Parked> parked;  // a read that has not ended
    bool kept = false;                       // the client keeps the buffer
  };
  /// Bytes that a client keeps.
  struct Lent {
    const detail::LaneClient* client = nullptr;
    std::uint64_t read = 0;
    LaneId lane = 0;
    AlignedBuffer buffer;
  };

  struct Core;
  std::unique_ptr<Core> core_;
};

}  // namespace cake::inline CAKE_ABI

#include "cake/detail/io_lanes_core.hpp"
