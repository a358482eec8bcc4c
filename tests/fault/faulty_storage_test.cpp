// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The faults themselves, and that a chunk's reader sees each of them.
#include "faulty_storage.hpp"

#include <thread>

#include "cake/storage/memory.hpp"
#include "cake/storage_backend.hpp"
#include "tests/storage/contract.hpp"

namespace {

using namespace cake;
using fault::Fault;
using fault::Kind;
using Faulty = fault::FaultyStorage<MemoryStorage>;

static_assert(StorageBackend<Faulty>);

/// Reads and verifies one whole chunk as a loader does.
Errc load(Faulty& store, const sample::Chunk& chunk) {
  Errc code = Errc::ok;
  const auto bytes = sample::fetch(store, chunk.identity.key, chunk.object.size(), 0, &code);
  return code != Errc::ok ? code : sample::check(bytes.bytes(), chunk.identity).code();
}

TEST_CASE("without orders a faulty store keeps the contract of a store") {
  MemoryStorage memory;
  Faulty store(memory);
  sample::check_contract(store);
  sample::check_concurrent(store, 500);
  CHECK(store.counts().faults == 0);
}

TEST_CASE("each fault of a read is noticed, and a healed store is clean") {
  MemoryStorage memory;
  Faulty store(memory);
  const auto chunk = sample::make(1), other = sample::make(2);
  REQUIRE(store.write(chunk.identity.key, chunk.object));
  REQUIRE(store.write(other.identity.key, other.object));
  const auto with = [&](Fault fault) {
    store.on_key(chunk.identity.key, fault);
    const Errc code = load(store, chunk);
    CHECK(load(store, other) == Errc::ok);
    store.heal();
    CHECK(load(store, chunk) == Errc::ok);
    return code;
  };
  CHECK(with({.kind = Kind::error}) == Errc::io);
  CHECK(with({.kind = Kind::short_read}) == Errc::io);
  CHECK(with({.kind = Kind::torn_read}) == Errc::corrupt);
  CHECK(with({.kind = Kind::wrong_object, .other = other.identity.key}) == Errc::mismatch);
  CHECK(with({.kind = Kind::wrong_object, .other = sample::key_of(5)}) == Errc::not_found);
  for (std::uint64_t at = 0; at < chunk.object.size(); at += 511) {
    CHECK(with({.kind = Kind::flipped_byte, .position = at}) == Errc::corrupt);
  }
  CHECK(store.counts().faults == 5 + (chunk.object.size() + 510) / 511);
}

TEST_CASE("faults hit the read that was meant, once or as often as ordered") {
  MemoryStorage memory;
  Faulty store(memory);
  const auto chunk = sample::make(1);
  REQUIRE(store.write(chunk.identity.key, chunk.object));
  store.on_read(1, {.kind = Kind::error});
  CHECK(load(store, chunk) == Errc::ok);
  CHECK(load(store, chunk) == Errc::io);
  CHECK(load(store, chunk) == Errc::ok);
  store.on_key(chunk.identity.key, {.kind = Kind::error}, 2);
  CHECK(load(store, chunk) == Errc::io);
  CHECK(load(store, chunk) == Errc::io);
  CHECK(load(store, chunk) == Errc::ok);
  store.on_every_read({.kind = Kind::error});
  CHECK(load(store, chunk) == Errc::io);
  store.heal();
  CHECK(load(store, chunk) == Errc::ok);
  CHECK(store.counts().reads == 8);
}

TEST_CASE("a hung read arrives when it is released, late and whole") {
  MemoryStorage memory;
  Faulty store(memory);
  const auto chunk = sample::make(1);
  REQUIRE(store.write(chunk.identity.key, chunk.object));
  store.on_key(chunk.identity.key, {.kind = Kind::hang});
  const AlignedBuffer out(chunk.object.size());
  std::memset(out.data(), 0, out.size());
  auto read = store.read(0, chunk.identity.key, 0, out.bytes());
  CHECK_FALSE(read.ready());
  CHECK_FALSE(read.wait_for(std::chrono::milliseconds(1)));
  CHECK(store.counts().hung == 1);
  CHECK(out.bytes()[0] == std::byte{0});
  std::thread releaser([&] { store.release(); });
  CHECK(read.wait());
  releaser.join();
  CHECK(sample::equal(out.bytes(), chunk.object));
  CHECK(store.counts().hung == 0);
}

TEST_CASE("reads that hang until their store is destroyed end canceled, and nothing arrives") {
  MemoryStorage memory;
  const auto chunk = sample::make(1);
  REQUIRE(memory.write(chunk.identity.key, chunk.object));
  const AlignedBuffer out(chunk.object.size());
  std::memset(out.data(), 0, out.size());
  std::optional<fault::FaultyCompletion> read;
  {
    Faulty store(memory);
    store.on_every_read({.kind = Kind::hang});
    read.emplace(store.read(0, chunk.identity.key, 0, out.bytes()));
    store.read(0, chunk.identity.key, 0, out.bytes());  // dropped while it hangs
    CHECK(store.counts().hung == 2);
  }
  CHECK(read->ready());
  CHECK(read->wait().code() == Errc::canceled);
  CHECK(out.bytes()[0] == std::byte{0});
}

TEST_CASE("lookups and writes fail on order") {
  MemoryStorage memory;
  Faulty store(memory);
  const auto bytes = sample::content(1, 4096);
  const ChunkKey keys[] = {sample::key_of(1), sample::key_of(2)};
  store.fail_writes(Error{Errc::out_of_memory, 28, "full"}, keys[0]);
  CHECK(store.write(keys[0], bytes.bytes()).code() == Errc::out_of_memory);
  CHECK(store.write(keys[1], bytes.bytes()));
  CHECK(memory.size() == 1);
  store.fail_lookups(Error{Errc::io, 5, "down"});
  CHECK(store.lookup(keys).error().code == Errc::io);
  store.heal();
  CHECK(store.write(keys[0], bytes.bytes()));
  CHECK(store.lookup(keys).value()[0].stored());
}

}  // namespace
