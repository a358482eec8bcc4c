// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What transfers of one KvTransfer share: streams, pieces of staging memory, and leases of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cake/cuda/kv_transfer.hpp"
#include "event_pool.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace transfer {

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

/// The streams of all transfers one way, which take them in turn.
struct Direction {
  std::deque<Streams> streams;
  std::atomic<unsigned> turn{0};
  const Streams& next() { return streams[turn.fetch_add(1) % streams.size()]; }
};

}  // namespace transfer

struct KvTransfer::Impl {
  explicit Impl(const KvTransferOptions& o) : options(o) {
    throw_unless_ok(cudaGetDevice(&device), "cudaGetDevice");
    for (transfer::Direction* direction : {&inserts, &extracts}) {
      for (unsigned i = 0; i < options.streams; ++i) direction->streams.emplace_back();
    }
    for (unsigned i = 0; i < options.pieces; ++i) slots.emplace_back(options.piece_bytes);
    for (transfer::Slot& slot : slots) idle.push_back(&slot);  // never grows beyond this again
  }

  KvTransferOptions options;
  int device = 0;
  transfer::Direction inserts;
  transfer::Direction extracts;
  std::deque<transfer::Slot> slots;
  std::mutex mutex;
  std::condition_variable returned;
  std::vector<transfer::Slot*> idle;  // the longest unused first
  std::shared_ptr<EventPool> events = std::make_shared<EventPool>();
  std::atomic<int> fail_after{-1};

  /// To be asked before work is enqueued; see KvTransferProbe.
  Status may_enqueue() {
    if (fail_after.load(std::memory_order_relaxed) < 0) return {};
    if (fail_after.fetch_sub(1) != 0) return {};
    return Error{Errc::device, 0, "refused for a test"};
  }
};

namespace transfer {

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

}  // namespace transfer
}  // namespace cake::inline CAKE_ABI::cuda
