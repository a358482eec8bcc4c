// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/memory.hpp"

#include "contract.hpp"

namespace {

using namespace cake;

TEST_CASE("memory keeps the contract of a store") {
  MemoryStorage store;
  sample::check_contract(store);
  CHECK(store.size() == 0);
}

TEST_CASE("memory serves whole objects to many threads at once") {
  MemoryStorage store;
  sample::check_concurrent(store, 3000);
}

TEST_CASE("tests can look at and replace objects in memory") {
  MemoryStorage store;
  const auto bytes = sample::content(1, 8192);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  REQUIRE(store.write(sample::key_of(2), bytes.bytes().first(4096)));
  CHECK(store.size() == 2);
  CHECK(store.bytes() == 8192 + 4096);
  CHECK(store.keys().size() == 2);
  auto object = store.get(sample::key_of(1));
  REQUIRE(object);
  CHECK(sample::equal(*object, bytes.bytes()));
  CHECK_FALSE(store.get(sample::key_of(3)));

  (*object)[17] ^= std::byte{1};
  store.replace(sample::key_of(1), *object);
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 8192).bytes(), *object));
  store.replace(sample::key_of(1), {});
  CHECK_FALSE(sample::look(store, sample::key_of(1)).stored());
  store.clear();
  CHECK(store.size() == 0);
}

}  // namespace
