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

#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"
#include "cake/scheduler.hpp"
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

/// Work that may still run. A Status is one (the call blocked); so is any movable type with
///
///     bool ready();     // never blocks
///     Status wait();    // blocks until done, also where it throws; called once
///     // optional, else it is polled: ready() after at most that long
///     bool wait_for(std::chrono::nanoseconds);
///
/// Thread:  only the thread that made the call touches it
template <class C>
concept AsyncCompletion = std::movable<C> && requires(C& c) {
  { c.ready() } -> std::convertible_to<bool>;
  { c.wait() } -> std::same_as<Status>;
};
template <class C>
concept Completion = std::same_as<C, Status> || AsyncCompletion<C>;

/// True when `c` is done, after waiting for at most `span`.
template <Completion C>
bool completed_within(C& c, std::chrono::nanoseconds span) {
  if constexpr (std::same_as<C, Status>) {
    return true;
  } else if constexpr (requires {
                         { c.wait_for(span) } -> std::convertible_to<bool>;
                       }) {
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

/// What loading and saving need of an engine.
///
///     KvLayout layout();
///     ModelFingerprint fingerprint();
///     Completion insert(Slice, KvView);          // bytes of a slice into the engine's KV
///     Completion extract(Slice, MutableKvView);  // the other way, for save()
///
///     // Optional:
///     // Memory that insert copies from fastest; a Loader reads into it.
///     StagingMemory* staging_memory();
///     // Also from a view of device memory; a Loader reads there if the store has device_staging().
///     static constexpr bool inserts_from_device = true;
///     // Never on a lane thread, but when the driving thread calls next(), wait(), a gate or finish().
///     static constexpr bool insert_on_caller = true;
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
/// Thread:  insert runs on a lane thread, beside prefill of other chunks, or on the one that drives
///          the session (insert_on_caller); extract on the caller of save()
template <class M>
concept KvMemory = requires(M& m, const Slice& slice, const KvView& in, const MutableKvView& out) {
  { m.layout() } -> std::convertible_to<KvLayout>;
  { m.fingerprint() } -> std::convertible_to<ModelFingerprint>;
  { m.insert(slice, in) } -> Completion;
  { m.extract(slice, out) } -> Completion;
};

template <class C>
concept PrefillsWhole = requires(C& c, Tokens tokens, TokenRange range) {
  { c.prefill(tokens, range) } -> Completion;
};
template <class C>
concept PrefillsGated = requires(C& c, Tokens tokens, TokenRange range, LayerGate gate) {
  { c.prefill(tokens, range, gate) } -> Completion;
};

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
/// Thread:  the thread that drives the session
template <class C>
concept ComputeBackend = KvMemory<C> &&(PrefillsWhole<C> || PrefillsGated<C>);

namespace detail {

/// Whether insert also takes a view of device memory.
template <class M>
constexpr bool inserts_from_device() {
  if constexpr (requires { M::inserts_from_device; }) {
    return M::inserts_from_device;
  } else {
    return false;
  }
}

/// Whether insert must run on the thread that drives the session.
template <class M>
constexpr bool inserts_on_caller() {
  if constexpr (requires { M::insert_on_caller; }) {
    return M::insert_on_caller;
  } else {
    return false;
  }
}

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
