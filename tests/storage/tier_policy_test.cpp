// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// TieredStorage with policies: which tier has a chunk when, what is told when one has it not, and
// what is counted. A test that would wait for what never comes waits for its time limit.
#include "cake/storage/tier_policy.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "contract.hpp"
#include "posix_helpers.hpp"
#include "tests/fault/faulty_storage.hpp"
#include "tests/fault/held_storage.hpp"

namespace {

using namespace cake;
using fault::HeldStorage;
using Faulty = fault::FaultyStorage<MemoryStorage>;

constexpr TierOptions kThrough{.write = WritePolicy::through};
constexpr TierOptions kBack{.write = WritePolicy::back};
constexpr TierOptions kPromotes{.promote = Promotion::on_hit};

/// Chunks of one prompt, from its front on. All have the same size.
struct Prompt {
  explicit Prompt(std::uint32_t n = 6, std::uint64_t seed = 1) {
    for (std::uint32_t i = 0; i < n; ++i) {
      chunks.push_back(sample::make(seed, sample::kSmall, 16, i));
    }
  }
  const ChunkKey& key(std::size_t i) const { return chunks[i].identity.key; }
  ConstBytes bytes(std::size_t i) const { return chunks[i].bytes(); }
  std::uint64_t chunk_bytes() const { return chunks[0].object.size(); }
  template <class S>
  Status write(S& store, std::size_t i) const {
    return cake::await_completion(store.write(key(i), bytes(i)));
  }
  /// Which chunks the store has, the first one first.
  template <class S>
  std::string held(S& store) const {
    std::string which;
    for (const auto& chunk : chunks) {
      which += sample::look(store, chunk.identity.key).stored() ? '1' : '0';
    }
    return which;
  }
  std::vector<sample::Chunk> chunks;
};

/// Bytes as a lane lends them. `ended` is set when the store has done with them.
BorrowedBytes lent(ConstBytes bytes, std::shared_ptr<std::atomic<bool>> ended = nullptr) {
  auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
  const ConstBytes where(*copy);
  auto loan = std::shared_ptr<const void>(
      copy.get(), [copy, ended = std::move(ended)](const void*) mutable {
        std::fill(copy->begin(), copy->end(), std::byte{0xee});  // others use it from here on
        copy.reset();
        if (ended) *ended = true;
      });
  return {where, std::move(loan)};
}

TEST_CASE("an object that is built in a store of tiers lies where a write would put it") {
  const Prompt prompt(2);
  const std::uint64_t size = prompt.chunk_bytes();
  const auto publish = [&](auto& store, std::size_t i) {
    ObjectRoom room = store.make_room(prompt.key(i), size).value();
    std::memcpy(room.bytes().data(), prompt.bytes(i).data(), size);
    return store.publish(prompt.key(i), std::move(room), size, std::nullopt);
  };
  HostStorage host({.capacity_bytes = 1 << 20});
  MemoryStorage memory;
  SECTION("write-back: in the first store, and in the others behind it") {
    TieredStorage store(kBack, host, memory);
    REQUIRE(publish(store, 0).value());
    CHECK(prompt.held(host) == "10");
    CHECK(store.flush());
    CHECK(prompt.held(memory) == "10");
    CHECK_FALSE(publish(store, 0).value());
    CHECK(store.stats()[0].writes == 1);
    TieredStorage turned(kBack, memory, host);
    CHECK(turned.make_room(prompt.key(1), size).error().code == Errc::unsupported);
  }
  SECTION("write-through: it is written") {
    TieredStorage store(kThrough, host, memory);
    CHECK(store.make_room(prompt.key(0), size).error().code == Errc::unsupported);
  }
  SECTION("the last store alone: there, if it has rooms") {
    TieredStorage store(host, memory);
    CHECK(store.make_room(prompt.key(0), size).error().code == Errc::unsupported);
    store.write_to(0);
    REQUIRE(publish(store, 1).value());
    CHECK(prompt.held(host) == "01");
    CHECK(prompt.held(memory) == "00");
  }
}

TEST_CASE("write-through puts a chunk into every tier up to the last one of a write") {
  const Prompt prompt;
  MemoryStorage first, second, third;
  TieredStorage store(kThrough, first, second, third);
  REQUIRE(prompt.write(store, 0));
  CHECK(sample::look(store, prompt.key(0)).tiers == 0b111);
  store.write_to(1);
  REQUIRE(prompt.write(store, 1));
  CHECK(sample::look(store, prompt.key(1)).tiers == 0b011);
  CHECK(third.size() == 1);
  CHECK(store.write_new(prompt.key(2), prompt.bytes(2)).value());
  CHECK_FALSE(store.write_new(prompt.key(2), prompt.bytes(2)).value());
  CHECK(store.stats()[0].writes == 3);
  CHECK(store.stats()[0].written_bytes == 3 * prompt.chunk_bytes());
  CHECK(store.stats()[2].writes == 1);
  CHECK(store.flush());
}

TEST_CASE("a fast tier that fails does not fail a write-through; it is counted, and flush tells") {
  const Prompt prompt;
  MemoryStorage ram, disk;
  Faulty fast(ram);
  TieredStorage store(kThrough, fast, disk);
  fast.fail_writes(Error{Errc::out_of_memory, 0, "full"});
  CHECK(prompt.write(store, 0));
  CHECK(disk.size() == 1);
  CHECK(ram.size() == 0);
  CHECK(store.stats()[0].failed_writes == 1);
  CHECK(store.stats()[1].writes == 1);
  const Status told = store.flush();
  CHECK(told.code() == Errc::out_of_memory);
  CHECK(told.error().context.find("tier 0") != std::string::npos);
  CHECK(told.error().context.find("full") != std::string::npos);
  CHECK(store.flush());  // told once
}

TEST_CASE("a write-through that its last tier refuses has failed, and says who has the chunk") {
  const Prompt prompt;
  MemoryStorage ram, local, inner;
  Faulty disk(inner);
  TieredStorage store(kThrough, ram, local, disk);
  disk.fail_writes(Error{Errc::out_of_memory, 28, "disk full"});
  const Status failed = prompt.write(store, 0);
  CHECK(failed.code() == Errc::out_of_memory);
  CHECK(failed.error().native == 28);
  const std::string& text = failed.error().context;
  CHECK(text.find("tier 2 does not have it, only tier 0, tier 1: disk full") != std::string::npos);
  CHECK(store.write_new(prompt.key(1), prompt.bytes(1)).error().code == Errc::out_of_memory);
  CHECK(ram.size() == 2);
  CHECK(store.stats()[2].failed_writes == 2);
  // The next save finds them in memory and writes nothing. The disk gets them all the same.
  disk.heal();
  CHECK(prompt.held(store) == "110000");
  CHECK(store.flush());
  CHECK(prompt.held(inner) == "110000");
  CHECK(store.stats()[2].behind == 2);
}

TEST_CASE("write-back returns when the first tier has the chunk; flush waits for the others") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  HeldStorage disk, remote;
  TieredStorage store(kBack, ram, disk, remote);
  disk.hold();
  remote.hold();
  REQUIRE(prompt.write(store, 0));
  CHECK(store.write_new(prompt.key(1), prompt.bytes(1)).value());
  CHECK_FALSE(store.write_new(prompt.key(1), prompt.bytes(1)).value());
  CHECK(sample::look(store, prompt.key(1)).tiers == 0b001);
  disk.wait_for_writes(1);
  remote.wait_for_writes(1);
  CHECK(disk.size() + remote.size() == 0);
  disk.let_go();
  remote.let_go();
  CHECK(store.flush());
  CHECK(sample::look(store, prompt.key(0)).tiers == 0b111);
  CHECK(sample::look(store, prompt.key(1)).tiers == 0b111);
  const auto stats = store.stats();
  CHECK(stats[0].writes == 2);
  CHECK(stats[0].behind == 0);
  CHECK(stats[2].writes == 2);
  CHECK(stats[2].behind == 2);
  CHECK(ram.stats().in_use == 0);
  CHECK(ram.stats().reads == 0);  // copied from where they lie
}

TEST_CASE("a slow tier holds up the copies into itself, and not those into another one") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  MemoryStorage disk;
  HeldStorage remote;
  TieredStorage store(kBack, ram, disk, remote);
  remote.hold();
  for (std::size_t i = 0; i < 6; ++i) REQUIRE(prompt.write(store, i));
  while (disk.size() != 6) std::this_thread::yield();
  CHECK(remote.size() == 0);
  remote.let_go();
  CHECK(store.flush());
  CHECK(remote.size() == 6);
}

TEST_CASE("what waits for write-back is not evicted from a tier that lends") {
  const Prompt prompt, other(6, 2);
  HostStorage ram({.capacity_bytes = 2 * prompt.chunk_bytes()});
  HeldStorage disk;
  TieredStorage store(kBack, ram, disk);
  disk.hold();
  REQUIRE(prompt.write(store, 0));
  REQUIRE(prompt.write(store, 1));
  disk.wait_for_writes(1);
  CHECK(other.write(ram, 0).code() == Errc::out_of_memory);
  disk.let_go();
  CHECK(store.flush());
  CHECK(prompt.held(disk) == "110000");
  CHECK(other.write(ram, 0));
}

TEST_CASE("a chunk that the first tier does not take goes into the next one at once") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = prompt.chunk_bytes() / 2});
  MemoryStorage disk, remote;
  TieredStorage store(kBack, ram, disk, remote);
  REQUIRE(prompt.write(store, 0));
  CHECK(disk.size() == 1);
  CHECK(store.flush().code() == Errc::out_of_memory);  // tells of the first tier
  CHECK(remote.size() == 1);
  CHECK(store.stats()[0].failed_writes == 1);
  CHECK(store.stats()[1].behind == 0);
  CHECK(store.stats()[2].behind == 1);
}

TEST_CASE("a damaged chunk is refused by write-back, and is in no tier") {
  Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  MemoryStorage disk;
  TieredStorage store(kBack, ram, disk);
  auto object = std::vector(prompt.bytes(0).begin(), prompt.bytes(0).end());
  object[object.size() / 2] ^= std::byte{1};
  CHECK(store.write_new(prompt.key(0), object).error().code == Errc::corrupt);
  CHECK(store.flush());
  CHECK(disk.size() == 0);
  // One that is damaged in a tier which cannot tell is not spread from there.
  HeldStorage slow;
  MemoryStorage plain;
  TieredStorage other(kBack, plain, slow);
  slow.hold();
  REQUIRE(prompt.write(other, 1));
  slow.wait_for_writes(1);
  REQUIRE(prompt.write(other, 0));
  plain.replace(prompt.key(0), object);
  slow.let_go();
  CHECK(other.flush().code() == Errc::corrupt);
  CHECK(prompt.held(slow) == "010000");
  CHECK(other.stats()[1].dropped == 1);
}

TEST_CASE("above its bound write-back drops the chunks at the front, counts and tells") {
  const Prompt prompt(8);
  HostStorage ram({.capacity_bytes = 1 << 20});
  HeldStorage disk;
  TieredStorage store(
      TierOptions{.write = WritePolicy::back, .behind_bytes = 4 * prompt.chunk_bytes()}, ram, disk);
  disk.hold();
  REQUIRE(prompt.write(store, 0));  // being written: it is not dropped any more
  disk.wait_for_writes(1);
  for (const std::size_t i : {1u, 2u, 3u, 7u, 6u, 5u, 4u}) REQUIRE(prompt.write(store, i));
  CHECK(ram.stats().in_use == 4);
  CHECK(store.stats()[1].dropped == 4);
  disk.let_go();
  CHECK(store.flush().code() == Errc::out_of_memory);
  CHECK(prompt.held(disk) == "10000111");
  CHECK(prompt.held(ram) == "11111111");
  // A lookup, as the next save makes it, finds what the disk lacks; as much as there is room for.
  CHECK(prompt.held(store) == "11111111");
  CHECK(store.flush());
  CHECK(prompt.held(disk) == "11111111");
  CHECK(store.stats()[1].dropped == 4);
}

TEST_CASE("a copy into a tier waits for reads of that tier, and not for those of others") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  MemoryStorage inner, far;
  Faulty disk(inner);
  REQUIRE(prompt.write(inner, 5));
  TieredStorage store(
      TierOptions{.write = WritePolicy::back, .wait_for_reads = std::chrono::minutes(10)}, ram,
      disk, far);
  disk.on_read(0, {.kind = fault::Kind::hang});
  const AlignedBuffer out(prompt.chunk_bytes());
  auto reading = store.read(1, prompt.key(5), 0, out.bytes());
  REQUIRE(prompt.write(store, 0));
  while (far.size() == 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(inner.size() == 1);
  CHECK(disk.release() == 1);
  CHECK(reading.wait());
  CHECK(store.flush());
  CHECK(inner.size() == 2);
}

TEST_CASE("a chunk larger than the bound of write-back is written when it is alone") {
  const Prompt prompt;
  MemoryStorage ram, disk;
  TieredStorage store(TierOptions{.write = WritePolicy::back, .behind_bytes = 1}, ram, disk);
  REQUIRE(prompt.write(store, 0));
  CHECK(store.flush());
  CHECK(disk.size() == 1);
}

TEST_CASE("a slow tier that fails leaves what write-back wrote in the fast one, and flush tells") {
  const Prompt prompt;
  MemoryStorage ram, inner;
  Faulty disk(inner);
  TieredStorage store(kBack, ram, disk);
  disk.fail_writes(Error{Errc::io, 5, "broken"}, prompt.key(1));
  for (std::size_t i = 0; i < 3; ++i) CHECK(prompt.write(store, i));
  const Status told = store.flush();
  CHECK(told.code() == Errc::io);
  CHECK(told.error().native == 5);
  CHECK(told.error().context.find("broken") != std::string::npos);
  CHECK(prompt.held(inner) == "101000");
  CHECK(prompt.held(ram) == "111000");
  CHECK(store.stats()[1].failed_writes == 1);
  CHECK(store.stats()[1].behind == 2);
}

TEST_CASE("an erased chunk does not come back from a copy that waits or is being made") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  HeldStorage disk;
  TieredStorage store(kBack, ram, disk);
  disk.hold();
  REQUIRE(prompt.write(store, 0));
  disk.wait_for_writes(1);
  REQUIRE(prompt.write(store, 1));
  CHECK(store.erase(prompt.key(1)));  // waits: nobody is waited for
  std::atomic<int> failed{0};
  std::thread eraser([&] { failed += !store.erase(prompt.key(0)); });  // is being made
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // it does not erase meanwhile
  CHECK(prompt.held(ram).front() == '1');
  disk.let_go();
  eraser.join();
  CHECK(failed == 0);
  CHECK(store.flush());
  CHECK(prompt.held(store) == "000000");
  CHECK(disk.size() == 0);
  CHECK(ram.stats().used_bytes == 0);
  // It can be written again.
  REQUIRE(prompt.write(store, 0));
  CHECK(store.flush());
  CHECK(disk.size() == 1);
}

TEST_CASE(
    "threads that write, look and erase the same chunks find them whole, and gone when erased") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 4 * prompt.chunk_bytes()});
  MemoryStorage disk, remote;
  TieredStorage store(
      TierOptions{.write = WritePolicy::back, .promote = Promotion::on_hit, .threads = 2}, ram,
      disk, remote);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned round = 0; round < 300; ++round) {
        const std::size_t i = (round * 7 + t) % 6;
        const auto found = sample::look(store, prompt.key(i));
        switch ((round + t) % 5) {
          case 0:
            wrong += !store.erase(prompt.key(i));
            break;
          case 1:
            store.promote(2, prompt.key(i), lent(prompt.bytes(i)));
            break;
          case 2:
            for (std::uint32_t tier = 0; tier < 3; ++tier) {
              if ((found.tiers >> tier & 1) == 0) continue;
              const auto got =
                  sample::fetch(store, prompt.key(i), prompt.chunk_bytes(), 0, nullptr, tier);
              wrong += got.size() != 0 && !sample::equal(got.bytes(), prompt.bytes(i));
            }
            break;
          default:
            wrong += !prompt.write(store, i);
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  for (std::size_t i = 0; i < 6; ++i) CHECK(store.erase(prompt.key(i)));
  (void)store.flush();
  CHECK(prompt.held(store) == "000000");
  CHECK(disk.size() + remote.size() == 0);
  CHECK(ram.stats().used_bytes == 0);
}

TEST_CASE("the end of a tiered store waits for write-back, and drops promotions") {
  const Prompt prompt;
  HeldStorage ram, disk;
  MemoryStorage remote;
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  {
    TieredStorage store(TierOptions{.write = WritePolicy::back, .promote = Promotion::on_hit}, ram,
                        disk, remote);
    for (std::size_t i = 0; i < 3; ++i) REQUIRE(prompt.write(store, i));
    REQUIRE(prompt.write(remote, 5));
    REQUIRE(prompt.write(remote, 4));
    ram.hold();
    store.promote(2, prompt.key(4), lent(prompt.bytes(4)));
    ram.wait_for_writes(1);
    store.promote(2, prompt.key(5), lent(prompt.bytes(5), ended));
    ram.let_go();
  }
  CHECK(prompt.held(disk).substr(0, 3) == "111");
  CHECK(prompt.held(remote).substr(0, 3) == "111");
  CHECK(*ended);
}

struct Strange {};  // no std::exception

/// Throws out of every call that it is told to.
struct Throwing : MemoryStorage {
  template <class F>
  auto call(F&& f) {
    if (how == 1) throw Strange{};
    if (how == 2) throw std::bad_alloc();
    return f();
  }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return call([&] { return MemoryStorage::lookup(keys); });
  }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return call([&] { return MemoryStorage::read(tier, key, offset, out); });
  }
  Status write(const ChunkKey& key, ConstBytes bytes) {
    return call([&] { return MemoryStorage::write(key, bytes); });
  }
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) {
    return call([&] { return MemoryStorage::write_new(key, bytes); });
  }
  Status erase(const ChunkKey& key) {
    return call([&] { return MemoryStorage::erase(key); });
  }
  std::atomic<int> how{0};
};

TEST_CASE("whatever a store throws is a failure of that tier, and of nothing else") {
  const int how = GENERATE(1, 2);
  const Errc code = how == 1 ? Errc::io : Errc::out_of_memory;
  const Prompt prompt;
  Throwing bad;
  bad.how = how;
  MemoryStorage good;
  {
    TieredStorage store(kThrough, bad, good);
    CHECK(prompt.write(store, 0));
    CHECK(store.flush().code() == code);
    CHECK(store.erase(prompt.key(0)).code() == code);
    TieredStorage turned(kThrough, good, bad);
    CHECK(prompt.write(turned, 0).code() == code);
    good.clear();
  }
  {
    TieredStorage store(kBack, bad, good);
    CHECK(prompt.write(store, 0));
    CHECK(store.flush().code() == code);
    good.clear();
    TieredStorage turned(kBack, good, bad);
    CHECK(prompt.write(turned, 0));
    CHECK(turned.flush().code() == code);
    CHECK(good.size() == 1);
    TieredStorage both(kBack, bad, bad);
    CHECK(prompt.write(both, 0).code() == code);
  }
  TieredStorage store(kPromotes, bad, good);
  store.promote(1, prompt.key(0), lent(prompt.bytes(0)));
  CHECK(store.flush());
  CHECK(store.stats()[0].failed_writes == 1);
  CHECK(store.stats()[0].promoted == 0);
}

TEST_CASE("a chunk that was read from a slow tier is in all faster ones afterwards") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  MemoryStorage disk, remote;
  for (std::size_t i = 0; i < 3; ++i) REQUIRE(prompt.write(remote, i));
  REQUIRE(prompt.write(disk, 1));
  TieredStorage store(kPromotes, ram, disk, remote);
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  store.promote(2, prompt.key(0), lent(prompt.bytes(0), ended));
  store.promote(1, prompt.key(1), lent(prompt.bytes(1)));
  store.promote(0, prompt.key(2), lent(prompt.bytes(2)));  // there is no faster one
  CHECK(store.flush());
  CHECK(*ended);
  CHECK(prompt.held(ram) == "110000");
  CHECK(prompt.held(disk) == "110000");
  CHECK(sample::equal(sample::fetch(ram, prompt.key(0), prompt.chunk_bytes()).bytes(),
                      prompt.bytes(0)));
  CHECK(store.stats()[0].promoted == 2);
  CHECK(store.stats()[0].writes == 2);
  CHECK(store.stats()[1].promoted == 1);
  // Once more: it is there.
  store.promote(2, prompt.key(0), lent(prompt.bytes(0)));
  CHECK(store.flush());
  CHECK(store.stats()[0].writes == 2);
}

TEST_CASE("a chunk is promoted when it is read for the second time, if the policy says so") {
  const Prompt prompt;
  MemoryStorage ram, disk;
  for (std::size_t i = 0; i < 2; ++i) REQUIRE(prompt.write(disk, i));
  const auto how = GENERATE(Promotion::never, Promotion::on_second_hit);
  TieredStorage store(TierOptions{.promote = how}, ram, disk);
  const bool second = how == Promotion::on_second_hit;
  store.promote(1, prompt.key(0), lent(prompt.bytes(0)));
  store.promote(1, prompt.key(1), lent(prompt.bytes(1)));
  CHECK(store.flush());
  CHECK(ram.size() == 0);
  store.promote(1, prompt.key(0), lent(prompt.bytes(0)));
  CHECK(store.flush());
  CHECK(prompt.held(ram) == (second ? "100000" : "000000"));
}

TEST_CASE("a chunk is promoted once at a time, and gives its memory back where it is not taken") {
  const Prompt prompt;
  HeldStorage ram;
  MemoryStorage disk;
  for (std::size_t i = 0; i < 6; ++i) REQUIRE(prompt.write(disk, i));
  TieredStorage store(
      TierOptions{.promote = Promotion::on_hit, .behind_bytes = 3 * prompt.chunk_bytes()}, ram,
      disk);
  ram.hold();
  std::vector<std::shared_ptr<std::atomic<bool>>> ended;
  const auto promote = [&](std::size_t i) {
    ended.push_back(std::make_shared<std::atomic<bool>>(false));
    store.promote(1, prompt.key(i), lent(prompt.bytes(i), ended.back()));
    return ended.back()->load();
  };
  CHECK_FALSE(promote(2));
  ram.wait_for_writes(1);
  CHECK(promote(2));  // is being made
  CHECK_FALSE(promote(3));
  CHECK(promote(3));  // waits already
  CHECK_FALSE(promote(4));
  CHECK(promote(1));        // no room: the front is worth less
  CHECK_FALSE(promote(5));  // instead of chunk 3
  CHECK(*ended[2]);
  CHECK(store.stats()[0].dropped == 2);
  store.promote(1, prompt.key(0), BorrowedBytes());  // the lanes had no memory to spare
  CHECK(store.stats()[0].dropped == 3);
  ram.let_go();
  CHECK(store.flush());
  CHECK(prompt.held(ram) == "001011");
  CHECK(store.stats()[0].promoted == 3);
}

TEST_CASE("write-back goes before promotions, and drops them for its own") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  HeldStorage disk;
  MemoryStorage remote;
  for (std::size_t i = 3; i < 6; ++i) REQUIRE(prompt.write(remote, i));
  TieredStorage store(TierOptions{.write = WritePolicy::back,
                                  .promote = Promotion::on_hit,
                                  .behind_bytes = 2 * prompt.chunk_bytes()},
                      ram, disk, remote);
  disk.hold();
  store.promote(2, prompt.key(5), lent(prompt.bytes(5)));
  disk.wait_for_writes(1);
  store.promote(2, prompt.key(4), lent(prompt.bytes(4)));
  REQUIRE(prompt.write(store, 0));
  CHECK(store.stats()[1].dropped == 1);
  disk.let_go();
  CHECK(store.flush());
  CHECK(prompt.held(disk) == "100001");
}

TEST_CASE("what was erased while it was read is not promoted") {
  const Prompt prompt;
  MemoryStorage ram, disk;
  REQUIRE(prompt.write(disk, 0));
  TieredStorage store(kPromotes, ram, disk);
  BorrowedBytes landed = lent(prompt.bytes(0));
  REQUIRE(store.erase(prompt.key(0)));
  store.promote(1, prompt.key(0), std::move(landed));
  CHECK(store.flush());
  CHECK(prompt.held(store) == "000000");
}

TEST_CASE("a store of tiers within a store of tiers promotes what it was read from, too") {
  const Prompt prompt;
  MemoryStorage ram, disk, remote;
  REQUIRE(prompt.write(remote, 0));
  TieredStorage inner(kPromotes, disk, remote);
  TieredStorage store(kPromotes, ram, inner);
  ThrottledStorage slow(store, LinkOptions{});
  slow.promote(2, prompt.key(0), lent(prompt.bytes(0)));
  CHECK(store.flush());
  CHECK(inner.flush());
  CHECK(sample::look(store, prompt.key(0)).tiers == 0b111);
}

TEST_CASE("each tier counts its hits, reads and failures") {
  const Prompt prompt;
  HostStorage ram({.capacity_bytes = 1 << 20});
  MemoryStorage inner;
  Faulty disk(inner);
  REQUIRE(prompt.write(ram, 0));
  REQUIRE(prompt.write(inner, 0));
  REQUIRE(prompt.write(inner, 1));
  TieredStorage store(ram, disk);
  CHECK(prompt.held(store) == "110000");
  const ChunkKey keys[] = {prompt.key(0), prompt.key(1), prompt.key(2)};
  CHECK(store.lookup_tier(1, keys));
  CHECK(store.stats()[0].hits == 1);
  CHECK(store.stats()[1].hits == 4);
  CHECK(sample::read_code(store, prompt.key(0), 4096, 0, 1) == Errc::ok);
  CHECK(store.borrow(0, prompt.key(0), 0, 8192));
  CHECK_FALSE(store.borrow(0, prompt.key(1), 0, 8192));
  disk.on_every_read({.kind = fault::Kind::error});
  CHECK(sample::read_code(store, prompt.key(0), 4096, 0, 1) == Errc::io);
  const auto stats = store.stats();
  CHECK(stats[0].reads == 2);
  CHECK(stats[0].read_bytes == 8192);
  CHECK(stats[0].failed_reads == 1);
  CHECK(stats[1].reads == 2);
  CHECK(stats[1].read_bytes == 4096);
  CHECK(stats[1].failed_reads == 1);
  REQUIRE(prompt.write(store, 2));
  CHECK(store.write_new(prompt.key(3), prompt.bytes(3)).value());
  disk.fail_writes(Error{Errc::io, 0, "broken"});
  CHECK_FALSE(prompt.write(store, 4));
  CHECK(store.stats()[1].writes == 2);
  CHECK(store.stats()[1].written_bytes == 2 * prompt.chunk_bytes());
  CHECK(store.stats()[1].failed_writes == 1);
  CHECK(store.stats()[0].writes == 0);
}

TEST_CASE("in a child process writes of a policy are refused, and nothing hangs") {
  const Prompt prompt;
  HeldStorage disk;
  MemoryStorage ram;
  auto store = std::make_unique<TieredStorage<MemoryStorage, HeldStorage>>(
      TierOptions{.write = WritePolicy::back, .promote = Promotion::on_hit}, ram, disk);
  disk.hold();
  REQUIRE(prompt.write(*store, 0));
  disk.wait_for_writes(1);
  REQUIRE(prompt.write(*store, 1));
  CHECK(sample::in_child([&] {
          sample::expect(prompt.write(*store, 2).code() == Errc::unsupported, "a write is refused");
          sample::expect(store->flush().code() == Errc::unsupported, "and so is flush()");
          store->promote(1, prompt.key(0), lent(prompt.bytes(0)));
          sample::expect(store->erase(prompt.key(3)).has_value(), "an erase does not wait");
          store.reset();
        }) == 0);
  disk.let_go();
  CHECK(store->flush());
  CHECK(prompt.held(disk) == "110000");
}

}  // namespace
