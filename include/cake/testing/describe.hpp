// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Tells in words what cake recognised of an engine, a store or a scheduler: an ability that was
// declared under another name, or for another type, is missing here.
//
//     std::puts(cake::testing::describe(engine).c_str());
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "cake/engine.hpp"
#include "cake/kv_layout.hpp"
#include "cake/scheduler.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail::kit {

/// Lines of a name and what is said of it.
class Description {
 public:
  explicit Description(std::string title) : text_(std::move(title) + "\n") {}
  Description& line(std::string_view name, std::string_view what) {
    constexpr std::size_t kWidth = 22;
    text_.append("  ").append(name).append(kWidth - std::min(kWidth - 1, name.size()), ' ');
    text_.append(what).append("\n");
    return *this;
  }
  Description& line(std::string_view name, bool there, std::string_view yes, std::string_view no) {
    return line(name, there ? yes : no);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

template <KvMemory M>
std::string describe_engine(M& engine) {
  using Traits = engine_traits<M>;
  constexpr EngineAbilities can = Traits::abilities;
  const KvLayout layout = engine.layout();
  Description d(ComputeBackend<M> ? "engine (ComputeBackend)"
                                  : "engine (KvMemory; its own loop computes)");
  d.line("layout", std::to_string(layout.n_layers) + " layers, " +
                       std::to_string(layout.bytes_per_token()) + " bytes per token");
  d.line("prefill", PrefillsGated<M>   ? "takes a LayerGate"
                    : PrefillsWhole<M> ? "takes no LayerGate"
                                       : "none");
  const char* why = can.whole_chunks  ? "off: whole_chunks"
                    : can.gates       ? (*can.gates ? "on: declared" : "off: declared")
                    : Traits::gates() ? "on: prefill() takes a LayerGate"
                                      : "off: no prefill() that takes a LayerGate";
  d.line("gates", why);
  d.line("insert_on_caller", can.insert_on_caller, "yes: insert on the driving thread",
         "no: insert on lane threads");
  d.line("parallel_extracts", can.parallel_extracts == ~std::uint32_t{0}
                                  ? std::string("no limit")
                                  : std::to_string(can.parallel_extracts));
  d.line("whole_chunks", can.whole_chunks, "yes: no slices of layers", "no");
  d.line("inserts_parts", can.inserts_parts, "yes: layers in any order, several at once",
         "no: slices in the order of their layers");
  d.line("smallest_step", std::to_string(can.smallest_step) + " tokens");
  d.line("max_overlap_tokens", can.max_overlap_tokens == ~std::uint32_t{0}
                                   ? std::string("no limit")
                                   : std::to_string(can.max_overlap_tokens) + " tokens");
  d.line("wide_gated_steps", can.wide_gated_steps, "yes: the last pass in micro-batches",
         "no: no step above the budget");
  d.line("staging_memory", can.staging_memory, "yes: loads are read into it", "no");
  d.line("inserts_from_device", can.inserts_from_device, "yes", "no: from host memory");
  return d.text();
}

template <StorageBackend S>
std::string describe_storage(S& storage) {
  using Traits = storage_traits<S>;
  constexpr StorageAbilities can = Traits::abilities;
  Description d("store (StorageBackend)");
  d.line("tiers", std::to_string(Traits::tiers(storage)));
  d.line("lookup_never_blocks", can.lookup_never_blocks, "yes: asked on the caller's thread",
         "no: asked with a deadline");
  d.line("lookup_problem", can.lookup_problem, "yes", "no");
  d.line("lookup_tier", can.lookup_tier, "yes: tiers are asked at once",
         "no: one lookup for all tiers");
  d.line("erase_tier", can.erase_tier, "yes", "no: erased in all tiers");
  d.line("device_staging", can.device_staging,
         Traits::device_staging(storage) != nullptr ? "yes" : "yes, but none at present",
         "no: reads into host memory");
  d.line("stored_bytes_differ", can.stored_bytes_differ, "yes",
         "no: wrong bytes are the object's fault");
  d.line("write_new", can.write_new, "yes", "no: each write counts as the first");
  d.line("write_in_place", can.write_in_place, "yes: saves build objects in its memory",
         "no: saves have it copy them");
  std::string lending;
  for (std::uint32_t t = 0; t < Traits::tiers(storage); ++t) {
    if (Traits::lends(storage, t)) lending += (lending.empty() ? "" : ", ") + std::to_string(t);
  }
  d.line("borrow", !lending.empty(), "yes: reads take no staging memory; tier " + lending,
         "no: bytes are copied out of it");
  d.line("read_pieces", can.read_pieces, "yes: verified by the threads that read",
         "no: verified when the whole read has landed");
  std::string by_caller;
  for (std::uint32_t t = 0; t < Traits::tiers(storage); ++t) {
    if (Traits::reads_on_caller(storage, t))
      by_caller += (by_caller.empty() ? "" : ", ") + std::to_string(t);
  }
  d.line("read_on_caller", !by_caller.empty(),
         "yes: lanes read with their own threads; tier " + by_caller,
         "no: by the store's own means");
  d.line("promote", can.promote, "yes: offered what was read whole",
         "no: tiers keep what they have");
  return d.text();
}

template <Scheduler S>
std::string describe_scheduler() {
  Description d("scheduler (Scheduler)");
  d.line("predicted_meet", PredictsMeet<S>, "yes", "no: the report has none");
  d.line("compute_cost", TellsComputeCost<S>, "yes", "no: the report has no bound");
  return d.text();
}

}  // namespace cake::inline CAKE_ABI::detail::kit

namespace cake::inline CAKE_ABI::testing {

/// One line for each thing that was recognised, or was not. Calls layout() of an engine, tiers(),
/// device_staging(), lends() and reads_on_caller() of a store, nothing of a scheduler.
template <class X>
requires(KvMemory<X> || StorageBackend<X> || Scheduler<X>) std::string describe(X& x) {
  if constexpr (KvMemory<X>) {
    return detail::kit::describe_engine(x);
  } else if constexpr (StorageBackend<X>) {
    return detail::kit::describe_storage(x);
  } else {
    return detail::kit::describe_scheduler<X>();
  }
}

}  // namespace cake::inline CAKE_ABI::testing
