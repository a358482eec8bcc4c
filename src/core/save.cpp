// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/save.hpp"

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "cake/chunk/format.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/session_engine.hpp"
#include "src/core/save_work.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// One after the other, on this thread.
void save_all(SaveWork& work, SaveTally& tally, const std::stop_token& stop) {
  const auto chunks = static_cast<std::uint32_t>(work.chunks().size());
  if (chunks == 0) return;
  tally.reserve(chunks);
  std::optional<ChunkWriter> own;
  for (std::uint32_t i = 0; i < chunks; ++i) {
    if (stop.stop_requested() || tally.given_up()) {
      tally.lost(chunks - i);
      if (!tally.given_up()) tally.note(Error{Errc::canceled, 0, "save"});
      return;
    }
    const SaveChunk& what = work.chunks()[i];
    ObjectRoom room = work.make_room(what);
    std::optional<ChunkWriter> there;
    if (!room.empty()) {
      there.emplace(work.geometry(), room.bytes());
    } else if (!own) {
      own.emplace(work.geometry());
    }
    ChunkWriter& writer = there ? *there : *own;
    Status why;
    const std::uint32_t got = work.extract(writer, what, why);
    if (!tally.extracted(what, got, why)) continue;
    tally.written(what, got, work.n_layers(), work.write(writer, what, got, std::move(room)));
  }
}

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

Status fits_staging(const KvLayout& layout, const ChunkOptions& chunks, bool whole_chunks,
                    std::uint64_t staging) {
  if (!ChunkGeometry::fits(layout, chunks.chunk_tokens)) return {};  // refused elsewhere, by name
  const ChunkGeometry geometry(layout, chunks.chunk_tokens, chunks.cipher());
  const std::uint64_t least = smallest_load(geometry, whole_chunks);
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
  SaveReport report;
  SaveTally tally(report);
  SaveWork work(engine, storage, tokens, chunks);
  if (const Status prepared = work.prepare(report); !prepared) {
    tally.note(prepared.error());
    return report;
  }
  const auto saved = guarded(Errc::io, "save", [&]() -> Status {
    save_all(work, tally, stop);
    return {};
  });
  if (!saved) tally.note(saved.error());
  if (const Status checked = work.check(tally.all(), report); !checked) tally.note(checked.error());
  return report;
}

}  // namespace cake::inline CAKE_ABI::detail
