// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The drivers of one store, and requests through them.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "driver.hpp"
#include "exchange.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class RedisClient {
 public:
  using Clock = RedisExchange::Clock;
  using Exchanges = std::vector<std::shared_ptr<RedisExchange>>;
  using Kind = RespReply::Kind;

  /// Errors:  throws Exception, as RedisStorage
  explicit RedisClient(const RedisOptions& options);
  /// Ends all requests as canceled.
  ~RedisClient();

  const RedisOptions& options() const { return common_.options; }
  const RedisAddress& address() const { return common_.address; }
  RedisCounters& counters() { return common_.counters; }
  void set_credentials(RedisCredentials credentials);

  /// Begins them all.
  std::shared_ptr<RemoteBatch> begin(std::vector<RedisRequest> requests, Clock::time_point deadline,
                                     Exchanges* exchanges = nullptr);
  /// Waits for one; a good answer or not, it is over.
  std::shared_ptr<RedisExchange> ask(RedisRequest request, Clock::time_point deadline);
  /// Waits for all.
  Exchanges ask_all(std::vector<RedisRequest> requests, Clock::time_point deadline);

  /// A command of a word and a key, which is answered by a number.
  static RedisRequest about(const char* word, std::string doing, std::string key);

 private:
  RedisCommon common_;
  std::vector<std::shared_ptr<RedisDriver>> drivers_;
  std::atomic<std::size_t> next_{0};
};

}  // namespace cake::inline CAKE_ABI::detail
