// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving: the KV that an engine holds of a prompt, chunk by chunk into a store.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <stop_token>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cake/chunk/writer.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

struct SaveOptions {
  std::string salt = {};             // of the tenant
  std::vector<ExtraKey> extra = {};  // as for prefill
  std::stop_token stop = {};         // looked at between chunks; the status is then canceled
  /// The engine holds the KV of exactly these tokens, whatever the loader saw of it.
  bool assume_resident = false;
  std::uint32_t chunk_tokens = 0;  // 0: as the loader or session has it; 256 where neither is
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

/// One save on its way.
template <KvMemory M, StorageBackend S>
class SaveRun {
 public:
  SaveRun(M& memory, S& storage, Tokens tokens, const SaveOptions& options)
      : memory_(memory), storage_(storage), tokens_(tokens), options_(options) {
    if (options_.chunk_tokens == 0) options_.chunk_tokens = 256;
  }

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
    if (!ChunkGeometry::fits(layout_, options_.chunk_tokens)) {
      return Error{Errc::invalid_argument, 0, "save: layout or chunk_tokens out of range"};
    }
    root_ = root_key(fingerprint_, layout_, options_.chunk_tokens, options_.salt);
    keys_ = prefix_chain(root_, tokens_, options_.chunk_tokens, options_.extra);
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
    ChunkWriter writer(layout_, options_.chunk_tokens);
    const ChunkGeometry& geometry = writer.geometry();
    std::uint32_t refused = 0;
    for (std::uint32_t c = 0; c < keys_.size(); ++c) {
      const StoredChunk there = c < stored->size() ? (*stored)[c] : StoredChunk{};
      const std::uint32_t held = there.stored() ? geometry.held_by(there.size) : 0;
      if (held == layout_.n_layers) {
        ++report_.present;
        continue;
      }
      if (options_.stop.stop_requested() || refused == kWritesRefused) {
        report_.failed += static_cast<std::uint32_t>(keys_.size()) - c;
        if (refused < kWritesRefused) return Error{Errc::canceled, 0, "save"};
        return {};
      }
      save_chunk(writer, c, there, held, refused);
    }
    return {};
  }

  TokenRange range_of(std::uint32_t c) const {
    return {c * options_.chunk_tokens, (c + 1) * options_.chunk_tokens};
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
          {keys_[c], c == 0 ? root_ : keys_[c - 1], fingerprint_, tenant_tag(options_.salt),
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
    return Error{
        Errc::not_found, 0,
        "save: the store took " + std::to_string(written_.size()) + " chunks and holds " +
            std::to_string(there) +
            " of them now; its capacity may be too small, or something removes its objects"};
  }

  M& memory_;
  S& storage_;
  Tokens tokens_;
  SaveOptions options_;
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
  std::vector<ExtraKey> extra;
  ModelFingerprint fingerprint;
  std::uint32_t chunk_tokens = 0;
  bool ran = false;       // there was one
  bool complete = false;  // and its KV is whole
};

/// Whether these tokens are the last prompt's, or go on with it, or are its beginning.
///
/// Errors:  invalid_argument, which says what differs
inline Status may_save(const LastPrompt& last, Tokens tokens, std::span<const ExtraKey> extra,
                       const ModelFingerprint& fingerprint) {
  const auto refuse = [](const std::string& why) {
    return Error{
        Errc::invalid_argument, 0,
        "save: " + why +
            "; run prefill() of these tokens first, or set SaveOptions::assume_resident if "
            "the engine does hold their KV"};
  };
  if (!last.ran) return {};
  if (!last.complete) return refuse("the last prefill did not complete, so KV is missing");
  if (last.fingerprint != fingerprint) {
    return refuse("the engine's fingerprint is another one than at the last prefill");
  }
  const std::size_t both = std::min(tokens.size(), last.tokens->size());
  const auto differ = std::mismatch(
      tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(both), last.tokens->begin());
  if (differ.first != tokens.begin() + static_cast<std::ptrdiff_t>(both)) {
    return refuse("token " + std::to_string(differ.first - tokens.begin()) +
                  " is another one than in the last prefill");
  }
  const auto touching = [&](std::span<const ExtraKey> list) {
    std::vector<ExtraKey> kept;
    for (const ExtraKey& e : list) {
      if (e.range.begin < both) kept.push_back(e);
    }
    std::sort(kept.begin(), kept.end(), [](const ExtraKey& a, const ExtraKey& b) {
      return std::tie(a.range.begin, a.range.end, a.digest) <
             std::tie(b.range.begin, b.range.end, b.digest);
    });
    return kept;
  };
  if (touching(extra) != touching(last.extra)) {
    return refuse("the extra keys are not those of the last prefill");
  }
  return {};
}

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
SaveReport save(M& memory, S& storage, Tokens tokens, const SaveOptions& options = {}) {
  return detail::SaveRun<M, S>(memory, storage, tokens, options).run();
}

}  // namespace cake::inline CAKE_ABI
