// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Objects of layouts with windows and states: the order of their layers, and objects that hold the
// first of them only.
#include <cstring>
#include <set>
#include <string>

#include "catch.hpp"
#include "reseal.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

template <class T>
Errc code_of(const Result<T>& result) {
  return result ? Errc::ok : result.error().code;
}

constexpr KvPlane kRows{2, 24, KvOrder::hnd, DType::bf16};
constexpr KvPlane kState{4, 5000, KvOrder::nhd, DType::f32};
constexpr std::uint32_t kChunk = 16;

/// state, window 20, all, window 64, all, shared, window 20
KvLayout mixed() {
  return {7,
          {{{kRows, kRows}}, {{kRows}, 20}, {{kRows}, 64}, {{kState}, 0, true}, {}},
          {3, 1, 0, 2, 0, 4, 1}};
}

TEST_CASE("layers lie with those that need all tokens first, then windows, then states") {
  CHECK(mixed().stored_order() == std::vector<std::uint32_t>{2, 4, 5, 3, 1, 6, 0});
  const ChunkGeometry geometry(mixed(), kChunk);
  CHECK(geometry.held_counts() == std::vector<std::uint32_t>{3, 4, 6, 7});
  CHECK(std::vector<std::uint32_t>(geometry.reaches().begin(), geometry.reaches().end()) ==
        std::vector<std::uint32_t>{~0u, ~0u, ~0u, 64, 20, 20, 1});
  CHECK(geometry.extent(2, 0).begin == geometry.head_bytes());
  CHECK(geometry.extent(0, 0).end == geometry.payload_end());
  CHECK(geometry.extent(0, 0).size() == 20480);  // the state alone, whatever the chunk's tokens
  CHECK(geometry.read_range({3, 4}) == geometry.extent(3, 0));
  CHECK(ChunkGeometry(UniformKvLayout{4, 2, 8}, kChunk).reaches().empty());
}

TEST_CASE("a window of one token lies before a state") {
  const KvLayout layout{2, {{{kState}, 0, true}, {{kRows}, 1}}, {0, 1}};
  CHECK(layout.stored_order() == std::vector<std::uint32_t>{1, 0});
}

TEST_CASE("layouts that differ in a window or a state have other keys") {
  const KvLayout plain{2, {{{kRows}}}};
  const auto text = [](const KvLayout& layout) {
    std::string bytes;
    for (const std::byte b : layout.canonical()) bytes.push_back(static_cast<char>(b));
    return bytes;
  };
  const auto with = [&](KvLayerKind kind) { return text({2, {std::move(kind)}}); };
  const std::set<std::string> all = {text(plain), with({{kRows}, 5}), with({{kRows}, 6}),
                                     with({{kRows}, 0, true})};
  CHECK(all.size() == 4);
  CHECK(plain.canonical().size() == 4 + 2 * 2 + 4 + 10);
  CHECK_FALSE(KvLayout{1, {{{kRows}, 5, true}}}.valid());
  CHECK(KvLayout{1, {{{kState}, 0, true}}}.valid());
}

struct Stored {
  sample::Chunk whole = sample::make_of(3, mixed(), kChunk);
  ChunkWriter writer{mixed(), kChunk};
  std::vector<std::byte> object;

  explicit Stored(std::uint32_t held) {
    for (std::uint32_t l = 0; l < 7; ++l) {
      for (std::uint32_t i = 0; i < mixed().kind(l).planes.size(); ++i) {
        sample::fill(writer.payload().plane(l, i), 3000 + 2 * l + i);
      }
    }
    const ConstBytes made = writer.finish(whole.identity, held).value();
    object.assign(made.begin(), made.end());
  }
};

TEST_CASE("an object with the first layers only is shorter, and gives the same KV") {
  for (const std::uint32_t held : {3u, 4u, 6u, 7u}) {
    INFO("held " << held);
    Stored stored(held);
    const ChunkGeometry& geometry = stored.whole.geometry();
    CHECK(stored.object.size() == geometry.object_bytes(held));
    CHECK(geometry.held_by(stored.object.size()) == held);
    const auto tables = parse_chunk(stored.object, stored.object.size(), stored.whole.identity);
    REQUIRE(tables);
    CHECK(tables->held() == held);
    const ByteRange range = geometry.read_range({0, held});
    const auto view = verify_slice(*tables, stored.whole.identity, {0, held},
                                   ConstBytes(stored.object).first(range.size()));
    REQUIRE(view);
    for (std::uint32_t p = 0; p < held; ++p) {
      const std::uint32_t l = geometry.runs().layer_at(p);
      for (std::uint32_t i = 0; i < mixed().kind(l).planes.size(); ++i) {
        std::vector<std::byte> right(view->plane(l, i).size());
        sample::fill(right, 3000 + 2 * l + i);
        CHECK(std::memcmp(right.data(), view->plane(l, i).data(), right.size()) == 0);
      }
    }
    if (held == 7) {
      CHECK(stored.object == stored.whole.object);
      continue;
    }
    const std::vector<std::byte> more(geometry.read_range({held, held + 1}).size());
    CHECK(code_of(verify_slice(*tables, stored.whole.identity, {held, held + 1}, more)) ==
          Errc::invalid_argument);
  }
  CHECK(code_of(Stored(7).writer.finish(Stored(7).whole.identity, 5)) == Errc::invalid_argument);
  CHECK(code_of(Stored(7).writer.finish(Stored(7).whole.identity, 8)) == Errc::invalid_argument);
}

TEST_CASE("a whole object that follows a short one in the same writer has clean padding") {
  Stored stored(3);
  for (std::uint32_t l = 0; l < 7; ++l) {
    for (std::uint32_t i = 0; i < mixed().kind(l).planes.size(); ++i) {
      sample::fill(stored.writer.payload().plane(l, i), 3000 + 2 * l + i);
    }
  }
  const ConstBytes object = stored.writer.finish(stored.whole.identity).value();
  CHECK(std::memcmp(object.data(), stored.whole.object.data(), object.size()) == 0);
}

TEST_CASE("layers that were digested and are not held after all leave no digest behind") {
  Stored stored(7);
  for (std::uint32_t p = 0; p < 7; ++p) stored.writer.digest({p, p + 1});
  const ConstBytes object = stored.writer.finish(stored.whole.identity, 4).value();
  const Stored right(4);
  REQUIRE(object.size() == right.object.size());
  CHECK(std::memcmp(object.data(), right.object.data(), object.size()) == 0);
}

TEST_CASE("an object that another save has made longer meanwhile is no damage") {
  Stored stored(4);
  const std::uint64_t looked_up = stored.whole.geometry().object_bytes(3);
  CHECK(code_of(parse_chunk(stored.object, looked_up, stored.whole.identity)) == Errc::not_found);
  CHECK(code_of(parse_chunk(stored.object, looked_up + 8192, stored.whole.identity)) ==
        Errc::corrupt);
}

TEST_CASE("a header that counts other layers than the object has is refused") {
  for (const std::uint32_t lie : {0u, 3u, 5u, 6u, 7u, 8u, ~0u}) {
    Stored stored(4);
    std::memcpy(stored.object.data() + 244, &lie, 4);
    sample::reseal_head(std::span(stored.object).first(stored.whole.geometry().head_bytes()));
    CHECK(code_of(parse_chunk(stored.object, stored.object.size(), stored.whole.identity)) ==
          Errc::corrupt);
  }
}

TEST_CASE("tables that describe layers which are not held are refused") {
  const ChunkGeometry geometry(mixed(), kChunk);
  const std::uint64_t first_absent = geometry.extents_offset() + 48 * geometry.runs().first_at(4);
  const std::uint64_t last_digest = geometry.tokens_offset() - 4;
  for (const std::uint64_t at : {first_absent, first_absent + 47, last_digest}) {
    Stored stored(4);
    stored.object[at] = std::byte{1};
    sample::reseal_head(std::span(stored.object).first(geometry.head_bytes()));
    CHECK(code_of(parse_chunk(stored.object, stored.object.size(), stored.whole.identity)) ==
          Errc::corrupt);
  }
}

}  // namespace
