// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake asks of an engine: its KV memory, and how it computes a part of a prompt. An engine's
// author writes the members that a concept lists, puts a static_assert beside the type, and runs
// cake::testing::check() on it, which tests what a concept cannot say.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/abilities.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"
#include "cake/scheduler.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// KV of one slice in transfer memory: for every layer of the slice one run for each plane that
/// the layer keeps.
///
/// Shape:   plane(layer, i) is [tokens][rows][row_bytes] (nhd) or [rows][tokens][row_bytes] (hnd) of
///          plane i of layout().kind(layer); `layer` is the model's layer index, inside the slice's
///          layers. A plane that the layer has not is empty
template <class Byte>
class BasicKvView {
 public:
  BasicKvView() = default;
  /// Two planes a layer, all alike: runs lie at base + stride * (2 * (layer - first_layer) + plane).
  BasicKvView(Byte* base, std::uint32_t first_layer, std::size_t run_bytes, std::size_t stride)
      : base_(base), first_layer_(first_layer), run_bytes_(run_bytes), stride_(stride) {}
  /// Runs as `runs` places them, from `first_layer` on; its first run begins at `base`.
  BasicKvView(Byte* base, std::uint32_t first_layer, std::shared_ptr<const KvRuns> runs)
      : base_(base), first_layer_(first_layer), runs_(std::move(runs)) {}

  std::span<Byte> plane(std::uint32_t layer, std::uint32_t i) const {
    if (runs_ == nullptr) {
      if (i > 1) return {};
      return {base_ + (2 * std::size_t{layer - first_layer_} + i) * stride_, run_bytes_};
    }
    if (i >= runs_->n_planes(layer)) return {};
    const KvRuns::Run& run = (*runs_)[runs_->first(layer) + i];
    return {base_ + (run.begin - runs_->begin(first_layer_)), run.bytes};
  }
  /// The first two planes: keys and values where there are such.
  std::span<Byte> k(std::uint32_t layer) const { return plane(layer, 0); }
  std::span<Byte> v(std::uint32_t layer) const { return plane(layer, 1); }

 private:
  Byte* base_ = nullptr;
  std::uint32_t first_layer_ = 0;
  std::size_t run_bytes_ = 0;
  std::size_t stride_ = 0;
  std::shared_ptr<const KvRuns> runs_;
};
using KvView = BasicKvView<const std::byte>;   // verified bytes, for insert
using MutableKvView = BasicKvView<std::byte>;  // to be filled by extract

namespace detail {
template <class C>
concept WaitsFor = requires(C& c, std::chrono::nanoseconds span) {
  { c.wait_for(span) } -> std::convertible_to<bool>;
};
template <class C>
concept Cancels = requires(C& c) {
  { c.cancel() }
  noexcept->std::same_as<void>;
};
template <class C>
constexpr bool completion_is_sound() {
  static_assert(
      WaitsFor<C> || !requires { &C::wait_for; },
      "cake: wait_for() of a completion has to be: bool wait_for(std::chrono::nanoseconds)");
  static_assert(
      Cancels<C> || !requires { &C::cancel; },
      "cake: cancel() of a completion has to be: void cancel() noexcept");
  return true;
}
}  // namespace detail

/// Work that may still run. A Status is one (the call blocked: the choice where a device cannot be
/// asked without waiting for it); so is any movable type with
///
///     bool ready();     // never blocks
///     Status wait();    // blocks until done, also where it throws; called once
///     // optional, else it is polled: ready() after at most that long
///     bool wait_for(std::chrono::nanoseconds);
///     // optional: nobody wants the result any more; ready() soon, and wait() says what came of it
///     void cancel() noexcept;
///
/// Thread:  only the thread that made the call touches it
template <class C>
concept AsyncCompletion = std::movable<C> && requires(C& c) {
  { c.ready() } -> std::convertible_to<bool>;
  { c.wait() } -> std::same_as<Status>;
} && detail::completion_is_sound<C>();
template <class C>
concept Completion = std::same_as<C, Status> || AsyncCompletion<C>;

/// True when `c` is done, after waiting for at most `span`.
template <Completion C>
bool completed_within(C& c, std::chrono::nanoseconds span) {
  if constexpr (std::same_as<C, Status>) {
    return true;
  } else if constexpr (detail::WaitsFor<C>) {
    return c.wait_for(span);
  } else {
    const auto end = std::chrono::steady_clock::now() + span;
    while (!c.ready()) {
      if (std::chrono::steady_clock::now() >= end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return true;
  }
}

/// Blocks until `c` is done.
template <Completion C>
Status await_completion(C c) {
  if constexpr (std::same_as<C, Status>) {
    return c;
  } else {
    return c.wait();
  }
}

/// Asks `c` to end soon, where its type can do that; else it runs on.
template <Completion C>
void cancel_completion([[maybe_unused]] C& c) noexcept {
  if constexpr (detail::Cancels<C>) c.cancel();
}

/// Who answers a LayerGate; sessions implement it.
class GateSource {
 public:
  virtual bool wait_layer(std::uint64_t step, std::uint32_t layer) = 0;

 protected:
  ~GateSource() = default;
};

/// Lets a backend start a pass while later layers of the KV below it are still on their way.
/// Belongs to one step.
///
///     for (layer = 0; layer < n_layers; ++layer) {
///       // false: the step is void, and is issued again
///       if (!gate.wait(layer)) return cake::Error{cake::Errc::superseded};
///       ... read and write KV of this layer ...
///     }
///
/// Also a step that was void may not be ready before all that was enqueued of it has ended: its
/// chunks are then loaded again.
///
/// Thread:  the thread that runs the step
class LayerGate {
 public:
  LayerGate() = default;  // always open
  /// Needs:   `source` outlives the gate
  LayerGate(GateSource& source, std::uint64_t step)
      : source_(std::shared_ptr<GateSource>(), &source), step_(step) {}
  LayerGate(std::shared_ptr<GateSource> source, std::uint64_t step)
      : source_(std::move(source)), step_(step) {}
  /// Blocks until KV of `layer` below the step is resident. False: the step is void.
  bool wait(std::uint32_t layer) const {
    return source_ == nullptr || source_->wait_layer(step_, layer);
  }
  bool always_open() const { return source_ == nullptr; }

 private:
  std::shared_ptr<GateSource> source_;
  std::uint64_t step_ = 0;
};

template <class C>
concept PrefillsWhole = requires(C& c, Tokens tokens, TokenRange range) {
  { c.prefill(tokens, range) } -> Completion;
};
template <class C>
concept PrefillsGated = requires(C& c, Tokens tokens, TokenRange range, LayerGate gate) {
  { c.prefill(tokens, range, gate) } -> Completion;
};

template <class E>
struct engine_traits;
template <class E>
struct engine_calls;

namespace detail {

template <class C>
requires(PrefillsWhole<C> || PrefillsGated<C>) auto call_prefill(C& engine, Tokens prompt,
                                                                 TokenRange range, LayerGate gate) {
  if constexpr (PrefillsGated<C>) {
    return engine.prefill(prompt, range, std::move(gate));
  } else {
    return engine.prefill(prompt, range);
  }
}

template <class M>
constexpr bool engine_abilities_hold();

}  // namespace detail

/// What an engine can do or wants beyond the members that every engine has. All of it is optional,
/// and all of it is here: an engine declares what is not the default,
///
///     static constexpr cake::EngineAbilities abilities{.insert_on_caller = true};
///
/// or specialises engine_traits. A name that is not a member here does not compile; nor does a
/// method of one of these names without its ability, or with another signature.
/// cake::testing::describe(engine) tells what was recognised.
struct EngineAbilities {
  /// StagingMemory* staging_memory(): memory that insert copies from fastest. A Loader reads into
  /// it, and so do lanes that are made with lane_options(engine).
  bool staging_memory = false;
  /// insert takes views of device memory as well: a Loader reads there if the store can.
  bool inserts_from_device = false;
  /// The engine's context belongs to one thread: insert never runs on a lane thread, but when the
  /// driving thread calls next(), wait(), a gate or finish(); extract on the caller of save(). The price: nothing is inserted during
  /// a step, and each chunk that has landed keeps its staging memory until then. An engine that
  /// copies the bytes aside in insert and hands them over at the next prefill does not pay it.
  bool insert_on_caller = false;
  /// How many calls of extract may run at once, each on a thread and for tokens of its own: those of a
  /// Saver then extract as many chunks of one save. A host copy is as fast as it has threads. Copies of
  /// a device, on streams of their own as those of cuda::KvTransfer, need some four to hide how long
  /// each lasts; more of them make the engine's own small copies wait.
  std::uint32_t parallel_extracts = 1;
  /// insert and extract get whole chunks only, all layers that are needed at once, however little
  /// staging memory there is. Such an engine gets no gated steps.
  bool whole_chunks = false;
  /// insert takes any layers of a chunk in any order, and several parts of one chunk on several
  /// threads at once; where the completion is asynchronous, a thread begins with the next part before
  /// it is ready, and another thread may ask for it, one at a time. Where a store lies in memory (StorageAbilities::read_on_caller), a chunk is then
  /// inserted while the rest of it is being read. A read that fails leaves some layers inserted, as a
  /// slice that fails does: all of its chunk is computed.
  bool inserts_parts = false;
  /// Whether steps may be gated. Not set: if prefill() takes a LayerGate. An engine without a
  /// prefill() of its own, whose loop waits at the session's gates, sets it to true.
  std::optional<bool> gates = {};
  /// Tokens: a pass of fewer costs as much. No shorter step is asked for, unless what there is to
  /// compute, or the budget of next(), is shorter.
  std::uint32_t smallest_step = 1;
  /// Tokens: the longest step that is gated.
  std::uint32_t max_overlap_tokens = ~std::uint32_t{0};
  /// prefill() goes through each layer of a gated step in micro-batches, as many as it takes, before
  /// it waits for the next layer. Memory for activations is then needed for one micro-batch; only
  /// what goes from layer to layer is kept of every token. The last pass of a prompt, a gated step
  /// that begins at or behind the end of what is stored, may then have all tokens that are left, up
  /// to max_overlap_tokens, whatever the budget of next(): so no part of it has to wait for the last
  /// load. It is taken to cost what steps of SessionOptions::max_step_tokens cost. Once the run is
  /// over (a stop, an error) the gate of the next layer says that the step is void. Not set: no step
  /// has more tokens than the budget.
  bool wide_gated_steps = false;
};

/// What loading and saving need of an engine. An object stands for one sequence: the KV of one
/// prompt and of what follows it, by position from 0 on.
///
///     KvLayout layout();
///     ModelFingerprint fingerprint();
///     Completion insert(Slice, KvView);          // bytes of a slice into the engine's KV
///     Completion extract(Slice, MutableKvView);  // the other way, for save()
///
/// What else an engine may offer is a member of EngineAbilities.
///
/// Slices come in any order of chunks. Within a chunk they come in order of layers. Those of an insert
/// are whole chunks unless the engine takes gated steps or staging memory has no room for one; but see
/// EngineAbilities::inserts_parts. A chunk is extracted in pieces of a few MiB, so that each is digested
/// while a cache has it.
///
/// extract refuses tokens whose KV was never computed or inserted (invalid_argument): bytes that
/// happen to lie there would be stored, and served to others. So it does with KV that has left its
/// window, and with a state at a token where none was kept.
///
/// Of a window, KV of the last tokens alone is inserted, before or while steps far below it run:
/// keep it apart from theirs. Of a state kind, a slice has the state at slice.tokens.end. Keep what
/// is inserted until a step begins there, and go on from it; a step that begins where the last one
/// ended goes on from that one's state.
///
/// Needs:   memory for the slice's tokens is allocated; nobody else writes that slice meanwhile
/// Thread:  insert runs on a lane thread, beside prefill of other chunks and beside other inserts,
///          or on the one that drives the session (insert_on_caller); extract on the caller of
///          save(), or on a thread of a Saver, one slice of each save at a time (as many as
///          parallel_extracts says), beside all else that concerns other tokens (never so with
///          insert_on_caller)
template <class M>
concept KvMemory = requires(M& m, const Slice& slice, const KvView& in, const MutableKvView& out) {
  { m.layout() } -> std::convertible_to<KvLayout>;
  { m.fingerprint() } -> std::convertible_to<ModelFingerprint>;
  { m.insert(slice, in) } -> Completion;
  { m.extract(slice, out) } -> Completion;
}
&&detail::engine_abilities_hold<M>();

/// KvMemory, and at least one of
///
///     Completion prefill(Tokens prompt, TokenRange range);
///     // gate.wait(layer) before each layer
///     Completion prefill(Tokens prompt, TokenRange range, LayerGate gate);
///
/// KV of [0, range.begin) is resident, or was enqueued before; after the range that ends the prompt
/// logits exist. Where a stored chunk ends with the prompt, KV of the last token was inserted with
/// it and is computed again, in a step of that one token.
///
/// Steps begin at the front of the prompt and go on from there, but jump over what was loaded: the
/// range of the next one may begin far behind the end of the last. That is the moment at which all
/// KV below range.begin belongs to the sequence. A step whose gate was void comes again, perhaps
/// with another end. What prefill returns as an error ends the run with that status; an engine that
/// can break off a pass gives it the request's stop token and returns canceled.
///
/// Thread:  the thread that drives the session
template <class C>
concept ComputeBackend = KvMemory<C> &&
    requires(C& c, Tokens prompt, TokenRange range, LayerGate gate) {
  { detail::call_prefill(c, prompt, range, gate) } -> Completion;
};

/// What an engine can do, and calls of what it may leave out. Specialised for an engine that cannot
/// declare it itself:
///
///     template <>
///     struct cake::engine_traits<Theirs> : cake::engine_calls<Theirs> {
///       static constexpr cake::EngineAbilities abilities{.whole_chunks = true};
///     };
template <class E>
struct engine_traits : engine_calls<E> {
  static constexpr EngineAbilities abilities = detail::declared_abilities<E, EngineAbilities>();
};

/// The calls of engine_traits.
template <class E>
struct engine_calls {
  /// Whether the engine is given gated steps.
  static constexpr bool gates() {
    constexpr EngineAbilities can = engine_traits<E>::abilities;
    return !can.whole_chunks && can.gates.value_or(PrefillsGated<E>);
  }
  /// The memory that insert copies from fastest; null: it has none.
  static StagingMemory* staging_memory(E& engine) {
    if constexpr (engine_traits<E>::abilities.staging_memory) {
      return engine.staging_memory();
    } else {
      return nullptr;
    }
  }
  /// The engine's prefill(), with the gate if it takes one.
  static auto prefill(E& engine, Tokens prompt, TokenRange range, LayerGate gate) {
    return detail::call_prefill(engine, prompt, range, std::move(gate));
  }
};

namespace detail {

template <class M>
constexpr bool engine_abilities_hold() {
  using Traits = engine_traits<M>;
  static_assert(std::same_as<decltype(Traits::abilities), const EngineAbilities>,
                "cake: engine_traits of an engine has to have: "
                "static constexpr cake::EngineAbilities abilities");
  constexpr EngineAbilities can = Traits::abilities;
  static_assert(
      !can.staging_memory ||
          requires(M & m) {
            { m.staging_memory() } -> std::convertible_to<StagingMemory*>;
          },
      "cake: the ability staging_memory asks for: cake::StagingMemory* staging_memory()");
  static_assert(
      can.staging_memory || !requires { &M::staging_memory; },
      "cake: an engine with staging_memory() has to declare it: "
      "static constexpr cake::EngineAbilities abilities{.staging_memory = true}");
  static_assert(
      !requires { M::inserts_from_device; } && !requires { M::insert_on_caller; } &&
          !requires { M::parallel_extracts; } && !requires { M::whole_chunks; } &&
          !requires { M::inserts_parts; } && !requires { M::gates; } &&
          !requires { M::smallest_step; } && !requires { M::max_overlap_tokens; } &&
          !requires { M::wide_gated_steps; },
      "cake: inserts_from_device, insert_on_caller, parallel_extracts, whole_chunks, "
      "inserts_parts, gates, "
      "smallest_step, max_overlap_tokens and wide_gated_steps are no members of an engine, but of "
      "its abilities: "
      "static constexpr cake::EngineAbilities abilities{.insert_on_caller = true}");
  static_assert(!can.gates.value_or(false) || PrefillsGated<M> ||
                    (!PrefillsWhole<M> && !requires { &M::prefill; }),
                "cake: gates = true asks for: "
                "prefill(cake::Tokens, cake::TokenRange, cake::LayerGate)");
  static_assert(!can.gates.value_or(false) || !can.whole_chunks,
                "cake: an engine that takes whole_chunks gets no gated steps, so it cannot have "
                "gates = true");
  static_assert(
      !can.wide_gated_steps || (!can.whole_chunks && can.gates.value_or(PrefillsGated<M>)),
      "cake: wide_gated_steps asks for an engine that takes gated steps: "
      "prefill(cake::Tokens, cake::TokenRange, cake::LayerGate), or gates = true");
  static_assert(!can.inserts_parts || (!can.whole_chunks && !can.insert_on_caller),
                "cake: inserts_parts asks for an engine whose inserts run on lane threads and take "
                "some layers of a chunk: neither whole_chunks nor insert_on_caller");
  static_assert(can.parallel_extracts == 1 || !can.insert_on_caller,
                "cake: an engine whose context belongs to one thread (insert_on_caller) extracts "
                "on that one, so it cannot have parallel_extracts");
  static_assert(can.smallest_step > 0 && can.max_overlap_tokens > 0 && can.parallel_extracts > 0,
                "cake: smallest_step, max_overlap_tokens and parallel_extracts are at least 1");
  return true;
}

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
