// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What abi_test.cpp and abi_other_version.cpp define under the same names, each for its own version.
#pragma once

#include <string>

#include "cake/version.hpp"

#ifdef CAKE_TEST_OTHER_VERSION
#undef CAKE_VERSION_MINOR
#define CAKE_VERSION_MINOR 99
#endif

namespace cake::inline CAKE_ABI {

struct AbiProbe {
#ifdef CAKE_TEST_OTHER_VERSION
  double larger[4] = {};
#endif
  int version = CAKE_VERSION_MINOR;
};

// Inline: were the names the same, the linker would keep one of the two.
inline int abi_version(const AbiProbe& probe) { return probe.version; }
int abi_size(const AbiProbe& probe);

template <class T>
struct AbiTrait {
  static std::string name() { return "general"; }
};

}  // namespace cake::inline CAKE_ABI

// Specialised from outside, and declared ahead, without the version's name.
namespace cake::inline CAKE_ABI {
template <>
struct AbiTrait<int> {
  static std::string name() { return "int"; }
};
}  // namespace cake::inline CAKE_ABI
template <>
struct std::hash<cake::AbiProbe> {
  std::size_t operator()(const cake::AbiProbe& probe) const { return std::size_t(probe.version); }
};
