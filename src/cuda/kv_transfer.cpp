// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/kv_transfer.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "kv_transfer_kernels.hpp"
#include "kv_transfer_plan.hpp"
#include "kv_transfer_probe.hpp"

namespace cake::cuda {
namespace {

using namespace transfer;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostBytes = std::size_t{16} << 20;  // of one enqueued copy

/// cudaEventQuery, without leaving "not ready" behind as this thread's last error.
bool passed(const Event& event) {
  if (event.ready()) return true;
  if (cudaPeekAtLastError() == cudaErrorNotReady) (void)cudaGetLastError();
  return false;
}

/// Polls: a thread that blocks in the driver spins there or wakes up late.
bool passed_by(const Event& event, Clock::time_point end) {
  const auto begin = Clock::now();
  while (!passed(event)) {
    const auto now = Clock::now();
    if (now >= end) return false;
    if (now - begin < std::chrono::microseconds(50)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(
          std::min<Clock::duration>(end - now, std::chrono::microseconds(20)));
    }
  }
  return true;
}

Status wait_for_event(const Event& event) {
  (void)passed_by(event, Clock::time_point::max());
  return event.wait();
}

/// Makes a device current in this thread, until it goes.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) : device_(device) {
    throw_unless_ok(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device_) throw_unless_ok(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~CurrentDevice() {
    if (before_ != device_) (void)cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int device_;
  int before_ = 0;
};

enum class Memory { pageable, pinned, device };

Error refuse(std::string what) {
  return Error{Errc::invalid_argument, 0, "KV transfer: " + std::move(what)};
}

Result<Memory> memory_at(const void* address, int device, const char* what) {
  cudaPointerAttributes attributes{};
  if (auto status =
          to_status(cudaPointerGetAttributes(&attributes, address), "cudaPointerGetAttributes");
      !status) {
    return status.error();
  }
  if (attributes.type == cudaMemoryTypeHost) return Memory::pinned;
  if (attributes.type == cudaMemoryTypeManaged) return Memory::device;
  if (attributes.type != cudaMemoryTypeDevice) return Memory::pageable;
  if (attributes.device != device) {
    return refuse(std::string(what) + " lies on device " + std::to_string(attributes.device) +
                  ", but this transfer was made for device " + std::to_string(device));
  }
  return Memory::device;
}

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

template <class Byte>
Result<Runs> runs_of(const PagedKv& kv, const Slice& slice, const BasicKvView<Byte>& view,
                     const RunShape& shape, int device) {
  Runs runs;
  const auto add = [&](std::uint32_t layer, char side, std::span<Byte> run, void* pool) -> Status {
    if (run.data() == nullptr || run.size() != shape.run_bytes()) {
      return refuse(std::string("the view has ") + std::to_string(run.data() ? run.size() : 0) +
                    " bytes of " + side + " of layer " + std::to_string(layer) + "; " +
                    std::to_string(shape.tokens) + " tokens are " +
                    std::to_string(shape.run_bytes()));
    }
    runs.near.push_back(const_cast<std::byte*>(run.data()));  // read only where it was const
    runs.pools.push_back(static_cast<std::byte*>(pool));
    return {};
  };
  for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
    if (auto status = add(l, 'K', view.k(l), kv.k[l]); !status) return status.error();
    if (auto status = add(l, 'V', view.v(l), kv.v[l]); !status) return status.error();
  }
  const auto pool = memory_at(runs.pools.front(), device, "a pool");
  if (!pool) return pool.error();
  if (*pool != Memory::device) return refuse("the pools are not device memory");
  const auto first = memory_at(runs.near.front(), device, "the view");
  if (!first) return first.error();
  const auto last = memory_at(runs.near.back() + shape.run_bytes() - 1, device, "the view");
  if (!last) return last.error();
  if (*first != *last && (*first == Memory::device || *last == Memory::device)) {
    return refuse("the view begins in one kind of memory and ends in another");
  }
  runs.memory = *first == *last ? *first : Memory::pageable;
  runs.rows_aligned =
      reinterpret_cast<std::uintptr_t>(runs.near.front()) % 16 == 0 && runs.stride() % 16 == 0;
  return runs;
}

/// A piece of staging memory. Whoever takes it makes its device work wait for `free`, or waits
/// itself, and records `free` behind the work.
struct Slot {
  explicit Slot(std::size_t bytes) : device(bytes), pinned(bytes) {}
  DeviceBuffer device;
  PinnedBuffer pinned;
  Event filled;
  Event free;
};

struct Streams {
  Stream copy;
  Stream move{-1000};  // the device's highest: a small kernel gets in at the next gap
  void drain() const {
    (void)copy.wait();
    (void)move.wait();
  }
};

}  // namespace

struct KvTransfer::Impl {
  explicit Impl(const KvTransferOptions& o) : options(o) {
    throw_unless_ok(cudaGetDevice(&device), "cudaGetDevice");
    for (unsigned i = 0; i < options.streams; ++i) streams.emplace_back();
    for (unsigned i = 0; i < options.pieces; ++i) slots.emplace_back(options.piece_bytes);
    for (Slot& slot : slots) idle.push_back(&slot);  // never grows beyond this again
  }

  KvTransferOptions options;
  int device = 0;
  std::deque<Streams> streams;
  std::atomic<unsigned> turn{0};
  std::deque<Slot> slots;
  std::mutex mutex;
  std::condition_variable returned;
  std::vector<Slot*> idle;  // the longest unused first
  std::atomic<int> fail_after{-1};

  /// To be asked before work is enqueued; see KvTransferProbe.
  Status may_enqueue() {
    if (fail_after.load(std::memory_order_relaxed) < 0) return {};
    if (fail_after.fetch_sub(1) != 0) return {};
    return Error{Errc::device, 0, "refused for a test"};
  }
};

namespace {

using Impl = KvTransfer::Impl;

/// Holds a slot. One that goes before settle() waits for whatever was enqueued.
class Lease {
 public:
  Lease(Impl& impl, const Streams& streams) : impl_(&impl), streams_(&streams) {
    std::unique_lock lock(impl.mutex);
    impl.returned.wait(lock, [&] { return !impl.idle.empty(); });
    take();
  }
  static std::optional<Lease> at_once(Impl& impl, const Streams& streams) {
    Lease lease;
    lease.impl_ = &impl;
    lease.streams_ = &streams;
    std::lock_guard lock(impl.mutex);
    if (impl.idle.empty()) return std::nullopt;
    lease.take();
    return lease;
  }
  ~Lease() {
    if (slot_ == nullptr) return;
    if (!settled_) streams_->drain();
    {
      std::lock_guard lock(impl_->mutex);
      impl_->idle.push_back(slot_);
    }
    impl_->returned.notify_one();
  }
  Lease(Lease&& other) noexcept
      : impl_(other.impl_),
        streams_(other.streams_),
        slot_(std::exchange(other.slot_, nullptr)),
        settled_(other.settled_) {}
  Lease& operator=(Lease&&) = delete;

  Slot* operator->() const { return slot_; }
  /// What was enqueued for the slot ends in `stream`.
  Status settle(const Stream& stream) {
    auto status = slot_->free.record(stream.get());
    settled_ = status.has_value();
    return status;
  }

 private:
  Lease() = default;
  void take() {  // with the lock held
    slot_ = impl_->idle.front();
    impl_->idle.erase(impl_->idle.begin());
  }
  Impl* impl_ = nullptr;
  const Streams* streams_ = nullptr;
  Slot* slot_ = nullptr;
  bool settled_ = false;
};

/// Copies for one stream, enqueued in batches.
class Copies {
 public:
  Copies(Impl& impl, const Stream& stream, cudaMemcpySrcAccessOrder order)
      : impl_(impl), stream_(stream), order_(order) {}

  Status add(std::byte* to, std::byte* from, std::size_t bytes) {
    const std::size_t most = impl_.options.batch_bytes;
    if (bytes_ + bytes > most) {
      if (auto status = flush(); !status) return status;
    }
    bytes_ += bytes;
    if (!sizes_.empty() && static_cast<std::byte*>(to_.back()) + sizes_.back() == to &&
        static_cast<std::byte*>(from_.back()) + sizes_.back() == from) {
      sizes_.back() += bytes;
    } else {
      to_.push_back(to);
      from_.push_back(from);
      sizes_.push_back(bytes);
    }
    return {};
  }

  Status flush() {
    if (sizes_.empty()) return {};
    if (auto status = impl_.may_enqueue(); !status) return status;
    cudaError_t code = cudaSuccess;
    if (sizes_.size() == 1) {
      code = cudaMemcpyAsync(to_[0], from_[0], sizes_[0], cudaMemcpyDefault, stream_.get());
    } else {
      cudaMemcpyAttributes attributes{};
      attributes.srcAccessOrder = order_;
      attributes.flags = cudaMemcpyFlagDefault;
      std::size_t first = 0;
      code = cudaMemcpyBatchAsync(to_.data(), from_.data(), sizes_.data(), sizes_.size(),
                                  &attributes, &first, 1, stream_.get());
    }
    to_.clear();
    from_.clear();
    sizes_.clear();
    bytes_ = 0;
    return to_status(code, "copy of KV");
  }

 private:
  Impl& impl_;
  const Stream& stream_;
  cudaMemcpySrcAccessOrder order_;
  std::vector<void*> to_;
  std::vector<void*> from_;
  std::vector<std::size_t> sizes_;
  std::size_t bytes_ = 0;
};

/// One insert or extract.
class Operation {
 public:
  Operation(Impl& impl, const Streams& streams, const RunShape& shape, const Runs& runs)
      : impl_(impl), streams_(streams), shape_(shape), runs_(runs) {
    segments_ = segments_of(shape);
    direct_ = runs.memory != Memory::device &&
              shape.run_bytes() / segments_.size() >= impl.options.direct_bytes;
    in_place_ = runs.memory == Memory::device && runs.rows_aligned;
    const bool unstaged = in_place_ || (direct_ && runs.memory == Memory::pinned);
    pieces_ = pieces_of(shape, runs.size(),
                        unstaged ? impl.options.batch_bytes : impl.options.piece_bytes);
  }

  /// Enqueues it all; `last` becomes the stream that ends it.
  Status insert(const Stream*& last) {
    const bool pageable = runs_.memory == Memory::pageable;
    // A host source stays as it is until the transfer is done, so that it may be read at any time.
    Copies copies(impl_, streams_.copy,
                  runs_.memory == Memory::device ? cudaMemcpySrcAccessOrderStream
                                                 : cudaMemcpySrcAccessOrderAny);
    last = direct_ ? &streams_.copy : &streams_.move;
    for (const Piece& piece : pieces_) {
      if (in_place_) {
        if (auto status = move(piece, view_row(piece), runs_.stride(), true); !status)
          return status;
        continue;
      }
      std::optional<Lease> lease;
      if (!direct_ || pageable) lease.emplace(impl_, streams_);
      if (pageable) {
        if (auto status = wait_for_event((*lease)->free); !status) return status;
        for_parts(shape_, piece,
                  [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
                    std::memcpy((*lease)->pinned.data() + offset, runs_.near[run] + begin,
                                end - begin);
                  });
      }
      if (direct_) {
        if (auto status =
                copy_pages(copies, piece, pageable ? (*lease)->pinned.data() : nullptr, true);
            !status) {
          return status;
        }
        if (!pageable) continue;
        if (auto status = copies.flush(); !status) return status;
        if (auto status = lease->settle(streams_.copy); !status) return status;
        continue;
      }
      const Slot& slot = *lease->operator->();
      if (auto status = slot.free.gate(streams_.copy.get()); !status) return status;
      if (auto status = copy_staged(copies, piece, slot, true); !status) return status;
      if (auto status = hand_over(slot, streams_.copy, streams_.move); !status) return status;
      if (auto status = move(piece, slot.device.as<std::byte>(), packed(), true); !status) {
        return status;
      }
      if (auto status = lease->settle(streams_.move); !status) return status;
    }
    return copies.flush();
  }

  Status extract(const Stream*& last) {
    const bool pageable = runs_.memory == Memory::pageable;
    Copies copies(impl_, streams_.copy, cudaMemcpySrcAccessOrderStream);
    last = in_place_ ? &streams_.move : &streams_.copy;
    std::deque<Landing> landings;  // pageable: pieces on their way to pinned memory
    for (const Piece& piece : pieces_) {
      if (in_place_) {
        if (auto status = move(piece, view_row(piece), runs_.stride(), false); !status) {
          return status;
        }
        continue;
      }
      if (direct_ && !pageable) {
        if (auto status = copy_pages(copies, piece, nullptr, false); !status) return status;
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
        if (auto status = land(landings); !status) return status;
      }
      const Slot& slot = *lease->operator->();
      if (direct_) {
        if (auto status = slot.free.gate(streams_.copy.get()); !status) return status;
        if (auto status = copy_pages(copies, piece, slot.pinned.data(), false); !status) {
          return status;
        }
        if (auto status = copies.flush(); !status) return status;
      } else {
        if (auto status = slot.free.gate(streams_.move.get()); !status) return status;
        if (auto status = move(piece, slot.device.as<std::byte>(), packed(), false); !status) {
          return status;
        }
        if (auto status = hand_over(slot, streams_.move, streams_.copy); !status) return status;
        if (auto status = copy_staged(copies, piece, slot, false); !status) return status;
      }
      if (auto status = lease->settle(streams_.copy); !status) return status;
      if (pageable) landings.push_back({std::move(*lease), piece});
    }
    while (!landings.empty()) {
      if (auto status = land(landings); !status) return status;
    }
    return copies.flush();
  }

 private:
  struct Landing {
    Lease lease;
    Piece piece;
  };

  std::int64_t packed() const { return static_cast<std::int64_t>(shape_.run_bytes()); }
  std::byte* view_row(const Piece& piece) const {
    const std::uint64_t run = piece.begin / shape_.rows();
    return runs_.near[run] +
           static_cast<std::size_t>(piece.begin - run * shape_.rows()) * shape_.row_bytes;
  }

  Status move(const Piece& piece, std::byte* near, std::int64_t near_stride, bool into_pages) {
    if (auto status = impl_.may_enqueue(); !status) return status;
    MoveArgs args = args_of(shape_, piece, runs_.pools);
    args.near = near;
    args.near_stride = near_stride;
    return to_status(move_rows(args, into_pages, impl_.options.blocks, streams_.move.get()),
                     "kernel that deals out KV");
  }

  static Status hand_over(const Slot& slot, const Stream& from, const Stream& to) {
    if (auto status = slot.filled.record(from.get()); !status) return status;
    return slot.filled.gate(to.get());
  }

  /// Straight between pages and the view, or `staged`, which holds the piece alone.
  Status copy_pages(Copies& copies, const Piece& piece, std::byte* staged, bool into_pages) {
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

  /// Between the slot's device memory and the view, or the slot's pinned memory.
  Status copy_staged(Copies& copies, const Piece& piece, const Slot& slot, bool to_device) {
    Status status;
    for_parts(shape_, piece,
              [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
                if (!status) return;
                std::byte* const near = runs_.memory == Memory::pageable
                                            ? slot.pinned.data() + offset
                                            : runs_.near[run] + begin;
                std::byte* const device = slot.device.as<std::byte>() + offset;
                status = to_device ? copies.add(device, near, end - begin)
                                   : copies.add(near, device, end - begin);
              });
    return status ? copies.flush() : status;
  }

  /// The oldest piece from pinned memory into the view.
  Status land(std::deque<Landing>& landings) {
    const Landing landing = std::move(landings.front());
    landings.pop_front();
    if (auto status = wait_for_event(landing.lease->free); !status) return status;
    for_parts(shape_, landing.piece,
              [&](std::uint32_t run, std::size_t begin, std::size_t end, std::size_t offset) {
                std::memcpy(runs_.near[run] + begin, landing.lease->pinned.data() + offset,
                            end - begin);
              });
    return {};
  }

  Impl& impl_;
  const Streams& streams_;
  const RunShape& shape_;
  const Runs& runs_;
  std::vector<Segment> segments_;
  std::vector<Piece> pieces_;
  bool direct_ = false;    // copies begin or end in pages
  bool in_place_ = false;  // the kernel reads or writes the view itself
};

template <class Byte>
Transfer run(Impl& impl, const PagedKv& kv, const Slice& slice, const BasicKvView<Byte>& view) {
  constexpr bool kInsert = std::is_const_v<Byte>;
  const Streams* streams = nullptr;
  Error failure;
  try {
    const CurrentDevice current(impl.device);
    const auto shape = shape_of(kv, slice);
    if (!shape) return Transfer(shape.error());
    if (shape->tokens == 0 || slice.layers.empty()) return {};
    if (shape->row_bytes > impl.options.piece_bytes) {
      return Transfer(refuse("piece_bytes is " + std::to_string(impl.options.piece_bytes) +
                             "; one row has " + std::to_string(shape->row_bytes)));
    }
    const auto runs = runs_of(kv, slice, view, *shape, impl.device);
    if (!runs) return Transfer(runs.error());
    Event done;
    streams = &impl.streams[impl.turn.fetch_add(1) % impl.streams.size()];
    Operation operation(impl, *streams, *shape, *runs);
    const Stream* last = nullptr;
    Status status = kInsert ? operation.insert(last) : operation.extract(last);
    if (status) status = done.record(last->get());
    if (status) return Transfer(std::move(done));
    failure = status.error();
  } catch (const Exception& e) {
    failure = e.error();
  } catch (const std::bad_alloc&) {
    failure = Error{Errc::out_of_memory, 0, "KV transfer"};
  } catch (const std::exception& e) {
    failure = Error{Errc::device, 0, std::string("KV transfer: ") + e.what()};
  }
  if (streams != nullptr) streams->drain();  // what was enqueued before the failure
  return Transfer(std::move(failure));
}

}  // namespace

bool Transfer::ready() { return !done_ || passed(*done_); }

bool Transfer::wait_for(std::chrono::nanoseconds span) {
  if (!done_) return true;
  const auto now = Clock::now();
  const bool long_time = span >= Clock::time_point::max() - now;
  return passed_by(*done_, long_time ? Clock::time_point::max() : now + span);
}

Status Transfer::wait() {
  if (!done_) return status_;
  status_ = wait_for_event(*done_);
  done_.reset();
  return status_;
}

KvTransfer::KvTransfer(const KvTransferOptions& options) {
  const auto need = [](bool good, const char* what) {
    if (!good)
      throw Exception(Error{Errc::invalid_argument, 0, std::string("KvTransfer: ") + what});
  };
  need(options.streams >= 1 && options.streams <= 16, "streams: 1 to 16");
  need(options.pieces >= 1 && options.pieces <= 256, "pieces: 1 to 256");
  need(options.piece_bytes >= 4096 && options.piece_bytes <= kMostBytes,
       "piece_bytes: 4 KiB to 16 MiB");
  need(options.batch_bytes >= 4096 && options.batch_bytes <= kMostBytes,
       "batch_bytes: 4 KiB to 16 MiB");
  need(options.blocks >= 1 && options.blocks <= 4096, "blocks: 1 to 4096");
  if (auto status = usable(); !status) throw Exception(status.error());
  impl_ = std::make_unique<Impl>(options);
}

KvTransfer::~KvTransfer() {
  for (const Streams& streams : impl_->streams) streams.drain();
}

Transfer KvTransfer::insert(const PagedKv& kv, const Slice& slice, const KvView& view) {
  return run(*impl_, kv, slice, view);
}
Transfer KvTransfer::extract(const PagedKv& kv, const Slice& slice, const MutableKvView& view) {
  return run(*impl_, kv, slice, view);
}

void KvTransferProbe::fail_after(KvTransfer& transfer, int calls) {
  transfer.impl_->fail_after = calls;
}
std::size_t KvTransferProbe::idle_pieces(KvTransfer& transfer) {
  const std::lock_guard lock(transfer.impl_->mutex);
  return transfer.impl_->idle.size();
}

}  // namespace cake::cuda
