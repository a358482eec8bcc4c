// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store that misbehaves on order. Faults lie over an inner store whose objects stay good, so that
// the same run without faults must be clean.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::fault {

enum class Kind {
  none,
  error,         // nothing arrives, Errc::io
  short_read,    // half of the bytes arrive, Errc::io
  torn_read,     // half of the bytes arrive, and the store says that all is well
  flipped_byte,  // everything arrives, one byte of the object is wrong
  wrong_object,  // everything arrives, from the object of another key
  hang,          // nothing arrives until release(); then everything does, late
};

/// What happens to a read.
struct Fault {
  Kind kind = Kind::none;
  std::uint64_t position = 0;  // flipped_byte: which byte of the object; modulo the read if it
                               // lies outside
  std::uint8_t flip = 0x10;    // flipped_byte: xored over it
  ChunkKey other{};            // wrong_object: whose
};

struct Counts {
  std::uint64_t lookups = 0, reads = 0, writes = 0, erases = 0;
  std::uint64_t faults = 0;  // calls that a fault was done to
  std::uint64_t hung = 0;    // reads that hang now
};

namespace parts {
/// One read or write; hung ones become ready by the hand of the thread that releases them.
struct Pending {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Status status;
  void finish(Status outcome) {
    const std::lock_guard lock(mutex);
    status = std::move(outcome);
    done = true;
    changed.notify_all();
  }
};

/// Calls that no fault is ever done to.
template <StorageBackend S>
class PassedOn {
 public:
  static constexpr StorageAbilities abilities = storage_traits<S>::abilities;
  explicit PassedOn(S& inner) : inner_(&inner) {}
  std::uint32_t tiers() requires(abilities.tiers) { return inner_->tiers(); }
  Status lookup_problem() requires(abilities.lookup_problem) { return inner_->lookup_problem(); }
  bool lends(std::uint32_t tier) requires(abilities.borrow&& abilities.tiers) {
    return inner_->lends(tier);
  }
  Result<ObjectRoom> make_room(const ChunkKey& key,
                               std::uint64_t bytes) requires(abilities.write_in_place) {
    return inner_->make_room(key, bytes);
  }
  DeviceStaging* device_staging() requires(abilities.device_staging) {
    return inner_->device_staging();
  }
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                           ConstBytes bytes) requires(abilities.stored_bytes_differ) {
    return inner_->stored_bytes_differ(key, offset, bytes);
  }
  void promote(std::uint32_t tier, const ChunkKey& key,
               BorrowedBytes object) requires(abilities.promote) {
    inner_->promote(tier, key, std::move(object));
  }

 protected:
  S* inner_;
};
}  // namespace parts

/// Completion of a faulty call. May be dropped before it is ready.
class FaultyCompletion {
 public:
  explicit FaultyCompletion(std::shared_ptr<parts::Pending> pending)
      : pending_(std::move(pending)) {}
  bool ready() {
    const std::lock_guard lock(pending_->mutex);
    return pending_->done;
  }
  Status wait() {
    std::unique_lock lock(pending_->mutex);
    pending_->changed.wait(lock, [&] { return pending_->done; });
    return pending_->status;
  }
  bool wait_for(std::chrono::nanoseconds span) {
    span = std::min<std::chrono::nanoseconds>(span, std::chrono::hours(24));
    std::unique_lock lock(pending_->mutex);
    return pending_->changed.wait_for(lock, span, [&] { return pending_->done; });
  }

 private:
  std::shared_ptr<parts::Pending> pending_;
};

/// Wraps a store. Without orders it passes everything through; calls block until the inner call is
/// done, unless they hang.
///
/// Needs:   the inner store outlives it
/// Thread:  Safe for concurrent use
template <StorageBackend S>
class FaultyStorage : public parts::PassedOn<S> {
  using parts::PassedOn<S>::inner_;

 public:
  explicit FaultyStorage(S& inner) : parts::PassedOn<S>(inner) {}
  FaultyStorage(const FaultyStorage&) = delete;
  FaultyStorage& operator=(const FaultyStorage&) = delete;
  /// Reads that still hang end with Errc::canceled, and nothing arrives any more.
  ~FaultyStorage() {
    for (auto& read : take_hung()) read.pending->finish(Error{Errc::canceled, 0, "store is gone"});
  }

  /// Does `fault` to every read of this key, or to the next `times` of them.
  void on_key(const ChunkKey& key, Fault fault, std::uint64_t times = kAlways) {
    const std::lock_guard lock(mutex_);
    by_key_[key] = {fault, times};
  }
  /// Does `fault` to the n-th read from now, counted from 0.
  void on_read(std::uint64_t n, Fault fault) {
    const std::lock_guard lock(mutex_);
    by_number_[counts_.reads + n] = fault;
  }
  /// Does `fault` to every read that nothing else was ordered for.
  void on_every_read(Fault fault) {
    const std::lock_guard lock(mutex_);
    every_ = fault;
  }
  void fail_lookups(std::optional<Error> error) {
    const std::lock_guard lock(mutex_);
    lookup_error_ = std::move(error);
  }
  /// Of every key, or of the given one only.
  void fail_writes(std::optional<Error> error, std::optional<ChunkKey> key = {}) {
    const std::lock_guard lock(mutex_);
    write_error_ = std::move(error);
    write_key_ = key;
  }
  /// Takes all orders back. What hangs goes on hanging.
  void heal() {
    const std::lock_guard lock(mutex_);
    by_key_.clear();
    by_number_.clear();
    every_ = {};
    lookup_error_.reset();
    write_error_.reset();
  }
  /// Lets everything that hangs arrive now, late; returns how many reads that were. Reads that hang
  /// later are not let go.
  std::size_t release() {
    auto reads = take_hung();
    for (auto& read : reads) {
      read.pending->finish(
          cake::await_completion(inner_->read(read.tier, read.key, read.offset, read.out)));
    }
    return reads.size();
  }
  Counts counts() const {
    const std::lock_guard lock(mutex_);
    Counts counts = counts_;
    counts.hung = hung_.size();
    return counts;
  }

  using parts::PassedOn<S>::abilities;
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    if (const auto error = lookup_fault()) return *error;
    return inner_->lookup(keys);
  }
  Result<std::vector<StoredChunk>> lookup_tier(
      std::uint32_t tier, std::span<const ChunkKey> keys) requires(abilities.lookup_tier) {
    if (const auto error = lookup_fault()) return *error;
    return inner_->lookup_tier(tier, keys);
  }
  FaultyCompletion read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) {
    return begin(tier, key, offset, out, nullptr);
  }
  /// Tells of what came of the fault, in two parts, the second one first.
  FaultyCompletion read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               MutableBytes out, const std::shared_ptr<PieceSink>& sink)  //
      requires(abilities.read_pieces) {
    return begin(tier, key, offset, out, sink);
  }

  /// A loan to which a fault is done is one of a copy, which nobody has verified. One that hangs
  /// blocks its caller until release().
  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) requires(abilities.borrow) {
    const Fault fault = next_fault(key);
    if (fault.kind == Kind::none) return inner_->borrow(tier, key, offset, size);
    const auto copy = std::make_shared<const AlignedBuffer>(size);
    Status status;
    if (fault.kind == Kind::hang) {
      auto pending = std::make_shared<parts::Pending>();
      {
        const std::lock_guard lock(mutex_);
        hung_.push_back({pending, tier, key, offset, copy->bytes()});
      }
      status = FaultyCompletion(std::move(pending)).wait();
    } else {
      status = carry_out(fault, tier, key, offset, copy->bytes());
    }
    if (!status) return status.error();
    return BorrowedBytes(copy->bytes(), copy);
  }

  Status write(const ChunkKey& key, ConstBytes bytes) {
    if (const auto error = write_fault(key)) return *error;
    return cake::await_completion(inner_->write(key, bytes));
  }
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) requires(abilities.write_new) {
    if (const auto error = write_fault(key)) return *error;
    return inner_->write_new(key, bytes);
  }

  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal)  //
      requires(abilities.write_in_place) {
    if (const auto error = write_fault(key)) return *error;
    return inner_->publish(key, std::move(room), bytes, seal);
  }

  Status erase(const ChunkKey& key) {
    count_erase();
    return inner_->erase(key);
  }
  Status erase_tier(std::uint32_t tier, const ChunkKey& key) requires(abilities.erase_tier) {
    count_erase();
    return inner_->erase_tier(tier, key);
  }

 private:
  FaultyCompletion begin(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                         MutableBytes out, const std::shared_ptr<PieceSink>& sink) {
    auto pending = std::make_shared<parts::Pending>();
    const Fault fault = next_fault(key);
    if (fault.kind == Kind::hang) {
      const std::lock_guard lock(mutex_);
      hung_.push_back({pending, tier, key, offset, out});
    } else {
      const Status status = carry_out(fault, tier, key, offset, out);
      if (status && sink) {
        const std::size_t cut = out.size() / 3 + 1;
        sink->arrived(out.subspan(cut));
        sink->arrived(out.first(cut));
      }
      pending->finish(status);
    }
    return FaultyCompletion(std::move(pending));
  }
  std::optional<Error> lookup_fault() {
    const std::lock_guard lock(mutex_);
    ++counts_.lookups;
    if (lookup_error_) ++counts_.faults;
    return lookup_error_;
  }
  std::optional<Error> write_fault(const ChunkKey& key) {
    const std::lock_guard lock(mutex_);
    ++counts_.writes;
    if (!write_error_ || (write_key_ && *write_key_ != key)) return std::nullopt;
    ++counts_.faults;
    return write_error_;
  }
  void count_erase() {
    const std::lock_guard lock(mutex_);
    ++counts_.erases;
  }

  static constexpr std::uint64_t kAlways = ~std::uint64_t{0};
  struct Order {
    Fault fault;
    std::uint64_t times = kAlways;
  };
  struct Hung {
    std::shared_ptr<parts::Pending> pending;
    std::uint32_t tier;
    ChunkKey key;
    std::uint64_t offset;
    MutableBytes out;
  };

  Fault next_fault(const ChunkKey& key) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t number = counts_.reads++;
    Fault fault = every_;
    if (const auto it = by_key_.find(key); it != by_key_.end() && it->second.times > 0) {
      fault = it->second.fault;
      if (it->second.times != kAlways) --it->second.times;
    }
    if (const auto it = by_number_.find(number); it != by_number_.end()) fault = it->second;
    counts_.faults += fault.kind != Kind::none;
    return fault;
  }

  Status carry_out(const Fault& fault, std::uint32_t tier, const ChunkKey& key,
                   std::uint64_t offset, MutableBytes out) {
    const std::size_t half = out.size() / 2 / 4096 * 4096;
    switch (fault.kind) {
      case Kind::error:
        return Error{Errc::io, 0, "a read error on order"};
      case Kind::short_read:
      case Kind::torn_read: {
        // Memory that was used before may hold the right bytes by chance; then nothing would be
        // torn.
        std::memset(out.data() + half, 0xa5, out.size() - half);
        Status status = cake::await_completion(inner_->read(tier, key, offset, out.first(half)));
        if (!status || fault.kind == Kind::torn_read) return status;
        return Error{Errc::io, 0, "a short read on order"};
      }
      case Kind::wrong_object:
        return cake::await_completion(inner_->read(tier, fault.other, offset, out));
      case Kind::flipped_byte: {
        Status status = cake::await_completion(inner_->read(tier, key, offset, out));
        if (!status || out.empty()) return status;
        const bool inside = fault.position >= offset && fault.position - offset < out.size();
        const std::uint64_t at = inside ? fault.position - offset : fault.position % out.size();
        out[at] ^= static_cast<std::byte>(fault.flip);
        return status;
      }
      case Kind::none:
      case Kind::hang:
        break;
    }
    return cake::await_completion(inner_->read(tier, key, offset, out));
  }

  std::list<Hung> take_hung() {
    const std::lock_guard lock(mutex_);
    return std::exchange(hung_, {});
  }

  mutable std::mutex mutex_;
  Counts counts_;
  std::map<ChunkKey, Order> by_key_;
  std::map<std::uint64_t, Fault> by_number_;
  Fault every_;
  std::optional<Error> lookup_error_;
  std::optional<Error> write_error_;
  std::optional<ChunkKey> write_key_;
  std::list<Hung> hung_;
};

}  // namespace cake::inline CAKE_ABI::fault
