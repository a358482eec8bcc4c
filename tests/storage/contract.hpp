// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What every store must do, as one function that each store's test calls.
#pragma once

#include <atomic>
#include <random>
#include <thread>

#include "catch.hpp"
#include "helpers.hpp"

namespace cake::inline CAKE_ABI::sample {

/// Needs:   an empty store of one tier
template <StorageBackend S>
void check_contract(S& store) {
  constexpr std::size_t size = 5 * 4096;
  const auto a = content(1, size), b = content(2, 2 * size);
  const ChunkKey keys[] = {key_of(1), key_of(2), key_of(3)};

  // Nothing is there, and that is no failure.
  REQUIRE(store.lookup({}).value().empty());
  REQUIRE(store.lookup(keys).value().size() == 3);
  auto found = store.lookup(keys).value();
  for (const auto& entry : found) REQUIRE_FALSE(entry.stored());
  CHECK(read_code(store, keys[0], size) == Errc::not_found);
  CHECK(store.erase(keys[0]));

  // Round trip, whole and in parts.
  REQUIRE(cake::await_completion(store.write(keys[0], a.bytes())));
  REQUIRE(cake::await_completion(store.write(keys[2], b.bytes())));
  found = store.lookup(keys).value();
  CHECK(found[0].size == size);
  CHECK(found[0].tiers == 1);
  CHECK_FALSE(found[1].stored());
  CHECK(found[2].size == 2 * size);
  CHECK(equal(fetch(store, keys[0], size).bytes(), a.bytes()));
  CHECK(equal(fetch(store, keys[2], 2 * size).bytes(), b.bytes()));
  for (std::size_t begin = 0; begin < size; begin += 4096) {
    for (std::size_t end = begin + 4096; end <= size; end += 4096) {
      REQUIRE(equal(fetch(store, keys[0], end - begin, begin).bytes(),
                    a.bytes().subspan(begin, end - begin)));
    }
  }

  // The first one wins.
  REQUIRE(cake::await_completion(store.write(keys[0], b.bytes())));
  CHECK(look(store, keys[0]).size == size);
  CHECK(equal(fetch(store, keys[0], size).bytes(), a.bytes()));

  // A read that the object ends before never says that all is well.
  CHECK(read_code(store, keys[0], size + 4096) == Errc::corrupt);
  CHECK(read_code(store, keys[0], 4096, size) == Errc::corrupt);
  CHECK(read_code(store, keys[0], 4096, std::uint64_t{1} << 62) == Errc::corrupt);
  CHECK(read_code(store, keys[0], 4096, 0, 7) == Errc::invalid_argument);

  // No object is empty; size 0 means absent.
  CHECK(cake::await_completion(store.write(keys[1], {})).code() == Errc::invalid_argument);
  CHECK_FALSE(look(store, keys[1]).stored());

  // Erased is erased, and can be written again.
  REQUIRE(store.erase(keys[0]));
  CHECK_FALSE(look(store, keys[0]).stored());
  CHECK(read_code(store, keys[0], size) == Errc::not_found);
  CHECK(look(store, keys[2]).stored());
  REQUIRE(cake::await_completion(store.write(keys[0], b.bytes())));
  CHECK(equal(fetch(store, keys[0], 2 * size).bytes(), b.bytes()));
  REQUIRE(store.erase(keys[0]));
  REQUIRE(store.erase(keys[2]));
}

/// Threads that write, read and erase the same few keys: whoever reads gets a whole object.
///
/// Needs:   an empty store of one tier
template <StorageBackend S>
void check_concurrent(S& store, int rounds) {
  constexpr std::size_t size = 3 * 4096;
  constexpr std::uint64_t n_keys = 6;
  std::vector<AlignedBuffer> contents;
  for (std::uint64_t i = 0; i < n_keys; ++i) contents.push_back(content(i, size));
  std::atomic<int> wrong{0}, whole{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      const AlignedBuffer out(size);
      for (int round = 0; round < rounds; ++round) {
        const std::uint64_t i = random() % n_keys;
        const ChunkKey key = key_of(i);
        switch (random() % 4) {
          case 0:
            wrong += !cake::await_completion(store.write(key, contents[i].bytes()));
            break;
          case 1:
            wrong += !store.erase(key);
            break;
          default: {
            const auto found = look(store, key);
            wrong += found.stored() && found.size != size;
            const Status status = cake::await_completion(store.read(0, key, 0, out.bytes()));
            if (status) {
              ++whole;
              wrong += !equal(out.bytes(), contents[i].bytes());
            } else {
              wrong += status.code() != Errc::not_found;
            }
          }
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(whole > 0);
  for (std::uint64_t i = 0; i < n_keys; ++i) REQUIRE(store.erase(key_of(i)));
}

}  // namespace cake::inline CAKE_ABI::sample
