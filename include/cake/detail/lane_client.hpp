// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What sessions and I/O lanes know of each other. Neither calls the other with a lock of its own
// held that the other may need: lanes ask a session with their mutex free, and what a session
// answers under LaneHost's mutex (wanted()) needs no lock that a scheduler runs under.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "cake/calibration.hpp"
#include "cake/chunk/format.hpp"
#include "cake/detail/landing.hpp"
#include "cake/detail/parted_read.hpp"
#include "cake/detail/read_table.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A session as the lanes see it. The lanes share its ownership while they ask it or read for it.
class LaneClient {
 public:
  virtual ~LaneClient() = default;
  /// What one read takes at most, in bytes; never changes.
  virtual std::uint64_t largest_read() const noexcept = 0;
  /// Claims the next read for a lane that has room for `max_bytes`; `short_of_room` when there
  /// would be one for more bytes. None: the session wakes the lanes when there may be one.
  /// One thread at a time asks.
  virtual std::optional<ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                              bool& short_of_room) = 0;
  /// Called under the lanes' mutex.
  virtual bool wanted(std::uint64_t read) noexcept = 0;
  /// Memory for the read is being made; it begins when begun() is called.
  virtual void held_up(const ReadTicket& read) noexcept { (void)read; }
  virtual void begun(const ReadTicket& read) noexcept { (void)read; }
  /// What the parts of a read into `out`, on the host, are to be told to; null: they are verified
  /// when all have landed.
  virtual std::shared_ptr<DigestingSink> sink(const ReadTicket& read, ConstBytes out) noexcept = 0;
  /// Most bytes of a part, where reads may be carried out in parts; 0: they may not. Never changes.
  virtual std::uint64_t part_bytes() const noexcept { return 0; }
  /// The read in parts, which then tells the session of its end: nothing else does. Null: there is no
  /// memory for it.
  virtual std::shared_ptr<PartedRead> in_parts(const ReadTicket& read) noexcept {
    (void)read;
    return nullptr;
  }
  /// Takes the bytes of a good read. They are the lane's again when it returns, or, where
  /// keeps_bytes(), when it calls LaneHost::give_back(). True: they are the lane's, and a whole
  /// object that was verified.
  virtual bool landed(const ReadTicket& read, const Landed& landed) noexcept = 0;
  virtual bool keeps_bytes() const noexcept = 0;
  virtual void failed(const ReadTicket& read, const Error& error) noexcept = 0;
  /// Nothing was read, for want of memory or because the read that was to bring it failed; it may be
  /// claimed again.
  virtual void returned(const ReadTicket& read) noexcept = 0;

  /// This prompt is to have what a lane reads for another one just now, if it wants exactly that. None: it does
  /// not. Without a lock of the lanes.
  virtual std::optional<ReadTicket> join(const ReadTicket& other) noexcept {
    (void)other;
    return std::nullopt;
  }

  // What the order of prompts (lane_order.hpp) asks; called under the lanes' mutex.

  /// Bytes that this lane may still have to bring.
  virtual std::uint64_t left_to_load(LaneId lane) const noexcept {
    (void)lane;
    return 0;
  }
  /// It is read for only while nobody else wants anything of a lane. Never changes.
  virtual bool in_background() const noexcept { return false; }
  /// When all of it is to be there, in the time of std::chrono::steady_clock; kNever: no matter when.
  virtual Time load_by() const noexcept { return kNever; }

  /// Bytes that a lane has carried for this client. Counted by the lanes.
  std::uint64_t carried(LaneId lane) const noexcept { return carried_[lane].load(); }
  void count_carried(LaneId lane, std::uint64_t bytes) noexcept { carried_[lane] += bytes; }

 private:
  std::array<std::atomic<std::uint64_t>, kMaxTiers> carried_{};
};

/// The lanes as sessions see them.
///
/// Thread:  Safe for concurrent use.
class LaneHost {
 public:
  virtual ~LaneHost() = default;

  virtual std::uint32_t lane_count() const noexcept = 0;
  /// Most of one lane.
  virtual std::uint32_t reads_at_once() const noexcept = 0;
  /// About so many bytes has a part of a read; 0: there are none.
  virtual std::uint64_t part_bytes() const noexcept = 0;
  /// Bytes of staging memory that there are for all lanes together.
  virtual std::uint64_t staging_budget() const noexcept = 0;
  /// Where landed bytes lie; null: on the host.
  virtual DeviceStaging* landing_device() const noexcept = 0;
  /// What encrypted slices are decrypted into; null: plain host memory.
  virtual StagingMemory* staging_memory() const noexcept { return nullptr; }
  virtual Status usable() const = 0;
  /// Some lane reads for somebody.
  virtual bool reading() const noexcept = 0;
  virtual std::vector<LinkEstimate> rates() const = 0;
  /// Bytes that the lane has carried for all clients since it began.
  virtual std::uint64_t carried(LaneId lane) const noexcept = 0;
  /// Bytes that the lane carries for other clients before it carries more for this one, as things
  /// stand.
  virtual std::uint64_t ahead(const LaneClient& client, LaneId lane) noexcept = 0;
  /// What a session has measured goes there, and the next one starts from it.
  virtual Calibration& calibration() noexcept = 0;

  /// Asks the store what it holds, for at most `timeout`, and not once `stop` was requested.
  /// Objects of a size that none of this geometry has are erased, so that the next save can put them
  /// right, and are absent in the answer. One entry for each key, whatever the store answers. A
  /// tier that fails or does not answer leaves what the others hold; `problem` is then the first
  /// error.
  ///
  /// Errors:  timeout, canceled, out_of_memory; else what the store says
  virtual Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys,
                                                  const ChunkGeometry& geometry, Time timeout,
                                                  const std::stop_token& stop, Status& problem) = 0;
  /// Erases what a lane has found to be damaged: in its tier, where the store can.
  virtual void discard(LaneId lane, const ChunkKey& key) noexcept = 0;
  /// As StorageAbilities::stored_bytes_differ.
  virtual bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                                   ConstBytes bytes) noexcept = 0;

  virtual void attach(std::shared_ptr<LaneClient> client) = 0;
  /// The client may still be asked once by a thread that began before.
  virtual void detach(const LaneClient& client) noexcept = 0;
  /// Something changed in this session: there may be something to read.
  virtual void wake(const LaneClient& client) noexcept = 0;
  /// The client has done with the bytes of a read that it kept. `whole`: they are a whole object that
  /// was verified.
  virtual void give_back(const LaneClient& client, const ReadTicket& read, bool whole) noexcept = 0;
  /// Nothing will come over this lane for now: every thread of it is stuck in a read that nobody
  /// wants, or such reads hold the staging memory that the next read of `bytes` would need.
  virtual bool down(LaneId lane, std::uint64_t bytes) noexcept = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
