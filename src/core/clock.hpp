// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The clock of lanes.
#pragma once

#include <chrono>

#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

inline Time steady_now() {
  return std::chrono::duration_cast<Time>(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace cake::inline CAKE_ABI::detail
