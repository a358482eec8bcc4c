// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving beside other work: threads that digest and write what engines give, with bounded memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <stop_token>

#include "cake/detail/lane_storage.hpp"
#include "cake/detail/saver_core.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/io_lanes.hpp"
#include "cake/save.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

struct SaverOptions {
  unsigned threads = 12;  // that extract, digest and write
  /// Of objects on their way, from extract() until they are written, also where they are built in
  /// memory of the store (StorageAbilities::write_in_place). One always fits. Units: bytes
  std::uint64_t memory_bytes = std::uint64_t{512} << 20;
  /// Of chunks that wait to be extracted, over all saves. Above it whole chunks are dropped, those
  /// at the front of their prompt first, because the tail of a prompt saves the most compute.
  std::uint64_t backlog_bytes = ~std::uint64_t{0};
  /// What extract() writes to, unless that is memory of the store; null: plain host memory.
  StagingMemory* staging = nullptr;
  /// Longest that a write waits for reads of the lanes to end; so does an extract() into memory of the
  /// store, which takes the place of the write.
  Time wait_for_reads = std::chrono::milliseconds(20);
  /// A chunk is written once so many saves before have asked for it; until then it is held back, and
  /// costs neither an extract nor a write. For stores whose writes are dear, where most prompts come
  /// once. The last 16,384 keys at least are remembered, about 100 bytes each. 0: at once.
  std::uint32_t write_after = 0;
};

/// What a saver does at the moment, and has done. Units: chunks, bytes.
struct SaverStats {
  std::uint64_t waiting = 0;       // chunks that are not extracted yet
  std::uint64_t on_their_way = 0;  // extracted, and not written yet
  std::uint64_t memory_bytes = 0;  // that objects take, also those kept for the next ones
  std::uint64_t written = 0;       // chunks that the store took
  std::uint64_t written_bytes = 0;
  std::uint64_t dropped = 0;    // chunks, above backlog_bytes
  std::uint64_t held_back = 0;  // chunks, by write_after
};

/// Saves of any number of engines and prompts, into one store. A save is a ticket at once. Of each
/// prompt the last chunks are stored first; then, as memory allows, those before them. Chunks that
/// are finished may be saved while later ones are still computed: their tokens are the prompt's
/// beginning.
///
///     cake::Saver saver(lanes);                              // one per process; writes give way to reads
///     cake::SaveTicket saved = saver.save(engine, prompt, chunks);
///     ...                                                    // decode, say
///     saved.wait_extracted();                                // the engine's KV may change from here on
///     if (!saved.wait().status) ...
///
/// Needs:   storage or lanes outlive it
/// Thread:  Safe for concurrent use. In a child process after fork() saves are refused, and the
///          destructor leaves everything as it is
template <StorageBackend S>
class Saver {
 public:
  explicit Saver(S& storage, const SaverOptions& options = {})
      : core_(std::make_unique<detail::LaneStorageOf<S>>(storage), nullptr, options) {}
  explicit Saver(IoLanes<S>& lanes, const SaverOptions& options = {})
      : core_(nullptr, &lanes.core(), options) {}

  /// Stores every full chunk of `tokens` that is not stored yet. They are copied. Their KV must be
  /// resident in the engine; nobody checks that here. An engine that declares insert_on_caller is
  /// asked on the calling thread: all is extracted when the call returns.
  ///
  /// Needs:   the engine outlives the ticket, and keeps the KV until all is extracted
  /// Errors:  in the ticket's report, as cake::save(); none is thrown but std::bad_alloc
  template <KvMemory M>
  SaveTicket save(M& engine, Tokens tokens, const ChunkOptions& chunks = {},
                  const std::stop_token& stop = {}) {
    return core_.save(std::make_unique<detail::SessionEngineOf<M>>(engine), tokens, chunks, stop);
  }
  /// Blocks until all that was asked for before is stored, or is not going to be.
  void flush() { core_.flush(); }
  SaverStats stats() const { return core_.stats(); }

 private:
  detail::SaverCore core_;
};

}  // namespace cake::inline CAKE_ABI
