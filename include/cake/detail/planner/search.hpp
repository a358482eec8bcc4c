// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Finds a schedule: forecasts a few dozen candidates and takes the one that ends first. Pure.
#pragma once

#include "cake/detail/planner/forecast.hpp"
#include "cake/detail/planner/schedule.hpp"
#include "cake/detail/planner/snapshot.hpp"

namespace cake::inline CAKE_ABI::detail {

Schedule search(const RunSnapshot& run);
/// The same; the memory of `scratch` and `answer` is used again.
void search(const RunSnapshot& run, Assignment& scratch, Schedule& answer);

}  // namespace cake::inline CAKE_ABI::detail
