// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving: the KV that an engine holds of a prompt, chunk by chunk into a store.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>

#include "cake/detail/io_lanes_core.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/io_lanes.hpp"
#include "cake/result.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

struct SaveOptions {
  std::optional<ChunkOptions> chunks = {};  // none: those of the prefill before it
  std::stop_token stop = {};                // looked at between chunks; the status is then canceled
  /// The engine holds the KV of exactly these tokens, whatever the session saw of it.
  bool assume_resident = false;
};

/// What a save did. Units: chunks, bytes.
struct SaveReport {
  Status status;              // the first error, if any chunk could not be saved
  std::uint32_t written = 0;  // chunks that the store holds now, and did not before
  std::uint32_t present = 0;  // were stored already
  std::uint32_t failed = 0;   // chunks that are not stored: status says why the first one is not
  std::uint32_t dropped = 0;  // chunks that a saver gave up because too many waited; not in failed
  std::uint32_t partial = 0;  // of those written: without windows or states that the engine has not
  std::uint64_t bytes = 0;    // of the chunks written
  // Chunks that a saver did not write, because they were not asked for often enough before
  // (SaverOptions::write_after); not in failed.
  std::uint32_t held_back = 0;
};

namespace detail {

/// As cake::save().
CAKE_API SaveReport save_chunks(SessionEngine& engine, LaneStorage& storage, Tokens tokens,
                                const ChunkOptions& chunks, std::stop_token stop);

/// Whether a chunk that is saved could ever be loaded through so much staging memory.
///
/// Errors:  out_of_memory, which says how much is missing
CAKE_API Status fits_staging(const KvLayout& layout, const ChunkOptions& chunks, bool whole_chunks,
                             std::uint64_t staging);

/// None of the chunks is saved, and why.
CAKE_API SaveReport save_refused(const Error& why, Tokens tokens, const ChunkOptions& chunks);

}  // namespace detail

/// Stores every full chunk of `tokens` that is not stored yet. Their KV must be resident in the
/// engine; nobody checks that here. Windows and states that extract() refuses with not_found or
/// invalid_argument are left out of their chunk, which is stored without them; a later save that
/// finds them puts them in. A chunk that cannot be extracted or written does not keep the
/// others from being saved, but a store without room, or one that refuses three in a row, ends it.
///
/// Errors:  in the report, whatever engine and store do; none is thrown
/// Thread:  the one that the engine's extract() wants
template <KvMemory M, StorageBackend S>
SaveReport save(M& memory, S& storage, Tokens tokens, const ChunkOptions& chunks = {},
                const std::stop_token& stop = {}) {
  detail::SessionEngineOf<M> engine(memory);
  detail::LaneStorageOf<S> store(storage);
  return detail::save_chunks(engine, store, tokens, chunks, stop);
}

class SaveTicket;
template <KvMemory M, StorageBackend S>
SaveTicket save(M& memory, IoLanes<S>& lanes, Tokens tokens, const ChunkOptions& chunks = {},
                const std::stop_token& stop = {});

/// How far a save is. Units: chunks, bytes. total is 0 until the store was asked what it holds.
struct SaveProgress {
  std::uint32_t total = 0;      // that are to be stored
  std::uint32_t extracted = 0;  // of them
  std::uint32_t written = 0;    // of them
  std::uint64_t bytes = 0;      // of those written
};

namespace detail {
class SaveJob;
class SaverCore;
}  // namespace detail

/// A save that runs beside other work, as a Saver makes it. Its destructor waits for it.
///
/// Needs:   the engine outlives it. Until all is extracted the engine keeps the KV of the tokens as
///          it is: later tokens may be computed, the next prompt of this sequence not
/// Thread:  Requires external synchronization, but for request_stop(). In a child process after
///          fork() wait() says unsupported
class CAKE_API SaveTicket {
 public:
  SaveTicket(SaveTicket&&) noexcept;
  SaveTicket& operator=(SaveTicket&&) noexcept;
  ~SaveTicket();

  /// All is saved, or is not going to be.
  bool ready() const;
  /// Blocks until it is. May be called again.
  const SaveReport& wait();
  /// Blocks until the engine's KV is not needed any more.
  void wait_extracted();
  SaveProgress progress() const;
  /// What was extracted is written, the other chunks count as failed, and the status is canceled.
  void request_stop();

 private:
  friend class detail::SaverCore;
  explicit SaveTicket(std::shared_ptr<detail::SaveJob> job);

  std::shared_ptr<detail::SaveJob> job_;
};

namespace detail {
/// By the saver of the lanes, which is made with the first save.
CAKE_API SaveTicket save_beside(std::unique_ptr<SessionEngine> engine, IoLanesCore& lanes,
                                Tokens tokens, ChunkOptions chunks, std::stop_token stop);
}  // namespace detail

/// As save() above, beside the next work, by a Saver of the lanes with default options, into memory
/// from where the lanes have theirs, if that is host memory: extract,
/// digests and writes are made on its threads, the last chunks first. An engine that declares
/// insert_on_caller is asked on the calling thread, and all is extracted when the call returns.
/// `tokens` are copied.
///
///     cake::SaveTicket saved = cake::save(engine, lanes, prompt, chunks);
///     ...                                                        // decode, say
///     if (!saved.wait().status) ...
///
/// Errors:  in the report: as save() above, and out_of_memory when no load could ever bring a chunk
///          back through the lanes' staging memory. None is thrown but std::bad_alloc, when there is
///          no memory for the ticket
/// Thread:  Safe for concurrent use
template <KvMemory M, StorageBackend S>
SaveTicket save(M& memory, IoLanes<S>& lanes, Tokens tokens, const ChunkOptions& chunks,
                const std::stop_token& stop) {
  return detail::save_beside(std::make_unique<detail::SessionEngineOf<M>>(memory), lanes.core(),
                             tokens, chunks, stop);
}

}  // namespace cake::inline CAKE_ABI
