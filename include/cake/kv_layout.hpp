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
  friend bool operator==(const KvLayerKind&, const KvLayerKind&) = default;
};

/// What each layer of a model keeps.
///
///     KvLayout::uniform(32, 8, 128, DType::bf16)             // K and V alike in all layers
///     KvLayout{.n_layers = 61, .kinds = {{{{1, 1152}}}}}     // a latent of 1,152 bytes (MLA)
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
  /// Bytes of one token over all layers.
  std::uint64_t bytes_per_token() const {
    std::uint64_t bytes = 0;
    for (std::uint32_t l = 0; l < n_layers; ++l) {
      for (const KvPlane& plane : kind(l).planes) bytes += plane.token_bytes();
    }
    return bytes;
  }
  /// Every layer has a kind, no plane is empty, and some layer keeps something.
  bool valid() const {
    if (n_layers == 0 || kinds.empty()) return false;
    if (!kind_of.empty() && kind_of.size() != n_layers) return false;
    for (const std::uint16_t kind : kind_of) {
      if (kind >= kinds.size()) return false;
    }
    for (const KvLayerKind& kind : kinds) {
      for (const KvPlane& p : kind.planes) {
        if (p.rows == 0 || p.row_bytes == 0) return false;
        if (p.dtype > kLastDType || p.order > KvOrder::hnd) return false;
      }
    }
    return bytes_per_token() != 0;
  }

  /// The same bytes for equal layouts, however the kinds are listed: u32 layers; of each layer the
  /// u16 number of its kind, counted as they first occur; of each kind that occurs u32 planes, and
  /// of each plane u32 rows, u32 row bytes, u8 order, u8 dtype. Little endian.
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
/// a multiple of `alignment`: layer by layer, and in a layer plane by plane.
///
/// Units:   bytes
/// Needs:   the layout is valid()
class KvRuns {
 public:
  struct Run {
    std::uint64_t begin = 0;
    std::uint64_t bytes = 0;  // without padding
  };

  KvRuns(const KvLayout& layout, std::uint32_t tokens, std::uint64_t alignment = 1) {
    first_.reserve(layout.n_layers + std::size_t{1});
    std::uint64_t at = 0;
    for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
      first_.push_back(static_cast<std::uint32_t>(runs_.size()));
      for (const KvPlane& plane : layout.kind(l).planes) {
        runs_.push_back({at, plane.token_bytes() * tokens});
        at = (at + runs_.back().bytes + alignment - 1) / alignment * alignment;
      }
    }
    first_.push_back(static_cast<std::uint32_t>(runs_.size()));
    runs_.push_back({at, 0});
  }

  std::uint32_t n_layers() const { return static_cast<std::uint32_t>(first_.size()) - 1; }
  std::uint32_t n_planes(std::uint32_t layer) const { return first_[layer + 1] - first_[layer]; }
  /// Runs of all layers.
  std::uint32_t size() const { return first_.back(); }
  /// Runs before this layer's.
  std::uint32_t first(std::uint32_t layer) const { return first_[layer]; }
  const Run& operator[](std::uint32_t run) const { return runs_[run]; }
  /// Where the layer's first run begins; of n_layers(): the bytes of all.
  std::uint64_t begin(std::uint32_t layer) const { return runs_[first_[layer]].begin; }
  /// Where a run and its padding end.
  std::uint64_t end(std::uint32_t run) const { return runs_[run + 1].begin; }

 private:
  std::vector<std::uint32_t> first_;  // [n_layers + 1]
  std::vector<Run> runs_;             // [size() + 1], the last one empty
};

}  // namespace cake::inline CAKE_ABI
