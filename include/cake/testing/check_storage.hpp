// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Conformance kit for stores: tests the rules that a concept cannot express. Needs no test
// framework.
//
//     for (const std::string& failure : cake::testing::check(my_storage))
//       std::puts(failure.c_str());
//
// An empty list means that no tested rule was broken.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/check_support.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail::kit {

/// Threads borrow from the object of `seed` and from others that they write and erase meanwhile. How
/// many loans were of wrong bytes.
template <StorageBackend S>
int wrong_loans(S& storage, std::uint32_t tier, std::uint64_t seed, ConstBytes object) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  const auto borrow = [&](std::uint64_t from) {
    return storage_traits<S>::borrow(storage, tier, key(from), 0, object.size());
  };
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const AlignedBuffer mine(object.size());
      for (std::uint64_t i = 0; i < 16; ++i) {
        const std::uint64_t own = seed + 100 + 100 * t + i;
        fill(mine.bytes(), own);
        (void)await_completion(storage.write(key(own), mine.bytes()));
        const auto other = borrow(own);
        if (other && !same(other->bytes(), mine.bytes())) ++wrong;
        const auto again = borrow(seed);
        if (again && !same(again->bytes(), object)) ++wrong;
        (void)storage.erase(key(own));
        if (other && !same(other->bytes(), mine.bytes())) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return wrong;
}

/// What a store lends is what it reads, and stays so whatever happens to the object meanwhile.
///
/// Needs:   `seed` names keys that are not stored; they are not afterwards
template <StorageBackend S>
void check_lending(S& storage, std::uint64_t seed, testing::Failures& failures) {
  using Traits = storage_traits<S>;
  constexpr std::size_t kSize = 5 * kIoAlignment;
  const auto expect = [&](bool good, const char* what) {
    if (!good) failures.push_back(std::string("storage: borrow: ") + what);
  };
  const ChunkKey object_key = key(seed);
  const AlignedBuffer object(kSize);
  fill(object.bytes(), seed);
  if (!await_completion(storage.write(object_key, object.bytes()))) return;  // failed before
  const auto found = storage.lookup(std::span(&object_key, 1));
  if (!found || found->size() != 1) return;
  std::uint32_t tier = 0;
  const std::uint32_t n_tiers = Traits::tiers(storage);
  const auto lends = [&](std::uint32_t t) {
    return ((*found)[0].tiers >> t & 1) != 0 && Traits::lends(storage, t);
  };
  while (tier < n_tiers && !lends(tier)) ++tier;
  if (tier == n_tiers) {  // the tier that is written to does not lend
    (void)storage.erase(object_key);
    return;
  }
  const auto borrow = [&](const ChunkKey& from, std::uint64_t offset, std::uint64_t size) {
    ChunkKey passing = from;  // a backend copies the keys that it keeps
    Result<BorrowedBytes> loan = Traits::borrow(storage, tier, passing, offset, size);
    passing = {};
    return loan;
  };
  expect(!borrow(key(seed + 1), 0, kSize), "an absent key fails");
  expect(!borrow(object_key, 4 * kIoAlignment, 2 * kIoAlignment), "bytes beyond the end fail");
  expect(!borrow(object_key, std::uint64_t{1} << 62, kIoAlignment),
         "an offset beyond the end fails");
  const auto part = borrow(object_key, kIoAlignment, 2 * kIoAlignment);
  expect(part && same(part->bytes(), object.bytes().subspan(kIoAlignment, 2 * kIoAlignment)),
         "a part is lent from its offset");
  auto whole = borrow(object_key, 0, kSize);
  const auto unchanged = [&] { return whole && same(whole->bytes(), object.bytes()); };
  expect(unchanged(), "what is lent is what was written");

  const int wrong = wrong_loans(storage, tier, seed, object.bytes());
  expect(wrong == 0 && unchanged(), "what is lent stays while others write, borrow and erase");
  expect(storage.erase(object_key).has_value() && !borrow(object_key, 0, kSize),
         "an erased object is not lent any more");
  fill(object.bytes(), seed + 1);
  (void)await_completion(storage.write(object_key, object.bytes()));
  fill(object.bytes(), seed);
  expect(unchanged(), "what was lent stays after its object was erased and written anew");
  whole = BorrowedBytes();
  expect(storage.erase(object_key).has_value(), "an object can be erased when its loans are over");
}

/// Copies each part when it is told of it, and counts how often.
class CopyingSink final : public PieceSink {
 public:
  explicit CopyingSink(ConstBytes out) : out_(out), copy_(out.size()), told_(out.size()) {}
  void arrived(ConstBytes piece) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto at = reinterpret_cast<std::uintptr_t>(piece.data()) -
                    reinterpret_cast<std::uintptr_t>(out_.data());
    outside_ = outside_ || ended_ || at > out_.size() || piece.size() > out_.size() - at;
    if (outside_) return;
    std::copy(piece.begin(), piece.end(), copy_.begin() + static_cast<std::ptrdiff_t>(at));
    for (std::size_t i = 0; i < piece.size(); ++i) ++told_[at + i];
  }
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  /// Nothing outside of the read or after its end.
  bool inside() const {
    const std::lock_guard lock(mutex_);
    return !outside_;
  }
  bool once() const {
    const std::lock_guard lock(mutex_);
    return std::all_of(told_.begin(), told_.end(), [](unsigned char n) { return n <= 1; });
  }
  /// What was told was there already.
  bool right(ConstBytes object) const {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < told_.size(); ++i) {
      if (told_[i] != 0 && copy_[i] != object[i]) return false;
    }
    return true;
  }

 private:
  mutable std::mutex mutex_;
  const ConstBytes out_;
  std::vector<std::byte> copy_;
  std::vector<unsigned char> told_;
  bool outside_ = false;
  bool ended_ = false;
};

/// Parts are told of once they are there, and once.
///
/// Needs:   `seed` names keys that are not stored; they are not afterwards
template <StorageBackend S>
void check_pieces(S& storage, std::uint64_t seed, testing::Failures& failures) {
  const auto expect = [&](bool good, const char* what) {
    if (!good) failures.push_back(std::string("storage: read_pieces: ") + what);
  };
  constexpr std::size_t kSize = std::size_t{3} << 20;
  const ChunkKey object_key = key(seed);
  const AlignedBuffer object(kSize), out(kSize);
  fill(object.bytes(), seed);
  if (!await_completion(storage.write(object_key, object.bytes()))) return;  // it may be too large
  const auto found = storage.lookup(std::span(&object_key, 1));
  if (!found || found->size() != 1 || !found->front().stored()) return;
  const auto tier = static_cast<std::uint32_t>(std::countr_zero(found->front().tiers));
  const auto read = [&](const ChunkKey& from, std::uint64_t offset, MutableBytes to) {
    auto sink = std::make_shared<CopyingSink>(to);
    ChunkKey passing = from;  // a backend copies the keys that it keeps
    auto completion = storage_traits<S>::read_pieces(storage, tier, passing, offset, to, sink);
    passing = {};
    Status status = await_completion(std::move(completion));
    sink->end();
    expect(sink->inside(), "only parts of the read are told of, before it is ready");
    expect(sink->once(), "each byte is told of at most once");
    if (status) expect(sink->right(object.bytes().subspan(offset)), "what is told of is there");
    return status;
  };
  expect(read(object_key, 0, out.bytes()) && same(out.bytes(), object.bytes()),
         "a read gives what was written");
  const MutableBytes part = out.bytes().first(kSize - 3 * kIoAlignment);
  expect(read(object_key, 3 * kIoAlignment, part) &&
             same(part, object.bytes().subspan(3 * kIoAlignment)),
         "a part is read from its offset");
  expect(!read(object_key, 2 * kIoAlignment, out.bytes()), "a read beyond the end fails");
  expect(!read(key(seed + 1), 0, out.bytes()), "reading an absent key fails");
  (void)storage.erase(object_key);
}

/// Threads build objects in rooms at once, some of one key. How many were not as they were built.
template <StorageBackend S, class Read>
int wrong_rooms(S& storage, std::uint64_t seed, std::size_t size, const Read& read) {
  using Traits = storage_traits<S>;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const AlignedBuffer expected(size), out(size);
      for (std::uint64_t i = 0; i < 8; ++i) {
        const std::uint64_t own = seed + 100 + 100 * (i % 2 == 0 ? t : 9) + i;
        fill(expected.bytes(), own);
        auto room = Traits::make_room(storage, key(own), size);
        if (!room || room->bytes().size() < size) continue;  // there may be none for it
        std::copy(expected.bytes().begin(), expected.bytes().end(), room->bytes().begin());
        if (!Traits::publish(storage, key(own), std::move(*room), size, std::nullopt)) ++wrong;
        if (!read(own, out.bytes()) || !same(out.bytes(), expected.bytes())) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::uint64_t i = 0; i < 1000; ++i) (void)storage.erase(key(seed + 100 + i));
  return wrong;
}

/// What is built in a room of the store is an object as soon as it is published, and not before.
///
/// Needs:   `seed` names keys that are not stored; they are not afterwards
template <StorageBackend S>
void check_rooms(S& storage, std::uint64_t seed, testing::Failures& failures) {
  using Traits = storage_traits<S>;
  constexpr std::size_t kSize = 5 * kIoAlignment;
  const auto expect = [&](bool good, const char* what) {
    if (!good) failures.push_back(std::string("storage: write_in_place: ") + what);
  };
  const auto size_of = [&](std::uint64_t own) -> std::uint64_t {
    const ChunkKey asked = key(own);
    const auto found = storage.lookup(std::span(&asked, 1));
    return found && found->size() == 1 ? found->front().size : 0;
  };
  const auto read = [&](std::uint64_t own, MutableBytes out) {
    const ChunkKey asked = key(own);
    const auto found = storage.lookup(std::span(&asked, 1));
    if (!found || found->size() != 1 || !found->front().stored()) return false;
    const auto tier = static_cast<std::uint32_t>(std::countr_zero(found->front().tiers));
    return await_completion(storage.read(tier, asked, 0, out)).has_value();
  };
  const auto build = [&](std::uint64_t content) {
    ChunkKey passing = key(seed);  // a backend copies the keys that it keeps
    auto room = Traits::make_room(storage, passing, kSize);
    passing = {};
    expect(room.has_value() && room->bytes().size() >= kSize &&
               reinterpret_cast<std::uintptr_t>(room->bytes().data()) % kIoAlignment == 0,
           "there is a room of the size, at a page");
    if (room && room->bytes().size() >= kSize) fill(room->bytes().first(kSize), content);
    return room ? std::move(*room) : ObjectRoom();
  };
  const AlignedBuffer expected(kSize), out(kSize);
  fill(expected.bytes(), seed);
  const auto supported = Traits::make_room(storage, key(seed), kSize);
  if (!supported && supported.error().code == Errc::unsupported) return;
  (void)build(seed + 1);
  expect(size_of(seed) == 0, "a room that is given up leaves nothing");
  ObjectRoom room = build(seed);
  if (room.empty()) return;
  expect(size_of(seed) == 0, "an object is absent until it is published");
  ObjectRoom second = build(seed + 1);
  const auto publish = [&](ObjectRoom what, std::uint64_t bytes) {
    return Traits::publish(storage, key(seed), std::move(what), bytes, std::nullopt);
  };
  expect(publish(std::move(room), kSize).has_value() && read(seed, out.bytes()) &&
             same(out.bytes(), expected.bytes()),
         "what is published is what was built");
  expect(publish(std::move(second), kSize).has_value() && read(seed, out.bytes()) &&
             same(out.bytes(), expected.bytes()),
         "the first one wins, and the second one is no error");
  (void)storage.erase(key(seed));
  const MutableBytes part = out.bytes().first(2 * kIoAlignment);
  expect(publish(build(seed), part.size()).has_value() && size_of(seed) == part.size() &&
             read(seed, part) && same(part, expected.bytes().first(part.size())),
         "an object may be smaller than its room");
  expect(!publish(build(seed), kSize + kIoAlignment), "an object is not larger than its room");
  (void)storage.erase(key(seed));
  expect(wrong_rooms(storage, seed, kSize, read) == 0, "four threads build objects at once");
}

/// What the calling thread reads by itself is what read() gives, on several threads at once.
///
/// Needs:   `seed` names keys that are not stored; they are not afterwards
template <StorageBackend S>
void check_caller_reads(S& storage, std::uint64_t seed, testing::Failures& failures) {
  using Traits = storage_traits<S>;
  constexpr std::size_t kSize = 9 * kIoAlignment;
  const auto expect = [&](bool good, const char* what) {
    if (!good) failures.push_back(std::string("storage: read_on_caller: ") + what);
  };
  const ChunkKey object_key = key(seed);
  const AlignedBuffer object(kSize), out(kSize);
  fill(object.bytes(), seed);
  if (!await_completion(storage.write(object_key, object.bytes()))) return;  // failed before
  const auto found = storage.lookup(std::span(&object_key, 1));
  if (!found || found->size() != 1 || !found->front().stored()) return;
  const auto tier = static_cast<std::uint32_t>(std::countr_zero(found->front().tiers));
  const auto read = [&](const ChunkKey& from, std::uint64_t offset, MutableBytes to) {
    std::fill(to.begin(), to.end(), std::byte{0x5a});
    return Traits::read_on_caller(storage, tier, from, offset, to).has_value();
  };
  const bool before = Traits::reads_on_caller(storage, tier);
  expect(Traits::reads_on_caller(storage, tier) == before, "reads_on_caller() does not change");
  expect(!Traits::reads_on_caller(storage, Traits::tiers(storage)),
         "a tier that there is not is not read so");
  expect(read(object_key, 0, out.bytes()) && same(out.bytes(), object.bytes()),
         "a read gives what was written, and every byte is there when it returns");
  const MutableBytes part = out.bytes().first(2 * kIoAlignment);
  expect(read(object_key, 3 * kIoAlignment, part) &&
             same(part, object.bytes().subspan(3 * kIoAlignment, part.size())),
         "a part is read from its offset");
  expect(!read(object_key, 8 * kIoAlignment, part), "a read beyond the end fails");
  expect(!read(object_key, std::uint64_t{1} << 62, part), "an offset beyond the end fails");
  expect(!read(key(seed + 1), 0, part), "reading an absent key fails");
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const AlignedBuffer mine(kIoAlignment);
      for (std::uint64_t i = 0; i < 18; ++i) {
        const std::uint64_t at = (i + 2 * t) % 9 * kIoAlignment;
        if (!read(object_key, at, mine.bytes()) ||
            !same(mine.bytes(), object.bytes().subspan(at, kIoAlignment)))
          ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect(wrong == 0, "four threads read at once, each what it asked for");
  (void)storage.erase(object_key);
  expect(!read(object_key, 0, part), "an erased object is not read any more");
}

}  // namespace cake::inline CAKE_ABI::detail::kit

namespace cake::inline CAKE_ABI::testing {

/// Tries a store: leaves nothing behind in it. `seed` chooses the keys.
template <StorageBackend S>
Failures check(S& storage, std::uint64_t seed = 1) {
  Failures failures;
  const auto expect = [&](bool good, const std::string& what) {
    if (!good) failures.push_back("storage: " + what);
  };
  const std::uint32_t n_tiers = storage_traits<S>::tiers(storage);
  expect(n_tiers >= 1 && n_tiers <= kMaxTiers, "tiers() is between 1 and 8");
  constexpr std::size_t kSize = 5 * kIoAlignment;
  const ChunkKey first = detail::kit::key(seed);
  const ChunkKey second = detail::kit::key(seed + 1);
  const ChunkKey absent = detail::kit::key(seed + 2);
  AlignedBuffer object(kSize);
  AlignedBuffer other(kSize);
  AlignedBuffer out(kSize);
  detail::kit::fill(object.bytes(), seed);
  detail::kit::fill(other.bytes(), seed + 1);
  const auto tier_of = [&](const ChunkKey& key) -> std::uint32_t {
    const auto found = storage.lookup(std::span(&key, 1));
    if (!found || found->size() != 1 || !found->front().stored()) return kMaxTiers;
    return static_cast<std::uint32_t>(std::countr_zero(found->front().tiers));
  };
  const auto read = [&](const ChunkKey& key, std::uint64_t offset, MutableBytes to) {
    const std::uint32_t tier = tier_of(key);
    ChunkKey passing = key;  // a backend copies the keys that it keeps
    auto completion = storage.read(tier == kMaxTiers ? 0 : tier, passing, offset, to);
    passing = {};
    return await_completion(std::move(completion));
  };

  expect(tier_of(absent) == kMaxTiers, "a key that was never written is absent");
  expect(!read(absent, 0, out.bytes()), "reading an absent key fails");
  expect(await_completion(storage.write(first, object.bytes())).has_value(), "a write succeeds");
  expect(await_completion(storage.write(second, other.bytes())).has_value(),
         "a second write succeeds");
  const ChunkKey asked[] = {absent, second, first, second};
  const auto found = storage.lookup(asked);
  expect(found.has_value() && found->size() == 4,
         "lookup gives one entry for each key, also for one asked twice");
  if (found && found->size() == 4) {
    expect(!(*found)[0].stored() && (*found)[1].size == kSize && (*found)[2].size == kSize &&
               (*found)[3].size == kSize,
           "lookup gives sizes in the order of the keys");
    expect(std::all_of(found->begin(), found->end(),
                       [&](const StoredChunk& c) { return c.tiers >> n_tiers == 0; }),
           "lookup names only tiers that there are");
  }
  const auto none = storage.lookup({});
  expect(none.has_value() && none->empty(), "lookup of no keys gives an empty list");
  expect(read(first, 0, out.bytes()).has_value() && detail::kit::same(out.bytes(), object.bytes()),
         "a read gives what was written");
  const MutableBytes part = out.bytes().first(2 * kIoAlignment);
  expect(read(first, kIoAlignment, part).has_value() &&
             detail::kit::same(part, object.bytes().subspan(kIoAlignment, part.size())),
         "a part is read from its offset");
  expect(!read(first, 4 * kIoAlignment, part),
         "a read beyond the end fails: ok means that every byte arrived");
  expect(await_completion(storage.write(first, other.bytes())).has_value() &&
             read(first, 0, out.bytes()).has_value() &&
             detail::kit::same(out.bytes(), object.bytes()),
         "the first write wins, and the second one is no error");

  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      AlignedBuffer mine(kSize);
      AlignedBuffer back(kSize);
      for (std::uint64_t i = 0; i < 8; ++i) {
        const std::uint64_t own =
            seed + 1000 + 100 * (i % 2 == 0 ? t : 9) + i;  // every other key is everybody's
        const ChunkKey key = detail::kit::key(own);
        detail::kit::fill(mine.bytes(), own);
        if (!await_completion(storage.write(key, mine.bytes()))) ++wrong;
        const auto there = storage.lookup(std::span(&key, 1));
        if (!there || there->size() != 1 || !there->front().stored()) {
          ++wrong;
          continue;
        }
        const auto tier = static_cast<std::uint32_t>(std::countr_zero(there->front().tiers));
        if (!await_completion(storage.read(tier, key, 0, back.bytes())) ||
            !detail::kit::same(back.bytes(), mine.bytes()))
          ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect(wrong == 0, "four threads write and read at once, each what it wrote");

  expect(storage.erase(first).has_value() && tier_of(first) == kMaxTiers,
         "an erased key is absent");
  expect(storage.erase(first).has_value(), "erasing what is not there is no error");
  (void)storage.erase(second);
  for (std::uint64_t i = 0; i < 1000; ++i) (void)storage.erase(detail::kit::key(seed + 1000 + i));
  if constexpr (storage_traits<S>::abilities.borrow) {
    detail::kit::check_lending(storage, seed + 3000, failures);
  }
  if constexpr (storage_traits<S>::abilities.write_in_place) {
    detail::kit::check_rooms(storage, seed + 5000, failures);
  }
  if constexpr (storage_traits<S>::abilities.read_pieces) {
    detail::kit::check_pieces(storage, seed + 4000, failures);
  }
  if constexpr (storage_traits<S>::abilities.read_on_caller) {
    detail::kit::check_caller_reads(storage, seed + 6000, failures);
  }
  return failures;
}

}  // namespace cake::inline CAKE_ABI::testing
