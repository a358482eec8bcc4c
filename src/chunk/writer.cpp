// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/writer.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "cake/chunk/digest.hpp"
#include "src/chunk/object_cipher.hpp"
#include "src/core/try.hpp"
#include "wire.hpp"

namespace cake::inline CAKE_ABI {
namespace {

wire::Header header_of(const ChunkIdentity& identity, std::uint32_t held) {
  const ChunkGeometry& geometry = identity.geometry;
  wire::Header header{};
  header.magic = wire::kHeaderMagic;
  header.major = wire::kMajor;
  header.minor = geometry.reaches().empty() ? 0 : wire::kMinorWindows;
  if (geometry.encrypted()) {
    header.minor = wire::kMinor;
    header.incompatible = wire::kEncrypted;
    header.tags_offset = geometry.tags_offset();
  }
  header.header_bytes = sizeof header;
  header.object_bytes = geometry.object_bytes(held);
  header.payload_begin = geometry.head_bytes();
  header.payload_bytes = geometry.payload_end(held) - geometry.head_bytes();
  header.raw_bytes = geometry.raw_bytes(held);
  header.key = identity.key.bytes;
  header.parent = identity.parent.bytes;
  header.fingerprint = identity.fingerprint.bytes;
  header.tenant = identity.tenant;
  header.token_begin = identity.token_begin;
  header.token_count = geometry.chunk_tokens();
  header.n_layers = geometry.layout().n_layers;
  header.layout = geometry.layout_digest();
  header.digest = wire::kDigestCrc32c;
  header.block_log2 = wire::kBlockLog2;
  header.n_extents = static_cast<std::uint32_t>(geometry.n_extents());
  header.n_digests = static_cast<std::uint32_t>(geometry.n_digests());
  header.extents_offset = geometry.extents_offset();
  header.digests_offset = geometry.digests_offset();
  header.tokens_offset = geometry.tokens_offset();
  header.tables_end = geometry.tables_end();
  header.held = held == header.n_layers ? 0 : held;
  return header;
}

void zero(MutableBytes object, std::uint64_t begin, std::uint64_t end) {
  std::memset(object.data() + begin, 0, end - begin);
}

/// Encrypts the token ids and makes the tag of the head. The rest of header and tables is there.
void seal_head(wire::Header& header, const ChunkGeometry& geometry, detail::Gcm& gcm,
               std::byte* object) {
  const auto part = [&](std::uint64_t begin, std::uint64_t end) {
    return ConstBytes(object + begin, end - begin);
  };
  const ConstBytes associated[] = {std::as_bytes(std::span(&header, 1)),
                                   part(geometry.extents_offset(), geometry.tokens_offset()),
                                   part(geometry.tags_offset(), geometry.tags_end())};
  header.head_tag = gcm.encrypt(detail::nonce_of_head(), associated,
                                part(geometry.tokens_offset(), geometry.tables_end()),
                                object + geometry.tokens_offset());
}

}  // namespace

ChunkWriter::ChunkWriter(const KvLayout& layout, std::uint32_t chunk_tokens, StagingMemory* memory)
    : ChunkWriter(ChunkGeometry(layout, chunk_tokens), memory) {}

ChunkWriter::ChunkWriter(ChunkGeometry geometry, StagingMemory* memory)
    : geometry_(std::move(geometry)),
      own_(geometry_.object_bytes(), memory),
      object_(own_.bytes()) {
  zero(object_, 0, object_.size());
}

ChunkWriter::ChunkWriter(ChunkGeometry geometry, MutableBytes object)
    : geometry_(std::move(geometry)), object_(object) {}

MutableKvView ChunkWriter::payload() {
  encrypted_ = false;
  return {object_.data() + geometry_.head_bytes() + geometry_.runs().begin(0), 0,
          geometry_.shared_runs()};
}

void ChunkWriter::digest(LayerRange positions) {
  if (positions.begin == 0) digested_ = 0;
  if (geometry_.encrypted()) return;  // its key is not known before its identity is
  if (positions.begin != digested_ || positions.end > geometry_.layout().n_layers) return;
  while (digested_ < positions.end) digest_layer(digested_++, nullptr);
}

void ChunkWriter::digest_layer(std::uint32_t position, detail::Gcm* gcm) {
  const KvRuns& runs = geometry_.runs();
  const std::uint32_t layer = runs.layer_at(position);
  const std::uint32_t first = runs.first_at(position);
  std::uint64_t number = geometry_.first_digest(first);
  for (std::uint32_t plane = 0; plane < runs.n_planes(layer); ++plane) {
    const ByteRange range = geometry_.extent(layer, plane);
    zero(object_, range.begin + runs[first + plane].bytes, range.end);
    for (std::uint64_t at = range.begin; at < range.end; at += kDigestBlock) {
      const std::uint64_t size = std::min<std::uint64_t>(kDigestBlock, range.end - at);
      const MutableBytes block = object_.subspan(at, size);
      if (gcm != nullptr) {
        const auto tag = gcm->encrypt(detail::nonce_of_block(number), {}, block, block.data());
        std::memcpy(object_.data() + geometry_.tags_offset() + tag.size() * number, tag.data(),
                    tag.size());
      }
      const std::uint32_t digest = crc32c(block);
      std::memcpy(object_.data() + geometry_.digests_offset() + 4 * number++, &digest,
                  sizeof digest);
    }
  }
}

/// Extents, digests, token ids and tags. Those of layers that are not held are zero.
void ChunkWriter::write_tables(std::uint32_t held, Tokens tokens, std::uint32_t digested,
                               detail::Gcm* gcm) {
  const KvRuns& runs = geometry_.runs();
  std::uint64_t at = geometry_.extents_offset();
  for (std::uint32_t position = 0; position < held; ++position) {
    const std::uint32_t layer = runs.layer_at(position);
    for (std::uint32_t plane = 0; plane < runs.n_planes(layer); ++plane) {
      const wire::Extent extent = wire::extent_of(geometry_, layer, plane);
      std::memcpy(object_.data() + at, &extent, sizeof extent);
      at += sizeof extent;
    }
  }
  zero(object_, at, geometry_.digests_offset());
  while (digested < held) digest_layer(digested++, gcm);
  const std::uint64_t digests = geometry_.first_digest(runs.first_at(held));
  zero(object_, geometry_.digests_offset() + 4 * digests, geometry_.tokens_offset());
  std::memcpy(object_.data() + geometry_.tokens_offset(), tokens.data(), tokens.size_bytes());
  const std::uint64_t tags = gcm == nullptr ? 0 : ChunkGeometry::kTagBytes * digests;
  zero(object_, geometry_.tags_offset() + tags, geometry_.head_bytes());
}

/// The payload, the tables, and what the header says of them.
Status ChunkWriter::encrypt(wire::Header& header, const ChunkIdentity& identity, std::uint32_t held,
                            const std::optional<Sha256Digest>& random) {
  if (identity.keys == nullptr) {
    return Error{Errc::invalid_argument, 0, "a chunk is to be encrypted, and has no TenantKeys"};
  }
  if (encrypted_) {
    return Error{Errc::invalid_argument, 0,
                 "the payload was encrypted already; put all layers into payload() anew"};
  }
  try {
    header.key_id = identity.keys->current();
    header.random = random ? *random : detail::random_value();
    const auto key =
        detail::ObjectKey::derive(*identity.keys, header.key_id, header.random, identity.key);
    detail::Gcm gcm(key.value(), detail::Gcm::Does::encrypt);
    encrypted_ = true;
    write_tables(held, identity.tokens, 0, &gcm);
    seal_head(header, geometry_, gcm, object_.data());
  } catch (const Exception& e) {
    return e.error();
  }
  return {};
}

Result<ConstBytes> ChunkWriter::finish(const ChunkIdentity& identity) {
  return finish(identity, geometry_.layout().n_layers);
}

Result<ConstBytes> ChunkWriter::finish(const ChunkIdentity& identity, std::uint32_t held) {
  return finish(identity, held, std::nullopt);
}

Result<ConstBytes> ChunkWriter::finish(const ChunkIdentity& identity, std::uint32_t held,
                                       const std::optional<Sha256Digest>& random) {
  const std::uint32_t digested = std::exchange(digested_, 0);
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
  std::byte* const object = object_.data();
  wire::Header header = header_of(identity, held);
  if (geometry_.encrypted()) {
    CAKE_TRY(encrypt(header, identity, held, random));
  } else {
    write_tables(held, identity.tokens, digested, nullptr);
  }
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
  seal_ = header.crc;
  return ConstBytes(object_.first(size));
}

}  // namespace cake::inline CAKE_ABI
