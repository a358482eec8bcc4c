// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a server's refusals mean. Of their texts only the code is repeated: the rest may hold anything.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cake/result.hpp"
#include "resp.hpp"
#include "slots.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Why an attempt failed, and what is to be done about it.
struct RedisProblem {
  enum class Then : std::uint8_t {
    nothing,  // it comes again
    retry,    // later
    refresh,  // later, and the slots may have other owners
    moved,    // at once, at `to`, from now on
    ask,      // at once, at `to`, this once
  };
  Error error;
  Then then = Then::nothing;
  RedisEndpoint to = {};
};

/// What a request was about.
struct RedisContext {
  std::string_view doing;  // "read"
  std::string_view url;
  RedisEndpoint node = {};  // that it was sent to
};

/// "read of redis://HOST:PORT/KEY: WHAT", with the node where it is another one.
RedisProblem redis_problem(const RedisContext& context, Errc code, std::string_view what,
                           RedisProblem::Then then = RedisProblem::Then::nothing);

/// The first word of an error, where it is a code: capital letters; "" where it is none.
std::string redis_error_code(std::string_view text);

/// Of an answer that is an error.
RedisProblem redis_refused(std::string_view text, const RedisContext& context);

/// Whether an answer to CLUSTER SLOTS says that there is no cluster.
bool redis_is_alone(const RespReply& reply);

}  // namespace cake::inline CAKE_ABI::detail
