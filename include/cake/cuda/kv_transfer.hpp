// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Copies KV into the engine's pages and out of them: an engine's insert() and extract() call this.
// The copy engine moves long runs straight into pages and takes no multiprocessor. Short runs are
// copied in bulk to device memory, and a small kernel scatters them to their pages.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "cake/cuda/paged_kv.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::cuda {

class EventPool;

/// A transfer that may still run; an AsyncCompletion. The destructor waits for it.
///
/// Thread:  any one thread at a time
class CAKE_API Transfer {
 public:
  Transfer() = default;  // done
  explicit Transfer(Error error) : status_(std::move(error)) {}
  explicit Transfer(Event done) : done_(std::move(done)) {}
  /// The event goes back to where it came from.
  Transfer(Event done, std::shared_ptr<EventPool> pool)
      : done_(std::move(done)), pool_(std::move(pool)) {}
  ~Transfer() {
    if (done_) (void)wait();
  }
  Transfer(Transfer&& other) noexcept
      : done_(std::move(other.done_)),
        pool_(std::move(other.pool_)),
        status_(std::move(other.status_)) {
    other.done_.reset();
  }
  Transfer& operator=(Transfer&& other) noexcept {
    if (this != &other) {
      if (done_) (void)wait();
      done_ = std::move(other.done_);
      pool_ = std::move(other.pool_);
      status_ = std::move(other.status_);
      other.done_.reset();
    }
    return *this;
  }

  bool ready();
  bool wait_for(std::chrono::nanoseconds span);
  /// Blocks until none of its work is in flight, whatever it returns.
  Status wait();

 private:
  std::optional<Event> done_;
  std::shared_ptr<EventPool> pool_;
  Status status_;
};
static_assert(AsyncCompletion<Transfer>);

struct KvTransferOptions {
  /// Number of inserts, and of extracts, that copy at the same time; each takes a stream for copies and
  /// one for kernels. No insert waits behind an extract: the device copies both ways at once.
  unsigned streams = 3;
  /// Copies go directly into pages if runs of bytes that are contiguous both in the slice and in
  /// the pages have this length on average. 0: always; SIZE_MAX: never.
  std::size_t direct_bytes = std::size_t{32} << 10;
  /// Maximum size of one enqueued copy or batch of copies; at most 16 MiB. Units: bytes.
  std::size_t batch_bytes = std::size_t{8} << 20;
  /// Staging: this many pieces, each in device and in pinned host memory; 4 KiB to 16 MiB.
  unsigned pieces = 4;
  std::size_t piece_bytes = std::size_t{4} << 20;
  /// Maximum grid size of the scatter kernel. Matrix products that run beside it wait for it to
  /// end, so a short kernel on many multiprocessors costs them less than a long one on few.
  unsigned blocks = 64;
};

/// Moves slices between transfer memory and pages, on its own streams.
///
///     Transfer insert(const Slice& slice, const KvView& view) {      // of an engine
///       return transfer_.insert(PagedKv{...}, slice, view);          // or PagedPlanes{...}
///     }
///
/// Planes of one shape are moved together, those of K and V alike all at once. Rows of any length
/// are moved; the kernel takes 16 bytes at once where rows, pools and strides are multiples of that,
/// else 8, 4, 2 or 1.
///
/// The view may be pinned host memory (PinnedStaging), memory of the device, or any other host
/// memory, which takes one copy more, made by the calling thread.
///
/// A transfer does not wait for work of the engine's streams: pages of an insert must be free, and
/// KV to extract must have been computed. Copies are cut to at most 16 MiB, but the device takes
/// copies of all streams in turn: an engine's own small ones (block tables, positions) wait for
/// whatever is in front of them, so hand such numbers to kernels as arguments or in mapped pinned
/// memory.
///
/// Thread:  Safe for concurrent use
class CAKE_API KvTransfer {
 public:
  /// For the device that is current. All memory that it needs is allocated here.
  ///
  /// Errors:  throws Exception: unsupported (no device, see usable()), invalid_argument,
  ///          out_of_memory
  explicit KvTransfer(const KvTransferOptions& options = {});
  /// Waits for every transfer.
  ~KvTransfer();
  KvTransfer(const KvTransfer&) = delete;
  KvTransfer& operator=(const KvTransfer&) = delete;

  /// Bytes of the view into pages. The block table is read during the call; the view must stay as
  /// it is until the transfer is done.
  ///
  /// Errors:  in the transfer: invalid_argument naming what does not fit, out_of_memory, device
  Transfer insert(const PagedKv& kv, const Slice& slice, const KvView& view);
  /// Bytes of pages into the view. Blocks until done when the view is host memory that is not
  /// pinned.
  ///
  /// Errors:  as insert()
  Transfer extract(const PagedKv& kv, const Slice& slice, const MutableKvView& view);

  /// The same for any layout. Of a layer with a state, the one at slice.tokens.end is moved. Tokens
  /// of a window that have no page are left out of an insert.
  ///
  /// Errors:  as above; not_found where an extract asks for tokens that have left their window, or
  ///          for a state that is not kept
  Transfer insert(const PagedPlanes& kv, const Slice& slice, const KvView& view);
  Transfer extract(const PagedPlanes& kv, const Slice& slice, const MutableKvView& view);

  struct Impl;

 private:
  friend struct KvTransferProbe;  // of cake's own tests
  std::unique_ptr<Impl> impl_;
};

}  // namespace cake::inline CAKE_ABI::cuda
