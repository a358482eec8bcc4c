// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reads in parts, as the threads of a lane hold them.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/detail/parted_read.hpp"
#include "cake/detail/read_table.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A read whose parts any thread of the lane takes.
struct LaneParts {
  std::shared_ptr<LaneClient> client;
  ReadTicket read;
  std::shared_ptr<PartedRead> parted;  // null until it is open
  std::size_t next = 0;                // the first part that nobody has taken
  bool left() const { return parted != nullptr && next < parted->parts().size(); }
};

/// One of a thread's buffers, and the part that is being inserted out of it.
///
/// Thread:  the thread reads into it; finish() is safe for concurrent use
class PartBuffer {
 public:
  AlignedBuffer buffer;
  std::uint64_t taken = 0;  // of the lane's staging memory

  bool inserts() const { return inserts_.load(std::memory_order_acquire); }
  /// Needs:   nothing is inserted out of it
  void begin(std::unique_ptr<PendingInsert> insert, std::shared_ptr<PartedRead> read,
             const ReadTicket& ticket) {
    const std::lock_guard lock(mutex_);
    insert_ = std::move(insert);
    read_ = std::move(read);
    ticket_ = ticket;
    inserts_.store(true, std::memory_order_release);
  }
  /// Tells the read of its insert once that is over; waits for it where `wait`, else for nobody.
  /// Returns the ticket of a whole object that is now resident. Without a lock of the lanes.
  std::optional<ReadTicket> finish(bool wait) {
    std::shared_ptr<PartedRead> read;
    Status status;
    ReadTicket ticket;
    {
      std::unique_lock lock(mutex_, std::defer_lock);
      if (wait) {
        lock.lock();
      } else if (!lock.try_lock()) {
        return std::nullopt;
      }
      if (insert_ == nullptr) return std::nullopt;
      if (!wait && !value_or([&] { return insert_->ready(); }, true)) return std::nullopt;
      status = guarded(Errc::device, "insert", [&] { return insert_->wait(); });
      insert_.reset();
      read = std::move(read_);
      ticket = ticket_;
      inserts_.store(false, std::memory_order_release);
    }
    return read->inserted(status) ? std::optional(ticket) : std::nullopt;
  }

 private:
  std::mutex mutex_;
  std::atomic<bool> inserts_{false};
  std::unique_ptr<PendingInsert> insert_;
  std::shared_ptr<PartedRead> read_;
  ReadTicket ticket_;
};

/// What a thread reads parts into, by turns: while one is being inserted, the next one is read.
struct PartBuffers {
  std::array<PartBuffer, 2> both;
  std::atomic<std::size_t> turn{0};  // the one that was used longest ago

  /// One that nothing is inserted out of, if it can be with room for so many bytes.
  PartBuffer* free(std::uint64_t bytes) {
    PartBuffer* found = nullptr;
    for (std::size_t i = 0; i < both.size(); ++i) {
      PartBuffer& one = both[(turn + i) % both.size()];
      if (one.inserts()) continue;
      if (one.buffer.size() >= bytes) return &one;
      if (found == nullptr) found = &one;
    }
    return found;
  }
  bool inserts() const { return both[0].inserts() || both[1].inserts(); }
};

/// Reads a part, and digests each piece of it while it is in the cache; calls `between` behind each.
template <class Between>
Status read_part(LaneStorage& storage, LaneId lane, const ChunkKey& key, std::uint64_t offset,
                 MutableBytes out, std::optional<SliceDigests>& digests, Between&& between) {
  constexpr std::size_t kPiece = std::size_t{256} << 10;
  for (std::size_t at = 0; at < out.size(); at += kPiece) {
    const MutableBytes piece = out.subspan(at, std::min(kPiece, out.size() - at));
    Status status = guarded(Errc::io, "read of a chunk",
                            [&] { return storage.read_on_caller(lane, key, offset + at, piece); });
    if (!status) return status;
    if (digests) digests->arrived(piece);
    between();
  }
  return {};
}

}  // namespace cake::inline CAKE_ABI::detail
