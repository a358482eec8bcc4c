// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// All keys of a store, some hundred at a time, from one node after the other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "client.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class RedisScan {
 public:
  explicit RedisScan(RedisClient& client) : client_(client) {}

  struct Part {
    std::vector<ChunkKey> keys;
    std::uint64_t others = 0;  // keys that fit the pattern, and are no chunk's
    std::string next;          // empty: this was the last one
  };
  /// Errors:  as RedisStorage::list()
  Result<Part> keys(const std::string& from);

 private:
  /// A slot of the node that is asked, and how far it was.
  struct Place {
    unsigned slot = 0;
    std::string cursor = "0";
  };
  static std::optional<Place> place_of(const std::string& from);
  /// The lowest slot of each master.
  Result<std::vector<unsigned>> masters();

  RedisClient& client_;
};

}  // namespace cake::inline CAKE_ABI::detail
