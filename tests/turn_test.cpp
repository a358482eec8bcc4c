// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/core/turn.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "catch.hpp"

using cake::detail::Turn;

TEST_CASE("whoever gives the turn back hears of those that found it taken") {
  Turn turn;
  turn.take();
  CHECK_FALSE(turn.give());
  REQUIRE(turn.try_take());
  CHECK_FALSE(turn.try_take());
  CHECK(turn.give());
  CHECK(turn.try_take());
  CHECK_FALSE(turn.give());  // of the last time it was told
}

TEST_CASE("one thread at a time has the turn, and each that waits gets it") {
  constexpr int kThreads = 3;
  constexpr int kRounds = 50;
  Turn turn;
  int inside = 0;
  int most = 0;
  int rounds = 0;
  turn.take();
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        turn.take();
        most = std::max(most, ++inside);
        ++rounds;
        std::this_thread::sleep_for(std::chrono::microseconds(100));  // others fall asleep
        --inside;
        (void)turn.give();
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  (void)turn.give();
  for (std::thread& thread : threads) thread.join();
  CHECK(most == 1);
  CHECK(rounds == kThreads * kRounds);
}
