// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Code of the same program that was compiled for another version of cake.
#define CAKE_TEST_OTHER_VERSION
#include "abi.hpp"

namespace cake::inline CAKE_ABI {
int abi_size(const AbiProbe& probe) { return int(sizeof probe); }
}  // namespace cake::inline CAKE_ABI

int version_of_other() { return cake::abi_version({}); }
int size_of_other() { return cake::abi_size({}); }
