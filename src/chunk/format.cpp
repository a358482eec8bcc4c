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
    if (planes.size() > kMaxPlanes) return false;
    for (const KvPlane& plane : planes) {
      if (plane.rows > kMaxRows || plane.row_bytes > kMaxRowBytes) return false;
      // At most 2^52 bytes, and no more than 2^35 are added before this returns.
      payload += detail::align_up(plane.token_bytes() * chunk_tokens);
      if (payload > kMaxObjectBytes) return false;
    }
  }
  return true;
}

ChunkGeometry::ChunkGeometry(const KvLayout& layout, std::uint32_t chunk_tokens) {
  if (!fits(layout, chunk_tokens)) {
    throw Exception(
        {Errc::invalid_argument, 0,
         "no stored chunk has " + std::to_string(chunk_tokens) + " tokens, " +
             std::to_string(layout.n_layers) + " layers, " +
             (layout.valid() ? std::to_string(layout.bytes_per_token()) + " bytes a token"
                             : std::string("and a layer without a kind, or an empty plane"))});
  }
  parts_ = std::make_shared<const Parts>(layout, chunk_tokens);
}

ChunkGeometry::Parts::Parts(const KvLayout& layout_in, std::uint32_t chunk_tokens_in)
    : layout(layout_in), chunk_tokens(chunk_tokens_in), runs(layout_in, chunk_tokens_in, kPage) {
  Sha256 sha;
  const Sha256Digest digest = sha.update(layout.canonical()).finish();
  std::memcpy(&layout_digest, digest.data(), sizeof layout_digest);
  first_digest.reserve(runs.size() + std::size_t{1});
  std::uint32_t digests = 0;
  for (std::uint32_t e = 0; e < runs.size(); ++e) {
    first_digest.push_back(digests);
    const std::uint64_t padded = runs.end(e) - runs[e].begin;
    digests += static_cast<std::uint32_t>((padded + kDigestBlock - 1) / kDigestBlock);
    raw_bytes += runs[e].bytes;
  }
  first_digest.push_back(digests);
  for (std::uint32_t l = 0; l <= layout.n_layers; ++l) {
    layer_begins.push_back(runs.begin(l));
    if (l != 0) largest_layer = std::max(largest_layer, runs.begin(l) - runs.begin(l - 1));
  }
  head_bytes = detail::align_up(kPage + kExtentBytes * runs.size() + std::uint64_t{4} * digests +
                                std::uint64_t{4} * chunk_tokens);
}

ByteRange ChunkGeometry::extent(std::uint32_t layer, std::uint32_t plane) const {
  const std::uint32_t run = runs().first(layer) + plane;
  return {head_bytes() + runs()[run].begin, head_bytes() + runs().end(run)};
}

ByteRange ChunkGeometry::read_range(LayerRange layers) const {
  ByteRange range{head_bytes() + runs().begin(layers.begin),
                  head_bytes() + runs().begin(layers.end)};
  if (layers.empty()) return {range.begin, range.begin};
  if (layers.begin == 0) range.begin = 0;
  if (layers.end == layout().n_layers) range.end = object_bytes();
  return range;
}

}  // namespace cake::inline CAKE_ABI
