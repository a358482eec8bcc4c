// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/format.hpp"

#include <algorithm>
#include <cstring>

#include "cake/chunk/digest.hpp"
#include "cake/result.hpp"
#include "wire.hpp"

namespace cake::inline CAKE_ABI {

static_assert(sizeof(wire::Extent) == ChunkGeometry::kExtentBytes);

bool ChunkGeometry::fits(const KvLayout& layout, std::uint64_t chunk_tokens) {
  if (chunk_tokens == 0 || chunk_tokens > kMaxTokens) return false;
  if (layout.n_layers > kMaxLayers || !layout.valid()) return false;
  std::uint64_t payload = 0;
  for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
    const std::vector<KvPlane>& planes = layout.kind(l).planes;
    const std::uint64_t each = layout.kind(l).state ? 1 : chunk_tokens;
    if (planes.size() > kMaxPlanes) return false;
    for (const KvPlane& plane : planes) {
      if (plane.rows > kMaxRows || plane.row_bytes > kMaxRowBytes) return false;
      // At most 2^52 bytes, and no more than 2^35 are added before this returns.
      payload += detail::align_up(plane.token_bytes() * each);
      if (payload > kMaxObjectBytes) return false;
    }
  }
  return true;
}

ChunkGeometry::ChunkGeometry(const KvLayout& layout, std::uint32_t chunk_tokens, Cipher cipher) {
  if (!fits(layout, chunk_tokens)) {
    throw Exception(
        {Errc::invalid_argument, 0,
         "no stored chunk has " + std::to_string(chunk_tokens) + " tokens, " +
             std::to_string(layout.n_layers) + " layers, " +
             (layout.valid() ? std::to_string(layout.bytes_per_token()) + " bytes a token and " +
                                   std::to_string(layout.state_bytes()) + " of states"
                             : std::string("and a layer without a kind, or an empty plane"))});
  }
  parts_ = std::make_shared<const Parts>(layout, chunk_tokens, cipher);
}

ChunkGeometry::Parts::Parts(const KvLayout& layout_in, std::uint32_t chunk_tokens_in,
                            Cipher cipher_in)
    : layout(layout_in),
      chunk_tokens(chunk_tokens_in),
      cipher(cipher_in),
      runs(layout_in, chunk_tokens_in, kPage) {
  Sha256 sha;
  const Sha256Digest digest = sha.update(layout.canonical()).finish();
  std::memcpy(&layout_digest, digest.data(), sizeof layout_digest);
  first_digest.reserve(runs.size() + std::size_t{1});
  std::uint32_t digests = 0;
  for (std::uint32_t e = 0; e < runs.size(); ++e) {
    first_digest.push_back(digests);
    const std::uint64_t padded = runs.end(e) - runs[e].begin;
    digests += static_cast<std::uint32_t>((padded + kDigestBlock - 1) / kDigestBlock);
  }
  first_digest.push_back(digests);
  const auto reach = [this](std::uint32_t p) { return layout.kind(runs.layer_at(p)).reach(); };
  for (std::uint32_t p = 0; p <= layout.n_layers; ++p) {
    layer_begins.push_back(runs.begin_at(p));
    if (p == 0) continue;
    largest_layer = std::max(largest_layer, runs.begin_at(p) - runs.begin_at(p - 1));
    if (p == layout.n_layers || (reach(p) != reach(p - 1) && runs.begin_at(p) != 0)) {
      held_counts.push_back(p);
    }
  }
  if (reach(layout.n_layers - 1) != KvLayerKind::kAll) {
    for (std::uint32_t p = 0; p < layout.n_layers; ++p) reaches.push_back(reach(p));
    positions = runs.positions();
  }
  const std::uint64_t tag = cipher == Cipher::none ? 0 : kTagBytes;
  head_bytes = detail::align_up(kPage + kExtentBytes * runs.size() + (4 + tag) * digests +
                                std::uint64_t{4} * chunk_tokens);
}

ByteRange ChunkGeometry::extent(std::uint32_t layer, std::uint32_t plane) const {
  const std::uint32_t run = runs().first(layer) + plane;
  return {head_bytes() + runs()[run].begin, head_bytes() + runs().end(run)};
}

std::uint32_t ChunkGeometry::held_by(std::uint64_t object_bytes_in) const {
  for (const std::uint32_t held : held_counts()) {
    if (object_bytes(held) == object_bytes_in) return held;
  }
  return 0;
}

std::uint64_t ChunkGeometry::raw_bytes(std::uint32_t held) const {
  std::uint64_t bytes = 0;
  for (std::uint32_t e = 0; e < runs().first_at(held); ++e) bytes += runs()[e].bytes;
  return bytes;
}

ByteRange ChunkGeometry::read_range(LayerRange layers) const {
  ByteRange range{head_bytes() + runs().begin_at(layers.begin),
                  head_bytes() + runs().begin_at(layers.end)};
  if (layers.empty()) return {range.begin, range.begin};
  if (layers.begin == 0) range.begin = 0;
  if (layers.end == layout().n_layers) range.end = object_bytes();
  return range;
}

}  // namespace cake::inline CAKE_ABI
