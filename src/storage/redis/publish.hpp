// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Writing an object: whole or not at all, and the first writer wins.
#pragma once

#include <string>

#include "cake/result.hpp"
#include "client.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class RedisPublish {
 public:
  explicit RedisPublish(RedisClient& client) : client_(client) {}
  /// Errors:  as RedisStorage::write_new()
  Result<bool> write(const std::string& key, ConstBytes bytes);
  /// Errors:  as RedisStorage::erase(); `doing` is for people
  Status erase(const std::string& key, const char* doing,
               RedisExchange::Clock::time_point deadline);

 private:
  using Clock = RedisExchange::Clock;
  /// Whether it is there now. False: something else is.
  Result<bool> set(const std::string& key, ConstBytes bytes, Clock::time_point deadline);
  /// Whether what is there can be an object, or is gone.
  Result<bool> may_be_object(const std::string& key, Clock::time_point deadline);

  RedisClient& client_;
};

}  // namespace cake::inline CAKE_ABI::detail
