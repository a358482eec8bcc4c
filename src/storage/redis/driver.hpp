// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A thread that carries out requests over connections of its own to all nodes.
//
// It waits in epoll_wait() for sockets that are ready. Requests are routed by the slot of their key and
// wait at their node, those of each share by themselves; connections are opened as they are needed, and
// each has several requests in flight. Values are received where they are wanted.
#pragma once

#include <array>
#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "connection.hpp"
#include "exchange.hpp"
#include "routes.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Deadlines and cancellation are noticed within 20 ms, cancellation at once.
///
/// Thread:  Safe for concurrent use
class RedisDriver final : public RemoteDriver, private RedisConnectionUser {
 public:
  using Exchanges = std::list<std::shared_ptr<RedisExchange>>;
  /// Begins its work. `most`: connections to a node, `ahead`: requests in flight of each, by
  /// RedisRequest::Share.
  ///
  /// Errors:  throws Exception(out_of_memory): no thread, or no file is left
  static std::shared_ptr<RedisDriver> make(RedisCommon& common, const std::array<unsigned, 3>& most,
                                           const std::array<unsigned, 3>& ahead);
  /// Ends all requests as canceled.
  ~RedisDriver() override;
  RedisDriver(const RedisDriver&) = delete;
  RedisDriver& operator=(const RedisDriver&) = delete;

  /// Takes all of them, and needs no memory for that.
  void submit(Exchanges& exchanges) noexcept;
  /// Something was canceled, or a name is known.
  void wake() noexcept override;
  /// As the destructor. Later requests end at once.
  void stop() noexcept;

 private:
  using Clock = RemoteClock;
  using Exchange = std::shared_ptr<RedisExchange>;
  struct Node {
    std::array<Exchanges, RedisRequest::kShares> waiting;
    std::array<std::vector<std::unique_ptr<RedisConnection>>, RedisRequest::kShares> connections;
    Clock::time_point closed_until{};  // none is opened before
    unsigned failures = 0;
    bool idle() const;
  };

  RedisDriver(RedisCommon& common, const std::array<unsigned, 3>& most,
              const std::array<unsigned, 3>& ahead);
  void work() noexcept;
  void turn();
  void take_new();
  /// Ends what is late, canceled or stalled.
  void sweep(Clock::time_point now);
  bool is_over(const Exchange& exchange, Clock::time_point now);
  void start(Clock::time_point now);
  void ask_for_slots(Clock::time_point now);
  void route(Exchange exchange);
  void serve(const RedisEndpoint& at, Node& node, Clock::time_point now);
  /// Null: none may take another request.
  RedisConnection* connection_for(const RedisEndpoint& at, Node& node, std::size_t share);
  /// Removes connections that are none any more.
  void reap();
  void wait(Clock::time_point now);
  void answered(Exchange exchange, RespReply&& reply, const RedisEndpoint& node) override;
  void failed(Exchange exchange, const RedisCause& cause, const RedisEndpoint& node) override;
  void go_on(Exchange exchange, RedisExchange::Next next);
  void slots_failed(const RedisCause& cause, const RedisEndpoint& node);
  void fail_all(Exchanges& all, const RedisCause& cause, const RedisEndpoint& node);
  void end_all(Errc code, const char* why) noexcept;

  RedisCommon& common_;
  const std::array<unsigned, 3> most_;
  const std::array<unsigned, 3> ahead_;
  std::weak_ptr<RemoteDriver> self_;
  int epoll_ = -1;
  int woken_ = -1;                 // an eventfd
  std::atomic<bool> swept_{true};  // nothing was canceled since the last look

  std::mutex mutex_;
  Exchanges new_;  // guarded by the mutex
  bool stop_ = false;

  // Of the thread.
  RedisRoutes routes_;
  Exchange slots_;      // asks for the slots
  Exchanges unrouted_;  // nobody knows yet where to
  Exchanges later_;     // those that pause
  std::map<RedisEndpoint, Node> nodes_;
  Clock::time_point next_sweep_{};
  std::minstd_rand random_;

  std::mutex joining_;
  std::thread thread_;
};

}  // namespace cake::inline CAKE_ABI::detail
