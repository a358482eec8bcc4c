// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The drivers of one store, and requests through them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "driver.hpp"
#include "exchange.hpp"
#include "src/storage/remote/drivers.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class RedisClient {
 public:
  using Clock = RedisExchange::Clock;
  using Exchanges = std::vector<std::shared_ptr<RedisExchange>>;
  using Kind = RespReply::Kind;

  /// Errors:  throws Exception, as RedisStorage
  explicit RedisClient(const RedisOptions& options);

  const RedisOptions& options() const { return common_.options; }
  const RedisAddress& address() const { return common_.address; }
  RedisCounters& counters() { return common_.counters; }
  void set_credentials(RedisCredentials credentials);

  /// As RemoteDrivers.
  std::shared_ptr<RemoteBatch> begin(std::vector<RedisRequest> requests,
                                     Clock::time_point deadline) {
    return drivers_.begin(std::move(requests), deadline);
  }
  std::shared_ptr<RedisExchange> ask(RedisRequest request, Clock::time_point deadline) {
    return drivers_.ask(std::move(request), deadline);
  }
  Exchanges ask_all(std::vector<RedisRequest> requests, Clock::time_point deadline) {
    return drivers_.ask_all(std::move(requests), deadline);
  }

  /// A command of a word and a key, which is answered by a number.
  static RedisRequest about(const char* word, std::string doing, std::string key);

 private:
  RedisCommon common_;
  RemoteDrivers<RedisExchange, RedisDriver, RedisRequest> drivers_;  // ends before what they use
};

}  // namespace cake::inline CAKE_ABI::detail
