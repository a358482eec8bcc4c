// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "abi.hpp"

#include <type_traits>

#include "catch.hpp"

// From abi_other_version.cpp: the same calls there.
int version_of_other();
int size_of_other();

namespace cake::inline CAKE_ABI {
int abi_size(const AbiProbe& probe) { return int(sizeof probe); }
}  // namespace cake::inline CAKE_ABI

TEST_CASE("two versions in one program keep their own types and functions") {
  const cake::AbiProbe probe;
  REQUIRE(cake::abi_version(probe) == CAKE_VERSION_MINOR);
  REQUIRE(cake::abi_size(probe) == int(sizeof probe));
  REQUIRE(version_of_other() == 99);
  REQUIRE(size_of_other() > int(sizeof probe));
}

TEST_CASE("the version in the names is not written by users") {
  STATIC_REQUIRE(std::is_same_v<cake::AbiProbe, cake::CAKE_ABI::AbiProbe>);
  REQUIRE(cake::AbiTrait<int>::name() == "int");
  REQUIRE(cake::AbiTrait<char>::name() == "general");
  REQUIRE(std::hash<cake::AbiProbe>()({}) == CAKE_VERSION_MINOR);
}
