// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a scheduler may decide on: who gets which chunk from one moment on. A value.
#pragma once

#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

/// One way to go on: compute takes every chunk below `stop` and what no lane of `lanes` can read;
/// the lanes read the rest, each segment from its back.
///
/// Units: seconds since the session began
struct Schedule {
  double end = 1e9;          // of the run
  double computed = 0;       // compute is done with its chunks
  double loaded = 0;         // the last load is resident
  std::uint32_t stop = 0;    // index of the first item that is not computed from the front
  std::uint32_t lanes = 0;   // bit set of those that are used,
  std::uint32_t up = 0;      // and of those that are not down
  bool few_first = false;    // chunks that few lanes hold are dealt out before the others
  std::uint32_t layers = 0;  // of one slice of the last loads; 0: they come whole
  double layered_from = 0;   // loads that begin later than this come layer by layer
};

}  // namespace cake::inline CAKE_ABI::detail
