// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving: the KV that an engine holds of a prompt, chunk by chunk into a store.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "cake/chunk/writer.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/io_lanes.hpp"
#include "cake/storage_backend.hpp"

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

/// The store took `written` chunks, and `there` of them are there.
CAKE_API Error lost_chunks(std::size_t written, std::uint32_t there);

/// One save on its way.
template <KvMemory M, StorageBackend S>
class SaveRun {
 public:
  SaveRun(M& memory, S& storage, Tokens tokens, const ChunkOptions& chunks, std::stop_token stop)
      : memory_(memory),
        storage_(storage),
        tokens_(tokens),
        chunks_(chunks),
        stop_(std::move(stop)) {}

  SaveReport run() {
    const auto prepared = guarded(Errc::io, "save", [&] { return prepare(); });
    if (!prepared) {
      note(prepared.error());
      return std::move(report_);
    }
    const auto saved = guarded(Errc::io, "save", [&] { return save_chunks(); });
    if (!saved) note(saved.error());
    const auto checked = guarded(Errc::io, "save", [&] { return check_written(); });
    if (!checked) note(checked.error());
    return std::move(report_);
  }

 private:
  /// So many writes in a row that fail, and the store is given up; at once where it has no room.
  static constexpr std::uint32_t kWritesRefused = 3;

  void note(const Error& error) {
    if (report_.status) report_.status = error;
  }

  Status prepare() {
    layout_ = memory_.layout();
    fingerprint_ = memory_.fingerprint();
    if (!ChunkGeometry::fits(layout_, chunks_.chunk_tokens)) {
      return Error{Errc::invalid_argument, 0, "save: layout or chunk_tokens out of range"};
    }
    root_ = root_key(fingerprint_, layout_, chunks_.chunk_tokens, chunks_.salt);
    keys_ = prefix_chain(root_, tokens_, chunks_.chunk_tokens, chunks_.extra);
    written_.reserve(keys_.size());
    sizes_.reserve(keys_.size());
    return {};
  }

  Status save_chunks() {
    if (keys_.empty()) return {};
    const auto stored = guarded(Errc::io, "save: lookup", [&] { return storage_.lookup(keys_); });
    if (!stored) {
      report_.failed = static_cast<std::uint32_t>(keys_.size());
      return stored.error();
    }
    ChunkWriter writer(layout_, chunks_.chunk_tokens);
    const ChunkGeometry& geometry = writer.geometry();
    std::uint32_t refused = 0;
    for (std::uint32_t c = 0; c < keys_.size(); ++c) {
      const StoredChunk there = c < stored->size() ? (*stored)[c] : StoredChunk{};
      const std::uint32_t held = there.stored() ? geometry.held_by(there.size) : 0;
      if (held == layout_.n_layers) {
        ++report_.present;
        continue;
      }
      if (stop_.stop_requested() || refused == kWritesRefused) {
        report_.failed += static_cast<std::uint32_t>(keys_.size()) - c;
        if (refused < kWritesRefused) return Error{Errc::canceled, 0, "save"};
        return {};
      }
      save_chunk(writer, c, there, held, refused);
    }
    return {};
  }

  TokenRange range_of(std::uint32_t c) const {
    return {c * chunks_.chunk_tokens, (c + 1) * chunks_.chunk_tokens};
  }

  /// Counts the chunk, of which the store holds `held` layers already.
  void save_chunk(ChunkWriter& writer, std::uint32_t c, const StoredChunk& there,
                  std::uint32_t held, std::uint32_t& refused) {
    Status why;
    const std::uint32_t got = extract(writer, c, why);
    if (held != 0 && got <= held) {
      ++report_.present;
      return;
    }
    if (got == 0) {
      note(why.error());
      ++report_.failed;
      return;
    }
    // What is there under this key is not a chunk of this layout, or holds less than there is now,
    // and would stay for ever.
    if (there.size != 0) (void)guarded(Errc::io, "erase", [&] { return storage_.erase(keys_[c]); });
    if (!write_chunk(writer, c, got, refused)) {
      ++report_.failed;
    } else if (got < layout_.n_layers) {
      ++report_.partial;
    }
  }

  /// Layers that the engine gives of the chunk, as many as an object may hold: those that need all
  /// tokens, then what it still has of windows and states. 0: not even those; `why` is its error.
  std::uint32_t extract(ChunkWriter& writer, std::uint32_t c, Status& why) {
    const ChunkGeometry& geometry = writer.geometry();
    std::uint32_t got = 0;
    for (const std::uint32_t next : geometry.held_counts()) {
      why = extract_layers(writer, c, {got, next});
      if (!why) {
        const bool gone = why.code() == Errc::not_found || why.code() == Errc::invalid_argument;
        return gone ? got : 0;
      }
      got = next;
    }
    return got;
  }

  /// Positions of stored_order(), in one call for each run of the model's layers.
  Status extract_layers(ChunkWriter& writer, std::uint32_t c, LayerRange positions) {
    const KvRuns& runs = writer.geometry().runs();
    for (std::uint32_t at = positions.begin; at < positions.end;) {
      const std::uint32_t first = runs.layer_at(at++);
      LayerRange layers{first, first + 1};
      for (; at < positions.end && runs.layer_at(at) == layers.end; ++at) ++layers.end;
      const Status status = guarded(Errc::device, "save: extract", [&] {
        return await_completion(memory_.extract(Slice{c, range_of(c), layers}, writer.payload()));
      });
      if (!status) return status;
    }
    return {};
  }

  bool write_chunk(ChunkWriter& writer, std::uint32_t c, std::uint32_t held,
                   std::uint32_t& refused) {
    const TokenRange range = range_of(c);
    const auto object = guarded(Errc::io, "save", [&] {
      return writer.finish(
          {keys_[c], c == 0 ? root_ : keys_[c - 1], fingerprint_, tenant_tag(chunks_.salt),
           range.begin, tokens_.subspan(range.begin, range.size()), writer.geometry()},
          held);
    });
    if (!object) return note(object.error()), false;
    const Status written = guarded(Errc::io, "save: write", [&] {
      return await_completion(storage_.write(keys_[c], *object));
    });
    refused = written ? 0 : written.code() == Errc::out_of_memory ? kWritesRefused : refused + 1;
    if (!written) return note(written.error()), false;
    written_.push_back(keys_[c]);
    sizes_.push_back(object->size());
    return true;
  }

  /// Counts what is readable now.
  Status check_written() {
    if (written_.empty()) return {};
    const auto stored =
        guarded(Errc::io, "save: lookup", [&] { return storage_.lookup(written_); });
    std::uint32_t there = 0;
    for (std::size_t i = 0; stored && i < std::min(stored->size(), written_.size()); ++i) {
      if (!(*stored)[i].stored() || (*stored)[i].size != sizes_[i]) continue;
      ++there;
      report_.bytes += sizes_[i];
    }
    report_.written = there;
    const auto lost = static_cast<std::uint32_t>(written_.size()) - there;
    report_.failed += lost;
    if (!stored) return stored.error();
    if (lost == 0) return {};
    return lost_chunks(written_.size(), there);
  }

  M& memory_;
  S& storage_;
  Tokens tokens_;
  const ChunkOptions& chunks_;
  std::stop_token stop_;
  SaveReport report_;
  KvLayout layout_;
  ModelFingerprint fingerprint_;
  ChunkKey root_;
  std::vector<ChunkKey> keys_;
  std::vector<ChunkKey> written_;
  std::vector<std::uint64_t> sizes_;  // of those written
};

/// The prompt that a session ran last: what an engine is known to hold.
struct LastPrompt {
  std::shared_ptr<const std::vector<TokenId>> tokens;  // set once there was one
  ChunkOptions chunks;
  ModelFingerprint fingerprint;
  bool ran = false;       // there was one
  bool complete = false;  // and its KV is whole
};

/// Whether these tokens are the last prompt's, or go on with it, or are its beginning.
///
/// Errors:  invalid_argument, which says what differs
CAKE_API Status may_save(const LastPrompt& last, Tokens tokens, std::span<const ExtraKey> extra,
                         const ModelFingerprint& fingerprint);

/// The smallest load of a chunk takes `least` bytes: all of it, or one layer.
CAKE_API Error no_staging(bool whole_chunks, std::uint64_t least, std::uint64_t staging);

/// Whether a chunk that is saved could ever be loaded through so much staging memory.
///
/// Errors:  out_of_memory, which says how much is missing
template <KvMemory M>
Status fits_staging(const KvLayout& layout, std::uint32_t chunk_tokens, std::uint64_t staging) {
  if (!ChunkGeometry::fits(layout, chunk_tokens)) return {};  // refused elsewhere, by name
  const std::uint64_t least = smallest_load<M>(ChunkGeometry(layout, chunk_tokens));
  if (least <= staging) return {};
  return no_staging(engine_traits<M>::abilities.whole_chunks, least, staging);
}

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
  return detail::SaveRun<M, S>(memory, storage, tokens, chunks, std::move(stop)).run();
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
  using Work = std::function<SaveReport(const std::stop_token&)>;

  /// Runs `work` on a thread of its own; on the calling one if it must, or if there is no thread.
  SaveTicket(Work work, bool on_caller, std::stop_token stop);

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
  const bool on_caller = engine_traits<M>::abilities.insert_on_caller;
  auto work = [&memory, &lanes, tokens = std::vector<TokenId>(tokens.begin(), tokens.end()),
               chunks = std::move(chunks)](const std::stop_token& asked) {
    const Status usable = detail::guarded(Errc::device, "save", [&]() -> Status {
      if (auto status = lanes.usable(); !status) return status;
      return detail::fits_staging<M>(memory.layout(), chunks.chunk_tokens, lanes.staging_bytes());
    });
    if (!usable) return detail::save_refused(usable.error(), tokens, chunks);
    return save(memory, lanes.storage(), tokens, chunks, asked);
  };
  return SaveTicket(std::move(work), on_caller, std::move(stop));
}

}  // namespace cake::inline CAKE_ABI
