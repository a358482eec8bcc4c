// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Who holds each chunk of one prompt, how far compute has come, and the sums that schedulers ask
// for. Every change leaves them right. Pure; one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cake/export.hpp"
#include "cake/scheduler.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A copy is a run of its own: what it shares with the original never changes.
class CAKE_API ChunkTable {
 public:
  /// `stored` holds spec.end_chunk entries; priors one per lane. All memory that later changes need
  /// is there when it returns.
  void begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
             std::span<const LinkEstimate> priors);

  const RunTables& tables() const { return t_; }
  RunView view() const { return RunView(t_); }
  /// Brings a copy of tables() up to date that was so when this was called last. Takes time by what
  /// changed since, not by the length of the prompt.
  void update(RunTables& copy);
  LinkEstimator& lane(LaneId lane) {
    lanes_changed_ = true;
    return t_.lanes[lane];
  }
  void set_may_gate(bool may) { t_.may_gate = may && t_.spec.may_gate; }

  // ---- one chunk ----

  void set_state(std::uint32_t chunk, ChunkState to);
  /// The first layers of the chunk, up to layers.end, have been asked for; the others have not.
  void issue(std::uint32_t chunk, LayerRange layers);
  void set_parsed(std::uint32_t chunk);
  void set_unloadable(std::uint32_t chunk);
  /// A slice of the chunk is being inserted.
  void begin_insert(std::uint32_t chunk);
  void end_insert(std::uint32_t chunk) { --inserting_[chunk]; }
  bool inserting(std::uint32_t chunk) const { return inserting_[chunk] != 0; }
  /// These layers are resident. True when none is missing that is needed.
  bool add_layers(std::uint32_t chunk, LayerRange layers);
  void drop_layers(std::uint32_t chunk);
  /// A load has to bring so many layers, more than before. What was resident is not any more.
  void grow(std::uint32_t chunk, std::uint32_t needed);
  /// Compute has it or had it, or will have it as soon as nobody inserts into it.
  bool computes(std::uint32_t chunk) const;

  // ---- steps ----

  /// The step has these tokens from now on; their chunks that were stored are compute's.
  void claim(const RunningStep& step);
  /// The step has ended: it holds nothing back from the one that follows. No id: no such step.
  RunningStep end_step(std::uint64_t id, Time now);
  void set_finished(TokenRange tokens, Time busy, bool gated);
  /// Takes tokens back from compute.
  void release(TokenRange tokens);
  /// Moves the front over everything that is resident or claimed by a step.
  void advance();

 private:
  void touch(std::uint32_t chunk);
  static bool loadable(ChunkState state);
  std::uint64_t unissued(std::uint32_t chunk) const;
  void count_open(std::uint32_t chunk, int sign);
  void begin_chunk(std::uint32_t chunk, std::uint32_t& above);
  void leaves_resident(std::uint32_t chunk);
  void find_context();

  RunTables t_;
  std::shared_ptr<const std::vector<StoredChunk>> stored_;  // what spec.stored shows
  std::vector<std::uint16_t> inserting_;                    // [end_chunk] slices
  std::vector<std::uint8_t> late_;        // [end_chunk] became a hole after the start
  std::vector<std::uint8_t> computed_;    // [end_chunk] resident, and not by a load
  std::vector<std::uint8_t> is_touched_;  // [end_chunk]
  std::vector<std::uint32_t> touched_;    // chunks that changed since the last update()
  bool lanes_changed_ = false;            // since the last update()
  std::uint32_t partial_end_ = 0;         // where the step that covers a chunk in part ends
  std::uint32_t widest_ = 0;              // window in tokens; 0: there is none
};

}  // namespace cake::inline CAKE_ABI::detail
