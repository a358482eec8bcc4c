// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One stream of bytes to a node, over TCP or over TLS; no call waits.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "cake/storage/redis.hpp"
#include "cake/types.hpp"
#include "reply.hpp"

struct ssl_ctx_st;
struct ssl_st;

namespace cake::inline CAKE_ABI::detail {

/// Why a connection is none any more; what it was asked fails so.
struct RedisCause {
  Errc code = Errc::io;
  std::string what;
  RedisProblem::Then then = RedisProblem::Then::refresh;
  std::string refusal = {};  // what the server said to AUTH, instead of `what`
  bool no_way = false;       // it did not come about

  RedisProblem in(const RedisContext& context) const {
    return refusal.empty() ? redis_problem(context, code, what, then)
                           : redis_refused(refusal, context);
  }
};

/// What all TLS connections of a store have in common.
///
/// Thread:  Safe for concurrent use
class RedisTls {
 public:
  /// Errors:  throws Exception(invalid_argument) naming the file that cannot be used; out_of_memory
  explicit RedisTls(const RedisOptions& options);
  /// For a server of that name, or at that address. Null: there is no memory for it.
  ssl_st* open(const std::string& host) const;

 private:
  std::shared_ptr<ssl_ctx_st> context_;
};

/// Thread:  Requires external synchronization
class RedisLink {
 public:
  RedisLink() = default;
  RedisLink(const RedisLink&) = delete;
  RedisLink& operator=(const RedisLink&) = delete;
  ~RedisLink() { close(); }

  /// Begins to connect. `tls` is null for a plain connection.
  ///
  /// Errors:  false; cause() says why
  bool begin(const sockaddr_storage& to, socklen_t size, const RedisTls* tls,
             const std::string& host, std::chrono::milliseconds most_unacknowledged);
  /// Goes on with it: true once bytes may be sent. False without a cause: not yet.
  bool establish();
  /// How many bytes arrived, first in `first`, then in `second`; 0: none for now, or cause().
  std::size_t read(MutableBytes first, MutableBytes second);
  /// How many were taken; 0: none for now, or cause().
  std::size_t write(std::span<const iovec> parts);

  /// The same bytes, or more of them, have to be given to write() next: TLS has begun with them.
  bool owes_write() const { return owes_write_; }

  /// Set once it is over.
  const std::optional<RedisCause>& cause() const { return cause_; }
  int fd() const { return fd_; }
  /// TCP is there, and TLS not yet.
  bool shakes_hands() const { return connected_ && ssl_ != nullptr && fd_ >= 0; }
  /// What it waits for is that it may write, whatever there is to send.
  bool waits_for_write() const { return waits_for_write_; }
  void close() noexcept;

 private:
  bool shake_hands();
  /// What OpenSSL says of a call that did nothing.
  void note(int result);
  void broke(int number);

  int fd_ = -1;
  ssl_st* ssl_ = nullptr;
  bool connected_ = false;
  bool waits_for_write_ = false;
  bool owes_write_ = false;
  std::optional<RedisCause> cause_;
};

}  // namespace cake::inline CAKE_ABI::detail
