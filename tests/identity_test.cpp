// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
// Known answers: computed with Python's hashlib and struct from the description in identity.hpp.
#include "cake/identity.hpp"

#include "catch.hpp"

using namespace cake;

namespace {
const KvLayout kLayout{2, 4, 8, DType::bf16, KvOrder::nhd};
ModelFingerprint fingerprint() {
  return FingerprintBuilder().add("weights", "abc").add("tp_rank", 1).finish();
}
}  // namespace

TEST_CASE("keys have their known answers") {
  CHECK(fingerprint().hex() == "49a3ba20f53a84b71da0c041a1d6685e22607f49fea58a717bcc4460c98997e0");
  const ChunkKey root = root_key(fingerprint(), kLayout, 4, "salt");
  CHECK(root.hex() == "12bf3b436da7040df3c0d6fbd003d80bda2dd884f3c4c6a46ea0b863329dec77");
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5, 6, 7, -8, 9};
  const auto keys = prefix_chain(root, tokens, 4);
  REQUIRE(keys.size() == 2);
  CHECK(keys[0].hex() == "038dd4da4167b7287bd85c253262b0b8070a5be043d69413452b06e301a395c7");
  CHECK(keys[1].hex() == "b317804a9b7423a6da3de63ba2e00a35e3d3376d938cf653488bc790fb12003c");
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
  KvLayout hnd = kLayout;
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
