// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Tests that need a GPU report themselves skipped where there is none.
#pragma once

#include <cstdio>

#include "cake/cuda/runtime.hpp"
#include "tests/catch.hpp"

/// Ends the test case as skipped (ctest looks for the word in brackets) unless kernels can run
/// here.
#define CAKE_NEEDS_GPU()                                                  \
  if (const ::cake::Status gpu = ::cake::cuda::usable(); !gpu) {          \
    REQUIRE(gpu.code() == ::cake::Errc::unsupported);                     \
    std::printf("[no GPU] skipped: %s\n", gpu.error().message().c_str()); \
    return;                                                               \
  }                                                                       \
  static_assert(true)
