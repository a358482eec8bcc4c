// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a bucket holds.
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cake/storage/listing.hpp"
#include "catch.hpp"
#include "listing_helpers.hpp"
#include "s3_helpers.hpp"
#include "s3_weed.hpp"
#include "src/storage/s3/names.hpp"

using namespace cake;
using namespace cake_s3_test;
using sample::content;
using sample::key_of;

TEST_CASE("a listing names every object of a bucket, part by part, with signatures that hold") {
  ServerOptions of;
  of.most_names = 7;
  Server server(of);
  S3Storage store(options_for(server, of));
  std::map<ChunkKey, std::uint64_t> expected;
  for (std::uint64_t i = 0; i < 20; ++i) {
    const std::size_t size = 4096 * (1 + i % 3);
    server.put(name_of(key_of(i)), text_of(content(i, size).bytes()));
    expected[key_of(i)] = size;
  }
  server.put("kv/v2/ab/notes.txt", "text");
  server.put("kv/v20/ab/x", "another prefix");
  const auto all = sample::all_of(store);
  CHECK(all.objects.size() == 20);
  CHECK(all.sizes() == expected);
  CHECK(all.others == 1);
  CHECK(all.objects[0].used == 1767323045);
  CHECK(all.parts >= 3);
  CHECK(server.bad_signatures().empty());
  CHECK(store.list("ab:").error().code == Errc::invalid_argument);
  const auto from_80 = store.list("80");
  REQUIRE(from_80);
  CHECK_FALSE(from_80->objects.empty());
  for (const ListedObject& object : from_80->objects) CHECK(object.key.hex() >= "80");
}

TEST_CASE("an answer to LIST that is cut short or no list is an error that names the bucket") {
  Server server;
  server.put(name_of(key_of(1)), text_of(content(1, 4096).bytes()));
  S3Options options = options_for(server);
  options.attempts = 1;
  S3Storage store(options);
  for (const char* const body :
       {"", "<html>", "<ListBucketResult><Contents>",
        "<ListBucketResult><Contents></ListBucketResult>",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"}) {
    server.misbehave([&](const Asked&, Answer& answer) { answer.body = body; });
    const auto listing = store.list();
    REQUIRE_FALSE(listing);
    CHECK(listing.error().code == Errc::io);
    CHECK(listing.error().context.find(store.url()) != std::string::npos);
  }
}

TEST_CASE(
    "a server that always has more of the same names, or none in order, ends a listing with an "
    "error") {
  Server server;
  S3Options options = options_for(server);
  options.attempts = 1;
  S3Storage store(options);
  const auto answer = [&](std::initializer_list<ChunkKey> keys) {
    std::string body = "<ListBucketResult>";
    for (const ChunkKey& key : keys) {
      body += "<Contents><Key>" + name_of(key) + "</Key><Size>4096</Size></Contents>";
    }
    body += "<IsTruncated>true</IsTruncated></ListBucketResult>";
    server.misbehave([body](const Asked&, Answer& made) { made.body = body; });
  };
  ChunkKey low = key_of(1);
  ChunkKey high = key_of(2);
  if (high.hex() < low.hex()) std::swap(low, high);
  answer({low, high});
  const auto first = store.list();
  REQUIRE(first);
  REQUIRE(first->next == high.hex());
  for (const std::string& from : {first->next, low.hex(), std::string("ff")}) {
    const auto again = store.list(from);
    REQUIRE_FALSE(again);
    CHECK(again.error().code == Errc::io);
    CHECK(again.error().context.find(store.url()) != std::string::npos);
  }
  answer({high, low});
  CHECK(store.list().error().code == Errc::io);
}

TEST_CASE("times of a bucket are read, and what is none is not") {
  using detail::s3_time;
  CHECK(s3_time("1970-01-01T00:00:00.000Z") == 0);
  CHECK(s3_time("2009-10-12T17:50:30.000Z") == 1255369830);
  for (const char* const text : {"", "2009-10-12", "2009-13-12T17:50:30Z", "2009-10-12 17:50:30Z",
                                 "2009-10-12T25:50:30Z", "aaaa-bb-ccTdd:ee:ffZ"}) {
    CHECK_FALSE(s3_time(text));
  }
}

TEST_CASE("SeaweedFS lists what is stored") {
  const char* const program = weed_program();
  if (program == nullptr) return;
  const Weed weed(program);
  S3Storage store(weed.options());
  std::map<ChunkKey, std::uint64_t> expected;
  for (std::uint64_t i = 0; i < 12; ++i) {
    const auto object = content(i, 8192);
    REQUIRE(store.write(key_of(i), object.bytes()));
    expected[key_of(i)] = 8192;
  }
  CHECK(sample::all_of(store).sizes() == expected);
  const std::string middle = expected.rbegin()->first.hex();
  CHECK(store.list(middle)->objects.empty());
  CHECK(store.list(expected.begin()->first.hex())->objects.size() == 11);
}
