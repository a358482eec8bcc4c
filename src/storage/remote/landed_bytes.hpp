// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How far one request for a part of an object has come.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>

#include "cake/storage_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Bytes that arrive from front to back, and whoever is told of each MiB of them. Later attempts ask
/// for the rest only.
///
/// Thread:  Requires external synchronization
class LandedBytes {
 public:
  LandedBytes() = default;
  LandedBytes(MutableBytes out, std::shared_ptr<PieceSink> sink)
      : out_(out), sink_(std::move(sink)) {}

  bool wanted() const { return !out_.empty(); }
  std::size_t size() const { return out_.size(); }
  std::size_t received() const { return received_; }
  bool whole() const { return received_ == out_.size(); }
  MutableBytes rest() const { return out_.subspan(received_); }
  /// So many bytes more are in rest().
  void add(std::size_t bytes) {
    received_ += bytes;
    tell(false);
  }
  /// Tells of what has arrived, `all`: also of less than a MiB.
  void tell(bool all) {
    constexpr std::size_t kTold = std::size_t{1} << 20;
    if (!sink_) return;
    while (received_ - told_ >= kTold || (all && received_ > told_)) {
      const std::size_t bytes = std::min(kTold, received_ - told_);
      sink_->arrived(out_.subspan(told_, bytes));
      told_ += bytes;
    }
  }

 private:
  MutableBytes out_;
  std::shared_ptr<PieceSink> sink_;
  std::size_t received_ = 0;
  std::size_t told_ = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
