// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/tier_policies.hpp"

#include <algorithm>
#include <bit>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/process.hpp"
#include "cake/staging.hpp"
#include "src/core/recent_keys.hpp"
#include "src/storage/tiered/copy_queue.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

using Kind = TierCopy::Kind;

/// Another store would be asked for nothing: the object is not one, or not that of the key.
bool fault_of_object(Errc code) {
  return code == Errc::invalid_argument || code == Errc::corrupt || code == Errc::mismatch;
}

std::uint32_t bit(std::size_t store) { return std::uint32_t{1} << store; }
/// The stores behind the first of these two, up to the second.
std::uint32_t between(std::size_t first, std::size_t last) {
  return (bit(last + 1) - 1) & ~(bit(first + 1) - 1);
}

std::uint32_t position_of(ConstBytes object) {
  if (object.size() < kIoAlignment) return 0;
  const auto chunk = peek_chunk(object.first(kIoAlignment));
  return chunk ? chunk->token_begin : 0;
}

}  // namespace

/// One object on the heap, so that a child process can leave it as it is.
struct TierPolicies::Inside {
  Inside(TierAccess& stores_in, const TierOptions& options_in)
      : stores(stores_in), options(options_in) {
    for (std::size_t i = 0; i < stores.size(); ++i) queues.emplace_back(stores, i, options);
  }

  Result<bool> write_through(const ChunkKey& key, ConstBytes object, std::size_t last) noexcept {
    // The one that decides first: what a reader finds in a faster one is there for good.
    Result<bool> decided = stores.write(last, key, object);
    std::uint32_t took = 0;
    for (std::size_t i = last; i-- > 0;) {
      const Result<bool> other = stores.write(i, key, object);
      took |= other ? bit(i) : 0;
      if (!other && decided) note(i, other.error());
    }
    if (!decided) return only_in(took, last, decided.error());
    return decided;
  }

  Result<bool> write_back(const ChunkKey& key, ConstBytes object, std::size_t last,
                          std::size_t first = 0) noexcept {
    for (std::size_t i = first;; ++i) {
      Result<bool> taken = stores.write(i, key, object);
      if (taken) {
        copy_behind(key, object.size(), position_of(object), i, between(i, last));
        return taken;
      }
      if (i == last || fault_of_object(taken.error().code)) return taken;
      note(i, taken.error());
    }
  }

  /// As write_back(), of an object in a room of the first store. Others are given it where that one
  /// does not take it.
  Result<bool> publish_back(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                            std::optional<std::uint32_t> seal, std::size_t last) noexcept {
    const ObjectRoom kept(room.bytes(), room.owner());
    const std::uint64_t there = std::min<std::uint64_t>(bytes, kept.bytes().size());
    const ConstBytes object = ConstBytes(kept.bytes()).first(there);
    const std::uint32_t position = position_of(object);
    Result<bool> taken = stores.publish(0, key, std::move(room), bytes, seal);
    if (taken) {
      copy_behind(key, bytes, position, 0, between(0, last));
      return taken;
    }
    if (last == 0 || fault_of_object(taken.error().code)) return taken;
    note(0, taken.error());
    return write_back(key, object, last, 1);
  }

  void copy_behind(const ChunkKey& key, std::uint64_t bytes, std::uint32_t position,
                   std::size_t from, std::uint32_t to) noexcept {
    for (; to != 0; to &= to - 1) {
      // Lent, it cannot be evicted before it is copied. One that is not lent is read again.
      queues[static_cast<std::size_t>(std::countr_zero(to))].add(
          {Kind::behind, key, bytes, position, from, stores.lend(from, key, bytes), 0});
    }
  }

  void found(const ChunkKey& key, std::uint64_t bytes, std::uint32_t held,
             std::uint32_t lacking) noexcept {
    const auto from = static_cast<std::size_t>(std::countr_zero(held));
    for (; lacking != 0; lacking &= lacking - 1) {
      CopyQueue& queue = queues[static_cast<std::size_t>(std::countr_zero(lacking))];
      if (!queue.has_room(bytes)) continue;
      BorrowedBytes object = stores.lend(from, key, bytes);
      const std::uint32_t position = position_of(object.bytes());
      queue.add({Kind::found, key, bytes, position, from, std::move(object), 0});
    }
  }

  void promote(const ChunkKey& key, BorrowedBytes object, std::size_t from) {
    if (options.promote == Promotion::on_second_hit && seen.times(key) == 0) return;
    if (object.bytes().empty()) {  // its bytes were needed elsewhere
      for (std::size_t i = 0; i < from; ++i) TierCounters::add(stores.counters(i).dropped);
      return;
    }
    const auto all = std::make_shared<const BorrowedBytes>(std::move(object));
    const ConstBytes bytes = all->bytes();
    const std::uint32_t position = position_of(bytes);
    for (std::size_t i = 0; i < from; ++i) {
      queues[i].add(
          {Kind::promotion, key, bytes.size(), position, from, BorrowedBytes(bytes, all), 0});
    }
  }

  /// For flush() to tell: the object is elsewhere.
  void note(std::size_t store, const Error& why) noexcept {
    const std::lock_guard lock(mutex);
    if (!failed) return;
    failed = value_or(
        [&] {
          return error_of(why.code, why.native,
                          "a write into " + name_of(store) + " failed, and another one took it",
                          why.context);
        },
        error_of(why.code, why.native, {}));
  }
  std::string name_of(std::size_t store) const {
    return "tier " + std::to_string(stores.tier_of(store));
  }
  /// Of a write-through that its last store refused.
  Error only_in(std::uint32_t took, std::size_t last, const Error& why) const noexcept {
    return value_or(
        [&] {
          std::string where = "write-through: " + name_of(last) + " does not have it";
          for (std::uint32_t left = took; left != 0; left &= left - 1) {
            where += left == took ? ", only " : ", ";
            where += name_of(static_cast<std::size_t>(std::countr_zero(left)));
          }
          return error_of(why.code, why.native, where, why.context);
        },
        error_of(why.code, why.native, {}));
  }

  TierAccess& stores;
  const TierOptions options;
  const ForkGuard made_here;
  std::deque<CopyQueue> queues;  // [store]
  RecentKeys seen;
  std::mutex mutex;  // guards all below
  Status failed;
};

TierPolicies::TierPolicies(TierAccess& stores, const TierOptions& options)
    : inside_(std::make_unique<Inside>(stores, options)) {}

TierPolicies::~TierPolicies() {
  if (inside_->made_here.in_child()) {
    abandon(std::move(inside_));
  } else {
    for (CopyQueue& queue : inside_->queues) queue.end();
  }
}

const TierOptions& TierPolicies::options() const noexcept { return inside_->options; }

Result<bool> TierPolicies::write(const ChunkKey& key, ConstBytes object,
                                 std::size_t last) noexcept {
  const Status here = guarded(Errc::io, "write", [&] {
    return inside_->made_here.check("a TieredStorage with a WritePolicy");
  });
  if (!here) return here.error();
  return inside_->options.write == WritePolicy::back ? inside_->write_back(key, object, last)
                                                     : inside_->write_through(key, object, last);
}

Result<bool> TierPolicies::publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                                   std::optional<std::uint32_t> seal, std::size_t last) noexcept {
  const Status here = guarded(Errc::io, "write", [&] {
    return inside_->made_here.check("a TieredStorage with a WritePolicy");
  });
  if (!here) return here.error();
  return inside_->publish_back(key, std::move(room), bytes, seal, last);
}

void TierPolicies::found(const ChunkKey& key, std::uint64_t bytes, std::uint32_t held,
                         std::uint32_t lacking, std::size_t last) noexcept {
  if (inside_->options.write == WritePolicy::last || held == 0) return;
  lacking &= between(static_cast<std::size_t>(std::countr_zero(held)), last);
  if (lacking == 0 || inside_->made_here.in_child()) return;
  inside_->found(key, bytes, held, lacking);
}

bool TierPolicies::promotes(std::size_t from) const noexcept {
  return inside_->options.promote != Promotion::never && from != 0;
}

void TierPolicies::promote(const ChunkKey& key, BorrowedBytes object, std::size_t from) noexcept {
  if (!promotes(from) || inside_->made_here.in_child()) return;
  (void)guarded(Errc::out_of_memory, "promote a chunk", [&]() -> Status {
    inside_->promote(key, std::move(object), from);
    return {};
  });
}

Status TierPolicies::flush() {
  if (Status here = inside_->made_here.check("a TieredStorage"); !here) return here;
  Status first;
  for (CopyQueue& queue : inside_->queues) {
    Status one = queue.flush();
    if (first) first = std::move(one);
  }
  const std::lock_guard lock(inside_->mutex);
  Status noted = std::exchange(inside_->failed, Status());
  return first ? noted : first;
}

TierPolicies::Bar::Bar(TierPolicies& policies, const ChunkKey& key)
    : policies_(policies), key_(key) {
  if (policies_.inside_->made_here.in_child()) return;
  std::size_t barred = 0;
  try {
    for (CopyQueue& queue : policies_.inside_->queues) {
      queue.bar(key_);
      ++barred;
    }
  } catch (...) {
    while (barred-- > 0) policies_.inside_->queues[barred].unbar(key_);
    throw;
  }
}

TierPolicies::Bar::~Bar() {
  if (policies_.inside_->made_here.in_child()) return;
  for (CopyQueue& queue : policies_.inside_->queues) queue.unbar(key_);
}

}  // namespace cake::inline CAKE_ABI::detail
