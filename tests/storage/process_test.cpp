// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Objects with threads of their own in the child of a fork().
#include "cake/detail/process.hpp"

#include <thread>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;

TEST_CASE("an object notices that it is used in a child process, and a new one there works") {
  const detail::ForkGuard guard;
  CHECK_FALSE(guard.in_child());
  CHECK(guard.check("a store"));
  CHECK(sample::in_child([&] {
          sample::expect(guard.in_child(), "the child is noticed");
          const Status status = guard.check("a store");
          sample::expect(status.code() == Errc::unsupported, "and refused");
          const std::string text = status.error().message();
          sample::expect(text.find("a store") == 0, "the message names the object");
          sample::expect(text.find("fork()") != std::string::npos, "and the reason");
          const detail::ForkGuard own;
          sample::expect(!own.in_child(), "a guard made in the child");
        }) == 0);
  CHECK_FALSE(guard.in_child());
}

TEST_CASE("threads that do not exist in a child process are abandoned there, not joined") {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    while (!stop) std::this_thread::yield();
  });
  CHECK(sample::in_child([&] { detail::abandon(std::move(threads)); }) == 0);
  stop = true;
  threads[0].join();
}

}  // namespace
