// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The kind of memory that a view lies in.
#pragma once

#include <span>

#include "kv_transfer_runs.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

enum class Memory { pageable, pinned, device };

/// Where the view of these groups lies; the pools must be memory of `device`.
///
/// Errors:  invalid_argument naming what does not fit, device
/// Needs:   a group
Result<Memory> memory_of(std::span<const Group> groups, int device);

}  // namespace cake::inline CAKE_ABI::cuda::transfer
