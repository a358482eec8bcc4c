// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The parts of a save: which chunks there are to store, and how one is extracted and written. Who
// drives them counts what came of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"
#include "cake/save.hpp"
#include "cake/storage_backend.hpp"
#include "cake/types.hpp"
#include "src/core/recent_keys.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A chunk that is to be stored.
struct SaveChunk {
  std::uint32_t chunk = 0;
  std::uint32_t held = 0;         // layers that the store has of it; 0: none that are of use
  std::uint64_t stored_size = 0;  // of what is there under its key; 0: nothing
};

/// Needs:   engine, storage, tokens and chunks outlive it
/// Thread:  prepare() first; then extract() by one thread at a time, and write() by any number
class SaveWork {
 public:
  SaveWork(SessionEngine& engine, LaneStorage& storage, Tokens tokens, const ChunkOptions& chunks)
      : engine_(engine), storage_(storage), tokens_(tokens), chunks_(chunks) {}

  /// Asks the store. Counts in the report what is there; where that fails, all as lost.
  ///
  /// Errors:  those of engine and store, however they are told
  /// Chunks that were asked for less than `write_after` times before are held back: `asked` counts.
  Status prepare(SaveReport& report, RecentKeys* asked = nullptr, std::uint32_t write_after = 0);
  /// In the order of the prompt.
  const std::vector<SaveChunk>& chunks() const { return todo_; }
  const ChunkGeometry& geometry() const { return geometry_; }
  const KvLayout& layout() const { return layout_; }
  std::uint32_t n_layers() const { return layout_.n_layers; }

  /// Layers that the engine gives of the chunk, as many as an object may hold: those that need all
  /// tokens, then what it still has of windows and states. 0: not even those; `why` is its error.
  std::uint32_t extract(ChunkWriter& writer, const SaveChunk& what, Status& why) const;
  /// Memory of the store to build the chunk in; empty: it has none for that.
  ObjectRoom make_room(const SaveChunk& what) const noexcept;
  /// Writes what was extracted, over what is of no use, or publishes it in the room that it was
  /// extracted to. Returns the bytes of the object.
  Result<std::uint64_t> write(ChunkWriter& writer, const SaveChunk& what, std::uint32_t held,
                              ObjectRoom room = {}) const;

  struct Written {
    std::uint32_t chunk = 0;
    std::uint64_t bytes = 0;
  };
  /// Counts what is readable now of that.
  Status check(std::span<const Written> written, SaveReport& report) const;

 private:
  Status prepare_keys();
  Status ask_store(SaveReport& report, RecentKeys* asked, std::uint32_t write_after);
  Status extract_layers(ChunkWriter& writer, std::uint32_t chunk, LayerRange positions) const;
  TokenRange range_of(std::uint32_t c) const {
    return {c * chunks_.chunk_tokens, (c + 1) * chunks_.chunk_tokens};
  }

  SessionEngine& engine_;
  LaneStorage& storage_;
  Tokens tokens_;
  const ChunkOptions& chunks_;
  KvLayout layout_;
  ChunkGeometry geometry_;
  ModelFingerprint fingerprint_;
  ChunkKey root_;
  std::vector<ChunkKey> keys_;
  std::vector<SaveChunk> todo_;
};

/// Counts the chunks of one save, and gives up a store that takes none.
class SaveTally {
 public:
  /// So many writes in a row that fail, and the store is given up; at once where it has no room.
  static constexpr std::uint32_t kWritesRefused = 3;

  explicit SaveTally(SaveReport& report) : report_(report) {}

  /// With as much of its text as there is memory for.
  void note(const Error& error) noexcept {
    if (report_.status) report_.status = error_of(error.code, error.native, error.context);
  }
  void lost(std::uint32_t chunks) { report_.failed += chunks; }
  /// What extract() gave. Whether it is to be written.
  bool extracted(const SaveChunk& what, std::uint32_t got, const Status& why);
  void written(const SaveChunk& what, std::uint32_t got, std::uint32_t n_layers,
               const Result<std::uint64_t>& bytes);
  bool given_up() const { return refused_ >= kWritesRefused; }
  std::span<const SaveWork::Written> all() const { return written_; }
  /// So many chunks at most. Nothing from here on needs memory.
  void reserve(std::size_t chunks) { written_.reserve(chunks); }

 private:
  SaveReport& report_;
  std::uint32_t refused_ = 0;  // writes in a row
  std::vector<SaveWork::Written> written_;
};

}  // namespace cake::inline CAKE_ABI::detail
