// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Power cuts at every moment of publishing, replacing and erasing, over a disk that loses what was not
// synced: what a durable store has written is there and whole; all else is whole or a miss.
#include <map>
#include <set>

#include "catch.hpp"
#include "simulated_disk.hpp"
#include "tests/storage/posix_helpers.hpp"

namespace {

using namespace cake;
using fault::DiskState;
using fault::FileNumber;
using fault::RecordedCalls;
using sample::Directory;
namespace fs = std::filesystem;

/// Objects of few pages; the first two lie in one folder.
std::vector<sample::Chunk> make_chunks() {
  constexpr UniformKvLayout kTiny{1, 1, 16, DType::bf16, KvOrder::nhd};
  std::vector<sample::Chunk> chunks;
  std::map<std::byte, std::uint64_t> folders;
  for (std::uint64_t seed = 0; chunks.empty(); ++seed) {
    auto chunk = sample::make(seed, kTiny);
    const auto [place, fresh] = folders.emplace(chunk.identity.key.bytes[0], seed);
    if (fresh) continue;
    chunks.push_back(sample::make(place->second, kTiny));
    chunks.push_back(std::move(chunk));
  }
  for (std::uint64_t seed = 1000; chunks.size() < 5; ++seed) {
    chunks.push_back(sample::make(seed, kTiny));
  }
  return chunks;
}

/// A store whose disk is recorded, and what it has promised since when.
struct Recorded {
  Directory base;
  std::vector<sample::Chunk> chunks = make_chunks();
  std::shared_ptr<RecordedCalls> calls;
  struct Promise {
    std::size_t from, until;  // events
  };
  std::map<std::size_t, Promise> promises;  // of chunks

  fs::path path() const { return base.path() / "store"; }
  PosixOptions options(bool durable, bool named) const {
    return {.directory = path(),
            .threads = 1,
            .durable = durable,
            .force_temporary_names = named,
            .calls = calls};
  }
  void begin() { calls = std::make_shared<RecordedCalls>(base.path()); }
  void write(PosixStorage& store, std::size_t chunk) {
    REQUIRE(store.write(chunks[chunk].identity.key, chunks[chunk].object));
    promises[chunk] = {calls->recorded(), ~std::size_t{0}};
  }
  void erase(PosixStorage& store, std::size_t chunk) {
    if (promises.contains(chunk)) promises[chunk].until = calls->recorded();
    REQUIRE(store.erase(chunks[chunk].identity.key));
  }
};

/// What a store finds that is opened after the cut.
struct Found {
  std::set<std::size_t> whole;
  std::size_t damaged = 0;
};

Found look_at(const Recorded& recorded, const fs::path& left) {
  PosixStorage store({.directory = left / "store", .threads = 1});
  Found found;
  for (std::size_t c = 0; c < recorded.chunks.size(); ++c) {
    const sample::Chunk& chunk = recorded.chunks[c];
    if (!sample::look(store, chunk.identity.key).stored()) continue;
    Errc code = Errc::ok;
    const auto bytes = sample::fetch(store, chunk.identity.key, chunk.object.size(), 0, &code);
    // As a reader does: what it takes must be the very bytes.
    if (code == Errc::ok && sample::check(bytes.bytes(), chunk.identity)) {
      REQUIRE(sample::equal(bytes.bytes(), chunk.object));
      found.whole.insert(c);
    } else {
      ++found.damaged;
    }
  }
  for (const auto& entry : fs::directory_iterator(left / "store")) {
    REQUIRE_FALSE(entry.path().filename().string().starts_with(".tmp"));
  }
  // A reader erases what is damaged; then all can be stored.
  for (const sample::Chunk& chunk : recorded.chunks) {
    Errc code = Errc::ok;
    const auto bytes = sample::fetch(store, chunk.identity.key, chunk.object.size(), 0, &code);
    if (code != Errc::ok || !sample::check(bytes.bytes(), chunk.identity)) {
      REQUIRE(store.erase(chunk.identity.key));
    }
    REQUIRE(store.write(chunk.identity.key, chunk.object));
    REQUIRE(sample::equal(sample::fetch(store, chunk.identity.key, chunk.object.size()).bytes(),
                          chunk.object));
  }
  return found;
}

/// In memory where there is some: thousands of small files.
Directory place_of_rest() {
  const fs::path memory = "/dev/shm";
  return Directory(::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path());
}

struct Cuts {
  std::size_t cuts = 0, whole = 0, damaged = 0, missing = 0;
};

/// Cuts the power at each moment, several times. `durable`: promises are kept.
Cuts cut_everywhere(const Recorded& recorded, bool durable) {
  Cuts all;
  constexpr unsigned kSeed = 20261130;
  std::mt19937 random(kSeed);
  recorded.calls->for_each_cut([&](std::size_t at, const DiskState& state, FileNumber base) {
    for (const double kept : {0.0, 0.5, 0.9}) {
      INFO("seed " << kSeed << ", cut after " << at << " events, kept " << kept);
      const Directory left = place_of_rest();
      state.leave(base, left.path(), kept, random);
      const Found found = look_at(recorded, left.path());
      ++all.cuts;
      all.whole += found.whole.size();
      all.damaged += found.damaged;
      for (const auto& [chunk, promise] : recorded.promises) {
        if (at < promise.from || at >= promise.until) continue;
        INFO("chunk " << chunk << ", written " << promise.from);
        all.missing += !found.whole.contains(chunk);
        if (durable) REQUIRE(found.whole.contains(chunk));
      }
    }
  });
  return all;
}

/// Publishes, replaces what is damaged, erases and publishes again.
void work(Recorded& recorded, bool durable, bool named) {
  {
    PosixStorage before({.directory = recorded.path(), .threads = 1});
    for (const std::size_t c : {2u, 3u}) {
      REQUIRE(before.write(recorded.chunks[c].identity.key, recorded.chunks[c].object));
    }
  }
  const auto damaged = sample::file_of(recorded.path(), recorded.chunks[2].identity.key);
  std::fstream(damaged, std::ios::binary | std::ios::in | std::ios::out).seekp(9).put('x');
  recorded.begin();
  PosixStorage store(recorded.options(durable, named));
  recorded.write(store, 0);
  recorded.write(store, 1);  // into the same folder
  recorded.write(store, 2);  // over the damaged one
  recorded.erase(store, 3);
  recorded.erase(store, 1);
  recorded.write(store, 1);
  recorded.write(store, 4);
}

TEST_CASE("after a power cut all that a durable store has written is there and whole") {
  for (const bool named : {false, true}) {
    INFO("temporary names: " << named);
    Recorded recorded;
    work(recorded, true, named);
    const Cuts cuts = cut_everywhere(recorded, true);
    CHECK(cuts.cuts > 100);
    CHECK(cuts.missing == 0);
    CHECK(cuts.whole > 0);
  }
}

TEST_CASE("after a power cut what a store has written without syncing is whole or a miss") {
  for (const bool named : {false, true}) {
    INFO("temporary names: " << named);
    Recorded recorded;
    work(recorded, false, named);
    const Cuts cuts = cut_everywhere(recorded, false);
    CHECK(cuts.cuts > 100);
    CHECK(cuts.whole > 0);
    CHECK(cuts.damaged > 0);  // this disk does lose what was not synced
    CHECK(cuts.missing > 0);
  }
}

TEST_CASE("a durable store's objects survive in folders that another store has made unsynced") {
  Recorded recorded;
  fs::create_directory(recorded.path());
  REQUIRE(::chmod(recorded.path().c_str(), 0700) == 0);
  recorded.begin();
  {
    PosixStorage hasty(recorded.options(false, false));
    REQUIRE(hasty.write(recorded.chunks[0].identity.key, recorded.chunks[0].object));
  }
  PosixStorage store(recorded.options(true, false));
  recorded.write(store, 1);  // in the folder of the other one
  CHECK(cut_everywhere(recorded, true).missing == 0);
}

TEST_CASE("a durable store survives in a directory that it has created itself") {
  Recorded recorded;
  recorded.begin();
  PosixStorage store(recorded.options(true, false));
  recorded.write(store, 0);
  recorded.write(store, 4);
  CHECK(cut_everywhere(recorded, true).missing == 0);
}

}  // namespace
