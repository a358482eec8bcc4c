// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <map>
#include <random>

#include "catch.hpp"
#include "helpers.hpp"
#include "src/storage/posix/index.hpp"

namespace {

using namespace cake;
using detail::KnownObject;
using detail::ObjectIndex;

TEST_CASE("classes of age double, and the future counts as new") {
  CHECK(detail::age_class(1000, 1000) == 0);
  CHECK(detail::age_class(1000, 941) == 0);
  CHECK(detail::age_class(1000, 940) == 1);
  CHECK(detail::age_class(1000, 880) == 2);
  CHECK(detail::age_class(1000, 760) == 3);
  CHECK(detail::age_class(1000, 5000) == 0);
}

TEST_CASE("an index counts bytes and orders by use, whatever is put, moved and removed") {
  ObjectIndex index;
  std::map<ChunkKey, KnownObject> model;
  std::mt19937 random(1);
  for (int step = 0; step < 20000; ++step) {
    const ChunkKey key = sample::key_of(random() % 300);
    if (random() % 3 == 0) {
      const auto it = model.find(key);
      CHECK(index.remove(key) == (it == model.end() ? 0 : it->second.bytes));
      model.erase(key);
    } else {
      const KnownObject object{1 + random() % 100, static_cast<std::int64_t>(random() % 50), 0,
                               false};
      index.put(key, object);
      model[key] = object;
    }
    REQUIRE(index.size() == model.size());
    if (step % 500 != 0) continue;
    std::uint64_t bytes = 0;
    std::int64_t first = std::numeric_limits<std::int64_t>::max();
    for (const auto& [k, object] : model) {
      bytes += object.bytes;
      first = std::min(first, object.used);
    }
    REQUIRE(index.bytes() == bytes);
    const auto oldest = index.oldest(50, 10);
    REQUIRE(oldest.size() == std::min<std::size_t>(10, model.size()));
    CHECK(oldest.front().object.used == first);
    for (std::size_t i = 1; i < oldest.size(); ++i) {
      CHECK(oldest[i - 1].object.used <= oldest[i].object.used);
    }
  }
  index.clear();
  CHECK(index.bytes() == 0);
  CHECK(index.oldest(50, 10).empty());
}

TEST_CASE("only the oldest class is among the next to go") {
  ObjectIndex index;
  index.put(sample::key_of(1), {10, 0, 0, false});
  index.put(sample::key_of(2), {10, 30, 0, false});
  index.put(sample::key_of(3), {10, 3600, 0, false});
  CHECK(index.oldest(3600, 100).size() == 2);
  index.put(sample::key_of(1), {10, 3600, 0, false});
  index.put(sample::key_of(2), {10, 3600, 0, false});
  CHECK(index.oldest(3600, 100).size() == 3);
}

TEST_CASE(
    "objects count as younger or older by what they are kept for, and go with those of their age") {
  ObjectIndex index;
  const auto put = [&](std::uint64_t i, std::int64_t used, std::int8_t keep) {
    index.put(sample::key_of(i), {10, used, 0, true, false, keep});
  };
  constexpr std::int64_t now = 100'000;
  put(1, now - 60 * 20, 0);  // class 5
  put(2, now - 60 * 5, -2);  // class 3, on probation: as 5
  put(3, now - 60 * 70, 2);  // class 7, of priority 1: as 5
  put(4, now - 60 * 5, 0);   // class 3
  auto oldest = index.oldest(now, 10);
  REQUIRE(oldest.size() == 3);
  for (const auto& entry : oldest) CHECK(entry.key != sample::key_of(4));
  oldest = index.oldest(now, 2);
  REQUIRE(oldest.size() == 2);
  CHECK(oldest[0].key == sample::key_of(3));
  CHECK(oldest[1].key == sample::key_of(1));
  put(2, now - 60 * 5, 0);  // it was read
  CHECK(index.oldest(now, 10).size() == 2);
  CHECK(index.size() == 4);
  CHECK(detail::keep_of(true, 0) == 0);
  CHECK(detail::keep_of(false, 0) < 0);
  CHECK(detail::keep_of(false, 2) > detail::keep_of(false, 1));
}

TEST_CASE("an index knows what was published before a time, where that matters") {
  ObjectIndex index;
  for (std::uint64_t i = 1; i <= 5; ++i) {
    index.put(sample::key_of(i), {10, 1000, 0, true, false, 0, static_cast<std::int64_t>(100 * i)});
  }
  index.put(sample::key_of(9), {10, 1, 0, true});
  REQUIRE(index.published_by(300, 10).size() == 3);
  CHECK(index.published_by(300, 10)[0].key == sample::key_of(1));
  CHECK(index.published_by(300, 2).size() == 2);
  index.put(sample::key_of(1), {10, 1000, 0, true, false, 0, 900});
  CHECK(index.published_by(300, 10).size() == 2);
  CHECK(index.remove(sample::key_of(2)) == 10);
  CHECK(index.published_by(300, 10).size() == 1);
  index.clear();
  CHECK(index.published_by(9999, 10).empty());
  CHECK(index.size() == 0);
}

TEST_CASE("what a look does not find is forgotten, what was put meanwhile is not") {
  ObjectIndex index;
  ChunkKey gone = sample::key_of(1), found = sample::key_of(2), fresh = sample::key_of(3),
           elsewhere = sample::key_of(4);
  gone.bytes[0] = found.bytes[0] = fresh.bytes[0] = std::byte{7};
  elsewhere.bytes[0] = std::byte{8};
  for (const auto& key : {gone, found, elsewhere}) index.put(key, {10, 1, 5, true});
  index.begin_look();
  index.put(found, {10, 2, 0, false});
  index.put(fresh, {10, 3, 0, true});
  index.end_folder(7);
  CHECK(index.remove(gone) == 0);
  const auto left = index.oldest(3, 10);
  REQUIRE(left.size() == 3);
  CHECK(left[1].key == found);
  CHECK(left[1].object.position == 5);  // known before, and not looked up again
  CHECK(index.remove(elsewhere) == 10);
  CHECK(index.bytes() == 20);
}

}  // namespace
