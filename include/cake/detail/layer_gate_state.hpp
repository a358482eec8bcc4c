// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a step that waits layer by layer still waits for. Pure; one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI::detail {

enum class GateAnswer : std::uint8_t { open, shut, voided };

/// The newest gated step: how many chunks below it are not resident, and how many of those have
/// each layer.
class LayerGateState {
 public:
  void begin(std::uint64_t step, const RunView& view, std::uint32_t begin_token) {
    const PrefillSpec& spec = view.spec();
    *this = LayerGateState();
    step_ = step;
    positions_ = spec.positions;
    begin_ = view.front_chunk();
    end_ = spec.chunk_of(begin_token);
    have_.assign(spec.n_layers, 0);
    passed_.assign(spec.n_layers, false);
    opened_.assign(spec.n_layers, Time{0});
    for (std::uint32_t c = begin_; c < end_; ++c) {
      if (view.state(c) == ChunkState::resident) continue;
      ++missing_;
      if (view.layers_issued(c) == 0 && spec.reaches.empty()) continue;
      for (std::uint32_t l = 0; l < spec.n_layers; ++l) {
        have_[spec.position(l)] += view.layer_resident(c, l);
      }
    }
  }
  /// Layers of a chunk, by their positions, are resident; `whole`: the last that are needed.
  void add(std::uint32_t chunk, LayerRange layers, bool whole) {
    if (!covers(chunk)) return;
    for (std::uint32_t l = layers.begin; l < layers.end; ++l) ++have_[l];
    if (!whole) return;
    --missing_;
    for (std::uint32_t& have : have_) --have;
  }
  /// The step waits for this chunk.
  bool covers(std::uint32_t chunk) const { return step_ != 0 && chunk >= begin_ && chunk < end_; }
  /// The chunk will not be loaded.
  void lost(std::uint32_t chunk) { voided_ = voided_ || covers(chunk); }
  /// It is not waited for any longer.
  void give_up(std::uint64_t step) { voided_ = voided_ || step_ == step; }
  GateAnswer state(std::uint64_t step, std::uint32_t layer) const {
    if (step_ != step) return GateAnswer::open;
    if (voided_) return GateAnswer::voided;
    return have(std::min(layer, n_layers() - 1)) == missing_ ? GateAnswer::open : GateAnswer::shut;
  }
  /// As state(); an open layer counts as waited for, and so do those below it that are open now. `now`:
  /// it may have opened then.
  GateAnswer ask(std::uint64_t step, std::uint32_t layer, Time now) {
    const GateAnswer answer = state(step, layer);
    if (step_ != step) return answer;
    if (answer == GateAnswer::shut) {
      free_since_ = kNever;
    } else if (free_since_ == kNever) {
      free_since_ = now;
    }
    if (answer != GateAnswer::open) return answer;
    for (std::uint32_t l = 0; l <= layer && l < n_layers(); ++l) {
      if (have(l) != missing_ || passed_[l]) continue;
      passed_[l] = true;
      opened_[l] = now;
    }
    return answer;
  }
  /// Whether every layer of this step has been waited for, as a step that reads KV must.
  bool passed(std::uint64_t step) const {
    return step_ != step || std::find(passed_.begin(), passed_.end(), false) == passed_.end();
  }
  /// Since when whoever enqueues this step waits in none of its gates; kNever while it does.
  Time free_since(std::uint64_t step) const { return step_ != step ? Time{0} : free_since_; }
  /// How long the step was busy at most, that had the device from `from` to `end`: what it did from a
  /// layer's gate on is a share of all that is as large as the layers from there on. Needs layers that are
  /// alike.
  Time busy(std::uint64_t step, Time from, Time end) const {
    Time least = end - from;
    if (step_ != step || !passed(step)) return least;
    const std::uint32_t n = n_layers();
    for (std::uint32_t l = 0; l < n; ++l) {
      const Time rest = end - std::max(from, opened_[l]);
      least = std::min(least, from_seconds(to_seconds(rest) * n / (n - l)));
    }
    return std::max(least, Time{0});
  }
  /// The step still waits for something, or is void: nothing may be enqueued behind it.
  bool shut(std::uint64_t step) const { return step_ == step && (missing_ != 0 || voided_); }
  /// The step has ended; true when it was void.
  bool close(std::uint64_t step) {
    if (step_ != step) return false;
    const bool voided = voided_;
    *this = LayerGateState();
    return voided;
  }

 private:
  std::uint32_t n_layers() const { return static_cast<std::uint32_t>(have_.size()); }
  std::uint32_t have(std::uint32_t layer) const {
    return have_[positions_.empty() ? layer : positions_[layer]];
  }

  std::uint64_t step_ = 0;
  std::span<const std::uint32_t> positions_;  // of the spec
  std::uint32_t begin_ = 0;                   // chunks [begin_, end_) count
  std::uint32_t end_ = 0;
  std::uint32_t missing_ = 0;
  std::vector<std::uint32_t> have_;  // [n_layers] by position: chunks that have it or need it not
  std::vector<bool> passed_;         // [n_layers] the engine has waited for it,
  std::vector<Time> opened_;         // [n_layers] and it may have opened then
  Time free_since_{0};
  bool voided_ = false;
};

}  // namespace cake::inline CAKE_ABI::detail
