// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The memory of a saver's objects: bounded, and kept from one object to the next, since new pages
// cost more than the writing of them. Bookkeeping only; the caller has a lock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <list>
#include <memory>
#include <optional>
#include <utility>

#include "cake/chunk/writer.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"
#include "src/core/save_job.hpp"

namespace cake::inline CAKE_ABI::detail {

/// An object on its way, or the memory of one that is kept for the next.
struct SaveObject {
  std::shared_ptr<SaveJob> job;
  SaveChunk what;
  std::uint32_t got = 0;  // layers
  std::uint64_t bytes = 0;
  std::optional<ChunkWriter> writer;
  bool in_store = false;  // it is built in memory of the store: there until it is published,
  ObjectRoom room;        // in this
};
/// One object, or none. It moves from list to list, so that no step needs memory for that.
using SaveObjects = std::list<SaveObject>;

/// An object for this chunk if there is none: in the store's own memory if it has any for that, else
/// in `staging`.
///
/// Errors:  throws std::bad_alloc
inline void make_object(SaveObjects& object, const SaveJob& job, const SaveChunk& what,
                        StagingMemory* staging) {
  if (!object.empty()) return;
  SaveObjects fresh(1);
  SaveObject& made = fresh.front();
  made.bytes = job.object_bytes;
  made.room = job.work.make_room(what);
  made.in_store = !made.room.empty();
  if (made.in_store) {
    made.writer.emplace(job.work.geometry(), made.room.bytes());
  } else {
    made.writer.emplace(job.work.geometry(), staging);
  }
  object.splice(object.end(), fresh);
}

/// Units: bytes
class SaveMemory {
 public:
  explicit SaveMemory(std::uint64_t limit) : limit_(limit) {}

  /// Of all objects, also those kept.
  std::uint64_t used() const { return used_; }
  /// One object always has room.
  bool has_room(std::uint64_t bytes) const {
    return used_ == kept_bytes_ || used_ - kept_bytes_ + bytes <= limit_;
  }
  /// A kept object for chunks of this job, or none: then its bytes are counted, and the caller
  /// makes it. `dropped` takes what is kept and has to make room; it ends without the lock.
  SaveObjects take(const SaveJob& job, SaveObjects& dropped) {
    SaveObjects object;
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const SaveObject& o) {
      return o.bytes == job.object_bytes && o.writer->geometry() == job.work.geometry();
    });
    if (found != kept_.end()) {
      kept_bytes_ -= found->bytes;
      object.splice(object.end(), kept_, found);
      return object;
    }
    used_ += job.object_bytes;
    while (!kept_.empty() && used_ > limit_) {
      used_ -= kept_.back().bytes;
      kept_bytes_ -= kept_.back().bytes;
      dropped.splice(dropped.end(), kept_, std::prev(kept_.end()));
    }
    return object;
  }
  /// What take() gave, or made possible, is not needed any more. Returns what is not kept; it ends
  /// without the lock.
  SaveObjects give_back(SaveObjects object, std::uint64_t bytes) {
    if (object.empty() || object.front().in_store || used_ > limit_) {
      used_ -= bytes;
      return object;
    }
    kept_bytes_ += bytes;
    kept_.splice(kept_.begin(), object);  // the next one takes what the cache still holds
    return {};
  }

 private:
  const std::uint64_t limit_;
  std::uint64_t used_ = 0;
  std::uint64_t kept_bytes_ = 0;
  SaveObjects kept_;
};

}  // namespace cake::inline CAKE_ABI::detail
