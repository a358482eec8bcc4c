// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The I/O lanes: threads that read, one group per storage tier, with the staging memory that they
// read into. They live as long as the engine and serve all its sessions. A read that nobody wants
// any more is left to itself: its buffer is quarantined until the read has really ended. Every
// member may be called from any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/buffer.hpp"
#include "cake/concepts.hpp"
#include "cake/device_staging.hpp"
#include "cake/lane_model.hpp"

namespace cake {

struct LaneOptions {
  unsigned threads = 4;  // of each lane: most reads at once
  std::uint64_t staging_bytes = std::uint64_t{256}
                                << 20;  // of all lanes together, quarantined buffers included
  StagingMemory* staging = nullptr;     // where it comes from; null: plain host memory
  bool device = false;  // from the storage's device_staging(), if it has one: inserts take it
  LaneRate prior = {1e9, std::chrono::microseconds(100), Time{0}};  // until something was measured
};

/// A read for a lane to make.
struct LaneRead {
  std::uint64_t id = 0;
  ChunkKey key;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// A session as the lanes see it. The lanes share its ownership while a read of it is under way.
class LaneClient {
 public:
  virtual ~LaneClient() = default;
  /// Claims the next read for a lane that has room for `max_bytes`. Called with the lanes locked:
  /// must not call them.
  virtual std::optional<LaneRead> next_read(LaneId lane, std::uint64_t max_bytes) = 0;
  virtual bool wanted(std::uint64_t read) = 0;
  /// Takes the bytes of a good read; they are the lane's again when it returns.
  virtual void landed(const LaneRead& read, MutableBytes bytes) = 0;
  virtual void failed(const LaneRead& read, const Error& error) = 0;
};

template <StorageBackend S>
class IoLanes {
 public:
  /// Needs:   `storage` outlives the lanes
  explicit IoLanes(S& storage, const LaneOptions& options = {})
      : storage_(storage),
        options_(options),
        device_(options.device ? device_of(storage) : nullptr),
        free_bytes_(options.staging_bytes) {
    if (device_ != nullptr) {
      options_.staging = device_;
      free_bytes_ = std::min<std::uint64_t>(free_bytes_, device_->arena().size());
    }
    const std::uint32_t n = std::clamp(tiers_of(storage), 1u, kMaxTiers);
    for (LaneId l = 0; l < n; ++l) lanes_.emplace_back(options.prior);
    for (LaneId l = 0; l < n; ++l) {
      for (unsigned t = 0; t < std::max(1u, options.threads); ++t) {
        threads_.emplace_back([this, l] { work(l); });
      }
    }
  }
  /// Waits for every read, also those that were abandoned.
  ~IoLanes() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    for (Lane& lane : lanes_) lane.wake.notify_all();
    for (std::thread& thread : threads_) thread.join();
    for (auto& parked : quarantine_) parked->wait();
  }
  IoLanes(const IoLanes&) = delete;
  IoLanes& operator=(const IoLanes&) = delete;

  S& storage() { return storage_; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(lanes_.size()); }
  /// Where landed bytes lie; null: on the host.
  DeviceStaging* device() const { return device_; }

  /// Measured so far, over all sessions.
  std::vector<LaneRate> rates() const {
    std::lock_guard lock(mutex_);
    std::vector<LaneRate> rates;
    for (const Lane& lane : lanes_) rates.push_back(lane.rate);
    return rates;
  }
  /// What a session has measured; the prior of the next one.
  void learn(LaneId lane, const LaneRate& rate) {
    std::lock_guard lock(mutex_);
    lanes_[lane].rate = rate;
  }

  void attach(std::shared_ptr<LaneClient> client) {
    {
      std::lock_guard lock(mutex_);
      clients_.push_back(std::move(client));
    }
    wake();
  }
  void detach(const LaneClient& client) {
    std::lock_guard lock(mutex_);
    std::erase_if(clients_, [&](const auto& c) { return c.get() == &client; });
  }
  /// Something changed: there may be something to read.
  void wake() {
    std::lock_guard lock(mutex_);
    ++changes_;
    for (Lane& lane : lanes_) lane.wake.notify_one();
  }

  /// Every thread of the lane is stuck in a read that nobody wants.
  bool down(LaneId lane) {
    if (lanes_[lane].busy.load(std::memory_order_relaxed) < std::max(1u, options_.threads))
      return false;
    std::lock_guard lock(mutex_);
    const Lane& l = lanes_[lane];
    return std::all_of(l.active.begin(), l.active.end(),
                       [](const Active& a) { return a.reading && !a.client->wanted(a.read); });
  }
  /// Bytes of staging memory that are free; all of them when nothing is being read or quarantined.
  std::uint64_t free_staging_bytes() const {
    std::lock_guard lock(mutex_);
    return free_bytes_;
  }
  std::size_t quarantined() const {
    std::lock_guard lock(mutex_);
    return quarantine_.size();
  }

 private:
  struct Active {
    std::shared_ptr<LaneClient> client;
    std::uint64_t read = 0;
    bool reading = true;
  };
  struct Lane {
    explicit Lane(const LaneRate& prior) : rate(prior) {}
    LaneRate rate;
    std::condition_variable wake;
    std::vector<Active> active;
    std::atomic<unsigned> busy{0};
  };
  /// A read that was left to itself, with the buffer that it still writes to.
  struct Parked {
    virtual ~Parked() = default;
    virtual bool ready() = 0;
    virtual void wait() = 0;
    AlignedBuffer buffer;
    std::uint64_t bytes = 0;
  };
  template <class C>
  struct ParkedRead final : Parked {
    explicit ParkedRead(C c) : completion(std::move(c)) {}
    bool ready() override { return cake::wait_for(completion, std::chrono::nanoseconds(0)); }
    void wait() override { (void)cake::wait(std::move(completion)); }
    C completion;
  };

  static DeviceStaging* device_of(S& storage) {
    if constexpr (requires {
                    { storage.device_staging() } -> std::convertible_to<DeviceStaging*>;
                  }) {
      return storage.device_staging();
    } else {
      return nullptr;
    }
  }

  void work(LaneId id) {
    Lane& lane = lanes_[id];
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (std::vector<std::unique_ptr<Parked>> ended = take_ended(); !ended.empty()) {
        lock.unlock();
        ended.clear();  // giving memory back may take long
        lock.lock();
      }
      const std::uint64_t seen = changes_;
      std::shared_ptr<LaneClient> client;
      std::optional<LaneRead> read;
      for (std::size_t i = 0; i < clients_.size() && !read; ++i) {
        client = clients_[(turn_ + i) % clients_.size()];
        read = next_read(*client, id);
        if (read) ++turn_;
      }
      if (!read) {
        client.reset();
        const auto changed = [&] { return stop_ || changes_ != seen; };
        if (quarantine_.empty()) {
          lane.wake.wait(lock, changed);
        } else {
          lane.wake.wait_for(lock, std::chrono::milliseconds(2), changed);
        }
        continue;
      }
      free_bytes_ -= read->bytes;
      AlignedBuffer old;  // to be given back without the lock
      AlignedBuffer buffer = kept_buffer(read->bytes, old);
      // Of an arena nobody else may take what was just seen to be free.
      bool taken = buffer.size() != 0 || (device_ != nullptr && allocate(buffer, read->bytes));
      lane.active.push_back({client, read->id, true});
      lane.busy.fetch_add(1, std::memory_order_relaxed);
      lane.wake.notify_one();  // there may be more for a second thread
      lock.unlock();
      old = AlignedBuffer();
      taken = taken || (device_ == nullptr && allocate(buffer, read->bytes));
      std::unique_ptr<Parked> parked;
      if (taken) {
        parked = run(id, *client, *read, buffer);
      } else {
        client->failed(*read, {Errc::out_of_memory, 0, "staging memory"});
      }
      lock.lock();
      lane.busy.fetch_sub(1, std::memory_order_relaxed);
      std::erase_if(lane.active,
                    [&](const Active& a) { return a.client == client && a.read == read->id; });
      if (parked) {
        parked->buffer = std::move(buffer);
        parked->bytes = read->bytes;
        quarantine_.push_back(std::move(parked));
      } else {
        free_bytes_ += read->bytes;
        // An arena gives parts of any size for nothing, and what is kept is missing there.
        if (device_ == nullptr && taken) buffers_.push_back(std::move(buffer));
      }
    }
  }

  /// A claim that could not be noted for want of memory runs into its deadline.
  std::optional<LaneRead> next_read(LaneClient& client, LaneId lane) {
    try {
      return client.next_read(
          lane, device_ == nullptr ? free_bytes_
                                   : std::min<std::uint64_t>(free_bytes_, device_->largest_gap()));
    } catch (const std::exception&) {
      return std::nullopt;
    }
  }

  /// Makes one read and hands it over; gives back what is left of it when nobody waits for it any
  /// more.
  std::unique_ptr<Parked> run(LaneId lane, LaneClient& client, const LaneRead& read,
                              AlignedBuffer& buffer) {
    const MutableBytes out = buffer.bytes().first(read.bytes);
    Status status;
    try {
      auto completion = storage_.read(lane, read.key, read.offset, out);
      using C = decltype(completion);
      if constexpr (std::same_as<C, Status>) {
        status = std::move(completion);
      } else {
        while (!cake::wait_for(completion, std::chrono::milliseconds(2))) {
          if (client.wanted(read.id)) continue;
          client.failed(read, {Errc::timeout, 0, "read abandoned"});
          return std::make_unique<ParkedRead<C>>(std::move(completion));
        }
        status = cake::wait(std::move(completion));
      }
    } catch (const std::exception& e) {
      status = Error{Errc::io, 0, std::string("read of ") + read.key.hex() + ": " + e.what()};
    } catch (...) {
      status = Error{Errc::io, 0, "read of " + read.key.hex() + ": unknown exception"};
    }
    {
      std::lock_guard lock(mutex_);
      for (Active& a : lanes_[lane].active) {
        if (a.client.get() == &client && a.read == read.id) a.reading = false;
      }
    }
    if (status) {
      client.landed(read, out);
    } else {
      client.failed(read, status.error());
    }
    return nullptr;
  }

  /// A free one of about this size; empty when there is none, and `old` may then be one too many.
  AlignedBuffer kept_buffer(std::uint64_t bytes, AlignedBuffer& old) {
    for (auto buffer = buffers_.begin(); buffer != buffers_.end(); ++buffer) {
      if (buffer->size() < bytes || buffer->size() > 2 * bytes + kIoAlignment) continue;
      AlignedBuffer found = std::move(*buffer);
      buffers_.erase(buffer);
      return found;
    }
    if (buffers_.size() >= threads_.size() + 4) {  // sizes have changed
      old = std::move(buffers_.front());
      buffers_.erase(buffers_.begin());
    }
    return {};
  }

  /// May take long: locking pages into memory is a matter of milliseconds.
  bool allocate(AlignedBuffer& buffer, std::uint64_t bytes) {
    try {
      buffer = AlignedBuffer(bytes, options_.staging);
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }

  /// What is no longer in quarantine.
  std::vector<std::unique_ptr<Parked>> take_ended() {
    std::vector<std::unique_ptr<Parked>> ended;
    for (auto parked = quarantine_.begin(); parked != quarantine_.end();) {
      if (!(*parked)->ready()) {
        ++parked;
        continue;
      }
      free_bytes_ += (*parked)->bytes;
      ++changes_;
      ended.push_back(std::move(*parked));
      parked = quarantine_.erase(parked);
    }
    return ended;
  }

  S& storage_;
  LaneOptions options_;
  DeviceStaging* device_;
  mutable std::mutex mutex_;
  std::deque<Lane> lanes_;
  std::vector<std::shared_ptr<LaneClient>> clients_;
  std::vector<std::unique_ptr<Parked>> quarantine_;
  std::vector<AlignedBuffer> buffers_;  // free ones
  std::uint64_t free_bytes_;
  std::uint64_t changes_ = 0;
  std::size_t turn_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace cake
