// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine, a store and a scheduler that throw on order: any of their members, at the n-th call,
// any kind of exception.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "toy_engine.hpp"

namespace cake::inline CAKE_ABI::fault {

enum class Thrown { runtime_error, bad_alloc, integer };

/// Which call throws what. Set while nothing runs.
class ThrowOrder {
 public:
  /// The call of `site` after `before` others throws, and no other.
  void set(std::string site, Thrown what, int before = 0) {
    site_ = std::move(site);
    what_ = what;
    left_ = before;
  }
  void clear() { site_.clear(); }
  /// The order was carried out.
  bool thrown() const { return left_ < 0; }
  void at(std::string_view site) {
    if (site != site_ || left_.fetch_sub(1) != 0) return;
    if (what_ == Thrown::runtime_error) throw std::runtime_error("thrown on order");
    if (what_ == Thrown::bad_alloc) throw std::bad_alloc();
    throw 42;  // NOLINT(hicpp-exception-baseclass): code of others may
  }

 private:
  std::string site_;
  Thrown what_ = Thrown::runtime_error;
  std::atomic<int> left_{0};
};

/// Work that is done some time after the call, by whoever asks then.
class Later {
 public:
  Later(ThrowOrder& order, std::string site, std::chrono::microseconds delay,
        std::function<Status()> work)
      : order_(&order),
        site_(std::move(site)),
        at_(std::chrono::steady_clock::now() + delay),
        work_(std::move(work)) {}
  bool ready() {
    order_->at(site_ + ".ready");
    return finished();
  }
  Status wait() {
    std::this_thread::sleep_until(at_);
    (void)finished();
    order_->at(site_ + ".wait");
    return *status_;
  }

 protected:
  bool finished() {
    if (std::chrono::steady_clock::now() < at_) return false;
    if (!status_) status_ = work_();
    return true;
  }
  ThrowOrder* order_;
  std::string site_;
  std::chrono::steady_clock::time_point at_;
  std::function<Status()> work_;
  std::optional<Status> status_;
};

/// The same with a wait_for() of its own.
class LaterTimed : public Later {
 public:
  using Later::Later;
  bool wait_for(std::chrono::nanoseconds span) {
    order_->at(site_ + ".wait_for");
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(
        span, std::max(at_ - std::chrono::steady_clock::now(), std::chrono::nanoseconds(0))));
    return finished();
  }
};

template <class Completion, bool OnCaller = false>
class ThrowingEngine {
 public:
  static constexpr EngineAbilities abilities{.staging_memory = true, .insert_on_caller = OnCaller};

  ThrowingEngine(std::size_t n_tokens, ThrowOrder& order)
      : toy(n_tokens), staging_{order}, order_(order) {}
  UniformKvLayout layout() {
    order_.at("layout");
    return toy.layout();
  }
  ModelFingerprint fingerprint() {
    order_.at("fingerprint");
    return toy.fingerprint();
  }
  StagingMemory* staging_memory() { return &staging_; }
  Completion prefill(Tokens prompt, TokenRange range) {
    order_.at("prefill");
    return {order_, "pass", std::chrono::microseconds(300),
            [this, tokens = std::vector<TokenId>(prompt.begin(), prompt.end()), range] {
              return toy.prefill(tokens, range);
            }};
  }
  Completion insert(const Slice& slice, const KvView& view) {
    if (closed) late_insert = true;
    order_.at("insert");
    return {order_, "inserted", std::chrono::microseconds(50),
            [this, slice, view] { return toy.insert(slice, view); }};
  }
  Completion extract(const Slice& slice, const MutableKvView& view) {
    order_.at("extract");
    return {order_, "extracted", std::chrono::microseconds(0),
            [this, slice, view] { return toy.extract(slice, view); }};
  }

  testing::ToyEngine toy;
  std::atomic<bool> closed{false};  // no prefill is going on
  std::atomic<bool> late_insert{false};

 private:
  struct Staging final : StagingMemory {
    explicit Staging(ThrowOrder& order_in) : order(order_in) {}
    std::byte* allocate(std::size_t bytes) override {
      order.at("staging.allocate");
      return static_cast<std::byte*>(std::aligned_alloc(kIoAlignment, bytes));
    }
    void release(std::byte* data, std::size_t) noexcept override { std::free(data); }
    ThrowOrder& order;
  };
  Staging staging_;
  ThrowOrder& order_;
};

template <class Completion>
class ThrowingStorage {
 public:
  static constexpr StorageAbilities abilities{.stored_bytes_differ = true};

  explicit ThrowingStorage(ThrowOrder& order) : order_(order) {}
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    order_.at("lookup");
    return inner.lookup(keys);
  }
  Completion read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    order_.at("read");
    const bool flip = flips.fetch_sub(1) > 0;
    return {order_, "read", std::chrono::milliseconds(1), [this, tier, key, offset, out, flip] {
              Status status = inner.read(tier, key, offset, out);
              if (flip) out[out.size() / 2] ^= std::byte{1};
              return status;
            }};
  }
  Completion write(const ChunkKey& key, ConstBytes bytes) {
    order_.at("write");
    return {order_, "written", std::chrono::microseconds(0),
            [this, key, bytes] { return inner.write(key, bytes); }};
  }
  Status erase(const ChunkKey& key) {
    order_.at("erase");
    return inner.erase(key);
  }
  bool stored_bytes_differ(const ChunkKey&, std::uint64_t, ConstBytes) {
    order_.at("stored_bytes_differ");
    return false;
  }

  MemoryStorage inner;
  std::atomic<int> flips{0};  // so many of the next reads are damaged

 private:
  ThrowOrder& order_;
};

class ThrowingScheduler {
 public:
  explicit ThrowingScheduler(ThrowOrder& order) : order_(&order) {}
  void begin(const PrefillSpec& spec) {
    order_->at("scheduler.begin");
    inner_.begin(spec);
  }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    order_->at("scheduler.next_step");
    return inner_.next_step(view, budget, now);
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) {
    order_->at("scheduler.next_load");
    return inner_.next_load(view, lane, now);
  }
  std::uint32_t predicted_meet(const RunView&, Time) {
    order_->at("scheduler.predicted_meet");
    return 0;
  }

 private:
  ThrowOrder* order_;
  LoadOnlyScheduler inner_;  // so that every run makes every load
};

}  // namespace cake::inline CAKE_ABI::fault
