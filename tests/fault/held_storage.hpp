// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store whose writes wait until a test lets them go.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>

#include "cake/storage/memory.hpp"

namespace cake::inline CAKE_ABI::fault {

class HeldStorage : public MemoryStorage {
 public:
  Status write(const ChunkKey& key, ConstBytes bytes) {
    wait();
    return MemoryStorage::write(key, bytes);
  }
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes) {
    wait();
    return MemoryStorage::write_new(key, bytes);
  }
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  /// Until so many writes wait here.
  void wait_for_writes(std::size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= n; });
  }

 private:
  void wait() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !held_; });
    --waiting_;
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  std::size_t waiting_ = 0;
};

}  // namespace cake::inline CAKE_ABI::fault
