// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A bucket of SeaweedFS: a store that somebody else wrote.
#include "s3_weed.hpp"

#include "cake/storage/s3.hpp"
#include "cake/testing/check_storage.hpp"
#include "contract.hpp"

using namespace cake;
using namespace cake_s3_test;
using sample::content;
using sample::equal;
using sample::fetch;
using sample::key_of;
using sample::look;

TEST_CASE(
    "a bucket of SeaweedFS keeps the contract of a store, and is found again by another one") {
  const char* const program = weed_program();
  if (program == nullptr) return;
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  Weed weed(program);
  S3Options options = weed.options();
  options.part_bytes = options.multipart_above = 5 * kMiB;
  S3Storage store(options);
  REQUIRE(store.check_access());
  CHECK(testing::check(store) == testing::Failures{});
  sample::check_contract(store);
  sample::check_concurrent(store, 60);
  CHECK(store.stats().conditional_writes);

  // In parts, with a prefix or without, and with a key of the secret that is wrong.
  const auto object = content(1, 16 * kMiB);
  CHECK(store.write_new(key_of(1), object.bytes()).value());
  CHECK_FALSE(store.write_new(key_of(1), object.bytes()).value());
  S3Storage again(weed.options());
  CHECK(look(again, key_of(1)).size == 16 * kMiB);
  CHECK(equal(fetch(again, key_of(1), 16 * kMiB).bytes(), object.bytes()));
  options.prefix = "other";
  S3Storage other(options);
  CHECK_FALSE(look(other, key_of(1)).stored());
  options.credentials.secret_key = "wrong";
  S3Storage stranger(options);
  const auto refused = stranger.lookup(std::vector{key_of(1)});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().native == 403);
  CHECK(refused.error().context.find("wrong") == std::string::npos);
  REQUIRE(store.erase(key_of(1)));
  CHECK_FALSE(look(again, key_of(1)).stored());
}
