// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/posix.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <new>
#include <numeric>
#include <optional>

#include "cake/buffer.hpp"
#include "posix_evictor.hpp"
#include "posix_reader.hpp"

namespace cake {
namespace detail {

/// The parts of one store, in the order in which they need each other.
class PosixEngine {
 public:
  explicit PosixEngine(const PosixOptions& options)
      : store(options),
        pool(store),
        evictor(store, [this](const ChunkKey& key) { pool.forget(key); }) {}

  Status write(const ChunkKey& key, ConstBytes bytes) {
    if (store.options().capacity_bytes == 0) {
      const auto published = publish(store, key, bytes);
      return published ? Status() : Status(published.error());
    }
    // What is there already needs no room.
    struct stat info {};
    if (stat_object(key, info) && StoreDirectory::servable(info)) {
      ++store.counters().already_stored;
      return {};
    }
    auto status = reserve_and_publish(key, bytes);
    if (!status && status.error().native == ENOSPC) {
      evictor.free_space(bytes.size());
      status = reserve_and_publish(key, bytes);
    }
    return status;
  }

  bool stat_object(const ChunkKey& key, struct stat& info) {
    const auto directory = store.open_fan_out(StoreDirectory::fan_out_name(key), false);
    const std::string name = StoreDirectory::file_name(key);
    return directory && ::fstatat(directory->get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
  }

  StoreDirectory store;
  ReadPool pool;
  Evictor evictor;

 private:
  Status reserve_and_publish(const ChunkKey& key, ConstBytes bytes) {
    if (auto status = evictor.reserve(bytes.size()); !status) return status;
    const auto published = publish(store, key, bytes);
    evictor.settle(bytes.size(), published.value_or(false));
    return published ? Status() : Status(published.error());
  }
};

}  // namespace detail

PosixRead::PosixRead(std::shared_ptr<detail::PendingRead> pending) : pending_(std::move(pending)) {}
PosixRead::PosixRead(PosixRead&&) noexcept = default;
PosixRead& PosixRead::operator=(PosixRead&&) noexcept = default;
PosixRead::~PosixRead() = default;

bool PosixRead::ready() {
  const std::lock_guard lock(pending_->mutex);
  return pending_->done;
}

Status PosixRead::wait() {
  std::unique_lock lock(pending_->mutex);
  pending_->changed.wait(lock, [&] { return pending_->done; });
  return pending_->status;
}

bool PosixRead::wait_for(std::chrono::nanoseconds span) {
  // Longer than this would run over the clock's end.
  span = std::min<std::chrono::nanoseconds>(span, std::chrono::hours(24 * 365));
  std::unique_lock lock(pending_->mutex);
  return pending_->changed.wait_for(lock, span, [&] { return pending_->done; });
}

PosixStorage::PosixStorage(const PosixOptions& options)
    : engine_(std::make_unique<detail::PosixEngine>(options)) {}
PosixStorage::~PosixStorage() = default;
PosixStorage::PosixStorage(PosixStorage&&) noexcept = default;
PosixStorage& PosixStorage::operator=(PosixStorage&&) noexcept = default;

Result<std::vector<StoredChunk>> PosixStorage::lookup(std::span<const ChunkKey> keys) {
  auto& store = engine_->store;
  std::vector<StoredChunk> found(keys.size());
  // Directory by directory, so that one descriptor does.
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return keys[a].bytes[0] < keys[b].bytes[0]; });
  std::optional<Result<detail::Fd>> directory;
  for (std::size_t at = 0; at < order.size(); ++at) {
    const std::size_t i = order[at];
    const std::string name = detail::StoreDirectory::file_name(keys[i]);
    if (at == 0 || keys[i].bytes[0] != keys[order[at - 1]].bytes[0]) {
      directory.reset();
      directory.emplace(store.open_fan_out(name.substr(0, 2), false));
    }
    if (!*directory) continue;
    struct stat info {};
    if (::fstatat((*directory)->get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        detail::StoreDirectory::servable(info)) {
      found[i] = {static_cast<std::uint64_t>(info.st_size), 1};
    }
  }
  return found;
}

PosixRead PosixStorage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                             MutableBytes out) {
  auto read = std::make_shared<detail::PendingRead>();
  read->key = key;
  read->offset = offset;
  read->out = out;
  const auto refuse = [&](const char* why) {
    read->finish(Error{Errc::invalid_argument, 0, why});
    return PosixRead(std::move(read));
  };
  if (tier != 0) return refuse("a directory has one tier");
  if (offset % kIoAlignment != 0 || out.size() % kIoAlignment != 0 ||
      reinterpret_cast<std::uintptr_t>(out.data()) % kIoAlignment != 0) {
    return refuse("offset, size and address of a read must be multiples of 4096");
  }
  ++engine_->store.counters().reads;
  engine_->pool.submit(read);
  return PosixRead(std::move(read));
}

Status PosixStorage::write(const ChunkKey& key, ConstBytes bytes) {
  if (bytes.empty() || bytes.size() % kIoAlignment != 0) {
    return Error{Errc::invalid_argument, 0, "an object's size must be a multiple of 4096"};
  }
  return engine_->write(key, bytes);
}

Status PosixStorage::erase(const ChunkKey& key) {
  engine_->pool.forget(key);
  const auto directory =
      engine_->store.open_fan_out(detail::StoreDirectory::fan_out_name(key), false);
  if (!directory) {
    return directory.error().code == Errc::not_found ? Status() : Status(directory.error());
  }
  const std::string name = detail::StoreDirectory::file_name(key);
  if (::unlinkat(directory->get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    return errno_error(errno, "cannot erase " + name);
  }
  return {};
}

bool PosixStorage::direct() const { return engine_->store.direct(); }

PosixStats PosixStorage::stats() const {
  const auto& from = engine_->store.counters();
  PosixStats stats;
  stats.direct = direct();
  stats.direct_refusals = from.direct_refusals;
  stats.reads = from.reads;
  stats.read_ops = from.read_ops;
  stats.read_bytes = from.read_bytes;
  stats.short_reads = from.short_reads;
  stats.opens = from.opens;
  stats.published = from.published;
  stats.published_bytes = from.published_bytes;
  stats.already_stored = from.already_stored;
  stats.leftovers = from.leftovers;
  stats.evicted = from.evicted;
  stats.evicted_bytes = from.evicted_bytes;
  return stats;
}

const std::filesystem::path& PosixStorage::directory() const {
  return engine_->store.options().directory;
}

}  // namespace cake
