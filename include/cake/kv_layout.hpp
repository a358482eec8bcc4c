// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The shape of KV bytes as they travel between an engine and a store: for each layer one run of K
// and one of V, each run holding every token of a chunk. Values only; no threads.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI {

enum class DType : std::uint8_t { f32 = 0, f16 = 1, bf16 = 2 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

constexpr std::string_view to_string(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::f16 ? "f16" : "bf16";
}

/// Order of the elements inside one run.
enum class KvOrder : std::uint8_t {
  nhd = 0,  // [token][kv_head][head_dim]
  hnd = 1,  // [kv_head][token][head_dim]
};

constexpr std::string_view to_string(KvOrder order) {
  return order == KvOrder::nhd ? "nhd" : "hnd";
}

/// Shape: a chunk of t tokens has n_layers x {K, V} runs of [t][n_kv_heads][head_dim] (nhd) or
///        [n_kv_heads][t][head_dim] (hnd) elements of dtype.
struct KvLayout {
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

  friend constexpr bool operator==(const KvLayout&, const KvLayout&) = default;
};

}  // namespace cake::inline CAKE_ABI
