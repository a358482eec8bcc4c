// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/host.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "src/chunk/sealed_copy.hpp"
#include "src/core/try.hpp"
#include "src/storage/host/memory.hpp"
#include "src/storage/host/table.hpp"

namespace cake::inline CAKE_ABI {
namespace detail {
namespace {

// Few and large, and all of them at the start: one H100 machine took 60 ms to map a GiB, and 75 ms to
// register it with the device (benchmarks/NOTES.md). That is 4 ms for a chunk of 32 MiB, about as long
// as copying and verifying it.
constexpr std::uint64_t kLeastArena = std::uint64_t{4} << 30;
constexpr std::uint64_t kMostArenas = 16;

// Its text is short enough to need no memory.
Error no_memory() { return Error{Errc::out_of_memory, 0, "no host memory"}; }

std::int64_t steady_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Errors:  throws Exception(invalid_argument) without a capacity
std::uint64_t arena_bytes(const HostOptions& options) {
  if (options.capacity_bytes < kIoAlignment) {
    throw Exception(
        {Errc::invalid_argument, 0,
         "HostStorage: HostOptions::capacity_bytes is " + std::to_string(options.capacity_bytes) +
             "; set it to the bytes of host memory that the objects may take, at least 4096"});
  }
  if (options.arena_bytes != 0) return options.arena_bytes;
  return std::max(kLeastArena, options.capacity_bytes / kMostArenas);
}

}  // namespace

class HostEngine : private HostTable {
 public:
  explicit HostEngine(const HostOptions& options)
      : HostTable(std::make_shared<HostMemory>(options.capacity_bytes, arena_bytes(options),
                                               options.memory),
                  options.clock ? options.clock : steady_seconds),
        verify_on_read_(options.verify_on_read) {}

  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) const {
    std::vector<StoredChunk> found(keys.size());
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto it = objects_.find(keys[i]);
      if (it != objects_.end()) found[i] = {it->second->bytes, 1};
    }
    return found;
  }

  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    const auto object = use(tier, key, offset, out.size());
    if (!object) return object.error();
    // Without the lock; evicted or erased meanwhile, the object lives until the end of the copy.
    if (!out.empty()) std::memcpy(out.data(), (*object)->data + offset, out.size());
    const std::lock_guard lock(mutex_);
    ++stats_.reads;
    stats_.read_bytes += out.size();
    return {};
  }

  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) {
    const auto object = use(tier, key, offset, size);
    if (!object) return object.error();
    {
      const std::lock_guard lock(mutex_);
      ++stats_.loans;
      stats_.loan_bytes += size;
    }
    const ConstBytes bytes = (*object)->content().subspan(offset, size);
    return BorrowedBytes(bytes, *object, verify_on_read_ ? std::nullopt : (*object)->seal);
  }

  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) {
    if (bytes.empty()) return Error{Errc::invalid_argument, 0, "an object cannot be empty"};
    auto object = std::make_shared<HostObject>(memory_);
    {
      const std::lock_guard lock(mutex_);
      if (objects_.contains(key)) return already_stored();
      CAKE_TRY(take_memory(key, bytes.size(), *object));
    }
    // Nobody waits for the copy. Whether another write of the key is faster is seen afterwards.
    auto seal = sealed_copy(bytes, key, object->data);
    if (!seal) return damaged(seal.error());
    return show(key, object, *seal);
  }

  Result<ObjectRoom> make_room(const ChunkKey& key, std::uint64_t bytes) {
    if (bytes == 0) return Error{Errc::invalid_argument, 0, "an object cannot be empty"};
    auto object = std::make_shared<HostObject>(memory_);
    const std::lock_guard lock(mutex_);
    CAKE_TRY(take_memory(key, bytes, *object));
    const MutableBytes room(object->data, bytes);
    return ObjectRoom(room, std::move(object));
  }

  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal) {
    if (bytes == 0 || bytes > room.bytes().size()) {
      return Error{Errc::invalid_argument, 0,
                   "HostStorage: an object has no bytes, or more than the room that it is in"};
    }
    auto object = std::static_pointer_cast<HostObject>(room.owner());
    room = ObjectRoom();  // from here on whoever else holds the object has it in use
    memory_->shrink(object->data, object->bytes, bytes);
    object->bytes = bytes;
    if (seal) {
      const Status fits = check_seal(object->content(), key, *seal);
      if (!fits) return damaged(fits.error());
    } else {
      const auto verified = sealed_copy(object->content(), key, nullptr);
      if (!verified) return damaged(verified.error());
      seal = *verified;
    }
    return show(key, object, seal);
  }

  void erase(const ChunkKey& key) {
    std::shared_ptr<HostObject> gone;  // ends without the lock
    const std::lock_guard lock(mutex_);
    const auto it = objects_.find(key);
    if (it == objects_.end()) return;
    gone = forget(it);
  }

  const Status& problem() const { return memory_->problem(); }

  HostStats stats() const {
    const std::lock_guard lock(mutex_);
    HostStats stats = stats_;
    stats.capacity_bytes = memory_->capacity();
    stats.plain_bytes = memory_->plain_bytes();
    stats.used_bytes = memory_->used();
    stats.objects = objects_.size();
    for (const auto& [key, object] : objects_) stats.in_use += in_use(object) ? 1 : 0;
    return stats;
  }

 private:
  /// Makes an object visible, unless another one of the key is.
  Result<bool> show(const ChunkKey& key, const std::shared_ptr<HostObject>& object,
                    std::optional<std::uint32_t> seal) {
    object->seal = seal;
    const auto summary = seal ? peek_chunk(object->content()) : std::nullopt;
    object->position = summary ? summary->token_begin : 0;
    const std::lock_guard lock(mutex_);
    if (objects_.contains(key)) return already_stored();
    object->used = clock_();
    index_.put(key, known(*object));
    try {
      objects_.emplace(key, object);
    } catch (...) {
      index_.remove(key);
      throw;
    }
    ++stats_.published;
    stats_.published_bytes += object->bytes;
    stats_.unverified += object->seal ? 0 : 1;
    return true;
  }
  bool already_stored() {
    ++stats_.already_stored;
    return false;
  }
  Error damaged(const Error& why) {
    const std::lock_guard lock(mutex_);
    ++stats_.damaged;
    return {why.code, why.native,
            "HostStorage: an object that is written is not whole: " + why.context};
  }

  /// Finds an object of which these bytes are wanted; it is used now.
  Result<std::shared_ptr<HostObject>> use(std::uint32_t tier, const ChunkKey& key,
                                          std::uint64_t offset, std::uint64_t size) {
    if (tier != 0) return Error{Errc::invalid_argument, 0, "host memory has only tier 0"};
    const std::lock_guard lock(mutex_);
    const auto it = objects_.find(key);
    if (it == objects_.end()) {
      return Error{Errc::not_found, 0, "no object in host memory has this key"};
    }
    if (offset > it->second->bytes || size > it->second->bytes - offset) {
      return Error{Errc::corrupt, 0, "an object in host memory ends before the read does"};
    }
    touch(key, *it->second);
    return it->second;
  }
  const bool verify_on_read_;
  mutable std::mutex mutex_;  // guards the table; held over no copy
};

}  // namespace detail

HostStorage::HostStorage(const HostOptions& options)
    : engine_(std::make_unique<detail::HostEngine>(options)) {}
HostStorage::~HostStorage() = default;

Result<std::vector<StoredChunk>> HostStorage::lookup(std::span<const ChunkKey> keys) const {
  try {
    return engine_->lookup(keys);
  } catch (const std::bad_alloc&) {
    return detail::no_memory();
  }
}

Status HostStorage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                         MutableBytes out) {
  try {
    return engine_->read(tier, key, offset, out);
  } catch (const std::bad_alloc&) {
    return detail::no_memory();
  }
}

Status HostStorage::write(const ChunkKey& key, ConstBytes bytes) {
  const auto written = write_new(key, bytes);
  return written ? Status() : Status(written.error());
}

Result<bool> HostStorage::write_new(const ChunkKey& key, ConstBytes bytes) {
  try {
    return engine_->write_new(key, bytes);
  } catch (const std::bad_alloc&) {
    return detail::no_memory();
  }
}

Result<ObjectRoom> HostStorage::make_room(const ChunkKey& key, std::uint64_t bytes) {
  try {
    return engine_->make_room(key, bytes);
  } catch (const std::bad_alloc&) {
    return detail::no_memory();
  }
}

Result<bool> HostStorage::publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                                  std::optional<std::uint32_t> seal) {
  try {
    return engine_->publish(key, std::move(room), bytes, seal);
  } catch (const std::bad_alloc&) {
    return detail::no_memory();
  }
}

Status HostStorage::erase(const ChunkKey& key) {
  engine_->erase(key);
  return {};
}

Result<BorrowedBytes> HostStorage::borrow(std::uint32_t tier, const ChunkKey& key,
                                          std::uint64_t offset, std::uint64_t size) {
  try {
    return engine_->borrow(tier, key, offset, size);
  } catch (const std::bad_alloc&) {
    return detail::no_memory();
  }
}

Status HostStorage::problem() const { return engine_->problem(); }
HostStats HostStorage::stats() const { return engine_->stats(); }

}  // namespace cake::inline CAKE_ABI
