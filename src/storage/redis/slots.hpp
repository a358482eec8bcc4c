// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which node of a cluster has which key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cake/result.hpp"
#include "resp.hpp"

namespace cake::inline CAKE_ABI::detail {

inline constexpr unsigned kRedisSlots = 16384;

struct RedisEndpoint {
  std::string host;
  std::uint16_t port = 0;
  /// "HOST:PORT", an IPv6 address in brackets.
  std::string shown() const;
  friend auto operator<=>(const RedisEndpoint&, const RedisEndpoint&) = default;
};

/// Of "HOST:PORT" as a server writes it. An empty host, or "?", stands for `self`.
///
/// Errors:  corrupt
Result<RedisEndpoint> redis_endpoint(std::string_view text, const RedisEndpoint& self);

/// CRC16 of the key, or of what stands between its first { and the next }.
unsigned redis_slot(std::string_view key);

/// The nodes that are known, and the owner of each slot.
class RedisTopology {
 public:
  static constexpr std::size_t kMostNodes = 4096;

  RedisTopology() = default;
  /// One server that has all keys.
  static RedisTopology of_one(const RedisEndpoint& node);
  /// From an answer to CLUSTER SLOTS of the node `self`.
  ///
  /// Errors:  corrupt
  static Result<RedisTopology> of_slots(const RespReply& reply, const RedisEndpoint& self);

  bool cluster() const { return cluster_; }
  /// Null: nobody has the slot.
  const RedisEndpoint* owner(unsigned slot) const;
  /// The slot has moved there. False: there are too many nodes.
  bool move(unsigned slot, const RedisEndpoint& to);
  /// All of them, replicas too.
  const std::vector<RedisEndpoint>& nodes() const { return nodes_; }
  /// Nodes that own a slot.
  std::size_t masters() const;
  /// The lowest slot of each node that owns one, in order.
  std::vector<unsigned> first_slots() const;
  bool knows(const RedisEndpoint& node) const;

 private:
  /// None: there are too many.
  std::uint16_t index_of(const RedisEndpoint& node);

  static constexpr std::uint16_t kNobody = 0xffff;
  bool cluster_ = false;
  std::vector<RedisEndpoint> nodes_;
  std::vector<std::uint16_t> owner_;  // by slot; empty: the first node has all
};

}  // namespace cake::inline CAKE_ABI::detail
