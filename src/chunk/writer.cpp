// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/writer.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "cake/chunk/digest.hpp"
#include "wire.hpp"

namespace cake::inline CAKE_ABI {
namespace {

void write_tables(std::byte* object, const ChunkGeometry& geometry, std::uint32_t held,
                  Tokens tokens) {
  std::memset(object + geometry.extents_offset(), 0,
              geometry.tables_end() - geometry.extents_offset());
  std::byte* extent_at = object + geometry.extents_offset();
  std::byte* digest_at = object + geometry.digests_offset();
  for (std::uint32_t position = 0; position < held; ++position) {
    const std::uint32_t layer = geometry.runs().layer_at(position);
    for (std::uint32_t plane = 0; plane < geometry.runs().n_planes(layer); ++plane) {
      const wire::Extent extent = wire::extent_of(geometry, layer, plane);
      std::memcpy(extent_at, &extent, sizeof extent);
      extent_at += sizeof extent;
      const ByteRange range = geometry.extent(layer, plane);
      std::memset(object + range.begin + extent.raw_bytes, 0, range.size() - extent.raw_bytes);
      for (std::uint64_t at = range.begin; at < range.end; at += kDigestBlock) {
        const std::uint64_t size = std::min<std::uint64_t>(kDigestBlock, range.end - at);
        const std::uint32_t digest = crc32c({object + at, size});
        std::memcpy(digest_at, &digest, sizeof digest);
        digest_at += sizeof digest;
      }
    }
  }
  std::memcpy(object + geometry.tokens_offset(), tokens.data(), tokens.size_bytes());
}

}  // namespace

ChunkWriter::ChunkWriter(const KvLayout& layout, std::uint32_t chunk_tokens, StagingMemory* memory)
    : geometry_(layout, chunk_tokens), object_(geometry_.object_bytes(), memory) {
  std::memset(object_.data(), 0, object_.size());
}

MutableKvView ChunkWriter::payload() {
  return {object_.data() + geometry_.head_bytes() + geometry_.runs().begin(0), 0,
          geometry_.shared_runs()};
}

Result<ConstBytes> ChunkWriter::finish(const ChunkIdentity& identity) {
  return finish(identity, geometry_.layout().n_layers);
}

Result<ConstBytes> ChunkWriter::finish(const ChunkIdentity& identity, std::uint32_t held) {
  if (identity.geometry != geometry_ || identity.tokens.size() != geometry_.chunk_tokens()) {
    return Error{
        Errc::invalid_argument, 0,
        "a chunk writer was given another layout or number of tokens than it was made for"};
  }
  const std::uint64_t size = held > geometry_.layout().n_layers ? 0 : geometry_.object_bytes(held);
  if (size == 0 || geometry_.held_by(size) != held) {
    return Error{Errc::invalid_argument, 0,
                 "no object of this layout holds exactly " + std::to_string(held) + " layers"};
  }
  std::byte* object = object_.data();
  write_tables(object, geometry_, held, identity.tokens);

  wire::Header header{};
  header.magic = wire::kHeaderMagic;
  header.major = wire::kMajor;
  header.minor = geometry_.reaches().empty() ? 0 : wire::kMinor;
  header.header_bytes = sizeof header;
  header.object_bytes = size;
  header.payload_begin = geometry_.head_bytes();
  header.payload_bytes = geometry_.payload_end(held) - geometry_.head_bytes();
  header.raw_bytes = geometry_.raw_bytes(held);
  header.key = identity.key.bytes;
  header.parent = identity.parent.bytes;
  header.fingerprint = identity.fingerprint.bytes;
  header.tenant = identity.tenant;
  header.token_begin = identity.token_begin;
  header.token_count = geometry_.chunk_tokens();
  header.n_layers = geometry_.layout().n_layers;
  header.layout = geometry_.layout_digest();
  header.digest = wire::kDigestCrc32c;
  header.block_log2 = wire::kBlockLog2;
  header.n_extents = static_cast<std::uint32_t>(geometry_.n_extents());
  header.n_digests = static_cast<std::uint32_t>(geometry_.n_digests());
  header.extents_offset = geometry_.extents_offset();
  header.digests_offset = geometry_.digests_offset();
  header.tokens_offset = geometry_.tokens_offset();
  header.tables_end = geometry_.tables_end();
  header.held = held == header.n_layers ? 0 : held;
  header.tables_crc = crc32c({object + sizeof header, geometry_.head_bytes() - sizeof header});
  header.crc = crc32c(std::as_bytes(std::span(&header, 1)).first(wire::kSealed));
  std::memcpy(object, &header, sizeof header);

  wire::Footer footer{};
  footer.magic = wire::kFooterMagic;
  footer.key = identity.key.bytes;
  footer.object_bytes = header.object_bytes;
  footer.header_crc = header.crc;
  footer.crc = crc32c(std::as_bytes(std::span(&footer, 1)).first(wire::kSealed));
  std::memcpy(object + geometry_.payload_end(held), &footer, sizeof footer);
  return ConstBytes(object_.bytes()).first(size);
}

}  // namespace cake::inline CAKE_ABI
