// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/tiered.hpp"

#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage_backend.hpp"
#include "contract.hpp"
#include "tests/fault/faulty_storage.hpp"

namespace {

using namespace cake;
using Faulty = fault::FaultyStorage<MemoryStorage>;
using Slow = ThrottledStorage<MemoryStorage>;

static_assert(StorageBackend<TieredStorage<MemoryStorage>>);
static_assert(StorageBackend<TieredStorage<MemoryStorage, Slow, Faulty, Slow>>);

TEST_CASE("one store alone as a tier keeps the contract of a store") {
  MemoryStorage memory;
  TieredStorage store(memory);
  sample::check_contract(store);
  Slow slow(memory, LinkOptions{});
  TieredStorage slow_store(slow);
  sample::check_contract(slow_store);
}

TEST_CASE("lookup says in which tiers a chunk is, and reads go to the tier that is named") {
  MemoryStorage fast, large;
  Slow slow(large, LinkOptions{});
  TieredStorage store(fast, slow);
  CHECK(store.tiers() == 2);
  const auto a = sample::content(1, 4096), b = sample::content(2, 4096);
  REQUIRE(fast.write(sample::key_of(1), a.bytes()));
  REQUIRE(fast.write(sample::key_of(2), a.bytes()));
  REQUIRE(large.write(sample::key_of(2), b.bytes()));
  REQUIRE(large.write(sample::key_of(3), b.bytes()));
  CHECK(sample::look(store, sample::key_of(1)).tiers == 0b01);
  CHECK(sample::look(store, sample::key_of(2)).tiers == 0b11);
  CHECK(sample::look(store, sample::key_of(3)).tiers == 0b10);
  CHECK_FALSE(sample::look(store, sample::key_of(4)).stored());

  const auto from = [&](std::uint32_t tier, std::uint64_t key) {
    return sample::fetch(store, sample::key_of(key), 4096, 0, nullptr, tier);
  };
  CHECK(sample::equal(from(0, 2).bytes(), a.bytes()));
  CHECK(sample::equal(from(1, 2).bytes(), b.bytes()));
  CHECK(sample::read_code(store, sample::key_of(1), 4096, 0, 1) == Errc::not_found);
  CHECK(sample::read_code(store, sample::key_of(1), 4096, 0, 2) == Errc::invalid_argument);
}

TEST_CASE("writes go to the last store or to the chosen one, and erase goes everywhere") {
  MemoryStorage first, second, third;
  TieredStorage store(first, second, third);
  const auto bytes = sample::content(1, 4096);
  REQUIRE(cake::await_completion(store.write(sample::key_of(1), bytes.bytes())));
  CHECK(third.size() == 1);
  store.write_to(0);
  REQUIRE(cake::await_completion(store.write(sample::key_of(1), bytes.bytes())));
  CHECK(first.size() == 1);
  CHECK(second.size() == 0);
  CHECK(sample::look(store, sample::key_of(1)).tiers == 0b101);
  REQUIRE(store.erase(sample::key_of(1)));
  CHECK(first.size() + third.size() == 0);
  CHECK_THROWS_AS(store.write_to(3), Exception);
}

TEST_CASE("tiers of tiered stores are numbered through") {
  MemoryStorage a, b, c;
  TieredStorage inner(a, b);
  TieredStorage store(c, inner);
  CHECK(store.tiers() == 3);
  const auto bytes = sample::content(1, 4096);
  REQUIRE(b.write(sample::key_of(1), bytes.bytes()));
  CHECK(sample::look(store, sample::key_of(1)).tiers == 0b100);
  CHECK(sample::read_code(store, sample::key_of(1), 4096, 0, 2) == Errc::ok);
  CHECK(sample::read_code(store, sample::key_of(1), 4096, 0, 1) == Errc::not_found);
}

TEST_CASE("more tiers than a bit set of them is planned for are refused") {
  MemoryStorage m;
  CHECK_NOTHROW(TieredStorage(m, m, m, m, m, m, m, m));
  CHECK_THROWS_AS(TieredStorage(m, m, m, m, m, m, m, m, m), Exception);
}

TEST_CASE("a tier whose object is truncated is left out") {
  MemoryStorage fast, large;
  TieredStorage store(fast, large);
  const auto bytes = sample::content(1, 8192);
  REQUIRE(fast.write(sample::key_of(1), bytes.bytes().first(4096)));
  REQUIRE(large.write(sample::key_of(1), bytes.bytes()));
  CHECK(sample::look(store, sample::key_of(1)).size == 8192);
  CHECK(sample::look(store, sample::key_of(1)).tiers == 0b10);
  REQUIRE(fast.write(sample::key_of(2), bytes.bytes()));
  REQUIRE(large.write(sample::key_of(2), bytes.bytes().first(4096)));
  CHECK(sample::look(store, sample::key_of(2)).tiers == 0b01);
}

TEST_CASE("a store that fails holds nothing, and the others go on") {
  MemoryStorage a, b;
  Faulty first(a), second(b);
  TieredStorage store(first, second);
  const auto bytes = sample::content(1, 4096);
  REQUIRE(cake::await_completion(store.write(sample::key_of(1), bytes.bytes())));
  first.fail_lookups(Error{Errc::io, 1, "first is down"});
  CHECK(sample::look(store, sample::key_of(1)).tiers == 0b10);
  second.fail_lookups(Error{Errc::io, 2, "second is down"});
  const ChunkKey key = sample::key_of(1);
  CHECK(store.lookup(std::span(&key, 1)).error().native == 1);
}

}  // namespace
