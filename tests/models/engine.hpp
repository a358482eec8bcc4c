// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A small model as an engine of cake: one sequence, its KV in planes, its states at the ends of
// chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/kv_presence.hpp"
#include "model.hpp"

namespace models {

/// What every layer keeps: planes, with a window or without, or a state.
inline cake::KvLayout layout_of(const Model& model) {
  cake::KvLayout layout;
  layout.n_layers = model.n_layers();
  for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
    const Kept kept = model.mixer(l).kept();
    cake::KvLayerKind kind;
    for (const std::uint32_t bytes : kept.planes) kind.planes.push_back({1, bytes});
    kind.window = kept.window;
    if (kept.state_bytes != 0) kind = {{{1, kept.state_bytes}}, 0, true};
    layout.kind_of.push_back(static_cast<std::uint16_t>(layout.kinds.size()));
    layout.kinds.push_back(std::move(kind));
  }
  return layout;
}

struct EngineOptions {
  std::uint32_t chunk_tokens = 16;
  std::uint32_t checkpoint_chunks = 1;  // it keeps states at the end of every so many chunks
  bool evicts = false;  // KV of chunks that no window reaches from the last chunk end
};

class Engine {
 public:
  Engine(const Model& model, std::string name, std::uint32_t max_tokens,
         const EngineOptions& options = {})
      : model_(model),
        name_(std::move(name)),
        max_tokens_(max_tokens),
        options_(options),
        sequence_(model, max_tokens, options.chunk_tokens),
        there_(max_tokens, model.n_layers()) {}

  cake::KvLayout layout() const { return layout_of(model_); }
  cake::ModelFingerprint fingerprint() const {
    return cake::FingerprintBuilder().add("model", name_).finish();
  }

  cake::Status prefill(cake::Tokens prompt, cake::TokenRange range, cake::LayerGate gate = {}) {
    if (range.end > max_tokens_) return cake::Error{cake::Errc::invalid_argument, 0, "too long"};
    if (range.begin == 0) sequence_.restart();
    if (range.begin != 0 && range.begin != ran_to_ && layout().has_states()) {
      sequence_.resume(range.begin);
    }
    const bool whole = sequence_.prefill(prompt, range.begin, range.end,
                                         [&](std::uint32_t layer) { return gate.wait(layer); });
    if (!whole) return cake::Error{cake::Errc::superseded, 0, "gate"};
    ran_to_ = range.end;
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) wrote(range, l);
    if (options_.evicts) evict(range.end);
    return {};
  }
  cake::Status insert(const cake::Slice& slice, const cake::KvView& from) {
    each_run(slice, [&](std::span<std::byte> mine, std::uint32_t layer, std::uint32_t plane) {
      std::memcpy(mine.data(), from.plane(layer, plane).data(), mine.size());
    });
    there_.add(slice.tokens, slice.layers);
    return {};
  }
  cake::Status extract(const cake::Slice& slice, const cake::MutableKvView& to) {
    // A state is marked at the last token that it has seen.
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const std::uint32_t from = is_state(l) ? slice.tokens.end - 1 : slice.tokens.begin;
      if (auto missing = there_.missing({from, slice.tokens.end}, {l, l + 1})) {
        return cake::no_kv(*missing);
      }
    }
    each_run(slice, [&](std::span<const std::byte> mine, std::uint32_t layer, std::uint32_t plane) {
      std::memcpy(to.plane(layer, plane).data(), mine.data(), mine.size());
    });
    return {};
  }

  const Vector& logits() const { return sequence_.logits(); }
  /// Forgets all, and makes what is read too early show: as floats the bytes are NaN.
  void clear() {
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) poison(l, {0, max_tokens_});
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) {
      for (std::uint32_t c = 0; c < max_tokens_ / options_.chunk_tokens; ++c) {
        const auto state = sequence_.checkpoint(l, c);
        std::fill(state.begin(), state.end(), std::byte{0xff});
      }
    }
    there_.clear();
    ran_to_ = 0;
  }

 private:
  bool is_state(std::uint32_t layer) const { return model_.mixer(layer).kept().state_bytes != 0; }

  void wrote(cake::TokenRange range, std::uint32_t layer) {
    if (!is_state(layer)) return there_.add(range, {layer, layer + 1});
    const std::uint32_t every = options_.checkpoint_chunks * options_.chunk_tokens;
    for (std::uint32_t t = range.begin; t < range.end; ++t) {
      if ((t + 1) % every == 0) there_.add({t, t + 1}, {layer, layer + 1});
    }
  }
  void poison(std::uint32_t layer, cake::TokenRange range) {
    const std::vector<std::uint32_t>& planes = sequence_.memory(layer).kept().planes;
    for (std::uint32_t p = 0; p < planes.size(); ++p) {
      std::memset(sequence_.memory(layer).plane(p).data() + std::size_t{range.begin} * planes[p],
                  0xff, std::size_t{range.size()} * planes[p]);
    }
  }
  /// What the next steps may read is kept, and the chunks with the window before the last chunk end:
  /// so that saving these chunks is worth it.
  void evict(std::uint32_t end) {
    const std::uint32_t chunk = options_.chunk_tokens;
    for (std::uint32_t l = 0; l < model_.n_layers(); ++l) {
      const std::uint32_t window = model_.mixer(l).kept().window;
      const std::uint32_t last = end / chunk * chunk;
      if (window == 0 || last < window) continue;
      const cake::TokenRange gone{0, (last - window) / chunk * chunk};
      there_.forget(gone, {l, l + 1});
      poison(l, gone);
    }
  }

  template <class F>
  void each_run(const cake::Slice& slice, F&& f) {
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      if (is_state(l)) {
        f(sequence_.checkpoint(l, slice.tokens.end / options_.chunk_tokens - 1), l, 0);
        continue;
      }
      const std::vector<std::uint32_t>& planes = sequence_.memory(l).kept().planes;
      for (std::uint32_t p = 0; p < planes.size(); ++p) {
        f(sequence_.memory(l).plane(p).subspan(std::size_t{slice.tokens.begin} * planes[p],
                                               std::size_t{slice.tokens.size()} * planes[p]),
          l, p);
      }
    }
  }

  const Model& model_;
  std::string name_;
  std::uint32_t max_tokens_;
  EngineOptions options_;
  Sequence sequence_;
  cake::KvPresence there_;
  std::uint32_t ran_to_ = 0;  // token at which the last step ended
};

static_assert(cake::ComputeBackend<Engine> && cake::PrefillsGated<Engine>);

}  // namespace models
