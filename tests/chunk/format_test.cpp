// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/format.hpp"

#include <limits>

#include "cake/chunk/digest.hpp"
#include "cake/engine.hpp"
#include "catch.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

template <class T>
T load(ConstBytes bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

TEST_CASE("every part of an object begins at a page and they join without a gap") {
  for (const std::uint32_t tokens : {1u, 16u, 17u, 256u, 512u, 65536u}) {
    for (const std::uint32_t layers : {1u, 2u, 31u, 80u}) {
      const UniformKvLayout layout{layers, 3, 24, DType::f16};
      const ChunkGeometry geometry(layout, tokens);
      const std::uint64_t stride = detail::align_up(layout.run_bytes(tokens));
      REQUIRE(stride % 4096 == 0);
      REQUIRE(stride >= layout.run_bytes(tokens));
      REQUIRE(stride - layout.run_bytes(tokens) < 4096);
      REQUIRE(geometry.head_bytes() % 4096 == 0);
      REQUIRE(geometry.head_bytes() >= geometry.tables_end());
      REQUIRE(geometry.head_bytes() - geometry.tables_end() < 4096);
      REQUIRE(geometry.raw_bytes() == 2 * layers * layout.run_bytes(tokens));
      std::uint64_t at = geometry.head_bytes();
      for (std::uint32_t layer = 0; layer < layers; ++layer) {
        for (std::uint32_t side = 0; side < 2; ++side) {
          REQUIRE(geometry.extent(layer, side) == ByteRange{at, at + stride});
          at += stride;
        }
      }
      REQUIRE(at == geometry.payload_end());
      REQUIRE(geometry.object_bytes() == at + 4096);
    }
  }
}

TEST_CASE("reads of adjacent layers join, and all of them together are the object") {
  const ChunkGeometry geometry(UniformKvLayout{7, 2, 40, DType::f32}, 33);
  CHECK(geometry.read_range({0, 7}) == ByteRange{0, geometry.object_bytes()});
  for (std::uint32_t a = 0; a < 7; ++a) {
    CHECK(geometry.read_range({a, a}).size() == 0);
    for (std::uint32_t b = a + 1; b <= 7; ++b) {
      const ByteRange range = geometry.read_range({a, b});
      CHECK(range.begin % 4096 == 0);
      CHECK(range.end % 4096 == 0);
      CHECK(range.begin == (a == 0 ? 0 : geometry.read_range({0, a}).end));
      CHECK(range.end == (b == 7 ? geometry.object_bytes() : geometry.read_range({b, 7}).begin));
    }
  }
}

TEST_CASE("shapes that cannot be stored are refused and never overflow") {
  constexpr auto most = std::numeric_limits<std::uint32_t>::max();
  const auto fits = [](const UniformKvLayout& layout, std::uint64_t tokens) {
    return ChunkGeometry::fits(layout, tokens);
  };
  const UniformKvLayout good{32, 8, 128, DType::bf16};
  CHECK(fits(good, 256));
  CHECK_FALSE(fits(good, 0));
  CHECK_FALSE(fits(good, std::uint64_t{1} << 40));
  CHECK_FALSE(fits({0, 8, 128}, 256));
  CHECK_FALSE(fits({32, 0, 128}, 256));
  CHECK_FALSE(fits({32, 8, 0}, 256));
  CHECK_FALSE(fits({most, most, most, DType::f32}, most));
  CHECK_FALSE(fits({2048, 65536, 65536, DType::f32}, 65536));
  CHECK_FALSE(fits({2049, 1, 1}, 16));
  CHECK_FALSE(fits({32, 8, 128, static_cast<DType>(9)}, 256));
  CHECK_FALSE(fits({32, 8, 128, DType::f16, static_cast<KvOrder>(7)}, 256));
  // Kinds that are not there, layers without one, planes of nothing, too many planes.
  const KvPlane plane{1, 64};
  CHECK(ChunkGeometry::fits({2, {{{plane}}, {}}, {0, 1}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({2, {{{plane}}}, {0, 1}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({2, {{{plane}}}, {0}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({2, {}, {}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({2, {{}}, {}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({1, {{{plane, {0, 64}}}}, {}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({1, {{{plane, {1, 0}}}}, {}}, 16));
  CHECK(ChunkGeometry::fits({1, {{std::vector<KvPlane>(16, plane)}}, {}}, 16));
  CHECK_FALSE(ChunkGeometry::fits({1, {{std::vector<KvPlane>(17, plane)}}, {}}, 16));
  CHECK_THROWS_AS(ChunkGeometry(good, 0), Exception);
}

// Objects outlive builds: what stands at which byte may only change with the version number.
TEST_CASE("the bytes of an object are where the format says") {
  const auto chunk = sample::make(5, {2, 2, 16, DType::f16, KvOrder::hnd}, 16, 3);
  const ConstBytes object = chunk.bytes();
  const std::uint8_t magic[8] = {0x8C, 'c', 'a', 'k', 'e', 0x0D, 0x0A, 0x1A};
  CHECK(std::memcmp(object.data(), magic, 8) == 0);
  CHECK(load<std::uint16_t>(object, 8) == 2);
  CHECK(load<std::uint16_t>(object, 10) == 0);
  CHECK(load<std::uint32_t>(object, 12) == 4096);
  CHECK(load<std::uint64_t>(object, 16) == 0);
  CHECK(load<std::uint64_t>(object, 24) == 0);
  CHECK(load<std::uint64_t>(object, 32) == object.size());
  CHECK(load<std::uint64_t>(object, 40) == 8192);
  CHECK(load<std::uint64_t>(object, 48) == 4 * 4096);
  CHECK(load<std::uint64_t>(object, 56) == 4 * 16 * 2 * 16 * 2);
  CHECK(load<Sha256Digest>(object, 64) == chunk.identity.key.bytes);
  CHECK(load<Sha256Digest>(object, 96) == chunk.identity.parent.bytes);
  CHECK(load<Sha256Digest>(object, 128) == chunk.identity.fingerprint.bytes);
  CHECK(std::memcmp(object.data() + 160, chunk.identity.tenant.data(), 16) == 0);
  CHECK(load<std::uint32_t>(object, 176) == 48);
  CHECK(load<std::uint32_t>(object, 180) == 16);
  CHECK(load<std::uint32_t>(object, 184) == 2);
  CHECK(load<std::uint32_t>(object, 188) == 0x1001);  // CRC-32C, 64 KiB, zero
  const Sha256Digest layout = Sha256().update(chunk.geometry().layout().canonical()).finish();
  CHECK(std::memcmp(object.data() + 192, layout.data(), 8) == 0);
  CHECK(load<std::uint32_t>(object, 200) == 4);
  CHECK(load<std::uint32_t>(object, 204) == 4);
  CHECK(load<std::uint64_t>(object, 208) == 4096);
  CHECK(load<std::uint64_t>(object, 216) == 4096 + 4 * 48);
  CHECK(load<std::uint64_t>(object, 224) == 4096 + 4 * 48 + 4 * 4);
  CHECK(load<std::uint64_t>(object, 232) == 4096 + 4 * 48 + 4 * 4 + 4 * 16);
  CHECK(load<std::uint32_t>(object, 240) == crc32c(object.subspan(4096, 4096)));
  CHECK(load<std::uint32_t>(object, 4092) == crc32c(object.first(4092)));

  // Extent 3: layer 1, V.
  CHECK(load<std::uint32_t>(object, 4096 + 144) == 1);
  CHECK(load<std::uint32_t>(object, 4096 + 148) == 1);  // plane 1, codec raw, no flags
  CHECK(load<std::uint64_t>(object, 4096 + 152) == 8192 + 3 * 4096);
  CHECK(load<std::uint64_t>(object, 4096 + 160) == 16 * 2 * 16 * 2);
  CHECK(load<std::uint64_t>(object, 4096 + 168) == 16 * 2 * 16 * 2);
  CHECK(load<std::uint32_t>(object, 4096 + 176) == 2);
  CHECK(load<std::uint32_t>(object, 4096 + 180) == 32);
  CHECK(load<std::uint64_t>(object, 4096 + 184) == 0x0101);  // hnd, f16, zeros
  CHECK(load<std::uint32_t>(object, 4096 + 192 + 12) ==
        crc32c(object.subspan(8192 + 3 * 4096, 4096)));
  CHECK(std::memcmp(object.data() + 4096 + 208, chunk.tokens.data(), 64) == 0);

  const ConstBytes footer = object.last(4096);
  const std::uint8_t end[8] = {0x8C, 'e', 'k', 'a', 'c', 0x0D, 0x0A, 0x1A};
  CHECK(std::memcmp(footer.data(), end, 8) == 0);
  CHECK(load<Sha256Digest>(footer, 8) == chunk.identity.key.bytes);
  CHECK(load<std::uint64_t>(footer, 40) == object.size());
  CHECK(load<std::uint32_t>(footer, 48) == load<std::uint32_t>(object, 4092));
  CHECK(load<std::uint32_t>(footer, 4092) == crc32c(footer.first(4092)));
}

}  // namespace
