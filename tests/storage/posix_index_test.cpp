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
