// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which of the stores of a directory evicts: one at a time.
#pragma once

#include <mutex>

#include "directory.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The lock of `.evict.lock` in the store's directory. The system gives it back when its holder dies.
///
/// Thread:  Safe for concurrent use; the threads of one store have it together
class EvictionTurn {
 public:
  explicit EvictionTurn(StoreDirectory& store);

  enum class Taken { yes, no, unsupported };
  /// `yes` is followed by give_back(). Unsupported: there are no locks here, so nobody waits.
  Taken take();
  void give_back();
  /// What the constructor found out: whether there are locks.
  bool supported() const { return supported_; }

  /// Gives a turn back at its end.
  class Guard {
   public:
    explicit Guard(EvictionTurn* turn) : turn_(turn) {}
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() {
      if (turn_ != nullptr) turn_->give_back();
    }

   private:
    EvictionTurn* turn_;
  };

 private:
  StoreDirectory& store_;
  std::mutex mutex_;
  Fd file_;
  int holders_ = 0;  // threads
  bool supported_ = false;
};

}  // namespace cake::inline CAKE_ABI::detail
