// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A decision that a forecast can be made for: where compute and loads meet, and which lanes load. A value.
#pragma once

#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Bit set of lanes.
using LaneMask = std::uint32_t;

/// Compute takes every chunk left below index `meet`, and every chunk that no lane of `lanes` can read;
/// the lanes read the rest, each segment between computed chunks from its back.
struct Candidate {
  /// Index into RunSnapshot::chunks of the first chunk that is not computed from the front.
  std::uint32_t meet = 0;
  LaneMask lanes = 0;
  /// Chunks that few lanes hold are assigned before the others.
  bool scarce_first = false;
  /// Compute takes over what other lanes than these are reading.
  LaneMask waits_for = ~LaneMask{0};
};

}  // namespace cake::inline CAKE_ABI::detail
