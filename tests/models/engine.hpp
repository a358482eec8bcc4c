// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A small model as an engine of cake: one sequence, its KV in planes.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cake/engine.hpp"
#include "cake/kv_presence.hpp"
#include "model.hpp"

namespace models {

/// The planes of every layer. What has a state instead cannot be stored yet.
inline cake::KvLayout layout_of(const Model& model) {
  cake::KvLayout layout;
  layout.n_layers = model.n_layers();
  for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
    cake::KvLayerKind kind;
    for (const std::uint32_t bytes : model.mixer(l).kept().planes)
      kind.planes.push_back({1, bytes});
    layout.kind_of.push_back(static_cast<std::uint16_t>(layout.kinds.size()));
    layout.kinds.push_back(std::move(kind));
  }
  return layout;
}

inline bool has_states(const Model& model) {
  for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
    if (model.mixer(l).kept().state_bytes != 0) return true;
  }
  return false;
}

class Engine {
 public:
  Engine(const Model& model, std::string name, std::uint32_t max_tokens)
      : model_(model),
        name_(std::move(name)),
        max_tokens_(max_tokens),
        sequence_(model, max_tokens, max_tokens),
        there_(max_tokens, model.n_layers()) {}

  cake::KvLayout layout() const { return layout_of(model_); }
  cake::ModelFingerprint fingerprint() const {
    return cake::FingerprintBuilder().add("model", name_).finish();
  }

  cake::Status prefill(cake::Tokens prompt, cake::TokenRange range, cake::LayerGate gate = {}) {
    if (range.end > max_tokens_) return cake::Error{cake::Errc::invalid_argument, 0, "too long"};
    const bool whole = sequence_.prefill(prompt, range.begin, range.end,
                                         [&](std::uint32_t layer) { return gate.wait(layer); });
    if (!whole) return cake::Error{cake::Errc::superseded, 0, "gate"};
    there_.add(range);
    return {};
  }
  cake::Status insert(const cake::Slice& slice, const cake::KvView& from) {
    each_run(slice, [&](std::byte* mine, std::uint32_t layer, std::uint32_t plane) {
      const auto run = from.plane(layer, plane);
      std::memcpy(mine, run.data(), run.size());
    });
    there_.add(slice.tokens, slice.layers);
    return {};
  }
  cake::Status extract(const cake::Slice& slice, const cake::MutableKvView& to) {
    if (auto missing = there_.missing(slice.tokens, slice.layers)) return cake::no_kv(*missing);
    each_run(slice, [&](const std::byte* mine, std::uint32_t layer, std::uint32_t plane) {
      const auto run = to.plane(layer, plane);
      std::memcpy(run.data(), mine, run.size());
    });
    return {};
  }

  const Vector& logits() const { return sequence_.logits(); }
  /// Forgets all, and makes what is read too early show: as floats the bytes are NaN.
  void clear() {
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) {
      for (std::size_t p = 0; p < model_.mixer(l).kept().planes.size(); ++p) {
        const auto plane = sequence_.memory(l).plane(p);
        std::memset(plane.data(), 0xff, plane.size());
      }
    }
    there_.clear();
  }

 private:
  template <class F>
  void each_run(const cake::Slice& slice, F&& f) {
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const std::vector<std::uint32_t>& planes = sequence_.memory(l).kept().planes;
      for (std::uint32_t p = 0; p < planes.size(); ++p) {
        f(sequence_.memory(l).plane(p).data() + std::size_t{slice.tokens.begin} * planes[p], l, p);
      }
    }
  }

  const Model& model_;
  std::string name_;
  std::uint32_t max_tokens_;
  Sequence sequence_;
  cake::KvPresence there_;
};

static_assert(cake::ComputeBackend<Engine> && cake::PrefillsGated<Engine>);

}  // namespace models
