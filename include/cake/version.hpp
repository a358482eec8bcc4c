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
#define CAKE_VERSION_MINOR 1
#define CAKE_VERSION_PATCH 0
