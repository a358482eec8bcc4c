// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/kv_presence.hpp"

#include <thread>
#include <vector>

#include "catch.hpp"

using namespace cake;

TEST_CASE("presence is known for each layer of each token") {
  for (const std::uint32_t layers : {1u, 3u, 63u, 64u, 65u, 128u, 130u}) {
    CAPTURE(layers);
    KvPresence presence(1000, layers);
    CHECK(!presence.missing({0, 0}));
    CHECK(presence.missing({0, 1000})->token == 0);
    presence.add({200, 700});
    CHECK(!presence.missing({200, 700}));
    CHECK(presence.missing({199, 700})->token == 199);
    CHECK(presence.missing({200, 701})->token == 700);
    presence.add({100, 200}, {0, layers - 1});
    if (layers > 1) {
      CHECK(!presence.missing({100, 700}, {0, layers - 1}));
      CHECK(presence.missing({100, 700})->token == 100);
    }
    CHECK(presence.missing({100, 700})->layer == layers - 1);
    presence.add({100, 200}, {layers - 1, layers});
    CHECK(!presence.missing({100, 700}));
    presence.forget({300, 301}, {layers / 2, layers / 2 + 1});
    CHECK(presence.missing({100, 700})->token == 300);
    CHECK(presence.missing({100, 700})->layer == layers / 2);
    presence.forget_from(150);
    CHECK(presence.missing({100, 700})->token == 150);
    presence.forget_from(2000);
    presence.forget({900, 5000});
    presence.clear();
    CHECK(presence.missing({100, 101})->token == 100);
  }
}

TEST_CASE("threads that add layers of the same tokens lose none") {
  KvPresence presence(2000, 4);
  std::vector<std::thread> threads;
  for (std::uint32_t layer = 0; layer < 4; ++layer) {
    threads.emplace_back([&, layer] {
      for (std::uint32_t t = 0; t < 2000; t += 10) presence.add({t, t + 10}, {layer, layer + 1});
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(!presence.missing({0, 2000}));
}

TEST_CASE("what is forgotten from a token on stays so until it is added again") {
  KvPresence presence(3000, 2);
  presence.add({0, 2000});
  presence.forget_from(1000);
  presence.forget_from(1500);
  CHECK(presence.missing({0, 2000})->token == 1000);
  presence.add({1800, 1900});
  CHECK(presence.missing({1000, 1900})->token == 1000);
  CHECK(!presence.missing({1800, 1900}));
  presence.forget_from(1850);
  CHECK(presence.missing({1800, 1900})->token == 1850);
  presence.add({1000, 1850});
  CHECK(!presence.missing({0, 1850}));
  CHECK(presence.missing({0, 3000})->token == 1850);
  presence.clear();
  presence.clear();
  CHECK(presence.missing({0, 1})->token == 0);
}
