// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
// Known answers: computed with Python's hashlib and struct from the description in identity.hpp.
#include "cake/identity.hpp"

#include "catch.hpp"

using namespace cake;

namespace {
const UniformKvLayout kLayout{2, 4, 8, DType::bf16, KvOrder::nhd};
ModelFingerprint fingerprint() {
  return FingerprintBuilder().add("weights", "abc").add("tp_rank", 1).finish();
}
}  // namespace

TEST_CASE("keys have their known answers") {
  CHECK(fingerprint().hex() == "1b1b75dcfccc41f7663a366bc96052316c3f78c07182248627fba386042e515f");
  const ChunkKey root = root_key(fingerprint(), kLayout, 4, "salt");
  CHECK(root.hex() == "09f2782654d278dbe86628de057f8ff39ecb8d83b9a56e4e7268f2fd7a26b444");
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5, 6, 7, -8, 9};
  const auto keys = prefix_chain(root, tokens, 4);
  REQUIRE(keys.size() == 2);
  CHECK(keys[0].hex() == "35040d9419f0e0d48d0b7adbeaadaee676175a5e7e1a5b269299f1bdbf362b27");
  CHECK(keys[1].hex() == "d07924e232da16e28190b3312c1abbeb966cd840ae15adac54842949ca5589db");
  CHECK(ChunkKey{Sha256().update("").finish()}.hex() ==
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_CASE("the tenant tag has its known answer") {
  ChunkKey padded;
  const auto tag = tenant_tag("salt");
  std::copy(tag.begin(), tag.end(), padded.bytes.begin());
  CHECK(padded.hex().substr(0, 32) == "23a812ca0f849ddd5232dc6c425b884c");
}

TEST_CASE("two tenants, models, layouts or chunk sizes share nothing") {
  const ChunkKey root = root_key(fingerprint(), kLayout, 4, "salt");
  CHECK(root != root_key(fingerprint(), kLayout, 4, "other"));
  CHECK(root != root_key(fingerprint(), kLayout, 4, ""));
  CHECK(root != root_key(fingerprint(), kLayout, 8, "salt"));
  UniformKvLayout hnd = kLayout;
  hnd.order = KvOrder::hnd;
  CHECK(root != root_key(fingerprint(), hnd, 4, "salt"));
  CHECK(root != root_key(FingerprintBuilder().add("weights", "abd").finish(), kLayout, 4, "salt"));
}

TEST_CASE("a key depends on every token before it, and on none behind") {
  const ChunkKey root = root_key(fingerprint(), kLayout, 4, "");
  std::vector<TokenId> tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto keys = prefix_chain(root, tokens, 4);
  tokens[7] = 0;
  const auto later = prefix_chain(root, tokens, 4);
  CHECK(later[0] == keys[0]);
  CHECK(later[1] != keys[1]);
  tokens = {0, 2, 3, 4, 5, 6, 7, 8};
  CHECK(prefix_chain(root, tokens, 4)[1] != keys[1]);
  CHECK(prefix_chain(root, Tokens(tokens).first(3), 4).empty());
}

TEST_CASE("tags and lengths keep fields apart") {
  const auto of = [](auto... fields) {
    FingerprintBuilder builder;
    (builder.add(fields.first, fields.second), ...);
    return builder.finish();
  };
  using Field = std::pair<std::string_view, std::string_view>;
  CHECK(of(Field{"a", "bc"}) != of(Field{"ab", "c"}));
  CHECK(of(Field{"a", "b"}, Field{"c", "d"}) != of(Field{"a", "bcd"}));
  CHECK(of(Field{"a", ""}, Field{"b", "c"}) != of(Field{"a", "c"}, Field{"b", ""}));
  CHECK(of(Field{"a", "b"}, Field{"c", "d"}) != of(Field{"c", "d"}, Field{"a", "b"}));
}

TEST_CASE("no chunk size of zero") {
  CHECK_THROWS_AS(prefix_chain(ChunkKey{}, Tokens{}, 0), Exception);
}
