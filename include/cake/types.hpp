// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Values that all headers share: tokens, chunks, layers, slices, times, bytes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI {

using TokenId = std::int32_t;
using Tokens = std::span<const TokenId>;

/// Since the session began.
using Time = std::chrono::nanoseconds;
inline constexpr Time kNever = Time::max();

using ConstBytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

/// Half-open range of token positions.
struct TokenRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  constexpr std::uint32_t size() const { return end > begin ? end - begin : 0; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(TokenRange, TokenRange) = default;
};

/// Half-open range of layers.
struct LayerRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  constexpr std::uint32_t size() const { return end > begin ? end - begin : 0; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(LayerRange, LayerRange) = default;
};

/// Some layers of one chunk: the unit of loading. `tokens` are the positions of the whole chunk.
/// Where the chunk ends with the prompt that includes the last token, which is then computed again.
/// An engine is given the model's layers; in reads, and all that schedulers see, they are positions
/// of KvLayout::stored_order(), which is the same unless the layout has windows or states.
struct Slice {
  std::uint32_t chunk = 0;
  TokenRange tokens;
  LayerRange layers;
  friend constexpr bool operator==(const Slice&, const Slice&) = default;
};

/// The answer of a store's lookup for one chunk. `size` is the number of bytes of the stored object
/// (0: absent), `tiers` the bit set of the tiers that hold it. A store leaves `layers` alone.
struct StoredChunk {
  std::uint64_t size = 0;
  std::uint32_t tiers = 0;
  std::uint32_t layers = ~0u;  // that it holds, the first of KvLayout::stored_order(); at most all
  constexpr bool stored() const { return size != 0 && tiers != 0; }
};

/// One I/O lane per storage tier; lane i reads tier i.
using LaneId = std::uint32_t;
inline constexpr std::uint32_t kMaxTiers = 8;

}  // namespace cake::inline CAKE_ABI
