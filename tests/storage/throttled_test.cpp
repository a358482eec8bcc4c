// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/throttled.hpp"

#include "cake/storage/memory.hpp"
#include "cake/storage_backend.hpp"
#include "contract.hpp"
#include "tests/fault/faulty_storage.hpp"

namespace {

using namespace cake;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

static_assert(StorageBackend<ThrottledStorage<MemoryStorage>>);
static_assert(StorageBackend<ThrottledStorage<ThrottledStorage<MemoryStorage>>>);

const Clock::time_point kStart{1000s};

TEST_CASE("transfers on one link follow each other, and latency is on top of each") {
  LinkSchedule link({.bytes_per_second = 1e6, .latency = 5ms});
  CHECK(link.reserve(kStart, 1000) == kStart + 1ms + 5ms);
  CHECK(link.reserve(kStart, 2000) == kStart + 3ms + 5ms);
  CHECK(link.reserve(kStart + 1ms, 1000) == kStart + 4ms + 5ms);
  // After a pause the link is free at once; latency did not keep it busy.
  CHECK(link.reserve(kStart + 10ms, 1000) == kStart + 11ms + 5ms);
  CHECK(link.reserve(kStart + 10ms, 0) == kStart + 11ms + 5ms);
}

TEST_CASE("a link without bandwidth is one of latency only") {
  LinkSchedule link({.bytes_per_second = 0, .latency = 2ms});
  CHECK(link.reserve(kStart, 1 << 30) == kStart + 2ms);
  CHECK(link.reserve(kStart, 1 << 30) == kStart + 2ms);
}

TEST_CASE("a changed link keeps what is on its way") {
  LinkSchedule link({.bytes_per_second = 1e6, .latency = 0ns});
  CHECK(link.reserve(kStart, 10000) == kStart + 10ms);
  link.set({.bytes_per_second = 1e7, .latency = 0ns});
  CHECK(link.reserve(kStart, 10000) == kStart + 11ms);
}

TEST_CASE("a link that is as good as dead does not overflow the clock") {
  LinkSchedule link({.bytes_per_second = 1e-9, .latency = std::chrono::nanoseconds::max()});
  CHECK(link.reserve(kStart, 1 << 30) == Clock::time_point::max());
  LinkSchedule slow({.bytes_per_second = 1e-9, .latency = 0ns});
  Clock::time_point before = kStart;
  for (int i = 0; i < 10; ++i) {
    const auto due = slow.reserve(kStart, 1 << 30);
    REQUIRE(due >= before);
    before = due;
  }
}

TEST_CASE("a throttled store keeps the contract of a store") {
  MemoryStorage memory;
  ThrottledStorage store(memory, LinkOptions{});
  sample::check_contract(store);
  sample::check_concurrent(store, 300);
}

TEST_CASE("a read is not ready before its time on the link is over, and then it is whole") {
  MemoryStorage memory;
  const auto bytes = sample::content(1, 16 * 4096);
  REQUIRE(memory.write(sample::key_of(1), bytes.bytes()));
  ThrottledStorage store(memory, {.bytes_per_second = 10e6, .latency = 3ms});
  const AlignedBuffer first(bytes.size()), second(bytes.size());
  const auto begin = Clock::now();
  auto a = store.read(0, sample::key_of(1), 0, first.bytes());
  auto b = store.read(0, sample::key_of(1), 0, second.bytes());
  CHECK(b.due() > a.due());  // in the order of the calls
  const auto one = std::chrono::nanoseconds(6553600);
  CHECK(a.due() - begin >= one + 3ms);
  CHECK(b.due() - begin >= 2 * one + 3ms);
  while (!a.ready()) {
    if (a.wait_for(1ms)) break;
  }
  CHECK(Clock::now() >= a.due());
  CHECK(a.wait());
  CHECK(b.wait_for(1h));
  CHECK(Clock::now() >= b.due());
  CHECK(b.ready());
  CHECK(b.wait());
  CHECK(sample::equal(first.bytes(), bytes.bytes()));
  CHECK(sample::equal(second.bytes(), bytes.bytes()));
}

TEST_CASE("a read waits for the inner read, too") {
  MemoryStorage memory;
  const auto bytes = sample::content(1, 4096);
  REQUIRE(memory.write(sample::key_of(1), bytes.bytes()));
  fault::FaultyStorage faulty(memory);
  ThrottledStorage store(faulty, LinkOptions{});
  faulty.on_read(0, {.kind = fault::Kind::hang});
  const AlignedBuffer out(4096);
  auto read = store.read(0, sample::key_of(1), 0, out.bytes());
  CHECK_FALSE(read.ready());
  CHECK_FALSE(read.wait_for(1ms));
  CHECK(faulty.release() == 1);
  CHECK(read.wait_for(std::chrono::nanoseconds::max()));
  CHECK(read.ready());
  CHECK(read.wait());
}

TEST_CASE("failures pass through a throttled store") {
  MemoryStorage memory;
  ThrottledStorage store(memory, {.bytes_per_second = 1e9, .latency = 1us});
  CHECK(sample::read_code(store, sample::key_of(9), 4096) == Errc::not_found);
  fault::FaultyStorage faulty(memory);
  ThrottledStorage failing(faulty, LinkOptions{});
  faulty.fail_lookups(Error{Errc::io, 5, "down"});
  CHECK(failing.lookup({}).error().native == 5);
}

TEST_CASE("each tier has a link of its own, and writes take one only when told to") {
  MemoryStorage memory;
  const auto bytes = sample::content(1, 4096);
  const LinkOptions links[] = {{.bytes_per_second = 4096, .latency = 0ns}};
  ThrottledStorage store(memory, links);
  auto free_write = store.write(sample::key_of(1), bytes.bytes());
  CHECK(free_write.ready());
  store.throttle_writes(0);
  const auto begin = Clock::now();
  auto slow_write = store.write(sample::key_of(2), bytes.bytes());
  CHECK(slow_write.due() >= begin + 1s);
  store.set_link(0, LinkOptions{});
  store.set_link(9, LinkOptions{});  // no such link: nothing happens
  CHECK(storage_traits<decltype(store)>::tiers(store) == 1);
}

}  // namespace
