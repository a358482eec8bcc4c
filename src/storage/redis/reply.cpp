// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "reply.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace cake::inline CAKE_ABI::detail {
namespace {

using Then = RedisProblem::Then;

struct Known {
  std::string_view code;
  Errc error;
  Then then;
  std::string_view what;
};
constexpr std::array kKnown{
    Known{"TRYAGAIN", Errc::io, Then::retry,
          "the slot is on its way to another node; look whether its migration goes on"},
    Known{"CLUSTERDOWN", Errc::io, Then::refresh,
          "the cluster is down; look at CLUSTER INFO of its nodes, and whether all slots have one"},
    Known{"LOADING", Errc::io, Then::retry,
          "the server is loading its data; wait until it is ready"},
    Known{"MASTERDOWN", Errc::io, Then::refresh,
          "the node is a replica whose master is down; look at the master"},
    Known{"READONLY", Errc::io, Then::refresh,
          "the server is a replica and takes no writes; name the master"},
    Known{"BUSY", Errc::io, Then::retry,
          "the server is busy with a script of somebody else; look at it, or end it"},
    Known{
        "OOM", Errc::out_of_memory, Then::nothing,
        "the server's memory is used up; raise maxmemory, or set maxmemory-policy to allkeys-lru"},
    Known{
        "MISCONF", Errc::io, Then::nothing,
        "the server takes no writes because it cannot save; look at its log and its disk, or turn "
        "saving off (save \"\")"},
    Known{"NOREPLICAS", Errc::io, Then::nothing,
          "the server takes no writes without replicas; look at min-replicas-to-write"},
    Known{"NOAUTH", Errc::io, Then::nothing,
          "the server wants a password; put it into the URL, or into REDISCLI_AUTH"},
    Known{"WRONGPASS", Errc::io, Then::nothing,
          "the server refuses the user or the password; mend the URL, or REDISCLI_AUTH"},
    Known{"NOPERM", Errc::io, Then::nothing,
          "the user may not do this; its access list has to allow +set +getrange +strlen +unlink "
          "+cluster|slots +asking, for the keys of the prefix"},
    Known{"DENIED", Errc::io, Then::nothing,
          "the server is in protected mode and serves its own machine only; give it a password"},
    Known{"NOSCRIPT", Errc::io, Then::nothing,
          "the server answers about a script, and none was called; look at what lies between"},
    Known{"CROSSSLOT", Errc::io, Then::nothing,
          "the server finds several keys where there is one; look at what lies between"},
    Known{"NOPROTO", Errc::unsupported, Then::nothing, "the server does not speak RESP2"},
    Known{"WRONGTYPE", Errc::corrupt, Then::nothing,
          "what is under the key is no string; give cake a prefix of its own"},
};

bool has(std::string_view text, std::string_view part) {
  return std::search(text.begin(), text.end(), part.begin(), part.end(), [](char a, char b) {
           const auto low = [](char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; };
           return low(a) == low(b);
         }) != text.end();
}

/// "MOVED SLOT HOST:PORT", or ASK.
RedisProblem redirected(Then then, std::string_view text, const RedisContext& context) {
  const std::size_t slot = text.find(' ');
  const std::size_t space = text.find(' ', slot + 1);
  const auto to = redis_endpoint(text.substr(std::min(space, text.size() - 1) + 1), context.node);
  if (space == std::string_view::npos || !to) {
    return redis_problem(context, Errc::io,
                         "the server redirects to what is no node; look at what lies between");
  }
  RedisProblem problem = redis_problem(
      context, Errc::io, "the cluster sends requests on and on; look at CLUSTER SLOTS of its nodes",
      then);
  problem.to = *to;
  return problem;
}

/// What servers say behind the code ERR.
RedisProblem unnamed(std::string_view text, const RedisContext& context) {
  if (has(text, "max number of clients")) {
    return redis_problem(context, Errc::io,
                         "the server has too many connections; raise maxclients, or lower "
                         "RedisOptions::connections",
                         Then::retry);
  }
  if (has(text, "without any password") || has(text, "no password is set")) {
    return redis_problem(context, Errc::io,
                         "the server has no password; leave it out of the URL and REDISCLI_AUTH");
  }
  if (has(text, "invalid password")) {
    return redis_problem(context, Errc::io,
                         "the server refuses the password; mend the URL, or REDISCLI_AUTH");
  }
  if (has(text, "wrong number of arguments for 'auth'")) {
    return redis_problem(context, Errc::unsupported,
                         "the server knows no users; leave USER out of the URL");
  }
  if (has(text, "exceeds maximum allowed size") || has(text, "invalid bulk length")) {
    return redis_problem(context, Errc::unsupported,
                         "the server does not take so large a value; raise proto-max-bulk-len, or "
                         "use smaller chunks");
  }
  if (has(text, "unknown command")) {
    return redis_problem(context, Errc::unsupported,
                         "the server does not know a command; use Redis 4 or newer, or Valkey");
  }
  return redis_problem(context, Errc::io, "the server refuses (ERR); look at its log");
}

}  // namespace

RedisProblem redis_problem(const RedisContext& context, Errc code, std::string_view what,
                           RedisProblem::Then then) {
  std::string text(context.doing);
  text.append(" of ").append(context.url);
  const std::string node = context.node.host.empty() ? "" : context.node.shown();
  if (!node.empty() && context.url.find("//" + node + "/") == std::string_view::npos) {
    text.append(" at ").append(node);
  }
  text.append(": ").append(what);
  return {{code, 0, std::move(text)}, then, {}};
}

std::string redis_error_code(std::string_view text) {
  const std::string_view code = text.substr(0, text.find(' '));
  const bool good =
      !code.empty() && code.size() <= 32 &&
      std::all_of(code.begin(), code.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  return good ? std::string(code) : "";
}

RedisProblem redis_refused(std::string_view text, const RedisContext& context) {
  const std::string code = redis_error_code(text);
  if (code == "MOVED") return redirected(Then::moved, text, context);
  if (code == "ASK") return redirected(Then::ask, text, context);
  for (const Known& known : kKnown) {
    if (code != known.code) continue;
    return redis_problem(context, known.error, std::string(known.what) + " (" + code + ")",
                         known.then);
  }
  if (code == "ERR") return unnamed(text, context);
  return redis_problem(
      context, Errc::io,
      "the server refuses" + (code.empty() ? "" : " (" + code + ")") + "; look at its log");
}

bool redis_is_alone(const RespReply& reply) {
  if (reply.kind != RespReply::Kind::error) return false;
  const std::string code = redis_error_code(reply.text);
  // A user who may not ask is taken at their word that there is one server.
  return code == "NOPERM" || (code == "ERR" && (has(reply.text, "cluster support disabled") ||
                                                has(reply.text, "unknown command")));
}

}  // namespace cake::inline CAKE_ABI::detail
