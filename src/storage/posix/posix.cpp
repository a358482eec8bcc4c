// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/posix.hpp"

#include <fcntl.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <numeric>

#include "cake/detail/process.hpp"
#include "cake/staging.hpp"
#include "evictor.hpp"
#include "look.hpp"
#include "reader.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI {
namespace detail {

/// The parts of one store, in the order in which they need each other.
class PosixEngine {
 public:
  explicit PosixEngine(const PosixOptions& options)
      : store(options),
        pool(store),
        evictor(
            store, [this](const ChunkKey& key) { pool.forget(key); },
            store.bounded() && !store.read_only()) {}

  Status usable() const { return made_here_.check("a PosixStorage"); }
  bool in_child() const { return made_here_.in_child(); }

  Result<bool> write(const ChunkKey& key, ConstBytes bytes) {
    CAKE_TRY(store.check_writable());
    CAKE_TRY(store.refresh());
    if (!store.bounded()) return publish(store, key, bytes);
    // What is there already needs no room.
    const auto there = already_stored(store, key, bytes);
    if (!there) return there.error();
    if (*there) {
      ++store.counters().already_stored;
      return false;
    }
    auto result = reserve_and_publish(key, bytes);
    if (!result && (result.error().native == ENOSPC || result.error().native == EDQUOT)) {
      evictor.free_space(bytes.size());
      result = reserve_and_publish(key, bytes);
    }
    return result;
  }

  struct Outcome {
    bool looked_up = false;  // all keys
    Status problem;
  };
  /// Looks up the keys of one folder: `which` are their places.
  Outcome look_up(std::span<const ChunkKey> keys, std::span<const std::size_t> which,
                  std::vector<StoredChunk>& found) {
    const std::string folder_name = StoreDirectory::fan_out_name(keys[which[0]]);
    auto folder = store.open_fan_out(folder_name, false);
    if (!folder && (folder.error().native == EMFILE || folder.error().native == ENFILE)) {
      pool.close_files();
      folder = store.open_fan_out(folder_name, false);
    }
    if (!folder) {
      if (folder.error().code == Errc::not_found) return {true, {}};
      store.counters().lookup_problems += which.size();
      return {false, folder.error()};
    }
    Outcome outcome{true, {}};
    for (const std::size_t i : which) {
      const std::string name = StoreDirectory::file_name(keys[i]);
      struct stat info {};
      if (store.calls().stat_at(folder->get(), name.c_str(), &info) != 0) {
        if (errno == ENOENT) continue;
        outcome = {false, system_error(errno, "cannot examine " + name + " in " + store.named())};
        ++store.counters().lookup_problems;
      } else if (store.expired(info)) {
        continue;
      } else if (store.servable(info)) {
        found[i] = {static_cast<std::uint64_t>(info.st_size), 1};
      } else if (S_ISREG(info.st_mode) && !store.trusted(info)) {
        // It counts as absent, and a write replaces it; a store that only serves keeps it.
        outcome.problem =
            store.distrust(info, name + " in " + store.named(), store.path_of(keys[i]).string());
        ++store.counters().lookup_problems;
      }
    }
    return outcome;
  }

  void note_lookup(Status outcome) {
    const std::lock_guard lock(mutex_);
    lookup_problem_ = std::move(outcome);
  }
  Status lookup_problem() const {
    const std::lock_guard lock(mutex_);
    return lookup_problem_;
  }

  StoreDirectory store;
  ReadPool pool;
  Evictor evictor;

 private:
  Result<bool> reserve_and_publish(const ChunkKey& key, ConstBytes bytes) {
    CAKE_TRY(evictor.reserve(key, bytes));
    std::optional<bool> published;
    // Also when it throws.
    struct Settle {
      PosixEngine& engine;
      const ChunkKey& key;
      ConstBytes bytes;
      const std::optional<bool>& published;
      ~Settle() { engine.evictor.settle(key, bytes, published); }
    } const settle{*this, key, bytes, published};
    auto result = publish(store, key, bytes);
    published = result.value_or(false);
    return result;
  }

  ForkGuard made_here_;
  mutable std::mutex mutex_;
  Status lookup_problem_;
};

namespace {

Status may_read(const PosixEngine& engine, std::uint32_t tier, std::uint64_t offset,
                MutableBytes out) {
  CAKE_TRY(engine.usable());
  if (tier != 0) return Error{Errc::invalid_argument, 0, "read: a directory has only tier 0"};
  if (offset % kIoAlignment != 0 || out.size() % kIoAlignment != 0 ||
      reinterpret_cast<std::uintptr_t>(out.data()) % kIoAlignment != 0) {
    return Error{Errc::invalid_argument, 0,
                 "offset, size and address of a read must be multiples of 4096"};
  }
  return {};
}

/// What a call gives back when it runs out of memory.
template <class R, class Call>
R contained(Call&& call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

}  // namespace
}  // namespace detail

PosixRead::PosixRead(std::shared_ptr<detail::PendingRead> pending) : pending_(std::move(pending)) {}
PosixRead::PosixRead(PosixRead&&) noexcept = default;
PosixRead& PosixRead::operator=(PosixRead&&) noexcept = default;
PosixRead::~PosixRead() = default;

// Without memory for it there is no pending read. In a child process its lock may be held by a
// thread that does not exist there.
bool PosixRead::ready() {
  if (!pending_ || pending_->made_here.in_child()) return true;
  const std::lock_guard lock(pending_->mutex);
  return pending_->done;
}

Status PosixRead::wait() {
  if (!pending_) return detail::no_memory();
  CAKE_TRY(pending_->made_here.check("a read"));
  std::unique_lock lock(pending_->mutex);
  pending_->changed.wait(lock, [&] { return pending_->done; });
  return pending_->status;
}

bool PosixRead::wait_for(std::chrono::nanoseconds span) {
  if (!pending_ || pending_->made_here.in_child()) return true;
  // Longer than this would run over the clock's end.
  span = std::min<std::chrono::nanoseconds>(span, std::chrono::hours(24 * 365));
  std::unique_lock lock(pending_->mutex);
  return pending_->changed.wait_for(lock, span, [&] { return pending_->done; });
}

PosixStorage::PosixStorage(const PosixOptions& options)
    : engine_(std::make_unique<detail::PosixEngine>(options)) {}
PosixStorage::~PosixStorage() {
  // Its threads are not in the child, and a lock may be held for ever there.
  if (engine_ && engine_->in_child()) detail::abandon(std::move(engine_));
}
PosixStorage::PosixStorage(PosixStorage&&) noexcept = default;
PosixStorage& PosixStorage::operator=(PosixStorage&& other) noexcept {
  PosixStorage old(std::move(*this));
  engine_ = std::move(other.engine_);
  return *this;
}

Result<std::vector<StoredChunk>> PosixStorage::lookup(std::span<const ChunkKey> keys) {
  using Found = Result<std::vector<StoredChunk>>;
  CAKE_TRY(engine_->usable());
  return detail::contained<Found>([&]() -> Found {
    std::vector<StoredChunk> found(keys.size());
    if (keys.empty()) return found;
    if (auto status = engine_->store.refresh(); !status) {
      engine_->store.counters().lookup_problems += keys.size();
      engine_->note_lookup(status);
      return status.error();
    }
    // Folder by folder, so that one descriptor does.
    std::vector<std::size_t> order(keys.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return keys[a].bytes[0] < keys[b].bytes[0]; });
    Status problem;
    bool any = false;
    for (std::size_t at = 0; at < order.size();) {
      std::size_t end = at + 1;
      while (end < order.size() && keys[order[end]].bytes[0] == keys[order[at]].bytes[0]) ++end;
      auto outcome = engine_->look_up(keys, std::span(order).subspan(at, end - at), found);
      any = any || outcome.looked_up;
      if (!outcome.problem) problem = std::move(outcome.problem);
      at = end;
    }
    engine_->note_lookup(problem);
    if (!any) return problem.error();
    return found;
  });
}

Status PosixStorage::lookup_problem() const {
  CAKE_TRY(engine_->usable());
  return engine_->lookup_problem();
}

PosixRead PosixStorage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                             MutableBytes out) {
  return read_pieces(tier, key, offset, out, nullptr);
}

PosixRead PosixStorage::read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                                    MutableBytes out, std::shared_ptr<PieceSink> sink) {
  std::shared_ptr<detail::PendingRead> read;
  try {
    read = std::make_shared<detail::PendingRead>();
    read->key = key;
    read->offset = offset;
    read->out = out;
    read->sink = std::move(sink);
    if (auto status = detail::may_read(*engine_, tier, offset, out); !status) {
      read->finish(std::move(status));
      return PosixRead(read);
    }
    ++engine_->store.counters().reads;
    engine_->pool.submit(read);
    return PosixRead(std::move(read));
  } catch (const std::bad_alloc&) {
    return PosixRead(nullptr);
  }
}

bool PosixStorage::reads_on_caller(std::uint32_t tier) const {
  return tier == 0 && engine_->store.in_memory() &&
         engine_->store.options().engine != ReadEngine::io_uring;
}

Status PosixStorage::read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                                    MutableBytes out) {
  CAKE_TRY(detail::may_read(*engine_, tier, offset, out));
  return detail::contained<Status>([&] {
    ++engine_->store.counters().reads;
    return engine_->pool.read_here(key, offset, out);
  });
}

Result<bool> PosixStorage::write_new(const ChunkKey& key, ConstBytes bytes) {
  CAKE_TRY(engine_->usable());
  if (bytes.empty() || bytes.size() % kIoAlignment != 0) {
    return Error{
        Errc::invalid_argument, 0,
        "an object's size must be a multiple of 4096, and is " + std::to_string(bytes.size())};
  }
  return detail::contained<Result<bool>>([&] { return engine_->write(key, bytes); });
}

Status PosixStorage::write(const ChunkKey& key, ConstBytes bytes) {
  const auto written = write_new(key, bytes);
  return written ? Status() : Status(written.error());
}

Status PosixStorage::erase(const ChunkKey& key) {
  CAKE_TRY(engine_->usable());
  return detail::contained<Status>([&]() -> Status {
    auto& store = engine_->store;
    CAKE_TRY(store.check_writable());
    engine_->pool.forget(key);
    // Before it is gone, since afterwards somebody may write it anew.
    struct Forgotten {
      detail::Evictor& evictor;
      std::uint64_t bytes;
      bool gone = false;
      ~Forgotten() {
        if (!gone) evictor.kept(bytes);
      }
    } object{engine_->evictor, engine_->evictor.erased(key)};
    const auto directory = store.open_fan_out(detail::StoreDirectory::fan_out_name(key), false);
    if (!directory) {
      object.gone = directory.error().code == Errc::not_found;
      return object.gone ? Status() : Status(directory.error());
    }
    const std::string name = detail::StoreDirectory::file_name(key);
    if (store.calls().unlink_at(directory->get(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return detail::system_error(errno, "cannot erase " + name + " in " + store.named());
    }
    object.gone = true;
    return {};
  });
}

Status PosixStorage::set_priority(std::span<const ChunkKey> keys, int priority) {
  CAKE_TRY(engine_->usable());
  return detail::contained<Status>([&]() -> Status {
    for (const ChunkKey& key : keys) {
      Status set = engine_->store.set_priority(key, priority);
      if (!set && set.code() != Errc::not_found) return set;
    }
    return {};
  });
}

Result<Listing> PosixStorage::list(const std::string& from) const {
  CAKE_TRY(engine_->usable());
  return detail::contained<Result<Listing>>([&]() -> Result<Listing> {
    auto& store = engine_->store;
    CAKE_TRY(store.refresh());
    const auto first = from.empty() ? 0 : detail::StoreDirectory::folder_of(from);
    if (!first) {
      return Error{Errc::invalid_argument, 0,
                   "list of " + store.named() + ": no part of it begins at \"" + from + "\""};
    }
    const auto part = detail::DirectoryLook(store, *first).folder();
    if (!part.problem) return part.problem.error();
    Listing listing;
    listing.others = part.others;
    if (!part.all) {
      const auto next = static_cast<std::byte>(*first + 1);
      listing.next = detail::StoreDirectory::fan_out_name({{next}});
    }
    for (const auto& [key, object] : part.objects) {
      listing.objects.push_back({key, object.bytes, object.used});
    }
    return listing;
  });
}

Result<PosixTrim> PosixStorage::trim(std::uint64_t bytes) {
  CAKE_TRY(engine_->usable());
  return detail::contained<Result<PosixTrim>>([&]() -> Result<PosixTrim> {
    CAKE_TRY(engine_->store.check_writable());
    CAKE_TRY(engine_->store.refresh());
    return detail::Evictor::trim(
        engine_->store, [this](const ChunkKey& key) { engine_->pool.forget(key); }, bytes);
  });
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
  stats.read_only = engine_->store.read_only();
  stats.replaced = from.replaced;
  stats.lookup_problems = from.lookup_problems;
  stats.eviction_failures = from.eviction_failures;
  stats.refused = from.refused;
  stats.expired = from.expired;
  stats.first_reads = from.first_reads;
  stats.reopened = from.reopened;
  stats.stuck_reads = from.stuck_reads;
  stats.engine = engine_->pool.engine();
  stats.engine_reason = engine_->pool.engine_reason();
  stats.ring_reads = from.ring_reads;
  stats.ring_refusals = from.ring_refusals;
  stats.ring_retries = from.ring_retries;
  return stats;
}

const std::filesystem::path& PosixStorage::directory() const {
  return engine_->store.options().directory;
}

}  // namespace cake::inline CAKE_ABI
