// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The version, and the C++ that the headers need: this one comes before all others.
#pragma once

#if defined(__cplusplus) && __cplusplus < 202002L
#error "cake needs C++20: compile with -std=c++20 (in CMake, linking cake::cake does that)"
#endif

// CMake reads the version from here; there is no second place.
#define CAKE_VERSION_MAJOR 0
#define CAKE_VERSION_MINOR 2
#define CAKE_VERSION_PATCH 0

// All names lie in `namespace cake::inline CAKE_ABI`, which nobody has to write: cake::Loader is
// cake::v0_2::Loader. Two versions in one process are then two sets of types and functions, and
// code that was compiled for one does not link with the other.
#define CAKE_DETAIL_JOIN_ABI(major, minor) v##major##_##minor
#define CAKE_DETAIL_ABI(major, minor) CAKE_DETAIL_JOIN_ABI(major, minor)
#define CAKE_ABI CAKE_DETAIL_ABI(CAKE_VERSION_MAJOR, CAKE_VERSION_MINOR)
