// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The I/O lanes: threads that read, one group per storage tier, with the staging memory that they
// read into. They live as long as the engine and serve all its sessions. A read that nobody wants
// any more is left to itself: its buffer is quarantined until the read has really ended. No
// exception of a store or a session leaves a lane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cake/calibration.hpp"
#include "cake/detail/io_lanes_core.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/engine.hpp"
#include "cake/queued.hpp"
#include "cake/result.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

struct LaneOptions {
  // Of each lane: most reads at once. 0: 4, or as lane_options() says. Large reads, which keep a
  // store busy by themselves, take no more than four of them.
  unsigned threads = 0;
  // Of all lanes together, quarantined buffers included; whole pages of 4 KiB count.
  std::uint64_t staging_bytes = std::uint64_t{256} << 20;
  // Where it comes from; null: plain host memory. All of it is reserved when lanes are made, which takes a
  // while where pages are locked.
  StagingMemory* staging = nullptr;
  bool device = false;  // from the storage's device_staging(), if it has one: inserts take it
  /// Where the lanes' own threads read (StorageAbilities::read_on_caller) they do so in parts of whole
  /// layers of about this size. Each thread has two of them, which stay in its cache. 0: not in parts.
  std::uint64_t part_bytes = std::uint64_t{2} << 20;
  /// What was measured before, and learns from every session; null: one of its own.
  std::shared_ptr<Calibration> calibration = nullptr;
};

/// Lanes as an engine wants them: into its staging_memory(), or into the device memory that its
/// inserts take, where `options` does not say otherwise. Engines with staging_memory() have a device:
/// each insert is then a copy to wait for, and reads of single layers are small, so that there are 16
/// threads.
///
///     cake::IoLanes lanes(storage, cake::lane_options(engine));
template <KvMemory M>
LaneOptions lane_options(M& engine, LaneOptions options = {}) {
  if (options.staging == nullptr) options.staging = engine_traits<M>::staging_memory(engine);
  options.device = options.device || engine_traits<M>::abilities.inserts_from_device;
  if (options.threads == 0 && engine_traits<M>::abilities.staging_memory) options.threads = 16;
  return options;
}

/// Needs:   `storage` outlives the lanes
/// Errors:  the constructor throws Exception(out_of_memory) when not even one thread a lane can be
/// made, and Exception(mismatch) when the calibration is that of a storage with another number of tiers
/// Thread:  Safe for concurrent use. In a child process after fork() nothing but the destructor may
///          be called; it then leaves everything as it is.
template <StorageBackend S>
class IoLanes {
 public:
  explicit IoLanes(S& storage, const LaneOptions& options = {})
      : storage_(storage), core_(std::make_unique<detail::LaneStorageOf<S>>(storage), options) {}
  /// Waits for every read and lookup, also those that were abandoned, and until the store has done with
  /// what it was lent to promote.
  ~IoLanes() = default;
  IoLanes(const IoLanes&) = delete;
  IoLanes& operator=(const IoLanes&) = delete;

  S& storage() { return storage_; }
  std::uint32_t size() const { return core_.lane_count(); }
  /// Threads that there are, of all lanes together: fewer than asked for where the system has no
  /// more.
  std::size_t threads() const { return core_.threads(); }
  /// Where landed bytes lie; null: on the host.
  DeviceStaging* device() const { return core_.device(); }
  /// Unsupported in a child process, where the threads do not exist.
  Status usable() const { return core_.usable(); }

  /// What was measured so far, over all sessions; to be saved, or given to other lanes of this storage.
  const std::shared_ptr<Calibration>& calibration() const { return core_.calibration(); }
  /// The rate of each tier from it.
  std::vector<LinkEstimate> rates() const { return core_.rates(); }
  /// Bytes of staging memory that there are for all lanes together.
  std::uint64_t staging_bytes() const { return core_.staging_bytes(); }
  /// Bytes of it that are free; all of them when nothing is being read, promoted or quarantined.
  std::uint64_t free_staging_bytes() const { return core_.free_staging_bytes(); }
  /// What admit() asks of the lanes, as it is now.
  ///
  /// Errors:  throws std::bad_alloc
  LanesState state() const { return core_.state(); }
  /// Reads that nobody waits for and that have not ended.
  std::size_t quarantined() const { return core_.quarantined(); }

  /// For sessions, which are the only ones to attach themselves, and for saves.
  detail::IoLanesCore& core() { return core_; }

 private:
  S& storage_;
  detail::IoLanesCore core_;
};

}  // namespace cake::inline CAKE_ABI
