// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/reference/cpu/thread_pool.hpp"

#include <numeric>
#include <set>

#include "catch.hpp"

using cake::reference::ThreadPool;

TEST_CASE("every task runs once, for any number of threads and tasks") {
  for (const unsigned threads : {1u, 2u, 5u}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (unsigned round = 0; round < 300; ++round) {
      const unsigned n_tasks = round % 17;
      std::vector<unsigned> counts(n_tasks, 0);  // no two tasks share an element
      pool.run(n_tasks,
               [&](unsigned task, unsigned worker) { counts[task] += 1 + (worker >= threads); });
      REQUIRE(counts == std::vector<unsigned>(n_tasks, 1));
    }
  }
}

TEST_CASE("a worker's number is never on two threads at once") {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<int> clashes{0};
  for (unsigned round = 0; round < 200; ++round) {
    pool.run(16, [&](unsigned, unsigned worker) {
      if (inside[worker].fetch_add(1) != 0) ++clashes;
      std::this_thread::yield();
      inside[worker].fetch_sub(1);
    });
  }
  CHECK(clashes == 0);
}

TEST_CASE("one thread means the caller") {
  ThreadPool pool(1);
  std::set<std::thread::id> threads;
  pool.run(8, [&](unsigned, unsigned) { threads.insert(std::this_thread::get_id()); });
  CHECK(threads == std::set{std::this_thread::get_id()});
}

TEST_CASE("workers that slept are woken") {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than they stay awake
    std::atomic<unsigned> sum{0};
    pool.run(50, [&](unsigned task, unsigned) { sum += task; });
    REQUIRE(sum == 49 * 50 / 2);
  }
}
