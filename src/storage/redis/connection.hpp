// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One connection to a node: requests are sent ahead, and answers come in the same order.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "exchange.hpp"
#include "link.hpp"
#include "names.hpp"
#include "resp.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Whose requests a connection carries.
class RedisConnectionUser {
 public:
  virtual void answered(std::shared_ptr<RedisExchange> exchange, RespReply&& reply,
                        const RedisEndpoint& node) = 0;
  virtual void failed(std::shared_ptr<RedisExchange> exchange, const RedisCause& cause,
                      const RedisEndpoint& node) = 0;

 protected:
  ~RedisConnectionUser() = default;
};

/// Thread:  Requires external synchronization
class RedisConnection {
 public:
  using Clock = RedisExchange::Clock;

  /// Begins to connect. `epoll` tells of it with its address.
  ///
  /// Errors:  throws std::bad_alloc, std::system_error
  RedisConnection(RedisCommon& common, const RedisEndpoint& node,
                  std::weak_ptr<RemoteDriver> driver, int epoll);
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  /// Behind all that was sent before.
  void send(std::shared_ptr<RedisExchange> exchange);
  /// Does what can be done without waiting.
  void advance(RedisConnectionUser& user);
  /// Ends it where nothing has moved for too long.
  void look_at(Clock::time_point now, RedisConnectionUser& user);
  /// Lets go of those of which `over` says so. What they would bring goes nowhere.
  void let_go(const std::function<bool(const std::shared_ptr<RedisExchange>&)>& over,
              RedisConnectionUser& user);
  /// Hands back all that it carries, and is none any more.
  void abandon(const std::function<void(const std::shared_ptr<RedisExchange>&)>& take);

  /// Why it is none any more.
  const std::optional<RedisCause>& cause() const { return cause_; }
  std::size_t in_flight() const { return requests_; }

 private:
  enum class State : std::uint8_t { names, connecting, open };
  enum class Role : std::uint8_t { request, auth, asking };
  struct Sent {
    std::shared_ptr<RedisExchange> exchange;  // null: nobody waits for the answer
    Role role = Role::request;
    RespFrame frame;
    ConstBytes body;
    std::size_t size() const { return frame.head.size() + body.size() + frame.tail.size(); }
  };

  void queue(std::shared_ptr<RedisExchange> exchange, Role role, RespFrame frame, ConstBytes body);
  /// To the next address; false: there is none, and cause_ says so.
  bool connect();
  bool established();
  void write();
  void read(RedisConnectionUser& user);
  bool take(ConstBytes bytes, RedisConnectionUser& user);
  void begin_front();
  void note_landed();
  void front_over(RedisConnectionUser& user);
  void fail(RedisCause cause, RedisConnectionUser& user);
  void watch();

  RedisCommon& common_;
  const RedisEndpoint node_;
  const int epoll_;
  State state_ = State::names;
  RedisNames names_;
  std::vector<RedisNames::Address> addresses_;
  std::size_t next_address_ = 0;
  RedisLink link_;
  std::uint32_t watched_ = 0;  // what epoll was told
  int watched_fd_ = -1;

  std::deque<Sent> sent_;
  std::size_t requests_ = 0;  // of these
  std::size_t written_ = 0;   // of these, whole
  std::size_t offset_ = 0;    // bytes of the next one
  bool begun_ = false;        // the parser is at the first one's answer
  std::size_t told_ = 0;      // bytes of its value that its exchange knows of
  RespParser parser_;
  std::vector<std::byte> buffer_;
  bool answered_ = false;  // anything ever came

  Clock::time_point moved_ = Clock::now();  // something did
  std::optional<RedisCause> cause_;
};

}  // namespace cake::inline CAKE_ABI::detail
