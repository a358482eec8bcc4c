// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/tenant_keys.hpp"

#include <array>
#include <set>
#include <string>

#include "cake/result.hpp"
#include "catch.hpp"
#include "sample.hpp"

namespace {

using namespace cake;

std::string refusal(ConstBytes key) {
  try {
    const TenantKeys keys(key);
    return {};
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::invalid_argument);
    return e.what();
  }
}

TEST_CASE("a key of another length, or of zeros, is refused, and the text does not hold it") {
  std::array<std::byte, 40> bytes;
  bytes.fill(std::byte{'Q'});
  for (const std::size_t size : {0u, 1u, 16u, 31u, 33u, 40u}) {
    const std::string why = refusal(ConstBytes(bytes).first(size));
    CHECK(why.find(std::to_string(size) + " bytes") != std::string::npos);
    CHECK(why.find("QQ") == std::string::npos);
    CHECK(why.find("5151") == std::string::npos);
  }
  CHECK(refusal(ConstBytes(bytes).first(32)).empty());
  bytes.fill(std::byte{0});
  CHECK_FALSE(refusal(ConstBytes(bytes).first(32)).empty());
}

TEST_CASE("a key's ID follows from it, and is not a part of it") {
  std::array<std::byte, 32> secret;
  sample::fill(secret, 1);
  const TenantKeys one(secret), same(secret);
  CHECK(one.current() == same.current());
  const auto id = one.current();
  CHECK(std::search(secret.begin(), secret.end(), id.begin(), id.begin() + 4) == secret.end());
  secret[31] ^= std::byte{1};
  CHECK(TenantKeys(secret).current() != one.current());
  CHECK(one.has(one.current()));
  CHECK_FALSE(one.has(TenantKeys(secret).current()));
  CHECK(sample::keys_of({2, 1})->has(sample::keys_of({1})->current()));
  CHECK(sample::keys_of({2, 1})->current() == sample::keys_of({2})->current());
}

TEST_CASE(
    "names of objects that could not be decrypted are remembered until they are written anew") {
  const auto keys = sample::keys_of({1});
  ChunkKey name;
  CHECK_FALSE(keys->unreadable(name));
  keys->note_unreadable(name);
  CHECK(keys->unreadable(name));
  keys->note_written(name);
  CHECK_FALSE(keys->unreadable(name));
  std::uint32_t kept = 0;
  for (std::uint32_t i = 0; i < 20000; ++i) {
    std::memcpy(name.bytes.data(), &i, sizeof i);
    keys->note_unreadable(name);
    REQUIRE(keys->unreadable(name));
  }
  for (std::uint32_t i = 0; i < 20000; ++i) {
    std::memcpy(name.bytes.data(), &i, sizeof i);
    kept += keys->unreadable(name);
  }
  CHECK(kept == 4096);
}

}  // namespace
