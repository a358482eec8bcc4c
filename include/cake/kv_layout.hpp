// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The shape of KV bytes as they travel between an engine and a store: what each layer of a model
// keeps of every token. Values only.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "cake/export.hpp"
#include "cake/version.hpp"

namespace cake::inline CAKE_ABI {

/// What the bytes of a row are. A name for readers and checks: nothing interprets the bytes.
enum class DType : std::uint8_t {
  f32 = 0,
  f16 = 1,
  bf16 = 2,
  f8_e4m3 = 3,
  f8_e5m2 = 4,
  i8 = 5,
  opaque = 6,  // the engine's own: packed four-bit values, a mix of types
};
inline constexpr DType kLastDType = DType::opaque;

/// Bytes of one element; 1 for opaque.
constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    default:
      return 1;
  }
}

constexpr std::string_view to_string(DType dtype) {
  constexpr std::string_view names[] = {"f32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "i8", "opaque"};
  return dtype <= kLastDType ? names[static_cast<std::size_t>(dtype)] : "unknown";
}

/// Order of the rows inside one run.
enum class KvOrder : std::uint8_t {
  nhd = 0,  // [token][row], a row being one KV head where there are heads
  hnd = 1,  // [row][token]
};

constexpr std::string_view to_string(KvOrder order) {
  return order == KvOrder::nhd ? "nhd" : "hnd";
}

/// One thing that a layer keeps of every token: keys, values, a latent, scales.
///
/// Shape:   a run of t tokens is [t][rows][row_bytes] (nhd) or [rows][t][row_bytes] (hnd)
struct KvPlane {
  std::uint32_t rows = 1;       // of one token: KV heads, or 1
  std::uint32_t row_bytes = 0;  // of one row of one token
  KvOrder order = KvOrder::nhd;
  DType dtype = DType::opaque;

  /// Bytes of one token.
  constexpr std::size_t token_bytes() const { return std::size_t{rows} * row_bytes; }
  friend constexpr bool operator==(const KvPlane&, const KvPlane&) = default;
};

/// Layers that keep the same. No planes: such a layer reads the KV of another one.
struct KvLayerKind {
  std::vector<KvPlane> planes;
  /// A step reads this kind's KV of so many tokens before it, and no more (sliding windows); 0: of
  /// all.
  std::uint32_t window = 0;
  /// The planes are not bytes of each token but one state of all tokens so far, stored as it is at
  /// the end of a chunk (linear attention, Mamba). A step needs the state at its first token.
  bool state = false;
  friend bool operator==(const KvLayerKind&, const KvLayerKind&) = default;

  /// KV of a chunk is needed while the next step begins at most this many tokens behind its end,
  /// not counting the last of them: the window; 1 for a state; kAll.
  constexpr std::uint32_t reach() const {
    if (planes.empty()) return kAll;
    return state ? 1 : window == 0 ? kAll : window;
  }
  static constexpr std::uint32_t kAll = ~std::uint32_t{0};
};

/// What each layer of a model keeps.
///
///     KvLayout::uniform(32, 8, 128, DType::bf16)             // K and V alike in all layers
///     KvLayout{.n_layers = 61, .kinds = {{{{1, 1152}}}}}     // a latent of 1,152 bytes (MLA)
///     KvLayout{.n_layers = 2, .kinds = {full, {.planes = {k, v}, .window = 1024}},
///              .kind_of = {1, 0}}                            // a window of 1,024 tokens
struct KvLayout {
  std::uint32_t n_layers = 0;
  std::vector<KvLayerKind> kinds;
  std::vector<std::uint16_t> kind_of = {};  // [n_layers] index of a kind; empty: all are kinds[0]

  /// Planes of K and V, equal in all layers.
  static KvLayout uniform(std::uint32_t n_layers, std::uint32_t n_kv_heads, std::uint32_t head_dim,
                          DType dtype = DType::bf16, KvOrder order = KvOrder::nhd) {
    const std::uint64_t bytes = std::uint64_t{head_dim} * size_of(dtype);
    const auto row = static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes, ~0u));
    const KvPlane side{n_kv_heads, row, order, dtype};
    return {n_layers, {{{side, side}}}};
  }

  /// Needs:   valid(), and a layer of the model
  const KvLayerKind& kind(std::uint32_t layer) const {
    return kinds[kind_of.empty() ? 0 : kind_of[layer]];
  }
  /// Bytes of one token over all layers, states not counted.
  std::uint64_t bytes_per_token() const { return bytes_of(false); }
  /// Bytes of the states of all layers at one token.
  std::uint64_t state_bytes() const { return bytes_of(true); }
  bool has_states() const { return state_bytes() != 0; }
  /// All layers in the order in which a stored chunk holds them: those that need all tokens, then
  /// windows, wide ones first, then states; else as the model has them. Whatever a load needs of a
  /// chunk is then its first layers.
  ///
  /// Shape:   [n_layers]
  /// Needs:   valid()
  CAKE_API std::vector<std::uint32_t> stored_order() const;
  /// Every layer has a kind, no plane is empty, no state has a window, and some layer keeps
  /// something.
  bool valid() const {
    if (n_layers == 0 || kinds.empty()) return false;
    if (!kind_of.empty() && kind_of.size() != n_layers) return false;
    for (const std::uint16_t kind : kind_of) {
      if (kind >= kinds.size()) return false;
    }
    for (const KvLayerKind& kind : kinds) {
      if (kind.state && kind.window != 0) return false;
      for (const KvPlane& p : kind.planes) {
        if (p.rows == 0 || p.row_bytes == 0) return false;
        if (p.dtype > kLastDType || p.order > KvOrder::hnd) return false;
      }
    }
    return bytes_per_token() + state_bytes() != 0;
  }

  /// The same bytes for equal layouts, however the kinds are listed: u32 layers; of each layer the
  /// u16 number of its kind, counted as they first occur; of each kind that occurs u32 planes, and
  /// of each plane u32 rows, u32 row bytes, u8 order, u8 dtype; where some kind that occurs has a
  /// window or is a state, then of each u32 window, u8 state. Little endian.
  ///
  /// Needs:   valid()
  CAKE_API std::vector<std::byte> canonical() const;

  /// Layer by layer, however the kinds are listed.
  friend bool operator==(const KvLayout& a, const KvLayout& b) {
    if (a.n_layers != b.n_layers) return false;
    if (a.kinds == b.kinds && a.kind_of == b.kind_of) return true;
    if (!a.valid() || !b.valid()) return false;
    for (std::uint32_t l = 0; l < a.n_layers; ++l) {
      if (a.kind(l) != b.kind(l)) return false;
    }
    return true;
  }

 private:
  std::uint64_t bytes_of(bool state) const {
    std::uint64_t bytes = 0;
    for (std::uint32_t l = 0; l < n_layers; ++l) {
      for (const KvPlane& plane : kind(l).planes) {
        if (kind(l).state == state) bytes += plane.token_bytes();
      }
    }
    return bytes;
  }
};

/// The common case as numbers: K and V alike in all layers. Converts to KvLayout.
///
/// Shape: a chunk of t tokens has n_layers x {K, V} runs of [t][n_kv_heads][head_dim] (nhd) or
///        [n_kv_heads][t][head_dim] (hnd) elements of dtype.
struct UniformKvLayout {
  std::uint32_t n_layers = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  DType dtype = DType::bf16;
  KvOrder order = KvOrder::nhd;

  /// Bytes of one token in one run: one layer, K or V.
  constexpr std::size_t row_bytes() const {
    return std::size_t{n_kv_heads} * head_dim * size_of(dtype);
  }
  /// Bytes of one token over all layers, K and V.
  constexpr std::size_t bytes_per_token() const { return std::size_t{2} * n_layers * row_bytes(); }
  /// Bytes of one run of `tokens` tokens.
  constexpr std::size_t run_bytes(std::size_t tokens) const { return tokens * row_bytes(); }
  constexpr bool valid() const { return n_layers > 0 && n_kv_heads > 0 && head_dim > 0; }
  operator KvLayout() const {
    return KvLayout::uniform(n_layers, n_kv_heads, head_dim, dtype, order);
  }

  friend constexpr bool operator==(const UniformKvLayout&, const UniformKvLayout&) = default;
};

/// Where the runs of some tokens lie when those of all layers follow each other, each beginning at
/// a multiple of `alignment`: in the order of stored_order(), and in a layer plane by plane. A
/// position counts layers in that order; where there are no windows and states it is the layer.
///
/// Units:   bytes
/// Needs:   the layout is valid()
class KvRuns {
 public:
  struct Run {
    std::uint64_t begin = 0;
    std::uint64_t bytes = 0;  // without padding
  };

  KvRuns(const KvLayout& layout, std::uint32_t tokens, std::uint64_t alignment = 1)
      : order_(layout.stored_order()), positions_(layout.n_layers) {
    first_.reserve(layout.n_layers + std::size_t{1});
    std::uint64_t at = 0;
    for (std::uint32_t p = 0; p < layout.n_layers; ++p) {
      positions_[order_[p]] = p;
      first_.push_back(static_cast<std::uint32_t>(runs_.size()));
      const KvLayerKind& kind = layout.kind(order_[p]);
      for (const KvPlane& plane : kind.planes) {
        runs_.push_back({at, plane.token_bytes() * (kind.state ? 1 : tokens)});
        at = (at + runs_.back().bytes + alignment - 1) / alignment * alignment;
      }
    }
    first_.push_back(static_cast<std::uint32_t>(runs_.size()));
    runs_.push_back({at, 0});
  }

  std::uint32_t n_layers() const { return static_cast<std::uint32_t>(order_.size()); }
  /// The layer at a position, and the other way.
  std::uint32_t layer_at(std::uint32_t position) const { return order_[position]; }
  std::uint32_t position_of(std::uint32_t layer) const { return positions_[layer]; }
  /// Position of each layer.
  ///
  /// Shape:   [n_layers]
  const std::vector<std::uint32_t>& positions() const { return positions_; }
  std::uint32_t n_planes(std::uint32_t layer) const {
    const std::uint32_t position = positions_[layer];
    return first_[position + 1] - first_[position];
  }
  /// Runs of all layers.
  std::uint32_t size() const { return first_.back(); }
  /// Runs before this layer's.
  std::uint32_t first(std::uint32_t layer) const { return first_[positions_[layer]]; }
  /// Runs before those of a position; of n_layers(): of all.
  std::uint32_t first_at(std::uint32_t position) const { return first_[position]; }
  const Run& operator[](std::uint32_t run) const { return runs_[run]; }
  /// Where the layer's first run begins.
  std::uint64_t begin(std::uint32_t layer) const { return runs_[first(layer)].begin; }
  /// Where the first run of a position begins; of n_layers(): the bytes of all.
  std::uint64_t begin_at(std::uint32_t position) const { return runs_[first_[position]].begin; }
  /// Where a run and its padding end.
  std::uint64_t end(std::uint32_t run) const { return runs_[run + 1].begin; }

 private:
  std::vector<std::uint32_t> order_;      // [n_layers] layer at each position
  std::vector<std::uint32_t> positions_;  // [n_layers] position of each layer
  std::vector<std::uint32_t> first_;      // [n_layers + 1] by position
  std::vector<Run> runs_;                 // [size() + 1], the last one empty
};

}  // namespace cake::inline CAKE_ABI
