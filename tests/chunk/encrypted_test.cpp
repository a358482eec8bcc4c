// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Encrypted objects: what is in them gives itself away to nobody without the key, and nobody without it
// makes or changes one that is taken.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "catch.hpp"
#include "reseal.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

constexpr KvPlane kRows{2, 24, KvOrder::hnd, DType::bf16};
constexpr KvPlane kState{4, 5000, KvOrder::nhd, DType::f32};

/// state, window 20, all, window 64, all, shared, window 20
KvLayout mixed() {
  return {7,
          {{{kRows, kRows}}, {{kRows}, 20}, {{kRows}, 64}, {{kState}, 0, true}, {}},
          {3, 1, 0, 2, 0, 4, 1}};
}

sample::Chunk make(std::uint64_t seed, const KvLayout& layout = sample::kSmall,
                   std::uint32_t tokens = 16, std::shared_ptr<const TenantKeys> keys = nullptr) {
  if (keys == nullptr) keys = sample::keys_of({1});
  return sample::make_of(seed, layout, tokens, 0, "tenant", "model", std::move(keys));
}

/// An extent of more than one block in each plane.
sample::Chunk make_long(std::uint64_t seed) {
  return make(seed, UniformKvLayout{2, 4, 64, DType::f32}, 256);
}

template <class T>
Errc code_of(const Result<T>& result) {
  return result ? Errc::ok : result.error().code;
}

Errc check(ConstBytes object, const ChunkIdentity& expected) {
  return sample::check(object, expected).code();
}

/// As an attacker who knows the format and no key: all that anybody can compute is right.
void reseal(std::vector<std::byte>& object, const ChunkGeometry& geometry) {
  sample::reseal_head(std::span(object).first(geometry.head_bytes()));
  sample::reseal_footer(object);
}
/// The digest of one block as it lies there.
void redigest(std::vector<std::byte>& object, const ChunkGeometry& geometry, std::uint32_t extent,
              std::uint32_t block) {
  const KvRuns& runs = geometry.runs();
  const std::uint64_t at =
      geometry.head_bytes() + runs[extent].begin + std::uint64_t{block} * kDigestBlock;
  const std::uint64_t end = geometry.head_bytes() + runs.end(extent);
  const std::uint32_t digest =
      crc32c(ConstBytes(object).subspan(at, std::min<std::uint64_t>(kDigestBlock, end - at)));
  std::memcpy(object.data() + geometry.digests_offset() +
                  4 * std::uint64_t{geometry.first_digest(extent) + block},
              &digest, sizeof digest);
}

TEST_CASE("an encrypted object gives its KV back in slices of any layers, in place and elsewhere") {
  const KvLayout latent{3, {{{{1, 72, KvOrder::nhd, DType::bf16}}}}};
  for (const auto& [layout, tokens] : {std::pair<KvLayout, std::uint32_t>{sample::kSmall, 16},
                                       {latent, 100},
                                       {mixed(), 16},
                                       {UniformKvLayout{3, 3, 20, DType::f32}, 511}}) {
    const auto chunk = make(tokens, layout, tokens);
    const ChunkGeometry& geometry = chunk.geometry();
    const auto tables = parse_chunk(chunk.head(), chunk.object.size(), chunk.identity);
    REQUIRE(tables);
    for (std::uint32_t begin = 0; begin < layout.n_layers; ++begin) {
      for (std::uint32_t end = begin + 1; end <= layout.n_layers; ++end) {
        const LayerRange layers{begin, end};
        const ByteRange range = geometry.read_range(layers);
        std::vector<std::byte> bytes(
            chunk.object.begin() + static_cast<std::ptrdiff_t>(range.begin),
            chunk.object.begin() + static_cast<std::ptrdiff_t>(range.end));
        std::vector<std::byte> apart(geometry.payload_bytes(layers));
        const auto there = open_slice(*tables, chunk.identity, layers, bytes, apart);
        const auto here = open_slice(
            *tables, chunk.identity, layers, bytes,
            std::span(bytes).subspan(geometry.payload_in(layers), geometry.payload_bytes(layers)));
        REQUIRE(there);
        REQUIRE(here);
        for (std::uint32_t position = begin; position < end; ++position) {
          const std::uint32_t layer = geometry.runs().layer_at(position);
          for (std::uint32_t i = 0; i < layout.kind(layer).planes.size(); ++i) {
            std::vector<std::byte> run(geometry.runs()[geometry.runs().first(layer) + i].bytes);
            sample::fill(run, tokens * 1000 + 2 * layer + i);
            for (const auto& view : {there, here}) {
              const ConstBytes plane = view->plane(layer, i);
              REQUIRE(std::equal(plane.begin(), plane.end(), run.begin(), run.end()));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("nothing of KV and no token ids stand in an encrypted object") {
  const auto chunk = make_long(3);
  const auto plain = sample::make_of(3, chunk.geometry().layout(), 256);
  const auto holds = [&](ConstBytes what) {
    return std::search(chunk.object.begin(), chunk.object.end(), what.begin(), what.end()) !=
           chunk.object.end();
  };
  CHECK(
      holds(std::as_bytes(std::span(chunk.identity.key.bytes))));  // the search finds what is there
  const auto tokens = std::as_bytes(std::span(chunk.tokens));
  for (std::size_t i = 0; i < chunk.tokens.size(); i += 2) {
    REQUIRE_FALSE(holds(tokens.subspan(4 * i, 8)));
  }
  for (std::uint64_t at = plain.geometry().head_bytes(); at < plain.geometry().payload_end();
       at += 512) {
    REQUIRE_FALSE(holds(plain.bytes().subspan(at, 16)));
  }
}

TEST_CASE("a flipped bit of header, tables or footer of an encrypted object is a miss") {
  auto chunk = make(4);
  const std::uint64_t payload = chunk.geometry().head_bytes();
  std::size_t missed = 0;
  for (std::uint64_t at = 0; at < chunk.object.size();
       at = at + 1 == payload ? chunk.geometry().payload_end() : at + 1) {
    for (const int bit : {0, 3, 7}) {
      chunk.object[at] ^= static_cast<std::byte>(1 << bit);
      missed += check(chunk.object, chunk.identity) != Errc::corrupt;
      chunk.object[at] ^= static_cast<std::byte>(1 << bit);
    }
  }
  CHECK(missed == 0);
}

TEST_CASE("header and tables that were changed and digested anew are refused") {
  const auto chunk = make(5, mixed());
  std::size_t taken = 0;
  for (std::uint64_t at = 0; at < chunk.geometry().head_bytes(); ++at) {
    const bool crc = (at >= 240 && at < 244) || (at >= 4092 && at < 4096);  // made right again
    if (crc) continue;
    auto object = chunk.object;
    object[at] ^= static_cast<std::byte>(1 + at % 255);
    reseal(object, chunk.geometry());
    taken += check(object, chunk.identity) == Errc::ok;
  }
  CHECK(taken == 0);
}

TEST_CASE("a flipped byte of an encrypted block is a miss, whatever its digest says") {
  auto chunk = make_long(6);
  const ChunkGeometry geometry = chunk.geometry();
  std::mt19937_64 random(8);
  for (int i = 0; i < 60; ++i) {
    const auto extent = static_cast<std::uint32_t>(random() % geometry.n_extents());
    const std::uint64_t size = geometry.runs().end(extent) - geometry.runs()[extent].begin;
    const std::uint64_t offset = random() % size;
    auto object = chunk.object;
    object[geometry.head_bytes() + geometry.runs()[extent].begin + offset] ^= std::byte{4};
    REQUIRE(check(object, chunk.identity) == Errc::corrupt);
    redigest(object, geometry, extent, static_cast<std::uint32_t>(offset / kDigestBlock));
    reseal(object, geometry);
    REQUIRE(verify_object(object, chunk.identity.key));  // nobody without the key can see it
    REQUIRE(check(object, chunk.identity) == Errc::corrupt);
  }
}

TEST_CASE("blocks of one tenant that were swapped, within an object or between two, are refused") {
  const auto chunk = make_long(7);
  const auto other = make_long(8);
  const ChunkGeometry& geometry = chunk.geometry();
  REQUIRE(geometry.first_digest(1) > 1);
  const std::uint64_t payload = geometry.head_bytes();
  const auto tag = [&](std::uint32_t block) {
    return geometry.tags_offset() + ChunkGeometry::kTagBytes * block;
  };
  for (const bool with_tags : {false, true}) {
    auto object = chunk.object;
    std::swap_ranges(object.data() + payload, object.data() + payload + kDigestBlock,
                     object.data() + payload + kDigestBlock);
    if (with_tags) {
      std::swap_ranges(object.data() + tag(0), object.data() + tag(1), object.data() + tag(1));
    }
    redigest(object, geometry, 0, 0);
    redigest(object, geometry, 0, 1);
    reseal(object, geometry);
    REQUIRE(verify_object(object, chunk.identity.key));
    CHECK(check(object, chunk.identity) == Errc::corrupt);

    object = chunk.object;
    std::memcpy(object.data() + payload, other.object.data() + payload, kDigestBlock);
    if (with_tags) std::memcpy(object.data() + tag(0), other.object.data() + tag(0), 16);
    redigest(object, geometry, 0, 0);
    reseal(object, geometry);
    REQUIRE(verify_object(object, chunk.identity.key));
    CHECK(check(object, chunk.identity) == Errc::corrupt);
  }
}

TEST_CASE("a whole encrypted object under another name, position or model is refused") {
  const auto chunk = make(9);
  const auto other = make(10);
  CHECK(check(other.object, chunk.identity) == Errc::mismatch);
  // Its header says now what is expected, as far as anybody can see.
  auto object = other.object;
  std::memcpy(object.data() + 64, chunk.object.data() + 64, 32 + 32);
  reseal(object, chunk.geometry());
  std::memcpy(object.data() + object.size() - 4096 + 8, chunk.object.data() + 64, 32);
  sample::reseal_footer(object);
  REQUIRE(verify_object(object, chunk.identity.key));
  CHECK(check(object, chunk.identity) == Errc::corrupt);
}

TEST_CASE("an encrypted object that is cut short, or has grown, is a miss") {
  const auto chunk = make(11, mixed());
  for (std::size_t size = 0; size < chunk.object.size(); size += 4096) {
    REQUIRE(code_of(parse_chunk(chunk.bytes().first(size), size, chunk.identity)) != Errc::ok);
  }
  auto grown = chunk.object;
  grown.resize(grown.size() + 4096);
  CHECK(check(grown, chunk.identity) == Errc::corrupt);
}

TEST_CASE("an object of a key that the tenant has not is a miss, and is remembered") {
  const auto mine = make(12, sample::kSmall, 16, sample::keys_of({1}));
  ChunkIdentity other = mine.identity;
  other.keys = sample::keys_of({2, 3});
  REQUIRE_FALSE(other.keys->unreadable(mine.identity.key));
  CHECK(check(mine.object, other) == Errc::not_found);
  CHECK(other.keys->unreadable(mine.identity.key));
  CHECK_FALSE(mine.identity.keys->unreadable(mine.identity.key));
  // Not even where the header names a key that it has.
  const auto theirs = make(12, sample::kSmall, 16, sample::keys_of({2}));
  auto object = mine.object;
  std::memcpy(object.data() + 248, theirs.object.data() + 248, 16);
  reseal(object, mine.geometry());
  CHECK(check(object, other) == Errc::corrupt);
}

TEST_CASE(
    "after a rotation old objects are read, new ones are of the new key, and the old key can go") {
  const auto before = make(13, sample::kSmall, 16, sample::keys_of({1}));
  const auto after = make(13, sample::kSmall, 16, sample::keys_of({2, 1}));
  CHECK(check(before.object, after.identity) == Errc::ok);
  CHECK(check(after.object, after.identity) == Errc::ok);
  CHECK(check(after.object, before.identity) == Errc::not_found);
  CHECK(peek_chunk(before.object)->key_id == before.identity.keys->current());
  CHECK(peek_chunk(after.object)->key_id == after.identity.keys->current());
  CHECK(peek_chunk(after.object)->cipher == Cipher::aes_256_gcm);
  ChunkIdentity last = after.identity;
  last.keys = sample::keys_of({2});
  CHECK(check(before.object, last) == Errc::not_found);
  CHECK(check(after.object, last) == Errc::ok);
}

TEST_CASE("plain and encrypted objects are not taken for each other") {
  const auto sealed = make(14);
  const auto plain = sample::make(14);
  CHECK(sealed.identity.key != plain.identity.key);
  CHECK(check(plain.object, sealed.identity) == Errc::mismatch);
  CHECK(check(sealed.object, plain.identity) == Errc::mismatch);
  // Under the other one's name, with CRCs that are right: what anybody can write.
  const auto renamed = [](const sample::Chunk& from, const sample::Chunk& to) {
    auto object = from.object;
    std::memcpy(object.data() + 64, to.object.data() + 64, 32 + 32);
    std::memcpy(object.data() + object.size() - 4096 + 8, to.object.data() + 64, 32);
    reseal(object, from.geometry());
    return object;
  };
  const auto forged = renamed(plain, sealed);
  REQUIRE(verify_object(forged, sealed.identity.key));
  CHECK(check(forged, sealed.identity) == Errc::mismatch);
  CHECK(check(renamed(sealed, plain), plain.identity) == Errc::unsupported);
  // With the bit of encryption cleared or set, which alone makes no object of the other kind.
  auto bit = sealed.object;
  bit[16] = std::byte{0};
  reseal(bit, sealed.geometry());
  CHECK(check(bit, sealed.identity) == Errc::corrupt);
  ChunkIdentity keyless = sealed.identity;
  keyless.keys = nullptr;
  CHECK(check(sealed.object, keyless) == Errc::invalid_argument);
}

TEST_CASE("two tenants with one prompt share no object, and cannot read each other's") {
  const auto one = sample::make_of(15, sample::kSmall, 16, 0, "one", "model", sample::keys_of({1}));
  const auto two = sample::make_of(15, sample::kSmall, 16, 0, "two", "model", sample::keys_of({2}));
  CHECK(one.identity.key != two.identity.key);
  CHECK(check(two.object, one.identity) == Errc::mismatch);
}

TEST_CASE("each writing of a chunk has a key of its own, and no block of it repeats") {
  const auto keys = sample::keys_of({1});
  const auto one = make(16, sample::kSmall, 16, keys);
  const auto two = make(16, sample::kSmall, 16, keys);
  CHECK(std::memcmp(one.object.data() + 264, two.object.data() + 264, 32) != 0);
  for (std::uint64_t at = one.geometry().head_bytes(); at < one.geometry().payload_end();
       at += 512) {
    REQUIRE(std::memcmp(one.object.data() + at, two.object.data() + at, 16) != 0);
  }
  CHECK(check(one.object, one.identity) == Errc::ok);
  CHECK(check(two.object, one.identity) == Errc::ok);
}

TEST_CASE("the head of one writing and the blocks of another never make KV") {
  const auto keys = sample::keys_of({1});
  const auto one = make(17, sample::kSmall, 16, keys);
  const auto two = make(17, sample::kSmall, 16, keys);
  const ChunkGeometry& geometry = one.geometry();
  const auto tables = parse_chunk(one.head(), one.object.size(), one.identity).value();
  const std::uint32_t n = geometry.layout().n_layers;
  for (std::uint32_t begin = 0; begin < n; ++begin) {
    for (std::uint32_t end = begin + 1; end <= n; ++end) {
      const ByteRange range = geometry.read_range({begin, end});
      std::vector<std::byte> plain(geometry.payload_bytes({begin, end}));
      const auto view = open_slice(tables, one.identity, {begin, end},
                                   two.bytes().subspan(range.begin, range.size()), plain);
      // Header and footer tell that it was written anew.
      CHECK(code_of(view) == (begin == 0 || end == n ? Errc::not_found : Errc::corrupt));
    }
  }
}

TEST_CASE("an encrypted object that holds the first layers only gives these, and no others") {
  const auto whole = make(18, mixed());
  const ChunkGeometry& geometry = whole.geometry();
  for (const std::uint32_t held : {3u, 4u, 6u}) {
    ChunkWriter writer(geometry);
    for (std::uint32_t l = 0; l < 7; ++l) {
      for (std::uint32_t i = 0; i < mixed().kind(l).planes.size(); ++i) {
        sample::fill(writer.payload().plane(l, i), 18000 + 2 * l + i);
      }
    }
    const auto made = writer.finish(whole.identity, held).value();
    const std::vector<std::byte> object(made.begin(), made.end());
    CHECK(object.size() == geometry.object_bytes(held));
    REQUIRE(verify_object(object, whole.identity.key));
    const auto tables = parse_chunk(object, object.size(), whole.identity);
    REQUIRE(tables);
    CHECK(tables->held() == held);
    const ByteRange range = geometry.read_range({0, held});
    std::vector<std::byte> plain(geometry.payload_bytes({0, 7}));
    const auto view = open_slice(*tables, whole.identity, {0, held},
                                 ConstBytes(object).first(range.size()), plain);
    REQUIRE(view);
    std::vector<std::byte> run(geometry.runs()[geometry.runs().first(4)].bytes);
    sample::fill(run, 18000 + 8);
    CHECK(std::equal(run.begin(), run.end(), view->plane(4, 0).begin()));
    CHECK(code_of(open_slice(*tables, whole.identity, {0, held + 1},
                             whole.bytes().first(geometry.read_range({0, held + 1}).size()),
                             plain)) == Errc::invalid_argument);
  }
}

TEST_CASE("a writer does not encrypt a payload twice, nor without keys") {
  const auto keys = sample::keys_of({1});
  auto chunk = make(19, sample::kSmall, 16, keys);
  ChunkWriter writer(chunk.geometry());
  ChunkIdentity keyless = chunk.identity;
  keyless.keys = nullptr;
  (void)writer.payload();
  CHECK(code_of(writer.finish(keyless)) == Errc::invalid_argument);
  CHECK(code_of(writer.finish(chunk.identity)) == Errc::ok);
  CHECK(code_of(writer.finish(chunk.identity)) == Errc::invalid_argument);
  (void)writer.payload();
  CHECK(code_of(writer.finish(chunk.identity)) == Errc::ok);
  ChunkWriter plain(sample::kSmall, 16);
  CHECK(code_of(plain.finish(chunk.identity)) == Errc::invalid_argument);
}

TEST_CASE("KV of an encrypted object is not handed out without being decrypted, nor the reverse") {
  const auto sealed = make(20);
  const auto tables = parse_chunk(sealed.head(), sealed.object.size(), sealed.identity).value();
  CHECK(code_of(verify_slice(tables, sealed.identity, {0, 4}, sealed.object)) ==
        Errc::invalid_argument);
  const std::uint32_t seal = verify_object(sealed.object, sealed.identity.key).value();
  CHECK(code_of(verify_slice(tables, sealed.identity, {0, 4}, sealed.object, seal)) ==
        Errc::invalid_argument);
  SliceDigests arrived(sealed.geometry(), {0, 4}, sealed.object);
  arrived.arrived(sealed.object);
  CHECK(code_of(verify_slice(tables, sealed.identity, {0, 4}, sealed.object, arrived)) ==
        Errc::invalid_argument);
  std::vector<std::byte> out(sealed.geometry().payload_bytes({0, 4}));
  CHECK(code_of(open_slice(tables, sealed.identity, {0, 4}, sealed.object,
                           std::span(out).first(out.size() - 1))) == Errc::invalid_argument);
  const auto plain = sample::make(20);
  const auto known = parse_chunk(plain.head(), plain.object.size(), plain.identity).value();
  CHECK(code_of(open_slice(known, plain.identity, {0, 4}, plain.object, out)) ==
        Errc::invalid_argument);
}

TEST_CASE("who has no key still finds accidents in an encrypted object") {
  auto chunk = make_long(21);
  REQUIRE(verify_object(chunk.object, chunk.identity.key));
  std::mt19937_64 random(9);
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t at = random() % chunk.object.size();
    chunk.object[at] ^= std::byte{16};
    REQUIRE(code_of(verify_object(chunk.object, chunk.identity.key)) == Errc::corrupt);
    chunk.object[at] ^= std::byte{16};
  }
}

}  // namespace
