// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "exchange.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "src/core/try.hpp"
#include "src/storage/remote/attempts.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

using Clock = S3Exchange::Clock;

constexpr std::size_t kMostDropped = std::size_t{1} << 20;
// SHA-256 of nothing.
constexpr const char* kNoBody = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

long milliseconds(std::chrono::nanoseconds span) {
  const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(span).count();
  return static_cast<long>(std::clamp<std::int64_t>(count, 1, 1'000'000'000));
}

}  // namespace

// ---- an attempt begins ----

ConstBytes S3Exchange::body() const {
  return request_.text.empty() ? request_.body : std::as_bytes(std::span(request_.text));
}

bool S3Exchange::add_header(const std::string& line) {
  curl_slist* const longer = curl_slist_append(headers_.get(), line.c_str());
  if (longer == nullptr) return false;
  static_cast<void>(headers_.release());
  headers_.reset(longer);
  return true;
}

Status S3Exchange::set_headers(CURL* handle, const S3Credentials& credentials, bool anonymous) {
  headers_.reset();
  bool good = true;
  for (const std::string& line : request_.headers) good = good && add_header(line);
  if (!anonymous) {
    good = good && add_header("x-amz-content-sha256: " +
                              (request_.digest.empty() ? kNoBody : request_.digest));
    if (!credentials.session_token.empty()) {
      good = good && add_header("x-amz-security-token: " + credentials.session_token);
    }
  }
  if (!good) return Error{Errc::out_of_memory, 0, request_.doing};
  curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers_.get());
  return {};
}

void S3Exchange::set_body(CURL* handle) {
  using Method = S3Request::Method;
  const auto size = static_cast<curl_off_t>(body().size());
  switch (request_.method) {
    case Method::get:
      curl_easy_setopt(handle, CURLOPT_HTTPGET, 1L);
      break;
    case Method::head:
      curl_easy_setopt(handle, CURLOPT_NOBODY, 1L);
      break;
    case Method::put:
      curl_easy_setopt(handle, CURLOPT_UPLOAD, 1L);
      curl_easy_setopt(handle, CURLOPT_INFILESIZE_LARGE, size);
      curl_easy_setopt(handle, CURLOPT_UPLOAD_BUFFERSIZE, 512L << 10);
      break;
    case Method::post:
      curl_easy_setopt(handle, CURLOPT_POST, 1L);
      curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, size);
      curl_easy_setopt(handle, CURLOPT_POSTFIELDS,
                       request_.text.empty() ? "" : request_.text.c_str());
      break;
    case Method::remove:
      curl_easy_setopt(handle, CURLOPT_CUSTOMREQUEST, "DELETE");
      break;
  }
  if (request_.method == Method::put) {
    curl_easy_setopt(handle, CURLOPT_READFUNCTION, &S3Exchange::on_upload);
    curl_easy_setopt(handle, CURLOPT_READDATA, this);
    curl_easy_setopt(handle, CURLOPT_SEEKFUNCTION, &S3Exchange::on_seek);
    curl_easy_setopt(handle, CURLOPT_SEEKDATA, this);
  }
  if (!request_.out.empty()) {
    const std::string range = std::to_string(request_.offset + landed_.received()) + "-" +
                              std::to_string(request_.offset + request_.out.size() - 1);
    curl_easy_setopt(handle, CURLOPT_RANGE, range.c_str());
  }
}

void S3Exchange::set_connection(CURL* handle, const S3Common& common) {
  const S3Options& options = common.options;
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(handle, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(handle, CURLOPT_BUFFERSIZE, 512L << 10);
  curl_easy_setopt(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(handle, CURLOPT_USERAGENT, common.user_agent.c_str());
  // What broke off in the middle may have left something in the connection.
  if (fresh_) curl_easy_setopt(handle, CURLOPT_FRESH_CONNECT, 1L);
  const auto left = deadline_ - Clock::now();
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS,
                   milliseconds(std::min<std::chrono::nanoseconds>(options.connect_timeout, left)));
  if (!options.ca_file.empty()) {
    curl_easy_setopt(handle, CURLOPT_CAINFO, options.ca_file.c_str());
  }
}

Status S3Exchange::prepare(CURL* handle, S3Common& common) {
  reply_ = {};
  wrong_.reset();
  begun_ = object_ = false;
  dropped_ = sent_ = 0;
  error_[0] = '\0';
  progress_ = Clock::now();
  ++attempts_;
  ++common.counters.requests;
  if (attempts_ > 1) ++common.counters.retries;
  curl_easy_reset(handle);
  const std::string url =
      request_.query.empty() ? request_.url : request_.url + "?" + request_.query;
  if (curl_easy_setopt(handle, CURLOPT_URL, url.c_str()) != CURLE_OK) {
    return Error{Errc::out_of_memory, 0, request_.doing};
  }
  const auto credentials = common.credentials_now();
  const bool anonymous = common.options.anonymous;
  CAKE_TRY(set_headers(handle, *credentials, anonymous));
  if (!anonymous) {
    const std::string signing = "aws:amz:" + common.options.region + ":s3";
    curl_easy_setopt(handle, CURLOPT_AWS_SIGV4, signing.c_str());
    curl_easy_setopt(handle, CURLOPT_USERNAME, credentials->access_key.c_str());
    curl_easy_setopt(handle, CURLOPT_PASSWORD, credentials->secret_key.c_str());
  }
  set_body(handle);
  set_connection(handle, common);
  curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, error_.data());
  curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, &S3Exchange::on_header);
  curl_easy_setopt(handle, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &S3Exchange::on_body);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, this);
  return {};
}

// ---- it goes on ----

std::size_t S3Exchange::on_header(char* data, std::size_t size, std::size_t count, void* self) {
  auto& exchange = *static_cast<S3Exchange*>(self);
  exchange.progress_ = Clock::now();
  const std::size_t bytes = size * count;
  const auto taken = guarded(Errc::out_of_memory, "an answer", [&]() -> Status {
    exchange.reply_.header({data, bytes});
    return {};
  });
  return taken ? bytes : 0;
}

std::size_t S3Exchange::on_body(char* data, std::size_t size, std::size_t count, void* self) {
  auto& exchange = *static_cast<S3Exchange*>(self);
  exchange.progress_ = Clock::now();
  const std::size_t bytes = size * count;
  const auto taken = guarded(Errc::out_of_memory, "an answer", [&]() -> Status {
    if (!std::exchange(exchange.begun_, true)) exchange.begin_body();
    if (exchange.take(std::as_bytes(std::span(data, bytes)))) return {};
    return Error{Errc::io, 0, "an answer"};
  });
  return taken ? bytes : 0;
}

std::size_t S3Exchange::on_upload(char* to, std::size_t size, std::size_t count, void* self) {
  auto& exchange = *static_cast<S3Exchange*>(self);
  const ConstBytes rest = exchange.body().subspan(exchange.sent_);
  const std::size_t bytes = std::min(size * count, rest.size());
  if (bytes != 0) std::memcpy(to, rest.data(), bytes);
  exchange.sent_ += bytes;
  return bytes;
}

int S3Exchange::on_seek(void* self, curl_off_t offset, int origin) {
  auto& exchange = *static_cast<S3Exchange*>(self);
  if (origin != SEEK_SET || offset < 0) return CURL_SEEKFUNC_CANTSEEK;
  exchange.sent_ = std::min<std::size_t>(static_cast<std::size_t>(offset), exchange.body().size());
  return CURL_SEEKFUNC_OK;
}

void S3Exchange::begin_body() {
  if (request_.out.empty() || !reply_.good()) return;
  const auto wrong = [&](Errc code, const char* what) {
    wrong_ = S3Problem{{code, reply_.status, request_.doing + " of " + request_.url + ": " + what},
                       false};
  };
  const std::uint64_t from = request_.offset + landed_.received();
  const std::uint64_t end = request_.offset + request_.out.size();
  // The object may be what was asked for.
  if (reply_.status != 200 || from != 0 || reply_.length != request_.out.size()) {
    if (reply_.status != 206) {
      return wrong(Errc::unsupported, "the server sends no ranges; use one that does");
    }
    if (!reply_.range || reply_.range->first != from || reply_.range->last >= end) {
      return wrong(Errc::io,
                   "the server sends other bytes than it was asked for; look at what lies between");
    }
    if (reply_.range->last + 1 != end) {
      return wrong(Errc::corrupt, "the object ends before the read does");
    }
  }
  object_ = true;
}

bool S3Exchange::take(ConstBytes bytes) {
  if (wrong_) return false;
  if (!object_) {
    const std::size_t room = request_.most_answer - reply_.body.size();
    const std::size_t kept = std::min(room, bytes.size());
    reply_.body.append(reinterpret_cast<const char*>(bytes.data()), kept);
    dropped_ += bytes.size() - kept;
    return dropped_ <= kMostDropped;
  }
  if (bytes.size() > landed_.rest().size()) {
    wrong_ =
        S3Problem{{Errc::io, reply_.status,
                   request_.doing + " of " + request_.url +
                       ": the server sends more bytes than it says; look at what lies between"},
                  false};
    return false;
  }
  std::memcpy(landed_.rest().data(), bytes.data(), bytes.size());
  landed_.add(bytes.size());
  return true;
}

// ---- it ends ----

S3Context S3Exchange::context(const S3Common& common) const {
  return {request_.doing, request_.url, common.options.region, common.bucket};
}

S3Problem S3Exchange::outcome(CURLcode code, const S3Common& common) const {
  if (wrong_) return *wrong_;
  const bool whole = landed_.whole();
  if (code == CURLE_OK && reply_.good() && whole) return {{Errc::ok, 0, ""}, false};
  // What a server says before it hangs up counts, also where not all was sent to it.
  if (reply_.status >= 300) return s3_refused(reply_, context(common));
  const bool cut = reply_.good() && !request_.out.empty() && code != CURLE_OUT_OF_MEMORY;
  if (code == CURLE_OK || cut) {
    return {{Errc::io, reply_.status,
             request_.doing + " of " + request_.url + ": the connection ended after " +
                 std::to_string(landed_.received()) + " of " + std::to_string(request_.out.size()) +
                 " bytes; look at the server and the network"},
            true};
  }
  return s3_broken(code, error_.data(), context(common));
}

bool S3Exchange::attempt_ended(CURLcode code, S3Common& common, std::minstd_rand& random) {
  headers_.reset();
  // An object of no bytes has no body, and an answer without one is no answer to a read.
  if (code == CURLE_OK && !begun_ && reply_.good()) begin_body();
  S3Problem problem = outcome(code, common);
  if (problem.error.code == Errc::ok) {
    status_ = {};
    landed_.tell(true);
    common.counters.read_bytes += request_.out.size();
    return false;
  }
  not_before_ = Clock::now() + pause_after(attempts_, random);
  if (reply_.retry_after) not_before_ = std::max(not_before_, Clock::now() + *reply_.retry_after);
  const bool again = problem.again && attempts_ < common.options.attempts &&
                     not_before_ < deadline_ && !batch_->canceled();
  if (problem.again && !again && attempts_ > 1) {
    problem.error.context += ", " + std::to_string(attempts_) + " times";
  }
  request_.ends_all = request_.ends_all || problem.no_way;
  status_ = std::move(problem.error);
  no_way_ = problem.no_way;
  fresh_ = reply_.status < 300;
  return again;
}

void S3Exchange::end(Errc code, const char* why, S3Common& common) noexcept {
  headers_.reset();
  status_ = guarded(code, request_.doing, [&]() -> Status {
    std::string text = request_.doing + " of " + request_.url + ": " + why;
    if (!status_) text += "; before that: " + status_.error().context;
    return Error{code, 0, std::move(text)};
  });
  request_.ends_all = request_.ends_all || code == Errc::timeout;
  if (code == Errc::canceled) ++common.counters.canceled;
}

void S3Exchange::end_with_batch(S3Common& common) noexcept {
  headers_.reset();
  const Status reason = guarded(Errc::canceled, request_.doing, [&] { return batch_->reason(); });
  status_ = {};
  if (reason) return end(Errc::canceled, "nobody waits for it any more", common);
  status_ = reason;
}

void S3Exchange::tell() noexcept { batch_->ended(status_, !status_ && request_.ends_all); }

}  // namespace cake::inline CAKE_ABI::detail
