// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/save.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/session_engine.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// The store took `written` chunks, and `there` of them are there.
Error lost_chunks(std::size_t written, std::uint32_t there) {
  return Error{Errc::not_found, 0,
               "save: the store took " + std::to_string(written) + " chunks and holds " +
                   std::to_string(there) +
                   " of them now; its capacity may be too small, or something removes its objects"};
}

/// One save on its way.
class SaveRun {
 public:
  SaveRun(SessionEngine& engine, LaneStorage& storage, Tokens tokens, const ChunkOptions& chunks,
          std::stop_token stop)
      : engine_(engine),
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
    layout_ = engine_.layout();
    fingerprint_ = engine_.fingerprint();
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
    const auto stored =
        guarded(Errc::io, "save: lookup", [&] { return storage_.lookup_all(keys_); });
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
        return engine_.extract(Slice{c, range_of(c), layers}, writer.payload());
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
    const Status written =
        guarded(Errc::io, "save: write", [&] { return storage_.write(keys_[c], *object); });
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
        guarded(Errc::io, "save: lookup", [&] { return storage_.lookup_all(written_); });
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

  SessionEngine& engine_;
  LaneStorage& storage_;
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

/// The smallest load of a chunk takes `least` bytes: all of it, or one layer.
Error no_staging(bool whole_chunks, std::uint64_t least, std::uint64_t staging) {
  return Error{
      Errc::out_of_memory, 0,
      (whole_chunks ? "a whole chunk takes " : "one layer of a chunk takes ") +
          std::to_string(least) + " bytes of staging memory and there are " +
          std::to_string(staging) +
          ", so no chunk can be loaded; raise LaneOptions::staging_bytes or lower chunk_tokens"};
}

}  // namespace

Status fits_staging(const KvLayout& layout, std::uint32_t chunk_tokens, bool whole_chunks,
                    std::uint64_t staging) {
  if (!ChunkGeometry::fits(layout, chunk_tokens)) return {};  // refused elsewhere, by name
  const std::uint64_t least = smallest_load(ChunkGeometry(layout, chunk_tokens), whole_chunks);
  if (least <= staging) return {};
  return no_staging(whole_chunks, least, staging);
}

SaveReport save_refused(const Error& why, Tokens tokens, const ChunkOptions& chunks) {
  SaveReport report;
  report.status = why;
  if (chunks.chunk_tokens != 0) {
    report.failed = static_cast<std::uint32_t>(tokens.size() / chunks.chunk_tokens);
  }
  return report;
}

SaveReport save_chunks(SessionEngine& engine, LaneStorage& storage, Tokens tokens,
                       const ChunkOptions& chunks, std::stop_token stop) {
  return SaveRun(engine, storage, tokens, chunks, std::move(stop)).run();
}

}  // namespace cake::inline CAKE_ABI::detail
