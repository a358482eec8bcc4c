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
#include <tuple>
#include <unordered_map>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "src/chunk/sealed_copy.hpp"
#include "src/core/try.hpp"
#include "src/storage/host/memory.hpp"
#include "src/storage/posix/index.hpp"

namespace cake::inline CAKE_ABI {
namespace detail {
namespace {

constexpr std::size_t kMostCandidates = 256;  // of one class of age, to choose from
constexpr std::size_t kMostLooked = 1024;     // objects that one write looks at
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

/// Whoever holds one keeps its bytes: the store while it is visible, and each loan.
struct HostObject {
  explicit HostObject(std::shared_ptr<HostMemory> memory_in) : memory(std::move(memory_in)) {}
  HostObject(const HostObject&) = delete;
  HostObject& operator=(const HostObject&) = delete;
  ~HostObject() {
    if (data != nullptr) memory->give_back(data, bytes);
  }
  ConstBytes content() const { return {data, bytes}; }

  std::shared_ptr<HostMemory> memory;
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  std::optional<std::uint32_t> seal;
  std::uint32_t position = 0;  // of the first token; 0 for what is no chunk, so that it goes first
  std::int64_t used = 0;       // seconds
};

/// Where its memory ends.
const std::byte* end_of(const HostObject& object) { return object.data + align_up(object.bytes); }

/// The first ones to go, the first of them first.
std::vector<ObjectIndex::Entry> first_to_go(const ObjectIndex& index, std::int64_t now) {
  auto oldest = index.oldest(now, kMostCandidates);
  std::sort(oldest.begin(), oldest.end(), [](const auto& a, const auto& b) {
    return std::tie(a.object.position, a.object.used, a.key) <
           std::tie(b.object.position, b.object.used, b.key);
  });
  return oldest;
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

class HostEngine {
 public:
  explicit HostEngine(const HostOptions& options)
      : verify_on_read_(options.verify_on_read),
        clock_(options.clock ? options.clock : steady_seconds),
        memory_(std::make_shared<HostMemory>(options.capacity_bytes, arena_bytes(options),
                                             options.memory)) {}

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
      CAKE_TRY(make_room(key, bytes.size(), *object));
    }
    // Nobody waits for the copy. Whether another write of the key is faster is seen afterwards.
    auto seal = sealed_copy(bytes, key, object->data);
    if (!seal) return damaged(seal.error());
    object->seal = *seal;
    const auto summary = *seal ? peek_chunk(object->content()) : std::nullopt;
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
    stats_.published_bytes += bytes.size();
    stats_.unverified += object->seal ? 0 : 1;
    return true;
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
  using Objects = std::unordered_map<ChunkKey, std::shared_ptr<HostObject>>;

  static KnownObject known(const HostObject& object) {
    return {object.bytes, object.used, object.position, true};
  }
  /// Somebody beside the store holds the object. Under the lock: nobody new comes meanwhile.
  static bool in_use(const std::shared_ptr<HostObject>& object) { return object.use_count() > 1; }

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
  void touch(const ChunkKey& key, HostObject& object) {
    const std::int64_t now = clock_();
    if (object.used == now) return;
    object.used = now;
    index_.put(key, known(object));
  }

  std::shared_ptr<HostObject> forget(Objects::iterator it) {
    std::shared_ptr<HostObject> object = std::move(it->second);
    index_.remove(it->first);
    objects_.erase(it);
    return object;
  }
  /// Its memory is free when this returns.
  void evict(Objects::iterator it) {
    ++stats_.evicted;
    stats_.evicted_bytes += it->second->bytes;
    (void)forget(it);
  }

  /// Takes memory for the object, and evicts for it if need be.
  ///
  /// Errors:  out_of_memory
  Status make_room(const ChunkKey& key, std::uint64_t bytes, HostObject& object) {
    if (align_up(bytes) > memory_->largest_object() || bytes > memory_->capacity()) {
      ++stats_.refused;
      return Error{Errc::out_of_memory, 0,
                   "HostStorage: an object of " + std::to_string(bytes) +
                       " bytes is larger than an arena (" +
                       std::to_string(memory_->largest_object()) +
                       " bytes); raise capacity_bytes or arena_bytes, or store smaller chunks"};
    }
    object.data = memory_->take(bytes, key);
    if (object.data == nullptr) object.data = take_from_others(key, bytes);
    if (object.data != nullptr) {
      object.bytes = bytes;
      return {};
    }
    ++stats_.refused;
    return Error{Errc::out_of_memory, 0,
                 "HostStorage: no room for an object of " + std::to_string(bytes) +
                     " bytes: all that could go is lent or being read"};
  }

  /// Null: nothing more can go, or the work has lasted long enough.
  std::byte* take_from_others(const ChunkKey& key, std::uint64_t bytes) {
    std::size_t looked = 0;
    std::uint64_t freed = 0;
    while (looked < kMostLooked && index_.size() != 0) {
      for (const ObjectIndex::Entry& candidate : first_to_go(index_, clock_())) {
        if (looked++ == kMostLooked) return nullptr;
        const auto it = objects_.find(candidate.key);
        // It may have gone as another one's neighbour.
        if (it == objects_.end()) continue;
        if (in_use(it->second)) {  // that is a use, too
          touch(candidate.key, *it->second);
          continue;
        }
        std::byte* data = nullptr;
        if (freed >= 2 * align_up(bytes)) {  // enough has gone, but not side by side
          data = take_around(it, key, bytes, looked);
        } else {
          freed += align_up(it->second->bytes);
          evict(it);
          data = memory_->take(bytes, key);
        }
        if (data != nullptr) return data;
      }
    }
    return nullptr;
  }

  /// Evicts an object and what lies around it, the longer unused one of both sides first. Nothing
  /// where that leads to no gap of the size.
  std::byte* take_around(Objects::iterator first, const ChunkKey& key, std::uint64_t bytes,
                         std::size_t& looked) {
    std::vector<Objects::iterator> going{first};
    const std::byte* begin = first->second->data;
    const std::byte* end = end_of(*first->second);
    for (;; ++looked) {
      const HostMemory::Space space = memory_->space_around(begin, end);
      begin = space.begin;
      end = space.end;
      if (static_cast<std::uint64_t>(end - begin) >= align_up(bytes)) break;
      const auto next = longer_unused(space);
      if (next == objects_.end() || looked >= kMostLooked) return nullptr;
      going.push_back(next);
      begin = std::min<const std::byte*>(begin, next->second->data);
      end = std::max(end, end_of(*next->second));
    }
    for (const auto& object : going) evict(object);
    return memory_->take(bytes, key);
  }
  /// Of the two neighbours of a space; end(): neither may go.
  Objects::iterator longer_unused(const HostMemory::Space& space) {
    const auto before = unused(space.before);
    const auto behind = unused(space.behind);
    // What lies there may be an erased object that is lent, or one being written, whose key has
    // another object by now.
    const bool ends_it = before != objects_.end() && end_of(*before->second) == space.begin;
    const bool begins_it = behind != objects_.end() && behind->second->data == space.end;
    if (ends_it && begins_it) {
      return behind->second->used < before->second->used ? behind : before;
    }
    return ends_it ? before : begins_it ? behind : objects_.end();
  }
  /// end(): there is none of the key, or it is in use.
  Objects::iterator unused(const std::optional<ChunkKey>& key) {
    const auto it = key ? objects_.find(*key) : objects_.end();
    return it == objects_.end() || in_use(it->second) ? objects_.end() : it;
  }

  const bool verify_on_read_;
  const std::function<std::int64_t()> clock_;
  const std::shared_ptr<HostMemory> memory_;
  mutable std::mutex mutex_;  // guards all below; held over no copy
  Objects objects_;
  ObjectIndex index_;
  HostStats stats_;
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
