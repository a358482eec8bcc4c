// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a transfer was asked to move, whatever the layers keep, as groups of runs of one shape: what
// copies and the kernel are made for. K and V alike are one group. Other planes are a group for each
// shape; a window that lacks pages is one for each part that has them; a row that is too long for a
// piece of staging memory is a run of shorter rows. Arithmetic alone, as kv_transfer_plan.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cake/engine.hpp"
#include "kv_transfer_plan.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

/// Runs of one shape.
struct Group {
  RunShape shape;
  std::uint32_t width = 16;       // bytes that the kernel can move at once in pools: 1 to 16
  std::vector<std::byte*> near;   // [runs] outside the pages
  std::vector<std::byte*> pools;  // [runs]

  std::uint32_t size() const { return static_cast<std::uint32_t>(near.size()); }
  /// From one run to the next outside the pages.
  ///
  /// Needs:   a group of evenly_spaced()
  std::int64_t stride() const { return size() > 1 ? near[1] - near[0] : 0; }
};

/// Longest row of a group. Units: bytes
inline constexpr std::size_t kMostRowBytes = std::size_t{1} << 16;

/// Checks pages and view against the slice, and says what is to be moved: into pages where Byte is
/// const. No groups: nothing is. Rows have at most `most_row` bytes.
///
/// Errors:  invalid_argument naming what does not fit; not_found as stretches_of()
/// Needs:   most_row is at least 16
template <class Pages, class Byte>
Result<std::vector<Group>> groups_of(const Pages& kv, const Slice& slice,
                                     const BasicKvView<Byte>& view,
                                     std::size_t most_row = kMostRowBytes);

/// The same runs in groups in each of which they are equally far from each other outside the pages.
std::vector<Group> evenly_spaced(const Group& group);

/// Whether the kernel can work on the runs where they lie.
///
/// Needs:   a group of evenly_spaced()
bool aligned_outside(const Group& group);

}  // namespace cake::inline CAKE_ABI::cuda::transfer
