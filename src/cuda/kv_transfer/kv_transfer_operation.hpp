// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A group of runs of one insert or extract, cut into pieces and enqueued: straight between pages and
// the view by copy engine, by kernel where the view is memory of the device, or through staging
// memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "kv_transfer_copies.hpp"
#include "kv_transfer_impl.hpp"
#include "kv_transfer_memory.hpp"
#include "kv_transfer_plan.hpp"
#include "kv_transfer_runs.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

/// One group of an insert or extract.
class Operation {
 public:
  /// Needs:   where the view is memory of the device, a group of evenly_spaced()
  Operation(Impl& impl, const Streams& streams, const Group& group, Memory memory);

  /// Enqueues it all; `last` becomes the stream that ends it.
  Status insert(const Stream*& last);
  Status extract(const Stream*& last);

 private:
  struct Landing {
    Lease lease;
    Piece piece;
  };

  std::int64_t packed() const { return static_cast<std::int64_t>(shape_.run_bytes()); }
  std::byte* view_row(const Piece& piece) const;
  Status move(const Piece& piece, std::byte* near, std::int64_t near_stride, bool into_pages);
  static Status hand_over(const Slot& slot, const Stream& from, const Stream& to);

  /// Straight between pages and the view, or `staged`, which holds the piece alone.
  Status copy_pages(Copies& copies, const Piece& piece, std::byte* staged, bool into_pages);

  /// Between the slot's device memory and the view, or the slot's pinned memory.
  Status copy_staged(Copies& copies, const Piece& piece, const Slot& slot, bool to_device);

  /// The oldest piece from pinned memory into the view.
  Status land(std::deque<Landing>& landings);

  Impl& impl_;
  const Streams& streams_;
  const RunShape& shape_;
  const Group& runs_;
  const Memory memory_;  // of the view
  std::vector<Segment> segments_;
  std::vector<Piece> pieces_;
  bool direct_ = false;    // copies begin or end in pages
  bool in_place_ = false;  // the kernel reads or writes the view itself
};

}  // namespace cake::inline CAKE_ABI::cuda::transfer
