// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// HostStorage: what it keeps, what goes when it is full, and what stays because it is lent.
#include "cake/storage/host.hpp"

#include <atomic>
#include <random>
#include <thread>

#include "cake/chunk/reader.hpp"
#include "cake/testing/check_storage.hpp"
#include "contract.hpp"
#include "tests/fault/layer_by_layer.hpp"

namespace {

using namespace cake;

constexpr std::uint64_t kPage = 4096;

/// Chunks of one prompt, from its front on. All have the same size.
std::vector<sample::Chunk> prompt_chunks(std::uint64_t seed, std::uint32_t n) {
  std::vector<sample::Chunk> chunks;
  for (std::uint32_t i = 0; i < n; ++i) {
    chunks.push_back(sample::make(seed, sample::kSmall, 16, i));
  }
  return chunks;
}
std::uint64_t chunk_bytes() { return sample::make(1).object.size(); }

/// A store of so many chunks, whose time a test sets.
struct Timed {
  explicit Timed(std::uint32_t n_chunks)
      : store(
            {.capacity_bytes = n_chunks * chunk_bytes(), .clock = [this] { return now.load(); }}) {}
  void write(const sample::Chunk& chunk) {
    const Status status = store.write(chunk.identity.key, chunk.bytes());
    INFO((status ? std::string() : status.error().message()));
    REQUIRE(status);
  }
  bool holds(const sample::Chunk& chunk) {
    return sample::look(store, chunk.identity.key).stored();
  }
  std::string held(const std::vector<sample::Chunk>& chunks) {
    std::string which;
    for (const auto& chunk : chunks) which += holds(chunk) ? '1' : '0';
    return which;
  }
  BorrowedBytes borrow(const sample::Chunk& chunk) {
    return store.borrow(0, chunk.identity.key, 0, chunk.object.size()).value();
  }
  std::atomic<std::int64_t> now{1'000'000};
  HostStorage store;
};

Errc code_of_options(const HostOptions& options, std::string* text = nullptr) {
  try {
    const HostStorage store(options);
    return Errc::ok;
  } catch (const Exception& e) {
    if (text != nullptr) *text = e.error().message();
    return e.error().code;
  }
}

TEST_CASE("host memory keeps the contract of a store, and that of a store that lends") {
  HostStorage store({.capacity_bytes = 1 << 20});
  sample::check_contract(store);
  CHECK(testing::check(store) == testing::Failures{});
  CHECK(store.stats().objects == 0);
  CHECK(store.stats().used_bytes == 0);
}

TEST_CASE("host memory serves whole objects to many threads at once") {
  HostStorage store({.capacity_bytes = 1 << 20});
  sample::check_concurrent(store, 3000);
}

TEST_CASE("a host store without a capacity is refused by the name of the option") {
  std::string text;
  CHECK(code_of_options({}, &text) == Errc::invalid_argument);
  CHECK(text.find("HostOptions::capacity_bytes") != std::string::npos);
  CHECK(code_of_options({.capacity_bytes = 4095}) == Errc::invalid_argument);
  CHECK(code_of_options({.capacity_bytes = 4096}) == Errc::ok);
}

TEST_CASE("a chunk object is verified on the way in, and lent with its seal") {
  const auto chunk = sample::make(1);
  HostStorage store({.capacity_bytes = 1 << 20});
  REQUIRE(store.write(chunk.identity.key, chunk.bytes()));
  const auto loan = store.borrow(0, chunk.identity.key, 0, chunk.object.size());
  REQUIRE(loan);
  REQUIRE(loan->verified());
  CHECK(*loan->seal() == verify_object(chunk.bytes(), chunk.identity.key).value());
  CHECK(sample::equal(loan->bytes(), chunk.bytes()));
  CHECK(std::uintptr_t(loan->bytes().data()) % kPage == 0);
  CHECK(store.stats().unverified == 0);

  HostStorage again({.capacity_bytes = 1 << 20, .verify_on_read = true});
  REQUIRE(again.write(chunk.identity.key, chunk.bytes()));
  CHECK_FALSE(again.borrow(0, chunk.identity.key, 0, chunk.object.size())->verified());
}

TEST_CASE("a chunk object that is damaged anywhere is refused, and leaves nothing behind") {
  const auto chunk = sample::make(1);
  HostStorage store({.capacity_bytes = 2 * chunk.object.size()});
  std::uint64_t refused = 0;
  for (std::size_t at = 0; at < chunk.object.size(); at += 1021) {
    auto object = chunk.object;
    object[at] ^= std::byte{4};
    INFO("byte " << at);
    CHECK(store.write(chunk.identity.key, object).code() == Errc::corrupt);
    CHECK(store.stats().damaged == ++refused);
    REQUIRE(store.stats().used_bytes == 0);
    CHECK_FALSE(sample::look(store, chunk.identity.key).stored());
  }
  auto object = chunk.object;
  object.resize(object.size() - kPage);
  CHECK(store.write(chunk.identity.key, object).code() == Errc::corrupt);
  object = chunk.object;
  object.resize(object.size() + kPage);
  CHECK(store.write(chunk.identity.key, object).code() == Errc::corrupt);
  CHECK(store.write(sample::key_of(7), chunk.bytes()).code() == Errc::mismatch);
  CHECK(store.write(chunk.identity.key, chunk.bytes()));
}

TEST_CASE("objects that hold a part of the layers are whole objects, too") {
  const KvPlane plane{2, 64};
  const KvLayout layout{3, {{{plane, plane}}, {{plane}, 64}}, {0, 1, 0}};
  const auto chunk = sample::make_of(3, layout);
  const ChunkGeometry& geometry = chunk.geometry();
  REQUIRE(geometry.held_counts().size() == 2);
  ChunkWriter writer(layout, 16);
  sample::fill(writer.payload().plane(0, 0), 1);
  const auto part = writer.finish(chunk.identity, geometry.held_counts()[0]);
  REQUIRE(part);
  REQUIRE(part->size() < chunk.object.size());
  HostStorage store({.capacity_bytes = 1 << 20});
  REQUIRE(store.write(chunk.identity.key, *part));
  const auto loan = store.borrow(0, chunk.identity.key, 0, part->size());
  REQUIRE(loan);
  CHECK(loan->verified());
  REQUIRE(store.erase(chunk.identity.key));
  REQUIRE(store.write(chunk.identity.key, chunk.bytes()));
  CHECK(store.stats().unverified == 0);
}

/// The object in a room of the store.
ObjectRoom built(HostStorage& store, const ChunkKey& key, ConstBytes object,
                 std::uint64_t room_bytes) {
  ObjectRoom room = store.make_room(key, room_bytes).value();
  std::memcpy(room.bytes().data(), object.data(), object.size());
  return room;
}

TEST_CASE("an object that is built in the store is lent from where it was built, with its seal") {
  const auto chunk = sample::make(1);
  const ChunkKey& key = chunk.identity.key;
  const std::uint32_t seal = verify_object(chunk.bytes(), key).value();
  HostStorage store({.capacity_bytes = 1 << 20});
  ObjectRoom room = built(store, key, chunk.bytes(), chunk.object.size());
  const std::byte* const place = room.bytes().data();
  CHECK(store.stats().used_bytes == chunk.object.size());
  CHECK(store.stats().objects == 0);
  const auto published = store.publish(key, std::move(room), chunk.object.size(), seal);
  REQUIRE(published.value());
  const auto loan = store.borrow(0, key, 0, chunk.object.size());
  REQUIRE(loan);
  CHECK(loan->bytes().data() == place);
  CHECK(loan->seal() == seal);
  CHECK(store.stats().published == 1);
  CHECK(store.stats().unverified == 0);
}

TEST_CASE("a room that is given up, or holds no whole object, leaves nothing behind") {
  const auto chunk = sample::make(1), other = sample::make(2);
  const ChunkKey& key = chunk.identity.key;
  const std::uint64_t size = chunk.object.size();
  const std::uint32_t seal = verify_object(chunk.bytes(), key).value();
  HostStorage store({.capacity_bytes = 1 << 20});
  { const ObjectRoom given_up = built(store, key, chunk.bytes(), size); }
  const auto refused = [&](ConstBytes object, const ChunkKey& as, std::uint64_t bytes,
                           std::optional<std::uint32_t> with) {
    const auto shown = store.publish(as, built(store, as, object, size), bytes, with);
    REQUIRE_FALSE(shown);
    CHECK(store.stats().used_bytes == 0);
    CHECK(store.stats().objects == 0);
    return shown.error().code;
  };
  CHECK(refused(chunk.bytes(), key, size, seal + 1) == Errc::mismatch);
  CHECK(refused(chunk.bytes(), other.identity.key, size, seal) == Errc::mismatch);
  CHECK(refused(chunk.bytes(), key, size - kPage, seal) == Errc::mismatch);
  CHECK(refused(chunk.bytes(), key, size + kPage, seal) == Errc::invalid_argument);
  CHECK(refused(chunk.bytes(), key, 0, seal) == Errc::invalid_argument);
  auto damaged = chunk.object;
  damaged[size / 2] ^= std::byte{1};
  CHECK(refused(damaged, key, size, std::nullopt) ==
        Errc::corrupt);  // nobody says that it is whole
  CHECK(refused(chunk.bytes(), other.identity.key, size, std::nullopt) == Errc::mismatch);
  CHECK(store.publish(key, ObjectRoom(), size, seal).error().code == Errc::invalid_argument);
  CHECK(store.make_room(key, 0).error().code == Errc::invalid_argument);
  REQUIRE(store.publish(key, built(store, key, chunk.bytes(), size), size, std::nullopt).value());
  CHECK(store.borrow(0, key, 0, size)->seal() == seal);
}

TEST_CASE("what an object does not need of its room is free again") {
  const auto chunk = sample::make(1);
  const std::uint64_t size = chunk.object.size();
  HostStorage store({.capacity_bytes = 3 * size});
  ObjectRoom room = built(store, chunk.identity.key, chunk.bytes(), 3 * size);
  CHECK(store.make_room(sample::key_of(1), kPage).error().code == Errc::out_of_memory);
  const auto published = store.publish(chunk.identity.key, std::move(room), size, std::nullopt);
  REQUIRE(published);
  CHECK(store.stats().used_bytes == size);
  ObjectRoom rest = store.make_room(sample::key_of(1), 2 * size).value();
  std::memset(rest.bytes().data(), 0, rest.bytes().size());
  CHECK(sample::equal(store.borrow(0, chunk.identity.key, 0, size)->bytes(), chunk.bytes()));
}

TEST_CASE("a room evicts as a write does, and is evicted by nobody") {
  const auto chunks = prompt_chunks(1, 3);
  Timed timed(3);
  for (const auto& chunk : chunks) timed.write(chunk);
  timed.now += 3600;
  const ObjectRoom first = timed.store.make_room(sample::key_of(1), chunk_bytes()).value();
  CHECK(timed.held(chunks) == "011");
  const ObjectRoom second = timed.store.make_room(sample::key_of(2), chunk_bytes()).value();
  const ObjectRoom third = timed.store.make_room(sample::key_of(3), chunk_bytes()).value();
  CHECK(timed.held(chunks) == "000");
  CHECK(timed.store.make_room(sample::key_of(4), chunk_bytes()).error().code ==
        Errc::out_of_memory);
  CHECK(timed.store.write(chunks[0].identity.key, chunks[0].bytes()).code() == Errc::out_of_memory);
}

TEST_CASE("what is no chunk object is kept as it is, and lent as unverified") {
  HostStorage store({.capacity_bytes = 1 << 20});
  const auto bytes = sample::content(1, 3 * kPage);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  const auto loan = store.borrow(0, sample::key_of(1), 0, bytes.size());
  REQUIRE(loan);
  CHECK_FALSE(loan->verified());
  CHECK(store.stats().unverified == 1);
}

TEST_CASE("where pinned memory ends the rest is plain, and an operator can see that") {
  fault::ExactStaging memory(2 * 64 * kPage);
  {
    HostStorage store(
        {.capacity_bytes = 5 * 64 * kPage, .memory = &memory, .arena_bytes = 64 * kPage});
    CHECK(memory.used == 2 * 64 * kPage);
    CHECK(memory.refused == 1);
    CHECK(store.stats().plain_bytes == 3 * 64 * kPage);
    REQUIRE_FALSE(store.problem());
    CHECK(store.problem().code() == Errc::out_of_memory);
    CHECK(store.problem().error().message().find(std::to_string(3 * 64 * kPage)) !=
          std::string::npos);
    CHECK(testing::check(store) == testing::Failures{});
    for (std::uint64_t i = 0; i < 40; ++i) {
      REQUIRE(store.write(sample::key_of(i), sample::content(i, 20 * kPage).bytes()));
    }
    CHECK(store.stats().objects == 15);
    for (std::uint64_t i = 0; i < 40; ++i) {
      if (!sample::look(store, sample::key_of(i)).stored()) continue;
      CHECK(sample::equal(sample::fetch(store, sample::key_of(i), 20 * kPage).bytes(),
                          sample::content(i, 20 * kPage).bytes()));
    }
  }
  CHECK(memory.used == 0);

  HostStorage plain({.capacity_bytes = 64 * kPage});
  CHECK(plain.problem());
  CHECK(plain.stats().plain_bytes == 0);
}

TEST_CASE("memory is allocated once, and never more of it than the capacity") {
  constexpr std::uint64_t kCapacity = 50 * kPage;
  fault::ExactStaging memory(kCapacity);
  HostStorage store(
      {.capacity_bytes = kCapacity + 100, .memory = &memory, .arena_bytes = 20 * kPage});
  CHECK(store.problem());
  CHECK(memory.used == kCapacity);
  std::mt19937 random(1);
  std::uint64_t written = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const std::uint64_t bytes = kPage * (1 + random() % 20) - random() % 4000;
    written += store.write(sample::key_of(i), sample::content(i, bytes).bytes()) ? 1 : 0;
    REQUIRE(store.stats().used_bytes <= kCapacity);
  }
  CHECK(written == 2000);  // nothing was lent, so there was always something that could go
  CHECK(store.stats().published == 2000);
  CHECK(store.stats().evicted + store.stats().objects == 2000);
  CHECK(memory.used == kCapacity);
  CHECK(store.write(sample::key_of(9999), sample::content(1, 21 * kPage).bytes()).code() ==
        Errc::out_of_memory);
  CHECK(store.stats().refused == 1);
  CHECK(store.stats().evicted + store.stats().objects == 2000);  // nothing went for it
}

TEST_CASE("the oldest class of age goes first, and within it the front of chains") {
  const auto old = prompt_chunks(1, 4);
  const auto young = prompt_chunks(2, 4);
  Timed timed(8);
  for (std::uint32_t i = 4; i-- > 0;) timed.write(old[i]);  // the tail is older by the clock
  timed.now += 3600;
  for (const auto& chunk : young) timed.write(chunk);
  const auto more = prompt_chunks(3, 6);
  timed.write(more[0]);
  CHECK(timed.held(old) == "0111");
  timed.write(more[1]);
  timed.write(more[2]);
  CHECK(timed.held(old) == "0001");
  CHECK(timed.held(young) == "1111");
  // Used lately, the last one of the old ones is as young as the others, but further back.
  (void)timed.borrow(old[3]);
  timed.write(more[3]);
  CHECK(timed.held(old) == "0001");
  CHECK(timed.store.stats().evicted == 4);
  CHECK(timed.store.stats().refused == 0);
}

TEST_CASE("a read and a loan are uses, a lookup is none") {
  const auto chunks = prompt_chunks(1, 3);
  for (const int how : {0, 1, 2}) {
    CAPTURE(how);
    Timed timed(3);
    for (const auto& chunk : chunks) timed.write(chunk);
    timed.now += 3600;
    if (how == 0) (void)timed.borrow(chunks[0]);
    if (how == 1) {
      CHECK(sample::read_code(timed.store, chunks[0].identity.key, chunk_bytes()) == Errc::ok);
    }
    if (how == 2) CHECK(timed.holds(chunks[0]));
    timed.write(sample::make(5));
    CHECK(timed.held(chunks) == (how == 2 ? "011" : "101"));
  }
}

TEST_CASE("an object that is lent stays, and the writer evicts another one") {
  const auto chunks = prompt_chunks(1, 3);
  Timed timed(3);
  for (const auto& chunk : chunks) timed.write(chunk);
  const BorrowedBytes loan = timed.borrow(chunks[0]);
  timed.now += 3600;
  (void)timed.borrow(chunks[1]);
  (void)timed.borrow(chunks[2]);
  timed.write(sample::make(5));  // the first one to go would be the one that is lent
  CHECK(timed.held(chunks) == "101");
  CHECK(sample::equal(loan.bytes(), chunks[0].bytes()));
  CHECK(timed.store.stats().in_use == 1);
}

TEST_CASE("a write is refused, and counted, when all that could go is lent") {
  const auto chunks = prompt_chunks(1, 3);
  Timed timed(3);
  for (const auto& chunk : chunks) timed.write(chunk);
  std::vector<BorrowedBytes> loans;
  loans.reserve(chunks.size());
  for (const auto& chunk : chunks) loans.push_back(timed.borrow(chunk));
  const auto other = sample::make(5);
  const Status refused = timed.store.write(other.identity.key, other.bytes());
  CHECK(refused.code() == Errc::out_of_memory);
  CHECK(timed.store.stats().refused == 1);
  CHECK(timed.held(chunks) == "111");
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(sample::equal(loans[i].bytes(), chunks[i].bytes()));
  }
  loans.pop_back();
  timed.write(other);
  CHECK(timed.held(chunks) == "110");
}

TEST_CASE(
    "an object that is erased while it is lent is gone at once, and its memory with the loan") {
  const auto chunks = prompt_chunks(1, 2);
  Timed timed(1);
  timed.write(chunks[0]);
  BorrowedBytes loan = timed.borrow(chunks[0]);
  REQUIRE(timed.store.erase(chunks[0].identity.key));
  CHECK_FALSE(timed.holds(chunks[0]));
  CHECK(timed.store.stats().objects == 0);
  CHECK(timed.store.stats().used_bytes == chunk_bytes());
  CHECK(timed.store.write(chunks[1].identity.key, chunks[1].bytes()).code() == Errc::out_of_memory);
  CHECK(sample::equal(loan.bytes(), chunks[0].bytes()));
  BorrowedBytes moved = std::move(loan);
  // What a moved one says is promised.
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  CHECK(loan.bytes().empty());
  CHECK_FALSE(loan.verified());
  CHECK(sample::equal(moved.bytes(), chunks[0].bytes()));
  moved = BorrowedBytes();
  CHECK(timed.store.stats().used_bytes == 0);
  timed.write(chunks[1]);
}

TEST_CASE("objects of many sizes leave room for one that needs a long gap") {
  HostStorage store({.capacity_bytes = 64 * kPage});
  // One page each, side by side; the first ones to go are not neighbours.
  for (std::uint64_t i = 0; i < 64; ++i) {
    REQUIRE(store.write(sample::key_of(i), sample::content(i, kPage).bytes()));
  }
  std::vector<BorrowedBytes> loans;
  for (std::uint64_t i = 0; i < 64; i += 13) {
    loans.push_back(store.borrow(0, sample::key_of(i), 0, kPage).value());
  }
  // As long as what lies between two of those that stay.
  REQUIRE(store.write(sample::key_of(100), sample::content(100, 12 * kPage).bytes()));
  for (std::uint64_t i = 0; i < 64; i += 13) {
    CHECK(sample::look(store, sample::key_of(i)).stored());
    CHECK(sample::equal(loans[i / 13].bytes(), sample::content(i, kPage).bytes()));
  }
  CHECK(store.stats().evicted <= 24 + 12);
  const std::uint64_t evicted = store.stats().evicted;
  // A longer one has no place, and little goes for it.
  CHECK(store.write(sample::key_of(101), sample::content(101, 13 * kPage).bytes()).code() ==
        Errc::out_of_memory);
  CHECK(store.stats().evicted <= evicted + 26);
}

TEST_CASE(
    "an object that was erased while lent and written again is no neighbour of where it lay") {
  std::int64_t now = 1'000'000;
  HostStorage store({.capacity_bytes = 12 * kPage, .clock = [&] { return now; }});
  const auto page = [](std::uint64_t i) { return sample::content(i, kPage); };
  for (std::uint64_t i = 0; i < 12; ++i) REQUIRE(store.write(sample::key_of(i), page(i).bytes()));
  std::vector<BorrowedBytes> loans;
  for (std::uint64_t i = 0; i < 12; i += 2) {
    loans.push_back(store.borrow(0, sample::key_of(i), 0, kPage).value());
  }
  REQUIRE(store.erase(sample::key_of(2)));
  ++now;
  REQUIRE(store.write(sample::key_of(2), page(22).bytes()));  // where object 1 lay
  for (const std::uint64_t i : {3u, 2u}) {                    // these two go last
    ++now;
    REQUIRE(sample::read_code(store, sample::key_of(i), kPage, 0, 0) == Errc::ok);
  }
  // All others that may go have gone, and between lent pages there is no room for two.
  CHECK(store.write(sample::key_of(99), sample::content(99, 2 * kPage).bytes()).code() ==
        Errc::out_of_memory);
  CHECK(sample::look(store, sample::key_of(3)).stored());
  CHECK(sample::look(store, sample::key_of(2)).stored());
  CHECK(sample::equal(sample::fetch(store, sample::key_of(2), kPage, 0, nullptr, 0).bytes(),
                      page(22).bytes()));
}

TEST_CASE("what is lent stays as it is while threads write, evict, erase and borrow") {
  constexpr std::uint64_t kKeys = 24;
  constexpr std::uint64_t kObject = 3 * kPage;
  HostStorage store({.capacity_bytes = 12 * kObject});
  std::vector<AlignedBuffer> contents;
  for (std::uint64_t i = 0; i < kKeys; ++i) contents.push_back(sample::content(i, kObject));
  std::atomic<int> wrong{0}, lent{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int round = 0; round < 2000; ++round) {
        const std::uint64_t i = random() % kKeys;
        const ChunkKey key = sample::key_of(i);
        switch (random() % 8) {
          case 0:
            wrong += !store.erase(key);
            break;
          case 1:
          case 2:
          case 3:
            (void)store.write(key, contents[i].bytes());
            break;
          default: {
            const auto loan = store.borrow(0, key, 0, kObject);
            if (!loan) break;
            ++lent;
            const std::uint64_t other = random() % kKeys;
            (void)store.write(sample::key_of(other), contents[other].bytes());
            wrong += !sample::equal(loan->bytes(), contents[i].bytes());
          }
        }
        wrong += store.stats().used_bytes > 12 * kObject;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(lent > 0);
  CHECK(store.stats().in_use == 0);
  CHECK(store.stats().used_bytes == store.stats().objects * kObject);
}

}  // namespace
