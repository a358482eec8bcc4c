// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a driver knows of the nodes, and when it has to ask again.
#pragma once

#include <chrono>
#include <cstddef>
#include <random>
#include <vector>

#include "exchange.hpp"
#include "slots.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Requires external synchronization
class RedisRoutes {
 public:
  using Clock = RemoteClock;

  explicit RedisRoutes(RedisCommon& common) : common_(common) {}

  bool known() const { return known_; }
  /// Null: nobody has the slot.
  const RedisEndpoint* owner(unsigned slot) const { return topology_.owner(slot); }
  /// Whether somebody should be asked for the slots now.
  bool wants(Clock::time_point now) const { return (!known_ || stale_) && now >= not_before_; }
  Clock::time_point not_before() const { return not_before_; }
  bool stale() const { return !known_ || stale_; }
  /// Whom: each node that is known in turn, and the one that the URL names.
  RedisEndpoint whom();
  /// What somebody answered. False: it is none, or it says why not.
  bool take(const RespReply& reply, const RedisEndpoint& node);
  /// Nobody answered, or took() not.
  void failed(Clock::time_point now, std::minstd_rand& random);
  /// A slot has another owner.
  void moved(unsigned slot, const RedisEndpoint& to);
  /// Something may have moved.
  void doubt() { stale_ = true; }
  /// Whether requests may still go there.
  bool uses(const RedisEndpoint& node) const;

 private:
  RedisCommon& common_;
  RedisTopology topology_;
  bool known_ = false;
  bool stale_ = false;
  std::size_t next_ = 0;
  unsigned failures_ = 0;
  Clock::time_point not_before_{};
};

}  // namespace cake::inline CAKE_ABI::detail
