// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The contract of a store, kept by TieredStorage whatever its policies and its tiers are.
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "cake/testing/check_storage.hpp"
#include "catch.hpp"
#include "helpers.hpp"
#include "tests/fault/faulty_storage.hpp"

namespace {

using namespace cake;

template <class S>
void check_all(S& store) {
  CHECK(testing::check(store) == testing::Failures{});
  CHECK(store.flush());
  CHECK(testing::check(store, 50'000) == testing::Failures{});
}

TEST_CASE("every policy keeps the contract of a store, whatever its tiers are") {
  const auto write = GENERATE(WritePolicy::last, WritePolicy::through, WritePolicy::back);
  const auto promote = GENERATE(Promotion::never, Promotion::on_hit);
  CAPTURE(int(write), int(promote));
  const TierOptions options{.write = write, .promote = promote, .threads = 2};
  HostStorage host({.capacity_bytes = 1 << 22});
  MemoryStorage one, two;
  ThrottledStorage slow(two, LinkOptions{});
  fault::FaultyStorage remote(one);
  const sample::Directory directory;
  PosixStorage disk({.directory = directory.path() / "kv"});
  TieredStorage pair(options, host, one);
  check_all(pair);
  TieredStorage turned(options, one, host);
  check_all(turned);
  TieredStorage three(options, host, disk, remote);
  check_all(three);
  TieredStorage with_link(options, one, slow);
  check_all(with_link);
  TieredStorage nested(options, host, with_link);
  check_all(nested);
  ThrottledStorage outside(three, LinkOptions{});
  CHECK(testing::check(outside) == testing::Failures{});
  CHECK(three.flush());
  CHECK(one.size() + two.size() == 0);
  CHECK(host.stats().objects == 0);
}

}  // namespace
