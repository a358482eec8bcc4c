// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_transfer_operation.hpp"

#include <cstring>
#include <optional>
#include <utility>

#include "kv_transfer_kernels.hpp"
#include "src/core/try.hpp"
#include "src/cuda/runtime/event_wait.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

Operation::Operation(Impl& impl, const Streams& streams, const Group& group, Memory memory)
    : impl_(impl), streams_(streams), shape_(group.shape), runs_(group), memory_(memory) {
  segments_ = segments_of(shape_);
  direct_ = memory != Memory::device &&
            shape_.run_bytes() / segments_.size() >= impl.options.direct_bytes;
  in_place_ = memory == Memory::device && aligned_outside(group);
  const bool unstaged = in_place_ || (direct_ && memory == Memory::pinned);
  pieces_ = pieces_of(shape_, group.size(),
                      unstaged ? impl.options.batch_bytes : impl.options.piece_bytes);
}

Status Operation::insert(const Stream*& last) {
  const bool pageable = memory_ == Memory::pageable;
  // A host source stays as it is until the transfer is done, so that it may be read at any time.
  Copies copies(
      impl_, streams_.copy,
      memory_ == Memory::device ? cudaMemcpySrcAccessOrderStream : cudaMemcpySrcAccessOrderAny);
  last = direct_ ? &streams_.copy : &streams_.move;
  for (const Piece& piece : pieces_) {
    if (in_place_) {
      CAKE_TRY(move(piece, view_row(piece), runs_.stride(), true));
      continue;
    }
    std::optional<Lease> lease;
    if (!direct_ || pageable) lease.emplace(impl_, streams_);
    if (pageable) {
      CAKE_TRY(wait_for_event((*lease)->free));
      for_parts(shape_, piece,
                [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
                  std::memcpy((*lease)->pinned.data() + offset, runs_.near[run] + begin,
                              end - begin);
                });
    }
    if (direct_) {
      CAKE_TRY(copy_pages(copies, piece, pageable ? (*lease)->pinned.data() : nullptr, true));
      if (!pageable) continue;
      CAKE_TRY(copies.flush());
      CAKE_TRY(lease->settle(streams_.copy));
      continue;
    }
    const Slot& slot = *lease->operator->();
    CAKE_TRY(slot.free.gate(streams_.copy.get()));
    CAKE_TRY(copy_staged(copies, piece, slot, true));
    CAKE_TRY(hand_over(slot, streams_.copy, streams_.move));
    CAKE_TRY(move(piece, slot.device.as<std::byte>(), packed(), true));
    CAKE_TRY(lease->settle(streams_.move));
  }
  return copies.flush();
}

Status Operation::extract(const Stream*& last) {
  const bool pageable = memory_ == Memory::pageable;
  Copies copies(impl_, streams_.copy, cudaMemcpySrcAccessOrderStream);
  last = in_place_ ? &streams_.move : &streams_.copy;
  std::deque<Landing> landings;  // pageable: pieces on their way to pinned memory
  for (const Piece& piece : pieces_) {
    if (in_place_) {
      CAKE_TRY(move(piece, view_row(piece), runs_.stride(), false));
      continue;
    }
    if (direct_ && !pageable) {
      CAKE_TRY(copy_pages(copies, piece, nullptr, false));
      continue;
    }
    std::optional<Lease> lease;
    while (!lease) {  // never waits for a slot while it holds one
      if (landings.empty()) {
        lease.emplace(impl_, streams_);
      } else if (landings.size() < 2) {
        if (auto free = Lease::at_once(impl_, streams_)) lease.emplace(std::move(*free));
      }
      if (lease || landings.empty()) break;
      CAKE_TRY(land(landings));
    }
    const Slot& slot = *lease->operator->();
    if (direct_) {
      CAKE_TRY(slot.free.gate(streams_.copy.get()));
      CAKE_TRY(copy_pages(copies, piece, slot.pinned.data(), false));
      CAKE_TRY(copies.flush());
    } else {
      CAKE_TRY(slot.free.gate(streams_.move.get()));
      CAKE_TRY(move(piece, slot.device.as<std::byte>(), packed(), false));
      CAKE_TRY(hand_over(slot, streams_.move, streams_.copy));
      CAKE_TRY(copy_staged(copies, piece, slot, false));
    }
    CAKE_TRY(lease->settle(streams_.copy));
    if (pageable) landings.push_back({std::move(*lease), piece});
  }
  while (!landings.empty()) {
    CAKE_TRY(land(landings));
  }
  return copies.flush();
}

std::byte* Operation::view_row(const Piece& piece) const {
  const std::uint64_t run = piece.begin / shape_.rows();
  return runs_.near[run] +
         static_cast<std::size_t>(piece.begin - run * shape_.rows()) * shape_.row_bytes;
}

Status Operation::move(const Piece& piece, std::byte* near, std::int64_t near_stride,
                       bool into_pages) {
  CAKE_TRY(impl_.may_enqueue());
  MoveArgs args = args_of(shape_, piece, runs_.pools);
  args.near = near;
  args.near_stride = near_stride;
  return to_status(
      move_rows(args, runs_.width, into_pages, impl_.options.blocks, streams_.move.get()),
      "launch the kernel that scatters KV to its pages");
}

Status Operation::hand_over(const Slot& slot, const Stream& from, const Stream& to) {
  CAKE_TRY(slot.filled.record(from.get()));
  return slot.filled.gate(to.get());
}

Status Operation::copy_pages(Copies& copies, const Piece& piece, std::byte* staged,
                             bool into_pages) {
  Status status;
  for_parts(shape_, piece,
            [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
              for_segments(segments_, begin, end, impl_.options.batch_bytes,
                           [&](std::size_t at, std::size_t pool_at, std::size_t bytes) {
                             if (!status) return;
                             std::byte* const near = staged != nullptr
                                                         ? staged + offset + (at - begin)
                                                         : runs_.near[run] + at;
                             std::byte* const page = runs_.pools[run] + pool_at;
                             status = into_pages ? copies.add(page, near, bytes)
                                                 : copies.add(near, page, bytes);
                           });
            });
  return status;
}

Status Operation::copy_staged(Copies& copies, const Piece& piece, const Slot& slot,
                              bool to_device) {
  Status status;
  for_parts(shape_, piece,
            [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
              if (!status) return;
              std::byte* const near = memory_ == Memory::pageable ? slot.pinned.data() + offset
                                                                  : runs_.near[run] + begin;
              std::byte* const device = slot.device.as<std::byte>() + offset;
              status = to_device ? copies.add(device, near, end - begin)
                                 : copies.add(near, device, end - begin);
            });
  return status ? copies.flush() : status;
}

Status Operation::land(std::deque<Landing>& landings) {
  const Landing landing = std::move(landings.front());
  landings.pop_front();
  CAKE_TRY(wait_for_event(landing.lease->free));
  for_parts(shape_, landing.piece,
            [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
              std::memcpy(runs_.near[run] + begin, landing.lease->pinned.data() + offset,
                          end - begin);
            });
  return {};
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
