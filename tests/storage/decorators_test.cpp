// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What wraps a store hands its optional members on, and lets no failure or exception of one store
// reach further than that store.
#include <new>

#include "cake/storage/gds.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "cake/storage_backend.hpp"
#include "cake/testing/check_storage.hpp"
#include "catch.hpp"
#include "helpers.hpp"
#include "tests/host_device.hpp"

namespace {

using namespace cake;

template <class S>
using Slow = ThrottledStorage<S>;

template <class S>
constexpr StorageAbilities kCan = storage_traits<S>::abilities;

constexpr bool same(const StorageAbilities& a, const StorageAbilities& b) {
  return a.tiers == b.tiers && a.lookup_never_blocks == b.lookup_never_blocks &&
         a.lookup_problem == b.lookup_problem && a.lookup_tier == b.lookup_tier &&
         a.erase_tier == b.erase_tier && a.device_staging == b.device_staging &&
         a.stored_bytes_differ == b.stored_bytes_differ && a.write_new == b.write_new &&
         a.write_in_place == b.write_in_place && a.borrow == b.borrow &&
         a.read_pieces == b.read_pieces && a.promote == b.promote &&
         a.read_on_caller == b.read_on_caller;
}

// A link in front of a store changes nothing of what that can do.
static_assert(same(kCan<Slow<GdsStorage>>, kCan<GdsStorage>));
static_assert(same(kCan<Slow<PosixStorage>>, kCan<PosixStorage>));
static_assert(same(kCan<Slow<MemoryStorage>>, kCan<MemoryStorage>));
static_assert(same(kCan<Slow<Slow<TieredStorage<MemoryStorage, GdsStorage>>>>,
                   kCan<TieredStorage<MemoryStorage, GdsStorage>>));
static_assert(same(kCan<Slow<HostStorage>>, kCan<HostStorage>));
static_assert(same(kCan<Slow<TieredStorage<HostStorage, PosixStorage>>>,
                   kCan<TieredStorage<HostStorage, PosixStorage>>));
static_assert(kCan<HostStorage>.borrow &&
              kCan<TieredStorage<Slow<HostStorage>, PosixStorage>>.borrow);
static_assert(!kCan<TieredStorage<MemoryStorage, PosixStorage>>.borrow);
static_assert(kCan<GdsStorage>.device_staging && kCan<GdsStorage>.stored_bytes_differ);
// Tiers together can what one of them, or what each of them can.
static_assert(kCan<TieredStorage<MemoryStorage, Slow<GdsStorage>>>.device_staging);
static_assert(kCan<TieredStorage<MemoryStorage, Slow<GdsStorage>>>.stored_bytes_differ);
static_assert(kCan<TieredStorage<MemoryStorage, PosixStorage>>.write_new);
static_assert(!kCan<TieredStorage<MemoryStorage, PosixStorage>>.device_staging);
static_assert(!kCan<TieredStorage<MemoryStorage, PosixStorage>>.stored_bytes_differ);
static_assert(!kCan<TieredStorage<MemoryStorage, PosixStorage>>.lookup_never_blocks);
static_assert(StorageBackend<Slow<TieredStorage<MemoryStorage, Slow<GdsStorage>>>>);

struct Strange {};  // no std::exception

/// A store over another one that throws on order, also from its completions.
struct Throwing {
  explicit Throwing(MemoryStorage& in) : inner(in) {}
  MemoryStorage& inner;
  int how = 0;  // 0: not; 1: std::runtime_error; 2: no std::exception; 3: bad_alloc; 4: Exception
  bool late = false;  // from the completion

  void go() const {
    if (how == 1) throw std::runtime_error("broken");
    if (how == 2) throw Strange{};
    if (how == 3) throw std::bad_alloc();
    if (how == 4) throw Exception({Errc::device, 7, "broken device"});
  }
  struct Done {
    Throwing* store;
    Status status;
    bool ready() {
      if (store->late) store->go();
      return true;
    }
    Status wait() {
      if (store->late) store->go();
      return status;
    }
  };
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    if (!late) go();
    return inner.lookup(keys);
  }
  Done read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    if (!late) go();
    return {this, inner.read(tier, key, offset, out)};
  }
  Done write(const ChunkKey& key, ConstBytes bytes) {
    if (!late) go();
    return {this, inner.write(key, bytes)};
  }
  Status erase(const ChunkKey& key) {
    if (!late) go();
    return inner.erase(key);
  }
};
static_assert(StorageBackend<Throwing>);

constexpr Errc kCodes[] = {Errc::ok, Errc::io, Errc::io, Errc::out_of_memory, Errc::device};

TEST_CASE("a store that throws anything out of any call is a tier that fails, and no more") {
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  for (const bool late : {false, true}) {
    for (int how = 1; how <= 4; ++how) {
      for (const bool first : {true, false}) {
        INFO("late " << late << ", how " << how << ", first " << first);
        MemoryStorage bad_memory, good;
        Throwing bad(bad_memory);
        REQUIRE(bad_memory.write(key, bytes.bytes()));
        REQUIRE(good.write(key, bytes.bytes()));
        const auto check = [&](auto& store, std::uint32_t bad_tier, std::size_t bad_store) {
          bad.how = how;
          bad.late = late;
          const auto found = store.lookup(std::span(&key, 1));
          REQUIRE(found);
          CHECK((*found)[0].size == 8192);
          CHECK((*found)[0].tiers == (late ? 3u : 1u << (1 - bad_tier)));
          CHECK(store.lookup_problem().code() == (late ? Errc::ok : kCodes[how]));
          CHECK(sample::read_code(store, key, 8192, 0, bad_tier) == kCodes[how]);
          CHECK(sample::read_code(store, key, 8192, 0, 1 - bad_tier) == Errc::ok);
          auto read = store.read(bad_tier, key, 0, bytes.bytes());
          if (late) {  // whether the read has ended is not known then, and its memory not free
            CHECK_THROWS(read.ready());
            CHECK_THROWS(read.wait_for(std::chrono::seconds(1)));
          } else {
            CHECK(read.ready());
            CHECK(read.wait_for(std::chrono::seconds(1)));
          }
          CHECK(read.wait().code() == kCodes[how]);
          store.write_to(bad_store);
          CHECK(cake::await_completion(store.write(sample::key_of(2), bytes.bytes())).code() ==
                kCodes[how]);
          CHECK(store.erase(key).code() == (late ? Errc::ok : kCodes[how]));
          CHECK(good.size() == 0);  // erased behind the one that throws
          bad.how = 0;
          CHECK(store.erase(key));
        };
        if (first) {
          TieredStorage store(bad, good);
          check(store, 0, 0);
        } else {
          TieredStorage store(good, bad);
          check(store, 1, 1);
        }
      }
    }
  }
}

TEST_CASE("a store that throws anything fails behind a link, too") {
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  for (const bool late : {false, true}) {
    for (int how = 1; how <= 4; ++how) {
      MemoryStorage memory;
      Throwing bad(memory);
      REQUIRE(memory.write(key, bytes.bytes()));
      ThrottledStorage store(bad, LinkOptions{});
      bad.how = how;
      bad.late = late;
      CHECK(sample::read_code(store, key, 8192) == kCodes[how]);
      auto read = store.read(0, key, 0, bytes.bytes());
      if (late) {
        CHECK_THROWS(read.ready());
        CHECK_THROWS(read.wait_for(std::chrono::seconds(1)));
      } else {
        CHECK(read.ready());
        CHECK(read.wait_for(std::chrono::seconds(1)));
      }
      CHECK(read.wait().code() == kCodes[how]);
      CHECK(cake::await_completion(store.write(sample::key_of(2), bytes.bytes())).code() ==
            kCodes[how]);
      if (late) continue;
      const auto found = store.lookup(std::span(&key, 1));
      REQUIRE_FALSE(found);
      CHECK(found.error().code == kCodes[how]);
      CHECK(store.erase(key).code() == kCodes[how]);
    }
  }
}

TEST_CASE("an object of a wrong size in one tier does not hide the good one of another") {
  const auto chunk = sample::make(1);
  const ChunkKey key = chunk.identity.key;
  const std::size_t size = chunk.object.size();
  auto longer = chunk.object, shorter = chunk.object, garbage = chunk.object;
  longer.resize(size + 4096);
  shorter.resize(size - 4096);
  garbage.assign(2 * size, std::byte{1});
  for (const auto& bad : {longer, shorter, garbage, std::vector<std::byte>(4096)}) {
    for (const bool bad_first : {true, false}) {
      MemoryStorage one, two, three;
      one.replace(key, bad_first ? bad : chunk.object);
      two.replace(key, bad_first ? chunk.object : bad);
      TieredStorage store(one, two, three);
      const StoredChunk found = sample::look(store, key);
      CHECK(found.size == size);
      CHECK(found.tiers == (bad_first ? 0b010u : 0b001u));
      three.replace(key, chunk.object);
      CHECK(sample::look(store, key).tiers == (bad_first ? 0b110u : 0b101u));
    }
  }
}

TEST_CASE("a store that answers for tiers that it does not have is not believed") {
  struct Liar : Throwing {
    using Throwing::Throwing;
    Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
      return std::vector<StoredChunk>(keys.size(), {8192, 0xff});
    }
  };
  MemoryStorage memory, other;
  Liar liar(memory);
  TieredStorage store(liar, other);
  CHECK(sample::look(store, sample::key_of(1)).tiers == 0b01);
}

/// Memory that reads into a device, and can tell stored_bytes_differ bytes.
struct DeviceStore : MemoryStorage {
  testing::HostDevice* device = nullptr;
  int asked = 0;
  bool answer = true;
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true,
                                              .device_staging = true,
                                              .stored_bytes_differ = true,
                                              .write_new = true};
  DeviceStaging* device_staging() { return device; }
  bool stored_bytes_differ(const ChunkKey&, std::uint64_t, ConstBytes) {
    ++asked;
    return answer;
  }
};
static_assert(StorageBackend<DeviceStore>);

TEST_CASE("device memory of one tier is read into from all, from the others by the host") {
  testing::HostDevice device;
  MemoryStorage host;
  DeviceStore direct;
  direct.device = &device;
  const auto a = sample::content(1, 8192), b = sample::content(2, 8192);
  REQUIRE(host.write(sample::key_of(1), a.bytes()));
  REQUIRE(direct.write(sample::key_of(1), b.bytes()));
  TieredStorage store(host, direct);
  CHECK(store.device_staging() == &device);
  const AlignedBuffer out(8192, &device);
  REQUIRE(cake::await_completion(store.read(0, sample::key_of(1), 0, out.bytes())));
  CHECK(device.copies == 1);
  CHECK(sample::equal(out.bytes(), a.bytes()));
  // It was not read by the tier that could tell, so nobody is asked.
  CHECK_FALSE(store.stored_bytes_differ(sample::key_of(1), 0, out.bytes()));
  CHECK(direct.asked == 0);
  REQUIRE(cake::await_completion(store.read(1, sample::key_of(1), 0, out.bytes())));
  CHECK(device.copies == 1);
  CHECK(sample::equal(out.bytes(), b.bytes()));
  CHECK(store.stored_bytes_differ(sample::key_of(1), 0, out.bytes()));
  direct.answer = false;
  CHECK_FALSE(store.stored_bytes_differ(sample::key_of(1), 0, out.bytes()));
  CHECK(direct.asked == 2);
  CHECK(sample::read_code(store, sample::key_of(9), 8192, 0, 0) == Errc::not_found);
  // Host memory is read into by each as ever.
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 8192, 0, nullptr, 0).bytes(),
                      a.bytes()));
  CHECK(device.copies == 1);
  direct.device = nullptr;  // as a GDS store that has given up
  CHECK(store.device_staging() == nullptr);
}

TEST_CASE(
    "each of two tiers with a device of its own is asked for its own stored_bytes_differ bytes") {
  testing::HostDevice device;
  DeviceStore one, two;
  one.device = two.device = &device;
  const auto bytes = sample::content(1, 8192);
  REQUIRE(one.write(sample::key_of(1), bytes.bytes()));
  REQUIRE(two.write(sample::key_of(1), bytes.bytes()));
  ThrottledStorage slow(two, LinkOptions{});
  TieredStorage store(one, slow);
  const AlignedBuffer out(8192, &device);
  REQUIRE(cake::await_completion(store.read(1, sample::key_of(1), 0, out.bytes())));
  CHECK(store.stored_bytes_differ(sample::key_of(1), 0, out.bytes()));
  CHECK(one.asked == 0);
  CHECK(two.asked == 1);
  CHECK(device.copies == 0);
}

TEST_CASE("a decorated store says whether a write was the first, and why a lookup is not whole") {
  MemoryStorage one, two;
  ThrottledStorage slow(two, LinkOptions{});
  TieredStorage store(one, slow);
  const auto bytes = sample::content(1, 8192);
  CHECK(storage_traits<decltype(store)>::write_and_tell(store, sample::key_of(1), bytes.bytes())
            .value());
  CHECK_FALSE(
      storage_traits<decltype(store)>::write_and_tell(store, sample::key_of(1), bytes.bytes())
          .value());
  CHECK(two.size() == 1);
  CHECK(storage_traits<decltype(store)>::lookup_problem(store));
  MemoryStorage memory;
  Throwing plain(memory);  // does not say
  CHECK(storage_traits<Throwing>::write_and_tell(plain, sample::key_of(1), bytes.bytes()).value());
  CHECK(storage_traits<Throwing>::write_and_tell(plain, sample::key_of(1), bytes.bytes()).value());
}

TEST_CASE("what wraps a store that lends lends, too, and keeps the contract of lending") {
  HostStorage host({.capacity_bytes = 1 << 20}), second({.capacity_bytes = 1 << 20});
  MemoryStorage memory;
  Slow<HostStorage> slow(host, LinkOptions{});
  CHECK(testing::check(slow) == testing::Failures{});
  TieredStorage store(memory, slow);  // writes go to the last one
  CHECK(testing::check(store) == testing::Failures{});
  CHECK_FALSE(store.lends(0));
  CHECK(store.lends(1));
  CHECK_FALSE(store.lends(2));
  TieredStorage outer(second, store);
  Slow<decltype(outer)> all(outer, LinkOptions{});
  CHECK(all.lends(0));
  CHECK_FALSE(all.lends(1));
  CHECK(all.lends(2));
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  REQUIRE(host.write(key, bytes.bytes()));
  REQUIRE(memory.write(key, bytes.bytes()));
  const auto direct = host.borrow(0, key, 4096, 4096);
  const auto loan = all.borrow(2, key, 4096, 4096);
  REQUIRE(loan);
  CHECK(loan->bytes().data() == direct->bytes().data());  // the very same bytes
  CHECK(all.borrow(0, key, 0, 4096).error().code == Errc::not_found);
  CHECK(all.borrow(1, key, 0, 4096).error().code == Errc::unsupported);
  CHECK(all.borrow(3, key, 0, 4096).error().code == Errc::invalid_argument);
}

TEST_CASE("a loan behind a link comes when the link has carried its bytes") {
  HostStorage host({.capacity_bytes = 1 << 20});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(host.write(sample::key_of(1), bytes.bytes()));
  using Clock = std::chrono::steady_clock;
  constexpr auto kLatency = std::chrono::milliseconds(20);
  ThrottledStorage slow(host, LinkOptions{.latency = kLatency});
  const auto begin = Clock::now();
  CHECK(slow.borrow(0, sample::key_of(1), 0, 8192));
  CHECK(slow.borrow(0, sample::key_of(2), 0, 8192).error().code == Errc::not_found);
  CHECK(Clock::now() - begin >= 2 * kLatency);  // never earlier; later is no fault
}

TEST_CASE("a store that throws out of borrow() is a tier that fails, and no more") {
  struct Thrower : HostStorage {
    using HostStorage::HostStorage;
    Result<BorrowedBytes> borrow(std::uint32_t, const ChunkKey&, std::uint64_t, std::uint64_t) {
      throw Strange{};
    }
  };
  Thrower bad({.capacity_bytes = 1 << 20});
  HostStorage good({.capacity_bytes = 1 << 20});
  const auto bytes = sample::content(1, 8192);
  REQUIRE(good.write(sample::key_of(1), bytes.bytes()));
  TieredStorage store(bad, good);
  CHECK(store.borrow(0, sample::key_of(1), 0, 8192).error().code == Errc::io);
  CHECK(store.borrow(1, sample::key_of(1), 0, 8192));
  ThrottledStorage slow(bad, LinkOptions{});
  CHECK(slow.borrow(0, sample::key_of(1), 0, 8192).error().code == Errc::io);
}

}  // namespace

namespace {

/// Memory that a calling thread reads as well as anybody.
struct CallerMemory : MemoryStorage {
  static constexpr StorageAbilities abilities{
      .lookup_never_blocks = true, .write_new = true, .read_on_caller = true};
  bool reads_on_caller(std::uint32_t tier) const { return tier == 0; }
  Status read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) const {
    if (throws) throw Strange{};
    return read(tier, key, offset, out);
  }
  bool throws = false;
};
static_assert(same(kCan<Slow<CallerMemory>>, kCan<CallerMemory>));
static_assert(kCan<TieredStorage<MemoryStorage, CallerMemory>>.read_on_caller);
static_assert(!kCan<TieredStorage<MemoryStorage, HostStorage>>.read_on_caller);

}  // namespace

TEST_CASE("reads by the calling thread reach the store of their tier, but a link is not memory") {
  CallerMemory memory;
  MemoryStorage other;
  CHECK(testing::check(memory) == testing::Failures{});
  Slow<CallerMemory> open(memory, LinkOptions{});
  CHECK(testing::check(open) == testing::Failures{});
  TieredStorage store(other, open);
  CHECK(testing::check(store) == testing::Failures{});
  CHECK_FALSE(store.reads_on_caller(0));
  CHECK(store.reads_on_caller(1));
  CHECK_FALSE(store.reads_on_caller(2));
  open.set_link(0, {.bytes_per_second = 1e12});
  CHECK_FALSE(store.reads_on_caller(1));
  open.set_link(0, {.latency = std::chrono::microseconds(1)});
  CHECK_FALSE(store.reads_on_caller(1));
  const auto bytes = sample::content(1, 8192);
  const AlignedBuffer out(4096);
  REQUIRE(memory.write(sample::key_of(1), bytes.bytes()));
  CHECK(store.read_on_caller(1, sample::key_of(1), 4096, out.bytes()));
  CHECK(std::equal(out.bytes().begin(), out.bytes().end(), bytes.bytes().begin() + 4096));
  CHECK(store.read_on_caller(2, sample::key_of(1), 0, out.bytes()).error().code ==
        Errc::invalid_argument);
  memory.throws = true;
  CHECK(store.read_on_caller(1, sample::key_of(1), 0, out.bytes()).error().code == Errc::io);
  CHECK(open.read_on_caller(0, sample::key_of(1), 0, out.bytes()).error().code == Errc::io);
}
