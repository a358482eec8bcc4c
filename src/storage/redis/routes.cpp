// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "routes.hpp"

#include <algorithm>
#include <utility>

namespace cake::inline CAKE_ABI::detail {
namespace {

// So often at most.
constexpr std::chrono::milliseconds kBetween{100};

}  // namespace

RedisEndpoint RedisRoutes::whom() {
  const auto& nodes = topology_.nodes();
  const std::size_t turn = next_++ % (nodes.size() + 1);
  return turn == nodes.size() ? common_.address.server() : nodes[turn];
}

bool RedisRoutes::take(const RespReply& reply, const RedisEndpoint& node) {
  if (redis_is_alone(reply)) {
    topology_ = RedisTopology::of_one(common_.address.server());
  } else {
    auto told = RedisTopology::of_slots(reply, node);
    if (!told) return false;
    topology_ = std::move(*told);
  }
  known_ = true;
  stale_ = false;
  failures_ = 0;
  not_before_ = Clock::now() + kBetween;
  ++common_.counters.topologies;
  common_.counters.cluster = topology_.cluster();
  common_.counters.masters = static_cast<unsigned>(topology_.masters());
  return true;
}

void RedisRoutes::failed(Clock::time_point now, std::minstd_rand& random) {
  not_before_ = now + pause_after(std::min(++failures_, 4u), random);
}

void RedisRoutes::moved(unsigned slot, const RedisEndpoint& to) {
  // A server that was alone is in a cluster now.
  if (!topology_.cluster()) known_ = false;
  stale_ = true;
  static_cast<void>(topology_.move(slot, to));
}

bool RedisRoutes::uses(const RedisEndpoint& node) const {
  return node == common_.address.server() || topology_.knows(node);
}

}  // namespace cake::inline CAKE_ABI::detail
