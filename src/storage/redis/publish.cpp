// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "publish.hpp"

#include <utility>
#include <vector>

#include "cake/staging.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::detail {

Result<bool> RedisPublish::set(const std::string& key, ConstBytes bytes,
                               Clock::time_point deadline) {
  RedisRequest request;
  request.share = RedisRequest::Share::writes;
  request.doing = "write";
  request.key = key;
  request.body = bytes;
  std::vector<std::string> after{"NX"};
  if (const auto age = client_.options().time_to_live; age.count() > 0) {
    after.insert(after.end(), {"PX", std::to_string(age.count())});
  }
  request.frame = resp_frame({"SET", key}, bytes.size(), after);
  request.expects = {RespReply::Kind::status, RespReply::Kind::null};
  const auto exchange = client_.ask(std::move(request), deadline);
  if (!exchange->status()) return exchange->status().error();
  return exchange->reply().kind == RespReply::Kind::status;
}

Result<bool> RedisPublish::may_be_object(const std::string& key, Clock::time_point deadline) {
  const auto exchange = client_.ask(RedisClient::about("STRLEN", "write", key), deadline);
  if (exchange->status().code() == Errc::corrupt) return false;  // no string
  if (!exchange->status()) return exchange->status().error();
  const auto size = static_cast<std::uint64_t>(exchange->reply().integer);
  return size != 0 && size % kIoAlignment == 0;
}

Status RedisPublish::erase(const std::string& key, const char* doing, Clock::time_point deadline) {
  return client_.ask(RedisClient::about("UNLINK", doing, key), deadline)->status();
}

/// Rubbish in the place costs a round, and so does whoever erases meanwhile.
Result<bool> RedisPublish::write(const std::string& key, ConstBytes bytes) {
  constexpr int kRounds = 4;
  RedisCounters& counters = client_.counters();
  const std::string url = client_.address().url(key);
  if (bytes.size() > client_.options().most_object_bytes) {
    return Error{Errc::unsupported, 0,
                 "write of " + url + ": the object has " + std::to_string(bytes.size()) +
                     " bytes, and RedisOptions::most_object_bytes is " +
                     std::to_string(client_.options().most_object_bytes) +
                     "; use smaller chunks, or raise it and the server's proto-max-bulk-len"};
  }
  const auto deadline = deadline_after(client_.options().write_timeout);
  bool replaces = false;
  for (int round = 0; round < kRounds; ++round) {
    auto made = set(key, bytes, deadline);
    if (!made) return made;
    if (*made) {
      ++counters.published;
      counters.published_bytes += bytes.size();
      if (replaces) ++counters.replaced;
      return true;
    }
    auto object = may_be_object(key, deadline);
    if (!object) return object;
    if (*object) {
      ++counters.already_stored;
      return false;
    }
    CAKE_TRY(erase(key, "write", deadline));
    replaces = true;
  }
  return Error{Errc::io, 0, "write of " + url + ": others write and erase it all the time"};
}

}  // namespace cake::inline CAKE_ABI::detail
