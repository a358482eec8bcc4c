// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The completion of reads of stores behind a network.
#pragma once

#include <chrono>
#include <memory>

#include "cake/export.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

class RemoteBatch;

/// A read that may still run. `out` stays valid until it is ready, also when this object is gone:
/// destroying it neither stops the read nor waits for it.
///
/// Thread:  Safe for concurrent use; in the child of a fork() it is ready, and wait() fails
class CAKE_API RemoteRead {
 public:
  /// Null: there was no memory for it.
  explicit RemoteRead(std::shared_ptr<RemoteBatch> batch);
  RemoteRead(RemoteRead&&) noexcept;
  RemoteRead& operator=(RemoteRead&&) noexcept;
  ~RemoteRead();
  bool ready();
  Status wait();
  bool wait_for(std::chrono::nanoseconds span);
  /// Its transfers are broken off: it is ready within milliseconds.
  void cancel() noexcept;

 private:
  std::shared_ptr<RemoteBatch> batch_;
};

}  // namespace cake::inline CAKE_ABI::detail
