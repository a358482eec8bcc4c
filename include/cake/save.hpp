// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving: the KV that an engine holds of a prompt, chunk by chunk into a store.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

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
  std::uint32_t partial = 0;  // of those written: without windows or states that the engine has not
  std::uint64_t bytes = 0;    // of the chunks written
};

namespace detail {

/// As cake::save().
CAKE_API SaveReport save_chunks(SessionEngine& engine, LaneStorage& storage, Tokens tokens,
                                const ChunkOptions& chunks, std::stop_token stop);

/// Whether a chunk that is saved could ever be loaded through so much staging memory.
///
/// Errors:  out_of_memory, which says how much is missing
CAKE_API Status fits_staging(const KvLayout& layout, std::uint32_t chunk_tokens, bool whole_chunks,
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
                std::stop_token stop = {}) {
  detail::SessionEngineOf<M> engine(memory);
  detail::LaneStorageOf<S> store(storage);
  return detail::save_chunks(engine, store, tokens, chunks, std::move(stop));
}

class SaveTicket;
template <KvMemory M, StorageBackend S>
SaveTicket save(M& memory, IoLanes<S>& lanes, Tokens tokens, ChunkOptions chunks = {},
                std::stop_token stop = {});

/// A save that runs beside other work. Its destructor waits for it.
///
/// Needs:   engine, lanes and store outlive it. Until it is ready the engine keeps the KV of the
///          tokens as it is: later tokens may be computed, the next prompt of this sequence not
/// Thread:  Requires external synchronization, but for request_stop(). In a child process after
///          fork() wait() says unsupported
class CAKE_API SaveTicket {
 public:
  SaveTicket(SaveTicket&&) noexcept;
  SaveTicket& operator=(SaveTicket&&) noexcept;
  ~SaveTicket();

  bool ready() const;
  /// Blocks until all is saved, or is not going to be. May be called again.
  const SaveReport& wait();
  /// The chunk in progress is finished, the others count as failed, and the status is canceled.
  void request_stop();

 private:
  template <KvMemory M, StorageBackend S>
  friend SaveTicket save(M&, IoLanes<S>&, Tokens, ChunkOptions, std::stop_token);

  /// Saves on a thread of its own; on the calling one if the engine wants that, or if there is no
  /// thread.
  SaveTicket(std::unique_ptr<detail::SessionEngine> engine, detail::IoLanesCore& lanes,
             Tokens tokens, ChunkOptions chunks, std::stop_token stop);

  struct State;
  std::unique_ptr<State> state_;
};

/// As save() above, beside the next work: digests and writes are made on a thread of the ticket, and
/// so is extract. An engine that declares insert_on_caller is asked on the calling thread, and all is
/// saved when the call returns. `tokens` are copied.
///
///     cake::SaveTicket saved = cake::save(engine, lanes, prompt, chunks);
///     ...                                                        // decode, say
///     if (!saved.wait().status) ...
///
/// Errors:  in the report: as save() above, and out_of_memory when no load could ever bring a chunk
///          back through the lanes' staging memory. None is thrown but std::bad_alloc, when there is
///          no memory for the ticket
template <KvMemory M, StorageBackend S>
SaveTicket save(M& memory, IoLanes<S>& lanes, Tokens tokens, ChunkOptions chunks,
                std::stop_token stop) {
  return SaveTicket(std::make_unique<detail::SessionEngineOf<M>>(memory), lanes.core(), tokens,
                    std::move(chunks), std::move(stop));
}

}  // namespace cake::inline CAKE_ABI
