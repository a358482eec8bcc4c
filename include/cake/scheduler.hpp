// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake asks of a scheduler, and all that one may know: the prompt that is to be prefilled, who
// holds which chunk, how fast each lane is. Changed by the session alone; every question is answered
// in constant time. One thread at a time.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cake/scheduler/link_estimator.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

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
  std::uint32_t reads_at_once = 0;      // that one lane carries out at most; 0: not known
  Time lateness{0};                     // as LinkEstimator::set_noise(); 0: times are exact
  std::uint32_t max_step_tokens = 512;  // most tokens that one compute pass takes
  bool may_gate = true;                 // the backend takes gated steps
  std::span<const StoredChunk> stored;  // [end_chunk]; entry i belongs to chunk i
  std::uint64_t head_bytes = 0;         // of one stored object: before the first layer,
  std::uint64_t layer_bytes = 0;        // of each layer, on average where they differ,
  std::uint64_t foot_bytes = 0;         // and after the last one
  /// Bytes between head_bytes and each layer, [n_layers + 1]; empty: all layers have layer_bytes.
  std::span<const std::uint64_t> layer_begins;
  /// Abilities of the engine. The session sees to them, whatever a scheduler asks for.
  bool whole_chunks = false;
  std::uint32_t smallest_step = 1;
  std::uint32_t max_overlap_tokens = ~std::uint32_t{0};
  bool wide_gated_steps = false;
  /// SessionOptions::read_timeout: a read is given up after so long, whatever deadline it has.
  Time read_timeout = kNever;
  /// KvLayerKind::reach() of each layer, the widest first, [n_layers]; empty: a step needs all
  /// layers of every chunk below it. Where it is not, layers in reads are counted as positions of
  /// KvLayout::stored_order().
  std::span<const std::uint32_t> reaches;
  /// Position of each of the model's layers, [n_layers]; empty: its number.
  std::span<const std::uint32_t> positions;

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
  /// A gated step that begins at `begin` may have more tokens than next() allows: the engine takes
  /// wide steps, and this one is behind all that is stored.
  constexpr bool may_be_wide(std::uint32_t begin) const {
    return wide_gated_steps && begin >= prefix_end();
  }
  /// Most tokens of a gated step that begins at `begin`, behind the front, when next() allows
  /// `budget` tokens.
  constexpr std::uint32_t gated_step_tokens(std::uint32_t begin, std::uint32_t budget) const {
    return may_be_wide(begin) ? max_overlap_tokens : std::min(budget, max_overlap_tokens);
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
  constexpr std::uint32_t position(std::uint32_t layer) const {
    return positions.empty() ? layer : positions[layer];
  }
  /// How many layers, the first ones, a step needs of a chunk that ends at `end` when it begins at
  /// `begin`, at or above that, and all between is not computed.
  constexpr std::uint32_t layers_needed(std::uint32_t end, std::uint32_t begin) const {
    if (reaches.empty()) return n_layers;
    const std::uint32_t behind = begin > end ? begin - end : 0;
    std::uint32_t n = 0;
    while (n < n_layers && reaches[n] > behind) ++n;
    return payload_bytes({0, n}) == 0 ? 0 : n;
  }
  /// Layers that the stored object holds; 0: it is absent.
  constexpr std::uint32_t layers_held(std::uint32_t chunk) const {
    return stored[chunk].stored() ? std::min(stored[chunk].layers, n_layers) : 0;
  }
  /// Tokens that the widest window reaches back over; 0: there is none.
  constexpr std::uint32_t widest_window() const {
    for (const std::uint32_t reach : reaches) {
      if (reach != ~0u) return reach;
    }
    return 0;
  }
};

/// Only the holder of a chunk's claim writes its KV: the lanes that load it, or compute.
enum class ChunkState : std::uint8_t {
  open,       // stored, and nobody's yet
  loading,    // some of its slices are being read
  inserting,  // bytes are on their way into KV: cannot be taken over
  computing,  // claimed by a step
  resident,   // all KV is there that is needed of it
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

/// A step that was done. `sequence` counts them from 1.
struct FinishedStep {
  std::uint64_t sequence = 0;
  TokenRange tokens;
  // It had the device for itself; of a gated one without what it certainly waited in its gates.
  Time busy{0};
  // Or whoever should have noticed its end waited in a gate of the step behind it: `busy` is the most.
  bool gated = false;
};

/// Bytes of open chunks that lie in exactly these tiers and have not been asked for.
struct OpenBytes {
  std::uint32_t tiers = 0;
  std::uint64_t bytes = 0;
};

namespace detail {

/// What a RunView shows: one column per fact of a chunk, and sums over them. ChunkTable keeps it
/// right.
struct RunTables {
  PrefillSpec spec;
  std::vector<ChunkState> state;               // [end_chunk]
  std::vector<std::uint8_t> parsed;            // [end_chunk] header and tables are known
  std::vector<std::uint8_t> unloadable;        // [end_chunk] never to be loaded (again)
  std::vector<std::uint16_t> issued;           // [end_chunk] layers asked for
  std::vector<std::uint16_t> needed;           // [end_chunk] layers that a load has to bring
  std::vector<std::uint64_t> layers_resident;  // [end_chunk][layer_words] bit set
  std::vector<std::uint32_t> next_absent;      // [end_chunk] at the start
  std::vector<std::uint32_t> next_stored;      // [end_chunk] at the start
  std::vector<std::uint32_t> late_holes;       // became holes after the start; sorted
  std::vector<LinkEstimator> lanes;
  std::vector<OpenBytes> open_bytes;       // one entry per set of tiers that occurs
  std::vector<RunningStep> running;        // in the order of issue, at most two
  std::array<FinishedStep, 4> finished{};  // the last ones, by sequence
  std::uint64_t n_finished = 0;
  std::uint32_t layer_words = 1;
  std::uint32_t front = 0;
  std::uint32_t suffix_front = 0;
  std::uint32_t open_chunks = 0;
  std::uint32_t loaded_chunks = 0;
  std::uint32_t inserting_chunks = 0;
  std::uint32_t holes = 0;
  std::uint32_t context_from = 0;  // token, at or below the front
  bool may_gate = false;
};

}  // namespace detail

/// How a run stands, as schedulers see it. A scheduler keeps no view beyond the call that it is
/// given to; the spec lives as long as the run.
class RunView {
 public:
  explicit RunView(const detail::RunTables& tables) : t_(&tables) {}

  const PrefillSpec& spec() const { return t_->spec; }
  ChunkState state(std::uint32_t chunk) const { return t_->state[chunk]; }
  /// First token whose KV is neither resident nor claimed by a step. Everything below it is, in
  /// order.
  std::uint32_t front() const { return t_->front; }
  std::uint32_t front_chunk() const { return t_->spec.chunk_of(t_->front); }
  /// Where compute would have to begin to compute the front's tokens: the front, unless what was
  /// loaded below it lacks windows or states that are needed so far back alone. A step may begin
  /// with any chunk from there to the front: all up to the front and to the step's end is compute's from
  /// then on, and what the step lacks of the chunks below is loaded first, where it is stored.
  std::uint32_t context_from() const { return t_->context_from; }
  /// First token at or above the prefix's end that no step has claimed.
  std::uint32_t suffix_front() const { return t_->suffix_front; }
  /// The engine takes a gated step now.
  bool may_gate() const { return t_->may_gate; }

  /// First chunk at or above `chunk` that only compute can fill; spec().end_chunk when there is
  /// none.
  std::uint32_t next_hole(std::uint32_t chunk) const {
    const auto late = std::lower_bound(t_->late_holes.begin(), t_->late_holes.end(), chunk);
    const std::uint32_t end = t_->spec.end_chunk;
    const std::uint32_t early = chunk < end ? t_->next_absent[chunk] : end;
    return late == t_->late_holes.end() ? early : std::min(early, *late);
  }
  /// First chunk at or above `chunk` that is stored, whatever became of it; spec().end_chunk when
  /// there is none.
  std::uint32_t next_stored(std::uint32_t chunk) const {
    return chunk < t_->spec.end_chunk ? t_->next_stored[chunk] : t_->spec.end_chunk;
  }
  /// Holes that no step has claimed.
  std::uint32_t holes() const { return t_->holes; }
  /// Chunks that became holes after the start, whatever became of them since.
  std::uint32_t lost_chunks() const { return static_cast<std::uint32_t>(t_->late_holes.size()); }

  std::span<const OpenBytes> open_bytes() const { return t_->open_bytes; }
  std::uint32_t open_chunks() const { return t_->open_chunks; }
  /// Chunks that a load made resident, and chunks that are being inserted.
  std::uint32_t loaded_chunks() const { return t_->loaded_chunks; }
  std::uint32_t inserting_chunks() const { return t_->inserting_chunks; }
  const LinkEstimator& lane(LaneId lane) const { return t_->lanes[lane]; }
  std::uint32_t n_lanes() const { return static_cast<std::uint32_t>(t_->lanes.size()); }
  bool on_lane(std::uint32_t chunk, LaneId lane) const {
    return (t_->spec.stored[chunk].tiers >> lane & 1) != 0;
  }
  /// Layers of a chunk that have been asked for; always the first ones.
  std::uint32_t layers_issued(std::uint32_t chunk) const { return t_->issued[chunk]; }
  /// Layers of a chunk that a load has to bring, always the first ones: those that the next step
  /// above it needs which does not follow a computed chunk. More, once such a step begins lower than
  /// was thought.
  std::uint32_t layers_needed(std::uint32_t chunk) const { return t_->needed[chunk]; }
  /// All of a chunk that a load has to bring.
  Slice whole(std::uint32_t chunk) const {
    return {chunk, t_->spec.object_range(chunk), {0, t_->needed[chunk]}};
  }
  /// Its header and tables are known, so that further slices may be asked for.
  bool parsed(std::uint32_t chunk) const { return t_->parsed[chunk] != 0; }
  /// It will never be loaded (again): absent, failed, or taken over. Inserts may still run.
  bool unloadable(std::uint32_t chunk) const { return t_->unloadable[chunk] != 0; }

  std::span<const RunningStep> running() const { return t_->running; }
  /// The step that was done last; its sequence is 0 while there is none.
  const FinishedStep& finished() const { return t_->finished[t_->n_finished % 4]; }
  /// The step of that sequence, counted from 1. Null: it is none of the last four.
  const FinishedStep* finished(std::uint64_t sequence) const {
    const FinishedStep& step = t_->finished[sequence % 4];
    return sequence != 0 && step.sequence == sequence ? &step : nullptr;
  }

  /// KV of one of the model's layers is there, or is not needed.
  bool layer_resident(std::uint32_t chunk, std::uint32_t layer) const {
    const std::uint32_t at = t_->spec.position(layer);
    const std::uint64_t word = t_->layers_resident[std::size_t{chunk} * t_->layer_words + at / 64];
    return at >= t_->needed[chunk] || (word >> (at % 64) & 1) != 0;
  }

 private:
  const detail::RunTables* t_;
};

namespace detail {

template <class S>
concept PredictsMeet = requires(S& s, const RunView& view, Time now) {
  { s.predicted_meet(view, now) } -> std::convertible_to<std::uint32_t>;
};
template <class S>
concept AnswersAtOnce = requires(S& s, const RunView& view, std::uint32_t budget, Time now) {
  { s.step_at_once(view, budget, now) } -> std::same_as<std::optional<Step>>;
};
template <class S>
concept SeesTheEnd = requires(S& s, const RunView& view) {
  { s.ended(view) } -> std::same_as<void>;
};
template <class S>
concept ReconsidersGates = requires(S& s, const RunView& view, Time now) {
  { s.gate_until(view, now) } -> std::same_as<Time>;
};
template <class S>
concept TellsComputeCost = requires(const S& s) {
  { s.compute_cost().per_token } -> std::convertible_to<double>;
  { s.compute_cost().per_position } -> std::convertible_to<double>;
};

/// Stops the compiler where an optional member has another signature.
template <class S>
constexpr bool scheduler_members_hold() {
  static_assert(
      PredictsMeet<S> || !requires { &S::predicted_meet; },
      "cake: predicted_meet() of a scheduler has to be: "
      "std::uint32_t predicted_meet(const cake::RunView&, cake::Time now)");
  static_assert(
      AnswersAtOnce<S> || !requires { &S::step_at_once; },
      "cake: step_at_once() of a scheduler has to be: std::optional<cake::Step> "
      "step_at_once(const cake::RunView&, std::uint32_t budget, cake::Time now)");
  static_assert(
      SeesTheEnd<S> || !requires { &S::ended; },
      "cake: ended() of a scheduler has to be: void ended(const cake::RunView&)");
  static_assert(
      ReconsidersGates<S> || !requires { &S::gate_until; },
      "cake: gate_until() of a scheduler has to be: cake::Time gate_until(const cake::RunView&, "
      "cake::Time now)");
  static_assert(
      TellsComputeCost<S> || !requires { &S::compute_cost; },
      "cake: compute_cost() of a scheduler has to be const, and what it returns has "
      "per_token and per_position, in seconds");
  return true;
}

}  // namespace detail

/// Decides what is computed and what is loaded. A pure state machine: no thread, clock, lock or
/// I/O; all it knows is the spec, the run view and the time that it is told.
///
///     void begin(const PrefillSpec&);  // the spec outlives the run
///     // budget: most tokens of this step; of a gated one PrefillSpec::gated_step_tokens()
///     Step next_step(const RunView&, std::uint32_t budget, Time now);
///     // none: ask again when the run view changed
///     std::optional<LoadRequest> next_load(const RunView&, LaneId, Time now);
///
///     // Optional, for the report: the token where compute and loads will meet, and
///     std::uint32_t predicted_meet(const RunView&, Time now);
///     // seconds of compute: per_token and per_position
///     const ComputeCost& compute_cost() const;
///
/// Optional, because the session copies what next_step() sees, which may take long, and holds no lock
/// meanwhile: the same answer where it takes less than a microsecond, from the view as it is. None:
/// next_step() is asked; it must then answer as if this had not been.
///
///     std::optional<Step> step_at_once(const RunView&, std::uint32_t budget, Time now);
///
/// Optional, because nothing else can be computed while a gated step waits for layers: until when it is to
/// wait before this is asked again. Not after `now`: the step is better void, and next_step() is asked for
/// another one.
///
///     Time gate_until(const RunView&, Time now);
///
/// One that learns what passes cost may have three more, which the session calls before begin() and
/// after the run: it is a copy that runs, and what it learns goes into the lanes' Calibration. ended()
/// and measured_compute() should take microseconds: other calls of the session wait for them.
///
///     void calibrate(const ComputeCostEstimator&);               // what sessions before have measured
///     void ended(const RunView&);                                // the last step is in finished()
///     const ComputeCostEstimator* measured_compute() const;      // null: nothing
///
/// Thread:  one at a time; the session sees to it
template <class S>
concept Scheduler = requires(S& s, const PrefillSpec& spec, const RunView& view,
                             std::uint32_t budget, LaneId lane, Time now) {
  s.begin(spec);
  { s.next_step(view, budget, now) } -> std::same_as<Step>;
  { s.next_load(view, lane, now) } -> std::same_as<std::optional<LoadRequest>>;
}
&&detail::scheduler_members_hold<S>();

}  // namespace cake::inline CAKE_ABI
