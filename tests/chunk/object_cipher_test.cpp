// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Derivation of keys and nonces, against published vectors and against repetition.
#include "src/chunk/object_cipher.hpp"

#include <array>
#include <set>
#include <vector>

#include "catch.hpp"
#include "chunk/sample.hpp"

namespace {

using namespace cake;

std::vector<std::byte> from_hex(std::string_view text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

template <class A, class B>
bool equal(const A& a, const B& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

TEST_CASE("HKDF-SHA256 gives what RFC 5869 says") {
  // Its test cases 1 and 3.
  std::vector<std::byte> out(42);
  detail::hkdf_sha256(from_hex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"),
                      from_hex("000102030405060708090a0b0c"), from_hex("f0f1f2f3f4f5f6f7f8f9"),
                      out);
  CHECK(equal(out, from_hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
                            "34007208d5b887185865")));
  detail::hkdf_sha256(from_hex("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"), {}, {}, out);
  CHECK(equal(out, from_hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
                            "9d201395faa4b61a96c8")));
}

TEST_CASE("no nonce of an object repeats") {
  std::set<detail::Nonce> seen{detail::nonce_of_head()};
  for (std::uint64_t block = 0; block < 70000; ++block) {
    REQUIRE(seen.insert(detail::nonce_of_block(block)).second);
  }
  for (const std::uint64_t block :
       {std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 1, ~std::uint64_t{0}}) {
    REQUIRE(seen.insert(detail::nonce_of_block(block)).second);
  }
}

TEST_CASE("another tenant's key, random value or name gives another key of the object") {
  const auto keys = sample::keys_of({1, 2});
  const auto id = [](std::uint8_t number) { return sample::keys_of({number})->current(); };
  std::set<std::vector<std::byte>> seen;
  const auto fresh = [&](const TenantKeyId& of, const Sha256Digest& random, const ChunkKey& name) {
    const auto key = detail::ObjectKey::derive(*keys, of, random, name);
    REQUIRE(key.has_value());
    return seen.insert({key->bytes().begin(), key->bytes().end()}).second;
  };
  Sha256Digest random{};
  ChunkKey name;
  CHECK(fresh(id(1), random, name));
  CHECK_FALSE(fresh(id(1), random, name));
  CHECK(fresh(id(2), random, name));
  random[31] = std::byte{1};
  CHECK(fresh(id(1), random, name));
  name.bytes[0] = std::byte{1};
  CHECK(fresh(id(1), random, name));
  CHECK_FALSE(detail::ObjectKey::derive(*keys, id(3), random, name).has_value());
}

TEST_CASE("random values do not repeat") {
  std::set<Sha256Digest> seen;
  for (int i = 0; i < 1000; ++i) REQUIRE(seen.insert(detail::random_value()).second);
}

TEST_CASE("what was encrypted is decrypted with the same key, nonce and associated data alone") {
  const auto key =
      detail::ObjectKey::derive(*sample::keys_of({1}), sample::keys_of({1})->current(), {}, {});
  std::vector<std::byte> bytes(1000), sealed(1000), opened(1000);
  sample::fill(bytes, 5);
  const auto nonce = detail::nonce_of_block(3);
  const std::array more{ConstBytes(bytes).first(10)};
  detail::Gcm encrypt(*key, detail::Gcm::Does::encrypt);
  const auto tag = encrypt.encrypt(nonce, more, bytes, sealed.data());
  detail::Gcm decrypt(*key, detail::Gcm::Does::decrypt);
  CHECK(decrypt.decrypt(nonce, more, sealed, opened.data(), tag));
  CHECK(opened == bytes);
  CHECK_FALSE(decrypt.decrypt(detail::nonce_of_block(4), more, sealed, opened.data(), tag));
  CHECK_FALSE(decrypt.decrypt(nonce, {}, sealed, opened.data(), tag));
  auto other = tag;
  other[15] ^= std::byte{1};
  CHECK_FALSE(decrypt.decrypt(nonce, more, sealed, opened.data(), other));
  CHECK(decrypt.decrypt(nonce, more, sealed, opened.data(), tag));  // after failures, too
  CHECK(opened == bytes);
}

}  // namespace
