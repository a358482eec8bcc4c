// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake asks of a scheduler, and all that one may know: the prompt that is to be prefilled, who
// holds which chunk, how fast each lane is. Changed by the session alone; every question is answered
// in constant time. One thread at a time.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cake/scheduler/link_estimator.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class PrefillState;
}

/// What compute does next.
struct Step {
  enum class Kind : std::uint8_t { compute, wait, finished };
  Kind kind = Kind::finished;
  TokenRange tokens;     // compute: positions of this pass
  bool gated = false;    // compute: KV below tokens.begin may still be on its way, layer by layer
  Time until = kNever;   // wait: ask again then, or when something changed
  std::uint64_t id = 0;  // compute: names the step in gate() and done()
};

/// One read that a scheduler wants: some layers of one chunk, and when to give up waiting for it.
struct LoadRequest {
  Slice slice;
  Time deadline = kNever;
};

/// One prompt's run, fixed when it begins. Scheduler::begin() sees it, and it outlives the run.
///
/// Units: positions and counts in tokens, sizes in bytes.
struct PrefillSpec {
  std::uint32_t n_tokens = 0;         // length of the prompt
  std::uint32_t resident_tokens = 0;  // KV that the engine already holds, from position 0
  std::uint32_t chunk_tokens = 256;
  std::uint32_t n_chunks = 0;   // full chunks
  std::uint32_t end_chunk = 0;  // one past the last stored chunk; chunks from here on are suffix
  std::uint32_t n_layers = 1;
  std::uint32_t n_lanes = 1;
  std::uint32_t max_step_tokens = 512;  // most tokens that one compute pass takes
  bool may_gate = true;                 // the backend takes gated steps
  std::span<const StoredChunk> stored;  // [end_chunk]; entry i belongs to chunk i
  std::uint64_t head_bytes = 0;         // of one stored object: before the first layer,
  std::uint64_t layer_bytes = 0;        // of each layer, on average where they differ,
  std::uint64_t foot_bytes = 0;         // and after the last one
  /// Bytes between head_bytes and each layer, [n_layers + 1]; empty: all layers have layer_bytes.
  std::span<const std::uint64_t> layer_begins;

  /// First token behind the stored chunks; never the prompt's end, since its last token is always
  /// computed: its logits are wanted.
  constexpr std::uint32_t prefix_end() const {
    return std::min(end_chunk * chunk_tokens, n_tokens - 1);
  }
  /// Tokens that a load of this chunk saves compute. One fewer than the object holds where a chunk
  /// ends with the prompt.
  constexpr TokenRange chunk_range(std::uint32_t chunk) const {
    return {chunk * chunk_tokens, std::min((chunk + 1) * chunk_tokens, n_tokens - 1)};
  }
  /// Tokens whose KV the stored object holds.
  constexpr TokenRange object_range(std::uint32_t chunk) const {
    return {chunk * chunk_tokens, (chunk + 1) * chunk_tokens};
  }
  /// The chunk that this token belongs to; end_chunk for those of the suffix.
  constexpr std::uint32_t chunk_of(std::uint32_t token) const {
    return token >= prefix_end() ? end_chunk : token / chunk_tokens;
  }
  /// Bytes of these layers, without head and foot.
  constexpr std::uint64_t payload_bytes(LayerRange layers) const {
    if (layer_begins.empty()) return layers.size() * layer_bytes;
    return layers.empty() ? 0 : layer_begins[layers.end] - layer_begins[layers.begin];
  }
  /// Where a read of these layers begins in the object.
  constexpr std::uint64_t read_offset(LayerRange layers) const {
    return layers.begin == 0 ? 0 : head_bytes + payload_bytes({0, layers.begin});
  }
  /// Bytes that a read of these layers of one chunk fetches.
  constexpr std::uint64_t read_bytes(LayerRange layers) const {
    return payload_bytes(layers) + (layers.begin == 0 ? head_bytes : 0) +
           (layers.end == n_layers ? foot_bytes : 0);
  }
  constexpr Slice whole(std::uint32_t chunk) const {
    return {chunk, object_range(chunk), {0, n_layers}};
  }
};

/// Only the holder of a chunk's claim writes its KV: the lanes that load it, or compute.
enum class ChunkState : std::uint8_t {
  open,       // stored, and nobody's yet
  loading,    // some of its slices are being read
  inserting,  // bytes are on their way into KV: cannot be taken over
  computing,  // claimed by a step
  resident,   // KV is there
  hole,       // cannot be loaded: only compute can fill it
};

/// A step that was handed out and is not done.
struct RunningStep {
  std::uint64_t id = 0;
  TokenRange tokens;
  Time issued{0};
  Time begins{
      0};  // has the device to itself since then; while another is ahead: when it was issued
  bool gated = false;
};

/// The step that was done last; `busy` is the time that it had the device for itself. `sequence`
/// counts them.
struct FinishedStep {
  std::uint64_t sequence = 0;
  TokenRange tokens;
  Time busy{0};
  bool gated = false;
};

/// Bytes of open chunks that lie in exactly these tiers and have not been asked for.
struct OpenBytes {
  std::uint32_t tiers = 0;
  std::uint64_t bytes = 0;
};

/// How a run stands, as schedulers see it.
class RunView {
 public:
  const PrefillSpec& spec() const { return spec_; }
  ChunkState state(std::uint32_t chunk) const { return state_[chunk]; }
  /// First token whose KV is neither resident nor claimed by a step. Everything below it is, in
  /// order.
  std::uint32_t front() const { return front_; }
  std::uint32_t front_chunk() const { return spec_.chunk_of(front_); }
  /// First token at or above the prefix's end that no step has claimed.
  std::uint32_t suffix_front() const { return suffix_front_; }
  /// The engine takes a gated step now.
  bool may_gate() const { return may_gate_; }

  /// First chunk at or above `chunk` that only compute can fill; spec().end_chunk when there is
  /// none.
  std::uint32_t next_hole(std::uint32_t chunk) const {
    const auto late = std::lower_bound(late_holes_.begin(), late_holes_.end(), chunk);
    const std::uint32_t early = chunk < spec_.end_chunk ? next_absent_[chunk] : spec_.end_chunk;
    return late == late_holes_.end() ? early : std::min(early, *late);
  }
  /// First chunk at or above `chunk` that is stored, whatever became of it; spec().end_chunk when
  /// there is none.
  std::uint32_t next_stored(std::uint32_t chunk) const {
    return chunk < spec_.end_chunk ? next_stored_[chunk] : spec_.end_chunk;
  }
  /// Holes that no step has claimed.
  std::uint32_t holes() const { return n_holes_; }
  /// Chunks that became holes after the start, whatever became of them since.
  std::uint32_t lost_chunks() const { return static_cast<std::uint32_t>(late_holes_.size()); }

  std::span<const OpenBytes> open_bytes() const { return open_bytes_; }
  std::uint32_t open_chunks() const { return open_chunks_; }
  /// Chunks that a load made resident, and chunks that are being inserted.
  std::uint32_t loaded_chunks() const { return loaded_chunks_; }
  std::uint32_t inserting_chunks() const { return inserting_chunks_; }
  const LinkEstimator& lane(LaneId lane) const { return lanes_[lane]; }
  std::uint32_t n_lanes() const { return static_cast<std::uint32_t>(lanes_.size()); }
  bool on_lane(std::uint32_t chunk, LaneId lane) const {
    return (spec_.stored[chunk].tiers >> lane & 1) != 0;
  }
  /// Layers of a chunk that have been asked for; always the first ones.
  std::uint32_t layers_issued(std::uint32_t chunk) const { return issued_[chunk]; }
  /// Its header and tables are known, so that further slices may be asked for.
  bool parsed(std::uint32_t chunk) const { return (flags_[chunk] & kParsed) != 0; }
  /// It will never be loaded (again): absent, failed, or taken over. Inserts may still run.
  bool unloadable(std::uint32_t chunk) const { return (flags_[chunk] & kUnloadable) != 0; }

  std::span<const RunningStep> running() const { return running_; }
  const FinishedStep& finished() const { return finished_; }

  bool layer_resident(std::uint32_t chunk, std::uint32_t layer) const {
    return (layers_resident_[std::size_t{chunk} * layer_words_ + layer / 64] >> (layer % 64) & 1) !=
           0;
  }

 private:
  friend class detail::PrefillState;

  static constexpr std::uint8_t kParsed = 1;      // tables are known
  static constexpr std::uint8_t kUnloadable = 2;  // never to be loaded (again)
  static constexpr std::uint8_t kLate = 4;        // became a hole after the start

  void begin(const PrefillSpec& spec, std::span<const LinkEstimate> priors) {
    *this = RunView();
    spec_ = spec;
    may_gate_ = spec.may_gate;
    const std::uint32_t n = spec.end_chunk;
    late_holes_.reserve(n);  // so that no change during the run needs memory
    running_.reserve(2);
    state_.assign(n, ChunkState::open);
    flags_.assign(n, 0);
    issued_.assign(n, 0);
    inserting_.assign(n, 0);
    layer_words_ = (spec.n_layers + 63) / 64;
    layers_resident_.assign(std::size_t{n} * layer_words_, 0);
    next_absent_.resize(n);
    next_stored_.resize(n);
    for (std::uint32_t i = n; i-- > 0;) {
      const bool usable = spec.stored[i].stored() && !cut_by_resident(i);
      next_absent_[i] = usable ? (i + 1 < n ? next_absent_[i + 1] : n) : i;
      next_stored_[i] = usable ? i : (i + 1 < n ? next_stored_[i + 1] : n);
      if (spec.chunk_range(i).end <= spec.resident_tokens) {
        state_[i] = ChunkState::resident;
      } else if (usable) {
        count_open(i, 1);
        ++open_chunks_;
      } else {
        state_[i] = ChunkState::hole;
        flags_[i] = kUnloadable;
        ++n_holes_;
      }
    }
    for (const LinkEstimate& prior : priors) lanes_.emplace_back(prior);
    suffix_front_ = std::max(spec.prefix_end(), spec.resident_tokens);
    front_ = spec.resident_tokens;
    if (front_ < spec.prefix_end() && front_ % spec.chunk_tokens != 0) {
      // The rest of a chunk that the engine holds in part belongs to compute from the start.
      set_state(front_chunk(), ChunkState::computing);
      partial_end_ = front_;
    }
    advance();
  }

  bool cut_by_resident(std::uint32_t chunk) const {
    const TokenRange tokens = spec_.chunk_range(chunk);
    return tokens.begin < spec_.resident_tokens;
  }

  /// Bytes of a chunk that have not been asked for.
  std::uint64_t unissued(std::uint32_t chunk) const {
    return issued_[chunk] >= spec_.n_layers ? 0
                                            : spec_.read_bytes({issued_[chunk], spec_.n_layers});
  }

  void count_open(std::uint32_t chunk, int sign) {
    const std::uint32_t tiers = spec_.stored[chunk].tiers;
    auto entry = std::find_if(open_bytes_.begin(), open_bytes_.end(),
                              [&](const OpenBytes& o) { return o.tiers == tiers; });
    if (entry == open_bytes_.end()) entry = open_bytes_.insert(entry, {tiers, 0});
    entry->bytes = sign > 0 ? entry->bytes + unissued(chunk) : entry->bytes - unissued(chunk);
  }

  static bool loadable(ChunkState state) {
    return state == ChunkState::open || state == ChunkState::loading ||
           state == ChunkState::inserting;
  }

  /// Keeps every sum right.
  void set_state(std::uint32_t chunk, ChunkState to) {
    const ChunkState from = state_[chunk];
    if (from == to) return;
    if (loadable(from) && !loadable(to)) count_open(chunk, -1);
    if (from == ChunkState::open) --open_chunks_;
    if (from == ChunkState::inserting) --inserting_chunks_;
    if (to == ChunkState::inserting) ++inserting_chunks_;
    if (from == ChunkState::inserting && to == ChunkState::resident) ++loaded_chunks_;
    if (from == ChunkState::hole) --n_holes_;
    if (to == ChunkState::hole) {
      ++n_holes_;
      if (next_absent_[chunk] != chunk && (flags_[chunk] & kLate) == 0) {
        flags_[chunk] |= kLate;
        late_holes_.insert(std::lower_bound(late_holes_.begin(), late_holes_.end(), chunk), chunk);
      }
    }
    state_[chunk] = to;
    if (!loadable(from) && loadable(to)) count_open(chunk, 1);
    if (to == ChunkState::open) ++open_chunks_;
  }

  void issue(std::uint32_t chunk, LayerRange layers) {
    count_open(chunk, -1);
    issued_[chunk] = static_cast<std::uint16_t>(layers.end);
    count_open(chunk, 1);
  }

  /// True when that was the last layer that was missing.
  bool add_layers(std::uint32_t chunk, LayerRange layers) {
    std::uint64_t* words = &layers_resident_[std::size_t{chunk} * layer_words_];
    for (std::uint32_t l = layers.begin; l < layers.end; ++l) words[l / 64] |= 1ull << (l % 64);
    int set = 0;
    for (std::uint32_t w = 0; w < layer_words_; ++w) set += std::popcount(words[w]);
    return static_cast<std::uint32_t>(set) == spec_.n_layers;
  }
  void drop_layers(std::uint32_t chunk) {
    std::fill_n(&layers_resident_[std::size_t{chunk} * layer_words_], layer_words_, 0);
  }

  /// Moves the front over everything that is resident or claimed by a step.
  void advance() {
    while (front_ < spec_.prefix_end()) {
      const std::uint32_t chunk = front_chunk();
      const TokenRange tokens = spec_.chunk_range(chunk);
      if (state_[chunk] == ChunkState::computing) {
        if (partial_end_ > tokens.begin && partial_end_ < tokens.end) {
          front_ = partial_end_;
          return;
        }
      } else if (state_[chunk] != ChunkState::resident) {
        return;
      }
      front_ = tokens.end;
    }
    front_ = std::max(front_, suffix_front_);
  }

  PrefillSpec spec_;
  std::vector<ChunkState> state_;               // [end_chunk]
  std::vector<std::uint8_t> flags_;             // [end_chunk]
  std::vector<std::uint16_t> issued_;           // [end_chunk] layers asked for
  std::vector<std::uint16_t> inserting_;        // [end_chunk] slices being inserted
  std::vector<std::uint64_t> layers_resident_;  // [end_chunk][layer_words_] bit set
  std::vector<std::uint32_t> next_absent_;      // [end_chunk]
  std::vector<std::uint32_t> next_stored_;      // [end_chunk]
  std::vector<std::uint32_t> late_holes_;       // sorted
  std::vector<LinkEstimator> lanes_;
  std::vector<OpenBytes> open_bytes_;  // one entry per set of tiers that occurs
  std::vector<RunningStep> running_;   // in the order of issue, at most two
  FinishedStep finished_;
  std::uint32_t layer_words_ = 1;
  std::uint32_t front_ = 0;
  std::uint32_t suffix_front_ = 0;
  std::uint32_t partial_end_ = 0;  // where the step that covers a chunk in part ends
  std::uint32_t open_chunks_ = 0;
  std::uint32_t loaded_chunks_ = 0;
  std::uint32_t inserting_chunks_ = 0;
  std::uint32_t n_holes_ = 0;
  bool may_gate_ = false;
};

/// Decides what is computed and what is loaded. A pure state machine: no thread, clock, lock or
/// I/O; all it knows is the spec, the run view and the time that it is told.
///
///     void begin(const PrefillSpec&);  // the spec outlives the run
///     // budget: most tokens of this step
///     Step next_step(const RunView&, std::uint32_t budget, Time now);
///     // none: ask again when the run view changed
///     std::optional<LoadRequest> next_load(const RunView&, LaneId, Time now);
///
/// Thread:  one at a time; the session sees to it
template <class S>
concept Scheduler = requires(S& s, const PrefillSpec& spec, const RunView& view,
                             std::uint32_t budget, LaneId lane, Time now) {
  s.begin(spec);
  { s.next_step(view, budget, now) } -> std::same_as<Step>;
  { s.next_load(view, lane, now) } -> std::same_as<std::optional<LoadRequest>>;
};

}  // namespace cake::inline CAKE_ABI
