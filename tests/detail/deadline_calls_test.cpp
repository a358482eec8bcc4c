// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/deadline_calls.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <stop_token>
#include <thread>
#include <vector>

#include "catch.hpp"

using namespace std::chrono_literals;
using cake::detail::DeadlineCalls;
using Outcome = DeadlineCalls::Outcome;

namespace {

Outcome wait(DeadlineCalls& calls, const DeadlineCalls::Ticket& ticket,
             std::chrono::nanoseconds span, const std::stop_token& stop = {}) {
  return calls.wait(ticket, DeadlineCalls::Clock::now() + span, stop);
}

/// A call that ends when it is let go.
struct Hang {
  std::atomic<bool> let_go{false};
  std::atomic<int> inside{0};
  auto call() {
    return [this] {
      ++inside;
      while (!let_go) std::this_thread::sleep_for(1ms);
      --inside;
    };
  }
};

}  // namespace

TEST_CASE("a call that ends in time is done") {
  DeadlineCalls calls;
  for (int i = 0; i < 100; ++i) {
    std::atomic<bool> ran{false};
    const auto ticket = calls.begin([&] { ran = true; });
    CHECK(wait(calls, ticket, 1min) == Outcome::done);
    CHECK(ran);
  }
  CHECK(calls.hanging() == 0);
}

TEST_CASE("a call that hangs is left at its deadline, and waited for at the end") {
  Hang hang;
  {
    DeadlineCalls calls;
    const auto ticket = calls.begin(hang.call());
    while (hang.inside == 0) std::this_thread::yield();
    CHECK(wait(calls, ticket, 1ms) == Outcome::timeout);
    CHECK(calls.hanging() == 1);
    // Others are served meanwhile.
    CHECK(wait(calls, calls.begin([] {}), 1min) == Outcome::done);
    hang.let_go = true;
  }
  CHECK(hang.inside == 0);
}

TEST_CASE("a request to stop ends the wait for a call that hangs") {
  Hang hang;
  DeadlineCalls calls;
  std::stop_source stop;
  const auto ticket = calls.begin(hang.call());
  std::jthread stopper([&] {
    while (hang.inside == 0) std::this_thread::yield();
    (void)stop.request_stop();
  });
  CHECK(wait(calls, ticket, 10min, stop.get_token()) == Outcome::canceled);
  CHECK(hang.inside == 1);
  hang.let_go = true;
}

TEST_CASE("calls that hang make no more than a few threads, then others are refused") {
  Hang hang;
  DeadlineCalls calls;
  int begun = 0;
  for (int i = 0; i < 200; ++i) {
    const auto ticket = calls.begin(hang.call());
    if (ticket == nullptr) continue;
    ++begun;
    while (hang.inside < std::min(begun, 8)) std::this_thread::yield();
    CHECK(wait(calls, ticket, 1ms) == Outcome::timeout);
  }
  CHECK(begun == 8);
  CHECK(hang.inside == 8);
  CHECK(calls.hanging() == 8);
  CHECK(wait(calls, nullptr, 1min) == Outcome::refused);
  hang.let_go = true;
  while (calls.hanging() != 0) std::this_thread::yield();
  CHECK(wait(calls, calls.begin([] {}), 1min) == Outcome::done);
}

TEST_CASE("a call that was left before it began is not made, and keeps nothing") {
  Hang hang;
  DeadlineCalls calls;
  std::vector<DeadlineCalls::Ticket> busy;
  busy.reserve(8);
  for (int i = 0; i < 8; ++i) busy.push_back(calls.begin(hang.call()));
  while (hang.inside < 8) std::this_thread::yield();
  std::atomic<bool> ran{false};
  const auto owned = std::make_shared<int>(1);
  const auto ticket = calls.begin([&ran, owned] { ran = true; });
  REQUIRE(ticket != nullptr);
  CHECK(owned.use_count() == 2);
  CHECK(wait(calls, ticket, 1ms) == Outcome::timeout);
  CHECK(owned.use_count() == 1);
  hang.let_go = true;
  for (const auto& b : busy) CHECK(wait(calls, b, 1min) == Outcome::done);
  CHECK(wait(calls, calls.begin([] {}), 1min) == Outcome::done);
  CHECK_FALSE(ran);
}
