// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store behind a simulated link of given bandwidth and latency, to try slow disks and networks on
// any machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/engine.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

/// One link. Zero bandwidth means unlimited.
struct LinkOptions {
  double bytes_per_second = 0;
  std::chrono::nanoseconds latency{0};
};

/// Computes when transfers over one link arrive. Transfers are served in the order of the calls;
/// each occupies the link for bytes / bandwidth, and arrives one latency later. Time is an
/// argument.
class LinkSchedule {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit LinkSchedule(LinkOptions options = {}) : options_(options) {}
  const LinkOptions& options() const { return options_; }
  void set(LinkOptions options) { options_ = options; }

  /// Arrival of a transfer that is requested at `now`.
  TimePoint reserve(TimePoint now, std::uint64_t bytes) {
    free_ = std::max(free_, now);
    if (options_.bytes_per_second > 0) {
      const double seconds = static_cast<double>(bytes) / options_.bytes_per_second;
      // A hundred years: as good as never, and it still fits the clock.
      const double nanoseconds = std::min(seconds * 1e9, 3.1e18);
      const auto span = std::chrono::nanoseconds(static_cast<std::int64_t>(nanoseconds));
      free_ = later(free_, span);
    }
    return later(free_, options_.latency);
  }

 private:
  static TimePoint later(TimePoint from, std::chrono::nanoseconds span) {
    return span > TimePoint::max() - from ? TimePoint::max() : from + span;
  }
  LinkOptions options_;
  TimePoint free_ = TimePoint::min();
};

/// Done when the inner work is done and its time on the link is over. Sleeps while it waits. An
/// exception of the inner wait() becomes the status; those of ready() and wait_for() are passed on.
template <Completion Inner>
class ThrottledCompletion {
 public:
  using Clock = std::chrono::steady_clock;
  ThrottledCompletion(Inner inner, Clock::time_point due) : inner_(std::move(inner)), due_(due) {}
  /// The inner work could not begin.
  ThrottledCompletion(Error failure, Clock::time_point due)
      : failure_(std::move(failure)), due_(due) {}

  bool ready() { return Clock::now() >= due_ && inner_done(std::chrono::nanoseconds(0)); }
  Status wait() {
    std::this_thread::sleep_until(due_);
    if (failure_) return *failure_;
    try {
      return cake::await_completion(std::move(*inner_));
    } catch (...) {
      return detail::caught(Errc::io, "waiting for a store");
    }
  }
  bool wait_for(std::chrono::nanoseconds span) {
    const auto now = Clock::now();
    const auto end = span > due_ - now ? due_ : now + span;
    if (end < due_) {
      std::this_thread::sleep_until(end);
      return false;
    }
    if (now < due_) {
      std::this_thread::sleep_until(due_);
      span -= due_ - now;
    }
    return inner_done(span);
  }
  void cancel() noexcept {
    if (inner_) cake::cancel_completion(*inner_);
  }
  /// When the link has carried it.
  Clock::time_point due() const { return due_; }

 private:
  bool inner_done(std::chrono::nanoseconds span) {
    if (failure_) return true;
    if constexpr (std::same_as<Inner, Status>) {
      return true;
    } else {
      return span.count() == 0 ? inner_->ready() : cake::completed_within(*inner_, span);
    }
  }
  std::optional<Inner> inner_;
  std::optional<Error> failure_;
  Clock::time_point due_;
};

/// Wraps a store; every tier gets its own link. Reads and loans are slowed down, writes only if
/// throttle_writes() names a link for them. lookup, erase and the optional members of the store
/// pass through. An exception of the store becomes an error of the call.
///
///     cake::ThrottledStorage slow(store, {.bytes_per_second = 125e6, .latency = 1ms});
///
/// Needs:   the inner store outlives it
/// Thread:  Safe for concurrent use
template <StorageBackend S>
class ThrottledStorage {
  using InnerRead = decltype(std::declval<S&>().read(0, std::declval<const ChunkKey&>(), 0,
                                                     std::declval<MutableBytes>()));
  using InnerWrite = decltype(std::declval<S&>().write(std::declval<const ChunkKey&>(),
                                                       std::declval<ConstBytes>()));

 public:
  static constexpr StorageAbilities abilities = storage_traits<S>::abilities;

  /// The same link for each tier.
  ThrottledStorage(S& inner, LinkOptions link)
      : inner_(&inner), links_(storage_traits<S>::tiers(inner)) {
    for (auto& each : links_) each.schedule.set(link);
  }
  /// links[i] belongs to tier i; tiers without one are not slowed down.
  ThrottledStorage(S& inner, std::span<const LinkOptions> links)
      : inner_(&inner), links_(storage_traits<S>::tiers(inner)) {
    const std::size_t n = std::min(links.size(), links_.size());
    for (std::size_t i = 0; i < n; ++i) links_[i].schedule.set(links[i]);
  }

  /// Changes a link from the next call on; transfers in progress arrive as before.
  void set_link(std::uint32_t tier, LinkOptions link) {
    if (tier >= links_.size()) return;
    std::lock_guard lock(links_[tier].mutex);
    links_[tier].schedule.set(link);
  }
  /// Lets writes take their time on this tier's link too; none: writes are not slowed down.
  ///
  /// Thread:  Requires external synchronization: call it before other threads use the store
  void throttle_writes(std::optional<std::uint32_t> tier) { write_link_ = tier.value_or(kNoLink); }

  std::uint32_t tiers() requires(abilities.tiers) { return inner_->tiers(); }
  Result<std::vector<StoredChunk>> lookup_tier(
      std::uint32_t tier, std::span<const ChunkKey> keys) requires(abilities.lookup_tier) {
    return detail::guarded(Errc::io, "lookup of a store",
                           [&] { return inner_->lookup_tier(tier, keys); });
  }
  Status erase_tier(std::uint32_t tier, const ChunkKey& key) requires(abilities.erase_tier) {
    return detail::guarded(Errc::io, "erase of a store",
                           [&] { return inner_->erase_tier(tier, key); });
  }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    try {
      return inner_->lookup(keys);
    } catch (...) {
      return detail::caught(Errc::io, "lookup of a store");
    }
  }
  ThrottledCompletion<InnerRead> read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                                      MutableBytes out) {
    const auto due = reserve(tier, out.size());
    try {
      return {inner_->read(tier, key, offset, out), due};
    } catch (...) {
      return {detail::caught(Errc::io, "read of a store"), due};
    }
  }
  /// The parts are told of when the store reads them, before the link has carried them.
  ThrottledCompletion<InnerRead> read_pieces(
      std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out,
      std::shared_ptr<PieceSink> sink) requires(abilities.read_pieces) {
    const auto due = reserve(tier, out.size());
    try {
      return {inner_->read_pieces(tier, key, offset, out, std::move(sink)), due};
    } catch (...) {
      return {detail::caught(Errc::io, "read of a store"), due};
    }
  }
  /// No link carries as fast as memory: false where there is one.
  bool reads_on_caller(std::uint32_t tier) requires(abilities.read_on_caller) {
    if (tier >= links_.size()) return false;
    {
      const std::lock_guard lock(links_[tier].mutex);
      const LinkOptions& link = links_[tier].schedule.options();
      if (link.bytes_per_second > 0 || link.latency.count() > 0) return false;
    }
    return inner_->reads_on_caller(tier);
  }
  /// Returns when the link would have carried the bytes.
  Status read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) requires(abilities.read_on_caller) {
    const auto due = reserve(tier, out.size());
    Status status = detail::guarded(Errc::io, "read of a store",
                                    [&] { return inner_->read_on_caller(tier, key, offset, out); });
    std::this_thread::sleep_until(due);
    return status;
  }
  ThrottledCompletion<InnerWrite> write(const ChunkKey& key, ConstBytes bytes) {
    const auto due = write_due(bytes.size());
    try {
      return {inner_->write(key, bytes), due};
    } catch (...) {
      return {detail::caught(Errc::io, "write of a store"), due};
    }
  }
  Status erase(const ChunkKey& key) {
    try {
      return inner_->erase(key);
    } catch (...) {
      return detail::caught(Errc::io, "erase of a store");
    }
  }

  DeviceStaging* device_staging() requires(abilities.device_staging) {
    return inner_->device_staging();
  }
  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset,
                           ConstBytes bytes) requires(abilities.stored_bytes_differ) {
    try {
      return inner_->stored_bytes_differ(key, offset, bytes);
    } catch (...) {
      return false;
    }
  }
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) requires(abilities.write_new) {
    const auto due = write_due(bytes.size());
    try {
      auto result = inner_->write_new(key, bytes);
      std::this_thread::sleep_until(due);
      return result;
    } catch (...) {
      return detail::caught(Errc::io, "write of a store");
    }
  }
  Result<ObjectRoom> make_room(const ChunkKey& key,
                               std::uint64_t bytes) requires(abilities.write_in_place) {
    return detail::guarded(Errc::io, "room in a store",
                           [&] { return inner_->make_room(key, bytes); });
  }
  /// As write_new(): returns when the link would have carried the bytes.
  Result<bool> publish(const ChunkKey& key, ObjectRoom room, std::uint64_t bytes,
                       std::optional<std::uint32_t> seal)  //
      requires(abilities.write_in_place) {
    const auto due = write_due(bytes);
    auto result = detail::guarded(Errc::io, "write of a store", [&] {
      return inner_->publish(key, std::move(room), bytes, seal);
    });
    std::this_thread::sleep_until(due);
    return result;
  }
  Status lookup_problem() requires(abilities.lookup_problem) { return inner_->lookup_problem(); }
  bool lends(std::uint32_t tier) requires(abilities.borrow&& abilities.tiers) {
    return inner_->lends(tier);
  }
  /// Lends when the link would have carried the bytes.
  Result<BorrowedBytes> borrow(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                               std::uint64_t size) requires(abilities.borrow) {
    const auto due = reserve(tier, size);
    auto loan = detail::guarded(Errc::io, "borrow from a store",
                                [&] { return inner_->borrow(tier, key, offset, size); });
    std::this_thread::sleep_until(due);
    return loan;
  }
  bool promotes(std::uint32_t tier) { return storage_traits<S>::promotes(*inner_, tier); }
  void promote(std::uint32_t tier, const ChunkKey& key,
               BorrowedBytes object) requires(abilities.promote) {
    inner_->promote(tier, key, std::move(object));
  }

 private:
  struct Link {
    std::mutex mutex;
    LinkSchedule schedule;
  };
  LinkSchedule::TimePoint write_due(std::uint64_t bytes) { return reserve(write_link_, bytes); }
  LinkSchedule::TimePoint reserve(std::uint32_t tier, std::uint64_t bytes) {
    if (tier >= links_.size()) return {};  // the inner store refuses unknown tiers
    std::lock_guard lock(links_[tier].mutex);
    return links_[tier].schedule.reserve(std::chrono::steady_clock::now(), bytes);
  }

  S* inner_;
  std::vector<Link> links_;
  static constexpr std::uint32_t kNoLink = ~std::uint32_t{0};
  std::uint32_t write_link_ = kNoLink;
};

}  // namespace cake::inline CAKE_ABI
