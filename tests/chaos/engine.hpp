// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Engines of several kinds over one toy engine: passes that block, passes behind a thread that is
// the device, gates that the caller or the device waits for. Each chunk has a count of who writes
// it now, so that two writers are seen.
#pragma once

#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "chaos/fate.hpp"
#include "toy_engine.hpp"

namespace cake::inline CAKE_ABI::chaos {

struct EngineSpec {
  UniformKvLayout layout;
  std::uint32_t chunk_tokens = 16;
  std::uint64_t seed = 1;
  std::uint32_t step_us = 0;    // longest pass
  std::uint32_t insert_us = 0;  // longest insert
  double bad_insert = 0;        // an insert stops halfway, with an error or a throw
  double bad_pass = 0;          // a pass fails, with an error or a throw
};

/// How a pass ended.
struct Ended {
  Status status;
  bool threw = false;
};

/// Runs what is enqueued, in order, on one thread.
class DeviceThread {
 public:
  DeviceThread() : thread_([this](const std::stop_token& stop) { work(stop); }) {}
  std::future<Ended> enqueue(std::function<Status()> call) {
    std::packaged_task<Ended()> task([call = std::move(call)]() -> Ended {
      try {
        return {call(), false};
      } catch (...) {
        return {Status(), true};
      }
    });
    auto result = task.get_future();
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
    changed_.notify_one();
    return result;
  }

 private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, stop, [&] { return !queue_.empty(); });
      if (queue_.empty()) return;
      auto task = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::packaged_task<Ended()>> queue_;
  std::jthread thread_;
};

/// A gate that a caller opens for the device, layer by layer.
class Relay final : public GateSource {
 public:
  bool wait_layer(std::uint64_t, std::uint32_t layer) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return void_ || layer < open_; });
    return layer < open_;
  }
  void open() { change(1, false); }
  void make_void() { change(0, true); }

 private:
  void change(std::uint32_t layers, bool make_void) {
    const std::lock_guard lock(mutex_);
    open_ += layers;
    void_ = void_ || make_void;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint32_t open_ = 0;
  bool void_ = false;
};

/// A pass that a device has not ended yet.
struct Pass {
  std::future<Ended> result;
  bool ready() { return result.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
  Status wait() {
    Ended ended = result.get();
    if (ended.threw) throw 42;  // NOLINT(hicpp-exception-baseclass): code of others may
    return ended.status;
  }
};

/// All that the kinds have in common.
template <bool OnCaller>
class EngineBase {
 public:
  static constexpr EngineAbilities abilities{.insert_on_caller = OnCaller};

  EngineBase(std::uint32_t n_tokens, const EngineSpec& spec)
      : toy(n_tokens, {.layout = spec.layout}),
        spec_(spec),
        n_tokens_(n_tokens),
        writers_(n_tokens / spec.chunk_tokens + 1),
        calls_(spec.seed * 77) {
    toy.clear();
  }
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }

  Status insert(const Slice& slice, const KvView& view) {
    require(!closed, "an insert after the prefill has ended");
    Random random(calls_++);
    std::atomic<int>& writers = writers_[slice.tokens.begin / spec_.chunk_tokens];
    require(writers.fetch_add(kInsert) % kInsert == 0, "an insert into a chunk that is computed");
    nap(random.below(spec_.insert_us + 1));
    Slice part = slice;
    const bool bad = random.chance(spec_.bad_insert);
    if (bad) part.tokens.end -= part.tokens.size() / 2;
    Status status = toy.insert(part, view);
    writers -= kInsert;
    require(!closed, "an insert is under way after the prefill has ended");
    require(!toy.foreign_insert, "an insert on a thread that does not drive the session");
    if (bad && random.chance(0.5)) throw_something(random);
    if (bad) return Error{Errc::device, 0, "chaos: insert"};
    return status;
  }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }

  testing::ToyEngineT<OnCaller> toy;
  std::atomic<bool> closed{false};  // the prefill has ended

 protected:
  static constexpr int kInsert = 1000;

  /// Marks the chunks of a pass as being written, from its call until it has ended on the device.
  void enter(TokenRange range) {
    each_chunk(range, [](std::atomic<int>& writers) {
      require(writers.fetch_add(1) < kInsert, "a pass over a chunk that is being inserted");
    });
  }
  void leave(TokenRange range) {
    each_chunk(range, [](std::atomic<int>& writers) { --writers; });
  }
  Status compute(Tokens prompt, TokenRange range, const LayerGate& gate, Random random) {
    nap(random.below(spec_.step_us + 1));
    Status status = toy.prefill(prompt, range, gate);
    leave(range);
    if (!status || !random.chance(spec_.bad_pass)) return status;
    if (random.chance(0.5)) throw_something(random);
    return Error{Errc::device, 0, "chaos: pass"};
  }
  /// A call of prefill() that fails before anything has begun.
  void maybe_refuse(Random& random) {
    if (random.chance(spec_.bad_pass / 2)) throw_something(random);
  }

  EngineSpec spec_;
  std::uint32_t n_tokens_;
  std::vector<std::atomic<int>> writers_;  // passes, and kInsert for each insert
  std::atomic<std::uint64_t> calls_;

 private:
  /// The last token belongs to the pass that computes it, although an object may hold it too.
  template <class F>
  void each_chunk(TokenRange range, F&& f) {
    range.end = std::min(range.end, n_tokens_ - 1);
    if (range.empty()) return;
    const std::uint32_t last = (range.end - 1) / spec_.chunk_tokens;
    for (std::uint32_t c = range.begin / spec_.chunk_tokens; c <= last; ++c) f(writers_[c]);
  }
};

template <bool OnCaller>
class BlockingEngine : public EngineBase<OnCaller> {
 public:
  using EngineBase<OnCaller>::EngineBase;
  Status prefill(Tokens prompt, TokenRange range) {
    Random random(this->calls_++);
    this->maybe_refuse(random);
    this->enter(range);
    return this->compute(prompt, range, {}, random);
  }
};

template <bool OnCaller>
class GatedBlockingEngine : public EngineBase<OnCaller> {
 public:
  using EngineBase<OnCaller>::EngineBase;
  Status prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    Random random(this->calls_++);
    this->maybe_refuse(random);
    this->enter(range);
    return this->compute(prompt, range, gate, random);
  }
};

template <bool OnCaller>
class DeviceEngine : public EngineBase<OnCaller> {
 public:
  using EngineBase<OnCaller>::EngineBase;
  Pass prefill(Tokens prompt, TokenRange range) {
    Random random(this->calls_++);
    this->maybe_refuse(random);
    this->enter(range);
    return enqueue(prompt, range, {}, random);
  }

 protected:
  Pass enqueue(Tokens prompt, TokenRange range, LayerGate gate, Random random) {
    return {device_.enqueue([this, tokens = std::vector<TokenId>(prompt.begin(), prompt.end()),
                             range, gate = std::move(gate),
                             random] { return this->compute(tokens, range, gate, random); })};
  }

 private:
  DeviceThread device_;  // ends first
};

/// The caller or the device waits in the gate, as the pass's number says.
template <bool OnCaller>
class GatedDeviceEngine : public DeviceEngine<OnCaller> {
 public:
  using DeviceEngine<OnCaller>::DeviceEngine;
  Pass prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    Random random(this->calls_++);
    this->maybe_refuse(random);
    this->enter(range);
    if (random.chance(0.5)) return this->enqueue(prompt, range, gate, random);
    const auto relay = std::make_shared<Relay>();
    Pass pass = this->enqueue(prompt, range, LayerGate(relay, 0), random);
    for (std::uint32_t layer = 0; layer < this->layout().n_layers; ++layer) {
      if (!gate.wait(layer)) {
        relay->make_void();
        break;
      }
      relay->open();
    }
    return pass;
  }
};

}  // namespace cake::inline CAKE_ABI::chaos
