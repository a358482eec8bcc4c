// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "upload.hpp"

#include <algorithm>
#include <utility>

#include "cake/staging.hpp"
#include "src/core/try.hpp"
#include "src/storage/remote/attempts.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

using Method = S3Request::Method;
using Share = S3Request::Share;

/// As text of an XML document.
std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

Error unclear(const std::string& doing, const std::string& url, const char* what) {
  return {Errc::io, 0, doing + " of " + url + ": " + what};
}

}  // namespace

Result<S3Upload::There> S3Upload::look(const std::string& url, Clock::time_point deadline) {
  const auto exchange =
      client_.ask(client_.request(Method::head, Share::calls, "write", url), deadline);
  if (!exchange->status()) {
    if (exchange->status().code() == Errc::not_found) return There::nothing;
    return exchange->status().error();
  }
  const std::uint64_t size = exchange->reply().length.value_or(0);
  return size != 0 && size % kIoAlignment == 0 ? There::object : There::rubbish;
}

Status S3Upload::remove(const std::string& url, const std::string& query,
                        Clock::time_point deadline) {
  S3Request request = client_.request(Method::remove, Share::calls, "write", url);
  request.query = query;
  const Status status = client_.ask(std::move(request), deadline)->status();
  return status.code() == Errc::not_found ? Status() : status;
}

void S3Upload::add_condition(S3Request& request) const {
  if (conditional_) request.headers.emplace_back("If-None-Match: *");
}

bool S3Upload::refuses_condition(const S3Reply& reply) {
  const bool refuses =
      conditional_ && (reply.status == 501 || s3_error_code(reply.body) == "NotImplemented");
  if (refuses) conditional_ = false;
  return refuses;
}

std::shared_ptr<S3Exchange> S3Upload::put(const std::string& url, ConstBytes bytes,
                                          Clock::time_point deadline) {
  S3Request request = client_.request(Method::put, Share::writes, "write", url);
  request.body = bytes;
  request.digest = client_.digest_of(bytes);
  add_condition(request);
  return client_.ask(std::move(request), deadline);
}

Result<bool> S3Upload::write(const std::string& url, ConstBytes bytes) {
  const auto deadline = deadline_after(client_.options().write_timeout);
  auto written = bytes.size() > client_.options().multipart_above
                     ? write_in_parts(url, bytes, deadline)
                     : write_whole(url, bytes, deadline);
  if (!written) return written;
  S3Counters& counters = client_.counters();
  if (*written) {
    ++counters.published;
    counters.published_bytes += bytes.size();
  } else {
    ++counters.already_stored;
  }
  return written;
}

/// A condition that is refused, and rubbish in the place, cost a round each.
Result<bool> S3Upload::write_whole(const std::string& url, ConstBytes bytes,
                                   Clock::time_point deadline) {
  constexpr int kRounds = 4;
  bool in_the_way = !conditional_;  // or it is not known
  bool replaces = false;
  for (int round = 0; round < kRounds; ++round) {
    if (in_the_way) {
      const auto there = look(url, deadline);
      if (!there) return there.error();
      if (*there == There::object) return false;
      if (*there == There::rubbish) {
        CAKE_TRY(remove(url, "", deadline));
        replaces = true;
      }
    }
    const auto exchange = put(url, bytes, deadline);
    if (exchange->status()) {
      if (replaces) ++client_.counters().replaced;
      return true;
    }
    const S3Reply& reply = exchange->reply();
    if (!refuses_condition(reply) && reply.status != 412) return exchange->status().error();
    in_the_way = true;
  }
  return unclear("write", url, "others write and erase it all the time");
}

Result<std::string> S3Upload::begin_parts(const std::string& url, Clock::time_point deadline) {
  S3Request request = client_.request(Method::post, Share::calls, "write", url);
  request.query = "uploads=";
  const auto exchange = client_.ask(std::move(request), deadline);
  if (!exchange->status()) return exchange->status().error();
  const auto upload = s3_element(exchange->reply().body, "UploadId");
  if (!upload || upload->empty()) {
    return unclear("write", url, "the server does not name the upload; look at its log");
  }
  return *upload;
}

/// The list of parts that ends an upload.
Result<std::string> S3Upload::send_parts(const std::string& url, const std::string& upload,
                                         ConstBytes bytes, Clock::time_point deadline) {
  const std::size_t step = client_.options().part_bytes;
  std::vector<S3Request> requests;
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    S3Request request = client_.request(Method::put, Share::writes, "write", url);
    auto query = s3_query({{"uploadId", upload}, {"partNumber", std::to_string(at / step + 1)}});
    if (!query) return query.error();
    request.query = std::move(*query);
    request.body = bytes.subspan(at, std::min(step, bytes.size() - at));
    request.digest = client_.digest_of(request.body);
    requests.push_back(std::move(request));
  }
  const auto exchanges = client_.ask_all(std::move(requests), deadline);
  std::string list = "<CompleteMultipartUpload>";
  for (std::size_t i = 0; i < exchanges.size(); ++i) {
    if (!exchanges[i]->status()) return exchanges[i]->status().error();
    list += "<Part><PartNumber>" + std::to_string(i + 1) + "</PartNumber><ETag>" +
            escaped(exchanges[i]->reply().etag) + "</ETag></Part>";
  }
  return list + "</CompleteMultipartUpload>";
}

Result<bool> S3Upload::end_parts(const std::string& url, const std::string& upload,
                                 const std::string& list, Clock::time_point deadline) {
  auto query = s3_query({{"uploadId", upload}});
  if (!query) return query.error();
  for (;;) {
    S3Request request = client_.request(Method::post, Share::calls, "write", url);
    request.query = *query;
    request.text = list;
    request.digest = client_.digest_of(std::as_bytes(std::span(list)));
    request.headers.emplace_back("Content-Type: application/xml");
    add_condition(request);
    const auto exchange = client_.ask(std::move(request), deadline);
    // An error may come behind a good status, which is sent before the parts are put together.
    const std::string code = s3_error_code(exchange->reply().body);
    if (exchange->status() && code.empty()) return true;
    if (refuses_condition(exchange->reply())) continue;
    if (exchange->reply().status == 412 || code == "PreconditionFailed") return false;
    if (!exchange->status()) return exchange->status().error();
    return unclear("write", url, ("the server failed (" + code + "); look at its log").c_str());
  }
}

Result<bool> S3Upload::write_in_parts(const std::string& url, ConstBytes bytes,
                                      Clock::time_point deadline) {
  const auto there = look(url, deadline);
  if (!there) return there.error();
  if (*there == There::object) return false;
  if (*there == There::rubbish) CAKE_TRY(remove(url, "", deadline));
  const auto upload = begin_parts(url, deadline);
  if (!upload) return upload.error();
  Result<bool> ended = false;
  auto list = send_parts(url, *upload, bytes, deadline);
  if (list) {
    ended = end_parts(url, *upload, *list, deadline);
    // The answer may have been lost, and a second one says that there is no such upload.
    if (!ended) {
      const auto now = look(url, deadline_after(client_.options().call_timeout));
      if (now && *now == There::object) return true;
    }
  } else {
    ended = list.error();
  }
  if (ended && *ended) {
    if (*there == There::rubbish) ++client_.counters().replaced;
    return true;
  }
  // The parts take room until somebody takes them back; that it fails changes nothing of the outcome.
  if (const auto query = s3_query({{"uploadId", *upload}})) {
    static_cast<void>(remove(url, *query, deadline_after(client_.options().call_timeout)));
  }
  return ended;
}

}  // namespace cake::inline CAKE_ABI::detail
