// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "exchange.hpp"

#include <algorithm>
#include <utility>

#include "cake/detail/guarded.hpp"

namespace cake::inline CAKE_ABI::detail {

using Then = RedisProblem::Then;
using Next = RedisExchange::Next;
using Kind = RespReply::Kind;

RedisExchange::~RedisExchange() {
  if (told_) return;
  if (status_) status_ = error_of(Errc::out_of_memory, 0, "a request");
  tell();
}

RespFrame RedisExchange::begin_attempt(RedisCommon& common) {
  begun_ = true;
  // Those about no key are counted as topologies.
  if (!request_.key.empty()) ++common.counters.requests;
  if (!std::exchange(redirected_, false)) {
    ++attempts_;
    if (attempts_ > 1) ++common.counters.retries;
  }
  if (sizing_) return {resp_command({"STRLEN", request_.key}), ""};
  if (!landed_.wanted()) return request_.frame;
  const std::uint64_t first = request_.offset + landed_.received();
  return {resp_command({"GETRANGE", request_.key, std::to_string(first),
                        std::to_string(request_.offset + landed_.size() - 1)}),
          ""};
}

Next RedisExchange::answered(RespReply&& reply, const RedisEndpoint& node, RedisCommon& common,
                             std::minstd_rand& random) {
  const std::string url = common.address.url(request_.key);
  const RedisContext where = context(url, node);
  begun_ = false;
  then_ = Then::nothing;
  if (reply.kind != Kind::error) return good(std::move(reply), where, common, random);
  RedisProblem problem = redis_refused(reply.text, where);
  reply_ = std::move(reply);
  return ended(std::move(problem), common, random);
}

Next RedisExchange::good(RespReply&& reply, const RedisContext& context, RedisCommon& common,
                         std::minstd_rand& random) {
  const auto fails = [&](Errc code, const char* what, Then then = Then::nothing) {
    return ended(redis_problem(context, code, what, then), common, random);
  };
  const bool fits = landed_.wanted() ? reply.kind == (sizing_ ? Kind::integer : Kind::bulk)
                                     : std::count(request_.expects.begin(), request_.expects.end(),
                                                  reply.kind) > 0;
  if (!fits) {
    return fails(Errc::io, "the server answers what it was not asked; look at what lies between");
  }
  if (sizing_) {
    const auto size = static_cast<std::uint64_t>(std::max<std::int64_t>(reply.integer, 0));
    if (size == 0) return fails(Errc::not_found, "there is no such object");
    if (size < request_.offset + landed_.size()) {
      return fails(Errc::corrupt, "the object ends before the read does");
    }
    sizing_ = false;  // it was written meanwhile
    return fails(Errc::io, "the server gives less of the object than there is", Then::retry);
  }
  if (landed_.wanted() && !landed_.whole()) {
    // A key that is not there is an empty string to a GETRANGE.
    sizing_ = redirected_ = true;
    return Next::now;
  }
  landed_.tell(true);
  common.counters.read_bytes += landed_.size();
  reply_ = std::move(reply);
  status_ = {};
  return Next::over;
}

Next RedisExchange::failed(const RedisCause& cause, const RedisEndpoint& node, RedisCommon& common,
                           std::minstd_rand& random) {
  if (!std::exchange(begun_, false)) ++attempts_;
  const std::string url = common.address.url(request_.key);
  return ended(cause.in(context(url, node)), common, random);
}

Next RedisExchange::ended(RedisProblem problem, RedisCommon& common, std::minstd_rand& random) {
  begun_ = false;
  then_ = problem.then;
  if (batch_->canceled()) {
    status_ = std::move(problem.error);
    return Next::over;
  }
  if (then_ == Then::moved || then_ == Then::ask) {
    ++common.counters.redirections;
    to_ = problem.to;
    asks_ = then_ == Then::ask;
    redirected_ = true;
    if (++redirections_ <= common.options.redirections) return Next::now;
    status_ = std::move(problem.error);
    return Next::over;
  }
  not_before_ = Clock::now() + pause_after(std::max(attempts_, 1u), random);
  const bool may = then_ == Then::retry || then_ == Then::refresh;
  const bool again = may && attempts_ < common.options.attempts && not_before_ < deadline_;
  if (may && !again && attempts_ > 1) {
    problem.error.context += ", " + std::to_string(attempts_) + " times";
  }
  status_ = std::move(problem.error);
  return again ? Next::later : Next::over;
}

void RedisExchange::end(Errc code, const char* why, RedisCommon& common) noexcept {
  status_ = guarded(code, request_.doing, [&]() -> Status {
    std::string text = request_.doing + " of " + common.address.url(request_.key) + ": " + why;
    if (!status_) text += "; before that: " + status_.error().context;
    return Error{code, 0, std::move(text)};
  });
  request_.ends_all = request_.ends_all || code == Errc::timeout;
  if (code == Errc::canceled) ++common.counters.canceled;
}

void RedisExchange::end_with_batch(RedisCommon& common) noexcept {
  const Status reason = guarded(Errc::canceled, request_.doing, [&] { return batch_->reason(); });
  status_ = {};
  if (reason) return end(Errc::canceled, "nobody waits for it any more", common);
  status_ = reason;
}

void RedisExchange::tell() noexcept {
  if (!std::exchange(told_, true)) batch_->ended(status_, !status_ && request_.ends_all);
}

}  // namespace cake::inline CAKE_ABI::detail
