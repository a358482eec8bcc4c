// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/writer.hpp"

#include "cake/chunk/reader.hpp"
#include "catch.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

bool equal(ConstBytes a, ConstBytes b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

TEST_CASE("what was written comes back bit by bit, in every dtype, order and chunk size") {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const std::uint32_t tokens : {16u, 17u, 32u, 100u, 128u, 256u, 511u, 512u}) {
        // 3 heads of 20: runs are no whole pages, and from 512 tokens of f32 on more than a block.
        const KvLayout layout{3, 3, 20, dtype, order};
        const auto chunk = sample::make(tokens, layout, tokens);
        const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity);
        REQUIRE(tables);
        for (std::uint32_t begin = 0; begin < 3; ++begin) {
          for (std::uint32_t end = begin + 1; end <= 3; ++end) {
            const ByteRange range = chunk.geometry().read_range({begin, end});
            const auto view = verify_slice(*tables, chunk.identity, {begin, end},
                                           chunk.bytes().subspan(range.begin, range.size()));
            REQUIRE(view);
            for (std::uint32_t layer = begin; layer < end; ++layer) {
              std::vector<std::byte> k(layout.run_bytes(tokens)), v(layout.run_bytes(tokens));
              sample::fill(k, tokens * 1000 + 2 * layer);
              sample::fill(v, tokens * 1000 + 2 * layer + 1);
              REQUIRE(equal(view->k(layer), k));
              REQUIRE(equal(view->v(layer), v));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("bit patterns that are no numbers are kept as they are") {
  const KvLayout layout{1, 1, 64, DType::f32};
  auto chunk = sample::make(1, layout, 16);
  ChunkWriter writer(layout, 16);
  const MutableKvView payload = writer.payload();
  for (auto& b : payload.k(0)) b = std::byte{0xFF};  // NaN
  for (auto& b : payload.v(0)) b = std::byte{0x7F};
  const auto object = writer.finish(chunk.identity);
  REQUIRE(object);
  const auto tables = parse_chunk(*object, object->size(), chunk.identity);
  REQUIRE(tables);
  const auto view = verify_slice(*tables, chunk.identity, {0, 1}, *object);
  REQUIRE(view);
  CHECK(equal(view->k(0), writer.payload().k(0)));
  CHECK(equal(view->v(0), writer.payload().v(0)));
}

TEST_CASE("a writer makes the same object from the same chunk, whatever it made before") {
  const auto first = sample::make(1);
  const auto second = sample::make(2);
  ChunkWriter writer(sample::kSmall, 16);
  const auto put = [&](const sample::Chunk& chunk) {
    const auto tables = parse_chunk(chunk.object, chunk.object.size(), chunk.identity).value();
    const auto view = verify_slice(tables, chunk.identity, {0, 4}, chunk.object).value();
    for (std::uint32_t layer = 0; layer < 4; ++layer) {
      std::memcpy(writer.payload().k(layer).data(), view.k(layer).data(), view.k(layer).size());
      std::memcpy(writer.payload().v(layer).data(), view.v(layer).data(), view.v(layer).size());
    }
    return equal(writer.finish(chunk.identity).value(), chunk.object);
  };
  CHECK(put(first));
  CHECK(put(second));
  CHECK(put(first));
}

TEST_CASE("an object is aligned for reads and writes past the page cache") {
  ChunkWriter writer(sample::kSmall, 16);
  const auto chunk = sample::make(1);
  const auto object = writer.finish(chunk.identity);
  REQUIRE(object);
  CHECK(reinterpret_cast<std::uintptr_t>(object->data()) % 4096 == 0);
  CHECK(object->size() % 4096 == 0);
  CHECK(object->size() == writer.geometry().object_bytes());
}

TEST_CASE("a writer refuses an identity of another shape") {
  ChunkWriter writer(sample::kSmall, 16);
  auto chunk = sample::make(1);
  auto identity = chunk.identity;
  identity.tokens = identity.tokens.first(15);
  CHECK(writer.finish(identity).error().code == Errc::invalid_argument);
  identity = chunk.identity;
  identity.layout.dtype = DType::f32;
  CHECK(writer.finish(identity).error().code == Errc::invalid_argument);
  CHECK_THROWS_AS(ChunkWriter({0, 1, 1}, 16), Exception);
  CHECK_THROWS_AS(ChunkWriter(sample::kSmall, 0), Exception);
}

}  // namespace
