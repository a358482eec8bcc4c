// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a transfer was asked to move: the runs of its view, the pools they belong to, and the kind
// of memory that they lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cake/engine.hpp"
#include "kv_transfer_plan.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

enum class Memory { pageable, pinned, device };

Error refuse(std::string what);

/// Runs of a slice and the pools that they belong to, in the order of the view: K and V of each
/// layer in turn.
struct Runs {
  std::vector<std::byte*> near;
  std::vector<std::byte*> pools;
  Memory memory = Memory::pageable;
  bool rows_aligned = false;  // for the kernel

  std::uint32_t size() const { return static_cast<std::uint32_t>(near.size()); }
  std::int64_t stride() const { return near[1] - near[0]; }  // a view has the same one throughout
};

/// Checks view and pools against the slice. Byte is const where the view is only read.
///
/// Errors:  invalid_argument naming what does not fit, device
template <class Byte>
Result<Runs> runs_of(const PagedKv& kv, const Slice& slice, const BasicKvView<Byte>& view,
                     const RunShape& shape, int device);

}  // namespace cake::inline CAKE_ABI::cuda::transfer
