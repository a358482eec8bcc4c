// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A read that was abandoned, with the buffer that it still writes to.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/process.hpp"
#include "cake/engine.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

class Parked {
 public:
  virtual ~Parked() = default;
  /// Waits for the end, at most this long. True: it has ended.
  virtual bool wait_for(std::chrono::nanoseconds span) = 0;
  /// Waits for the end, and says what came of it.
  virtual Status wait() = 0;
  /// Nobody wants it any more: it ends soon, where the store can do that.
  virtual void cancel() noexcept = 0;
  /// True once the read has ended. If the completion throws, that is unknown: its buffer is kept.
  virtual bool ended() noexcept = 0;
  /// Waits for the end. False: the completion threw, so the end is unknown.
  virtual bool finish() noexcept = 0;

  AlignedBuffer buffer;
  LaneId lane = 0;
};

template <AsyncCompletion C>
class ParkedRead final : public Parked {
 public:
  /// Room first, so that there is some for every read that begins.
  template <class Read>
  void begin(Read&& read) {
    completion_.emplace(std::forward<Read>(read)());
  }
  bool wait_for(std::chrono::nanoseconds span) override {
    return cake::completed_within(*completion_, span);
  }
  Status wait() override { return completion_->wait(); }

  void cancel() noexcept override { cake::cancel_completion(*completion_); }
  bool ended() noexcept override {
    return value_or([this] { return static_cast<bool>(completion_->ready()); }, false);
  }
  bool finish() noexcept override {
    if (ended()) return true;
    const bool waited = value_or(
        [this] {
          (void)completion_->wait();
          return true;
        },
        false);
    for (int i = 0; !waited && i < kPolls; ++i) {
      if (ended()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return waited;
  }

 private:
  static constexpr int kPolls = 500;  // 5 s
  std::optional<C> completion_;
};

}  // namespace cake::inline CAKE_ABI::detail
