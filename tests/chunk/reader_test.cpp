// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/reader.hpp"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "catch.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

/// Copies `bytes` to the end of an allocation of exactly their size, so that a sanitizer sees every
/// read beyond them.
struct Exact {
  explicit Exact(ConstBytes from) : data(new std::byte[from.size()]), size(from.size()) {
    std::memcpy(data.get(), from.data(), size);
  }
  ConstBytes bytes() const { return {data.get(), size}; }
  std::unique_ptr<std::byte[]> data;
  std::size_t size;
};

/// Flips each of the bits of each byte in [begin, end) in turn; returns how many were missed.
std::size_t missed(sample::Chunk& chunk, std::uint64_t begin, std::uint64_t end) {
  std::size_t count = 0;
  for (std::uint64_t at = begin; at < end; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      chunk.object[at] ^= static_cast<std::byte>(1 << bit);
      const auto status = sample::check(chunk.object, chunk.identity);
      count += status.has_value() || status.code() != Errc::corrupt;
      chunk.object[at] ^= static_cast<std::byte>(1 << bit);
    }
  }
  return count;
}

TEST_CASE("a flipped bit in the header is a miss") {
  auto chunk = sample::make(1);
  CHECK(missed(chunk, 0, 4096) == 0);
}

TEST_CASE("a flipped bit in the tables, the token ids or their padding is a miss") {
  auto chunk = sample::make(2);
  CHECK(missed(chunk, 4096, chunk.geometry().head_bytes()) == 0);
}

TEST_CASE("a flipped bit in the footer is a miss") {
  auto chunk = sample::make(3);
  CHECK(missed(chunk, chunk.geometry().payload_end(), chunk.object.size()) == 0);
}

TEST_CASE("a flipped byte of payload or padding is a miss, in whole objects and in slices") {
  const UniformKvLayout layout{3, 3, 20, DType::f32,
                               KvOrder::nhd};  // runs longer than a digest block
  auto chunk = sample::make(4, layout, 511);
  const ChunkGeometry geometry = chunk.geometry();
  const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity).value();
  const std::uint64_t run_bytes = layout.run_bytes(511);
  const std::uint64_t run_stride = geometry.extent(0, 0).size();
  REQUIRE(run_stride > run_bytes);
  REQUIRE(geometry.first_digest(1) > 1);

  std::mt19937_64 random(7);
  std::vector<std::uint64_t> places;
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    for (std::uint32_t side = 0; side < 2; ++side) {
      const ByteRange extent = geometry.extent(layer, side);
      const std::uint64_t padding = extent.begin + run_bytes;
      places.insert(places.end(), {extent.begin, extent.begin + 65535, extent.begin + 65536,
                                   padding - 1, padding, extent.end - 1});
      for (int i = 0; i < 30; ++i) places.push_back(extent.begin + random() % extent.size());
      for (int i = 0; i < 10; ++i) {
        places.push_back(padding + random() % (run_stride - run_bytes));
      }
    }
  }
  for (const std::uint64_t at : places) {
    const auto flip = static_cast<std::byte>(1 + random() % 255);
    chunk.object[at] ^= flip;
    REQUIRE(sample::check(chunk.object, chunk.identity).code() == Errc::corrupt);
    const auto hit = static_cast<std::uint32_t>((at - geometry.head_bytes()) / (2 * run_stride));
    for (std::uint32_t layer = 0; layer < 3; ++layer) {
      const ByteRange range = geometry.read_range({layer, layer + 1});
      const auto view = verify_slice(tables, chunk.identity, {layer, layer + 1},
                                     chunk.bytes().subspan(range.begin, range.size()));
      REQUIRE(view.has_value() == (layer != hit));  // the other layers are still good
    }
    chunk.object[at] ^= flip;
  }
}

TEST_CASE("zeroed pages, swapped blocks and blocks of another object are a miss") {
  const UniformKvLayout layout{2, 4, 64, DType::f32};
  auto chunk = sample::make(5, layout, 256);
  const auto other = sample::make(6, layout, 256);
  const auto original = chunk.object;
  const std::uint64_t payload = chunk.geometry().head_bytes();
  REQUIRE(sample::check(chunk.object, chunk.identity));

  for (std::uint64_t at = 0; at < chunk.object.size(); at += 4096) {
    std::memset(chunk.object.data() + at, 0, 4096);
    REQUIRE(sample::check(chunk.object, chunk.identity).code() == Errc::corrupt);
    chunk.object = original;
  }
  std::swap_ranges(chunk.object.begin() + static_cast<std::ptrdiff_t>(payload),
                   chunk.object.begin() + static_cast<std::ptrdiff_t>(payload) + 65536,
                   chunk.object.begin() + static_cast<std::ptrdiff_t>(payload) + 65536);
  CHECK(sample::check(chunk.object, chunk.identity).code() == Errc::corrupt);
  chunk.object = original;
  std::memcpy(chunk.object.data() + payload + 65536, other.object.data() + payload + 65536, 65536);
  CHECK(sample::check(chunk.object, chunk.identity).code() == Errc::corrupt);
  chunk.object = original;
  std::memcpy(chunk.object.data() + chunk.geometry().payload_end(),
              other.object.data() + chunk.geometry().payload_end(), 4096);
  CHECK(sample::check(chunk.object, chunk.identity).code() == Errc::corrupt);
}

TEST_CASE("an object that is truncated at a page, or has grown, is a miss") {
  const auto chunk = sample::make(7);
  for (std::size_t size = 0; size < chunk.object.size(); size += 4096) {
    const Exact cut(chunk.bytes().first(size));
    REQUIRE(parse_chunk(cut.bytes(), size, chunk.identity).error().code == Errc::corrupt);
  }
  auto grown = chunk.object;
  grown.resize(grown.size() + 4096);
  CHECK(sample::check(grown, chunk.identity).code() == Errc::corrupt);
  for (const std::size_t size : {std::size_t{1}, std::size_t{4095}, std::size_t{4097}}) {
    const Exact cut(chunk.bytes().first(size));
    REQUIRE_FALSE(parse_chunk(cut.bytes(), size, chunk.identity));
  }
}

TEST_CASE("parsing never reads outside the head") {
  const auto chunk = sample::make(8);
  for (std::size_t size = 0; size <= chunk.head().size(); size += size < 8 ? 1 : 37) {
    const Exact head(chunk.bytes().first(size));
    REQUIRE_FALSE(parse_chunk(head.bytes(), chunk.object.size(), chunk.identity));
  }
  const Exact head(chunk.head());
  CHECK(parse_chunk(head.bytes(), chunk.object.size(), chunk.identity));
}

TEST_CASE("somebody else's object under the right key is a mismatch") {
  const auto mine = sample::make(9, sample::kSmall, 16, 2);
  const auto refused = [&](const sample::Chunk& other) {
    // Not even by name: as an index or a copy gone wrong would serve it.
    return sample::check(other.object, mine.identity).code() == Errc::mismatch;
  };
  REQUIRE(sample::check(mine.object, mine.identity));
  CHECK(refused(sample::make(9, sample::kSmall, 16, 2, "tenant", "other model")));
  CHECK(refused(sample::make(9, sample::kSmall, 16, 2, "other tenant")));
  CHECK(refused(sample::make(10, sample::kSmall, 16, 2)));
  CHECK(refused(sample::make(9, sample::kSmall, 16, 1)));
  UniformKvLayout layout = sample::kSmall;
  layout.order = KvOrder::hnd;
  CHECK(refused(sample::make(9, layout, 16, 2)));
  layout = sample::kSmall;
  layout.n_layers = 2;
  CHECK(refused(sample::make(9, layout, 16, 2)));
  layout = sample::kSmall;
  layout.n_kv_heads = 4;
  layout.head_dim = 8;  // the same bytes, otherwise arranged
  CHECK(refused(sample::make(9, layout, 16, 2)));
}

TEST_CASE("each field of the identity is compared") {
  const auto chunk = sample::make(11, sample::kSmall, 16, 1);
  const auto code = [&](auto&& change) {
    ChunkIdentity expected = chunk.identity;
    change(expected);
    return sample::check(chunk.object, expected).code();
  };
  const std::byte bit{1};
  CHECK(code([](ChunkIdentity&) {}) == Errc::ok);
  CHECK(code([&](ChunkIdentity& id) { id.key.bytes[31] ^= bit; }) == Errc::mismatch);
  CHECK(code([&](ChunkIdentity& id) { id.parent.bytes[0] ^= bit; }) == Errc::mismatch);
  CHECK(code([&](ChunkIdentity& id) { id.fingerprint.bytes[5] ^= bit; }) == Errc::mismatch);
  CHECK(code([&](ChunkIdentity& id) { id.tenant[15] ^= bit; }) == Errc::mismatch);
  CHECK(code([&](ChunkIdentity& id) { id.token_begin += 16; }) == Errc::mismatch);
  CHECK(code([&](ChunkIdentity& id) { id.tokens = id.tokens.first(8); }) == Errc::mismatch);
  const auto with_layout = [&](auto&& change) {
    UniformKvLayout layout = sample::kSmall;
    change(layout);
    return code([&](ChunkIdentity& id) { id.geometry = ChunkGeometry(layout, 16); });
  };
  CHECK(with_layout([](UniformKvLayout&) {}) == Errc::ok);
  CHECK(with_layout([](UniformKvLayout& l) { l.dtype = DType::f16; }) == Errc::mismatch);
  CHECK(with_layout([](UniformKvLayout& l) { l.order = KvOrder::hnd; }) == Errc::mismatch);
  CHECK(with_layout([](UniformKvLayout& l) { l.n_layers = 3; }) == Errc::mismatch);
  CHECK(with_layout([](UniformKvLayout& l) { l.n_kv_heads = 1; }) == Errc::mismatch);
  CHECK(with_layout([](UniformKvLayout& l) { l.head_dim = 8; }) == Errc::mismatch);
  CHECK(code([&](ChunkIdentity& id) { id.geometry = {}; }) == Errc::invalid_argument);
  CHECK(code([&](ChunkIdentity& id) { id.tokens = {}; }) == Errc::invalid_argument);
  for (std::size_t i = 0; i < chunk.tokens.size(); ++i) {
    auto tokens = chunk.tokens;
    ++tokens[i];
    CHECK(code([&](ChunkIdentity& id) { id.tokens = tokens; }) == Errc::mismatch);
  }
}

TEST_CASE("slices are verified only with their own tables and exactly their bytes") {
  const auto chunk = sample::make(12);
  const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity).value();
  const auto code = [&](const ChunkTables& by, LayerRange layers, ConstBytes bytes) {
    const auto view = verify_slice(by, chunk.identity, layers, bytes);
    return view ? Errc::ok : view.error().code;
  };
  const ByteRange range = chunk.geometry().read_range({1, 3});
  const ConstBytes bytes = chunk.bytes().subspan(range.begin, range.size());
  CHECK(code(tables, {1, 3}, bytes) == Errc::ok);
  CHECK(code(tables, {0, 2}, bytes) == Errc::invalid_argument);
  CHECK(code(tables, {2, 4}, bytes) == Errc::invalid_argument);
  CHECK(code(tables, {1, 2}, bytes) == Errc::invalid_argument);
  CHECK(code(tables, {1, 3}, bytes.first(bytes.size() - 4096)) == Errc::invalid_argument);
  CHECK(code(tables, {1, 1}, {}) == Errc::invalid_argument);
  CHECK(code(tables, {3, 5}, bytes) == Errc::invalid_argument);
  CHECK(code(tables, {3, 2}, bytes) == Errc::invalid_argument);
  CHECK(code(ChunkTables(), {1, 3}, bytes) == Errc::invalid_argument);
  CHECK_FALSE(ChunkTables().parsed());

  const auto other = sample::make(13, {2, 2, 16, DType::bf16});
  const auto wrong = parse_chunk(other.head(), other.object.size(), other.identity).value();
  CHECK(code(wrong, {1, 2}, bytes) == Errc::invalid_argument);
}

TEST_CASE("an object tells what it is without anything expected of it") {
  const auto chunk = sample::make(14, sample::kSmall, 16, 3);
  const auto summary = peek_chunk(chunk.bytes().first(4096));
  REQUIRE(summary);
  CHECK(summary->key == chunk.identity.key);
  CHECK(summary->parent == chunk.identity.parent);
  CHECK(summary->token_begin == 48);
  CHECK(summary->token_count == 16);
  CHECK(summary->object_bytes == chunk.object.size());
  CHECK_FALSE(peek_chunk(chunk.bytes().first(4095)));
  CHECK_FALSE(peek_chunk(chunk.bytes().last(4096)));
  auto damaged = chunk.object;
  damaged[200] ^= std::byte{1};
  CHECK_FALSE(peek_chunk(ConstBytes(damaged).first(4096)));
}

TEST_CASE("a whole object is verified by its own tables, and damage anywhere is found") {
  auto chunk = sample::make(4, {3, 3, 20, DType::f32, KvOrder::nhd}, 511);
  const ChunkKey key = chunk.identity.key;
  const auto seal = verify_object(chunk.bytes(), key);
  REQUIRE(seal);
  for (std::size_t at = 0; at < chunk.object.size(); at += at < 20000 ? 7 : 4093) {
    chunk.object[at] ^= std::byte{64};
    INFO("byte " << at);
    CHECK(verify_object(chunk.bytes(), key).error().code == Errc::corrupt);
    chunk.object[at] ^= std::byte{64};
  }
  for (const std::size_t size : {0u, 1u, 4095u, 4096u, 8191u, 8192u, 12288u}) {
    const Exact cut(chunk.bytes().first(size));
    CHECK(verify_object(cut.bytes(), key).error().code == Errc::corrupt);
  }
  CHECK(verify_object(chunk.bytes(), chunk.identity.parent).error().code == Errc::mismatch);
  CHECK(*verify_object(chunk.bytes(), key) == *seal);
  CHECK(*verify_object(sample::make(5).bytes(), sample::make(5).identity.key) != *seal);
}

TEST_CASE("bytes of a verified object are taken by its seal, and by no other") {
  auto chunk = sample::make(6);
  const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity).value();
  const std::uint32_t seal = verify_object(chunk.bytes(), chunk.identity.key).value();
  const ByteRange range = chunk.geometry().read_range({1, 2});
  const auto slice = [&] { return chunk.bytes().subspan(range.begin, range.size()); };
  const auto view = verify_slice(tables, chunk.identity, {1, 2}, slice(), seal);
  REQUIRE(view);
  CHECK(view->k(1).data() == slice().data());
  chunk.object[range.begin] ^= std::byte{1};
  CHECK(verify_slice(tables, chunk.identity, {1, 2}, slice(), seal));  // nothing is digested
  CHECK(verify_slice(tables, chunk.identity, {1, 2}, slice(), seal + 1).error().code ==
        Errc::corrupt);
  CHECK(verify_slice(tables, chunk.identity, {1, 3}, slice(), seal).error().code ==
        Errc::invalid_argument);
}

/// Tells of [begin, end) of these bytes in parts that `cuts` separate, in an order that `random` picks.
void tell(SliceDigests& digests, ConstBytes bytes, std::vector<std::size_t> cuts,
          std::mt19937_64& random) {
  cuts.push_back(0);
  cuts.push_back(bytes.size());
  std::sort(cuts.begin(), cuts.end());
  std::vector<ConstBytes> parts;
  for (std::size_t i = 1; i < cuts.size(); ++i) {
    parts.push_back(bytes.subspan(cuts[i - 1], cuts[i] - cuts[i - 1]));
  }
  std::shuffle(parts.begin(), parts.end(), random);
  for (const ConstBytes part : parts) digests.arrived(part);
}

TEST_CASE("a slice is digested while its parts arrive, wherever they are cut") {
  const UniformKvLayout layout{3, 3, 20, DType::f32, KvOrder::nhd};
  const auto chunk = sample::make(9, layout, 511);
  const ChunkGeometry& geometry = chunk.geometry();
  const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity).value();
  std::mt19937_64 random(3);
  for (std::uint32_t begin = 0; begin < 3; ++begin) {
    for (std::uint32_t end = begin + 1; end <= 3; ++end) {
      const ByteRange range = geometry.read_range({begin, end});
      Exact slice(chunk.bytes().subspan(range.begin, range.size()));
      for (int round = 0; round < 30; ++round) {
        std::vector<std::size_t> cuts(random() % 40);
        for (auto& cut : cuts) cut = random() % slice.size;
        SliceDigests digests(geometry, {begin, end}, slice.bytes());
        tell(digests, slice.bytes(), cuts, random);
        REQUIRE(digests.complete());
        REQUIRE(verify_slice(tables, chunk.identity, {begin, end}, slice.bytes(), digests));
        // One byte that is damaged when it is told of.
        const std::size_t at = random() % slice.size;
        slice.data[at] ^= std::byte{1};
        SliceDigests damaged(geometry, {begin, end}, slice.bytes());
        tell(damaged, slice.bytes(), cuts, random);
        const std::uint64_t in_object = range.begin + at;
        const bool head = in_object < geometry.head_bytes();  // parse_chunk() looks at that
        REQUIRE(verify_slice(tables, chunk.identity, {begin, end}, slice.bytes(), damaged)
                    .has_value() == head);
        slice.data[at] ^= std::byte{1};
      }
    }
  }
}

TEST_CASE("what nobody has told of is digested at the end") {
  const auto chunk = sample::make(10);
  const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity).value();
  const Exact whole(chunk.bytes());
  for (const std::size_t told : {std::size_t{0}, whole.size / 2, whole.size - 4196}) {
    SliceDigests digests(chunk.geometry(), {0, 4}, whole.bytes());
    digests.arrived(whole.bytes().first(told));
    CHECK_FALSE(digests.complete());
    CHECK(verify_slice(tables, chunk.identity, {0, 4}, whole.bytes(), digests));
    whole.data[whole.size - 4097] ^= std::byte{1};
    CHECK_FALSE(verify_slice(tables, chunk.identity, {0, 4}, whole.bytes(), digests));
    whole.data[whole.size - 4097] ^= std::byte{1};
  }
}

}  // namespace
