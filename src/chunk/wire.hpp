// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The bytes that cake/chunk/format.hpp describes, as structures.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cake/chunk/format.hpp"
#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI::wire {

static_assert(std::endian::native == std::endian::little, "objects are little endian");

inline constexpr std::array<std::uint8_t, 8> kHeaderMagic = {0x8C, 'c',  'a',  'k',
                                                             'e',  0x0D, 0x0A, 0x1A};
inline constexpr std::array<std::uint8_t, 8> kFooterMagic = {0x8C, 'e',  'k',  'a',
                                                             'c',  0x0D, 0x0A, 0x1A};
inline constexpr std::uint16_t kMajor = 2;
inline constexpr std::uint16_t kMinorWindows = 1;
inline constexpr std::uint16_t kMinor = 2;      // the newest: encrypted
inline constexpr std::uint64_t kEncrypted = 1;  // incompatible feature
inline constexpr std::uint64_t kKnownIncompatible = kEncrypted;
inline constexpr std::uint8_t kDigestCrc32c = 1;
inline constexpr std::uint8_t kBlockLog2 = 16;
inline constexpr std::uint8_t kCodecRaw = 0;
inline constexpr std::size_t kSealed = 4092;  // bytes of header and footer that their CRC covers

struct Header {
  std::array<std::uint8_t, 8> magic;
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t header_bytes;
  std::uint64_t incompatible;
  std::uint64_t compatible;
  std::uint64_t object_bytes;
  std::uint64_t payload_begin;
  std::uint64_t payload_bytes;
  std::uint64_t raw_bytes;
  Sha256Digest key;
  Sha256Digest parent;
  Sha256Digest fingerprint;
  std::array<std::byte, 16> tenant;
  std::uint32_t token_begin;
  std::uint32_t token_count;
  std::uint32_t n_layers;
  std::uint8_t digest;
  std::uint8_t block_log2;
  std::uint16_t zero;
  std::uint64_t layout;
  std::uint32_t n_extents;
  std::uint32_t n_digests;
  std::uint64_t extents_offset;
  std::uint64_t digests_offset;
  std::uint64_t tokens_offset;
  std::uint64_t tables_end;
  std::uint32_t tables_crc;
  std::uint32_t held;  // layers; 0: all
  std::array<std::byte, 16> key_id;
  Sha256Digest random;
  std::uint64_t tags_offset;
  std::array<std::byte, 16> head_tag;
  std::array<std::byte, 3772> reserved;
  std::uint32_t crc;

  bool encrypted() const { return (incompatible & kEncrypted) != 0; }
};
static_assert(sizeof(Header) == 4096 && std::is_trivially_copyable_v<Header>);
static_assert(offsetof(Header, key) == 64 && offsetof(Header, token_begin) == 176 &&
              offsetof(Header, layout) == 192 && offsetof(Header, n_extents) == 200 &&
              offsetof(Header, tables_crc) == 240 && offsetof(Header, held) == 244 &&
              offsetof(Header, key_id) == 248 && offsetof(Header, tags_offset) == 296 &&
              offsetof(Header, reserved) == 320 && offsetof(Header, crc) == kSealed);

struct Extent {
  std::uint32_t layer;
  std::uint8_t plane;
  std::uint8_t codec;
  std::uint16_t flags;
  std::uint64_t offset;
  std::uint64_t stored_bytes;
  std::uint64_t raw_bytes;
  std::uint32_t rows;
  std::uint32_t row_bytes;
  std::uint8_t order;
  std::uint8_t dtype;
  std::array<std::uint8_t, 6> zero;
  friend bool operator==(const Extent&, const Extent&) = default;
};
static_assert(sizeof(Extent) == 48 && std::is_trivially_copyable_v<Extent>);

struct Footer {
  std::array<std::uint8_t, 8> magic;
  Sha256Digest key;
  std::uint64_t object_bytes;
  std::uint32_t header_crc;
  std::array<std::byte, 4040> reserved;
  std::uint32_t crc;
};
static_assert(sizeof(Footer) == 4096 && std::is_trivially_copyable_v<Footer>);
static_assert(offsetof(Footer, object_bytes) == 40 && offsetof(Footer, crc) == kSealed);

/// The only entry that the table may have for this plane.
inline Extent extent_of(const ChunkGeometry& geometry, std::uint32_t layer, std::uint32_t plane) {
  const KvPlane& shape = geometry.layout().kind(layer).planes[plane];
  const std::uint64_t bytes = geometry.runs()[geometry.runs().first(layer) + plane].bytes;
  return {layer,
          static_cast<std::uint8_t>(plane),
          kCodecRaw,
          0,
          geometry.extent(layer, plane).begin,
          bytes,
          bytes,
          shape.rows,
          shape.row_bytes,
          static_cast<std::uint8_t>(shape.order),
          static_cast<std::uint8_t>(shape.dtype),
          {}};
}

}  // namespace cake::inline CAKE_ABI::wire
