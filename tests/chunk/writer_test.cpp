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
        const UniformKvLayout layout{3, 3, 20, dtype, order};
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

/// A latent beside unequal K and V, scales, and layers that keep nothing.
KvLayout mixed_layout() {
  KvLayout layout;
  layout.n_layers = 6;
  layout.kinds = {{{{1, 1152, KvOrder::nhd, DType::bf16}}},
                  {{{2, 96, KvOrder::hnd, DType::f16}, {2, 64, KvOrder::hnd, DType::f16}}},
                  {{{4, 16, KvOrder::nhd, DType::i8},
                    {1, 16, KvOrder::nhd, DType::f32},
                    {4, 16, KvOrder::nhd, DType::i8},
                    {1, 16, KvOrder::nhd, DType::f32}}},
                  {}};
  layout.kind_of = {3, 0, 1, 3, 2, 3};
  return layout;
}

TEST_CASE("layers may keep any planes, or none, and all comes back in every slice") {
  for (const std::uint32_t tokens : {1u, 16u, 100u, 512u}) {
    const auto chunk = sample::make_of(tokens, mixed_layout(), tokens);
    const KvLayout& layout = chunk.geometry().layout();
    const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity);
    REQUIRE(tables);
    for (std::uint32_t begin = 0; begin < layout.n_layers; ++begin) {
      for (std::uint32_t end = begin + 1; end <= layout.n_layers; ++end) {
        const ByteRange range = chunk.geometry().read_range({begin, end});
        const auto view = verify_slice(*tables, chunk.identity, {begin, end},
                                       chunk.bytes().subspan(range.begin, range.size()));
        REQUIRE(view);
        for (std::uint32_t layer = begin; layer < end; ++layer) {
          const std::vector<KvPlane>& planes = layout.kind(layer).planes;
          for (std::uint32_t i = 0; i < planes.size(); ++i) {
            std::vector<std::byte> run(planes[i].token_bytes() * tokens);
            sample::fill(run, tokens * 1000 + 2 * layer + i);
            REQUIRE(equal(view->plane(layer, i), run));
          }
          REQUIRE(view->plane(layer, static_cast<std::uint32_t>(planes.size())).empty());
        }
      }
    }
  }
}

TEST_CASE("objects of layouts that differ in anything are told apart") {
  const auto mine = sample::make_of(1, mixed_layout());
  REQUIRE(sample::check(mine.object, mine.identity));
  const auto refused = [&](auto&& change) {
    KvLayout layout = mixed_layout();
    change(layout);
    const auto other = sample::make_of(1, layout);
    return other.identity.key != mine.identity.key &&
           sample::check(other.object, mine.identity).code() == Errc::mismatch;
  };
  CHECK(refused([](KvLayout& l) { l.kinds[0].planes[0].dtype = DType::f16; }));
  CHECK(refused([](KvLayout& l) { l.kinds[1].planes[1].order = KvOrder::nhd; }));
  CHECK(refused([](KvLayout& l) { l.kinds[2].planes[0] = {8, 8, KvOrder::nhd, DType::i8}; }));
  CHECK(refused([](KvLayout& l) { std::swap(l.kind_of[1], l.kind_of[2]); }));
  CHECK(refused([](KvLayout& l) { std::swap(l.kinds[2].planes[0], l.kinds[2].planes[1]); }));
  CHECK(refused([](KvLayout& l) { l.kind_of[5] = 0; }));
  // Listed in another way it is the same.
  KvLayout same = mixed_layout();
  std::swap(same.kinds[0], same.kinds[3]);
  same.kinds.push_back(same.kinds[1]);
  same.kind_of = {0, 3, 4, 0, 2, 0};
  CHECK(same == mixed_layout());
  CHECK(sample::make_of(1, same).object == mine.object);
}

TEST_CASE("bit patterns that are no numbers are kept as they are") {
  const UniformKvLayout layout{1, 1, 64, DType::f32};
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

/// The KV of a chunk into what a writer's object is made of, and how it is digested on the way.
template <class Digest>
ConstBytes put(ChunkWriter& writer, const sample::Chunk& chunk, const Digest& digest) {
  const auto tables = parse_chunk(chunk.object, chunk.object.size(), chunk.identity).value();
  const auto view = verify_slice(tables, chunk.identity, {0, 4}, chunk.object).value();
  for (std::uint32_t layer = 0; layer < 4; ++layer) {
    std::memcpy(writer.payload().k(layer).data(), view.k(layer).data(), view.k(layer).size());
    std::memcpy(writer.payload().v(layer).data(), view.v(layer).data(), view.v(layer).size());
    digest(layer);
  }
  return writer.finish(chunk.identity).value();
}

TEST_CASE("layers that are digested one by one make the same object") {
  const auto first = sample::make(1), second = sample::make(2);
  ChunkWriter writer(sample::kSmall, 16);
  for (const auto* chunk : {&first, &second, &first}) {
    CHECK(equal(put(writer, *chunk,
                    [&](std::uint32_t l) {
                      writer.digest({l, l + 1});
                    }),
                chunk->object));
    CHECK(writer.seal() == verify_object(chunk->object, chunk->identity.key).value());
    // Some of them, and the others at the end.
    CHECK(equal(put(writer, *chunk,
                    [&](std::uint32_t l) {
                      if (l < 2) writer.digest({l, l + 1});
                    }),
                chunk->object));
  }
}

TEST_CASE("layers that are digested out of turn are digested at the end") {
  const auto first = sample::make(1), second = sample::make(2);
  ChunkWriter writer(sample::kSmall, 16);
  // Layer 1 was never digested, and what a writer knows of one object is not taken for the next.
  CHECK(equal(put(writer, first,
                  [&](std::uint32_t l) {
                    if (l != 1) writer.digest({l, l + 1});
                  }),
              first.object));
  CHECK(equal(put(writer, second,
                  [&](std::uint32_t l) {
                    if (l == 3) writer.digest({2, 4});
                  }),
              second.object));
  CHECK(equal(put(writer, first, [&](std::uint32_t) { writer.digest({0, 9}); }), first.object));
  // Given up half way, and begun anew.
  (void)writer.payload();
  writer.digest({0, 3});
  CHECK(equal(put(writer, second,
                  [&](std::uint32_t l) {
                    writer.digest({l, l + 1});
                  }),
              second.object));
}

TEST_CASE("an object in memory of the caller's is the same, whatever was there") {
  const auto chunk = sample::make(1);
  AlignedBuffer memory(chunk.object.size());
  std::memset(memory.data(), 0xa5, memory.size());
  ChunkWriter writer(chunk.geometry(), memory.bytes());
  const ConstBytes object = put(writer, chunk, [&](std::uint32_t l) { writer.digest({l, l + 1}); });
  CHECK(object.data() == memory.data());
  CHECK(equal(object, chunk.object));
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
  identity.geometry = ChunkGeometry(UniformKvLayout{4, 2, 16, DType::f32}, 16);
  CHECK(writer.finish(identity).error().code == Errc::invalid_argument);
  CHECK_THROWS_AS(ChunkWriter(UniformKvLayout{0, 1, 1}, 16), Exception);
  CHECK_THROWS_AS(ChunkWriter(sample::kSmall, 0), Exception);
}

}  // namespace
