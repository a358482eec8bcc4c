// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "reply.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>
#include <utility>

#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr std::size_t kMostText = 512;
constexpr std::int64_t kMostSkew = 300;  // seconds that are no reason to speak of the clock

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

std::optional<S3Range> range_of(std::string_view text) {
  if (!text.starts_with("bytes ")) return std::nullopt;
  text = trimmed(text.substr(6));
  const std::size_t dash = text.find('-');
  const std::size_t slash = text.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || dash > slash) {
    return std::nullopt;
  }
  const auto first = whole_number<std::uint64_t>(text.substr(0, dash));
  const auto last = whole_number<std::uint64_t>(text.substr(dash + 1, slash - dash - 1));
  const auto total = whole_number<std::uint64_t>(text.substr(slash + 1));
  if (!first || !last || !total || *first > *last || *last >= *total) return std::nullopt;
  return S3Range{*first, *last, *total};
}

int status_of(std::string_view line) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return 0;
  return whole_number<int>(line.substr(space + 1, 3)).value_or(0);
}

S3Problem problem(const S3Context& context, Errc code, int native, const std::string& what,
                  bool again = false) {
  return {
      {code, native, std::string(context.doing) + " of " + std::string(context.url) + ": " + what},
      again};
}

std::string clock_text(const S3Reply& reply) {
  if (!reply.date) return "";
  const std::int64_t ahead = std::time(nullptr) - *reply.date;
  if (std::abs(ahead) < kMostSkew) return "";
  return "this machine's clock is " + std::to_string(std::abs(ahead)) + " s " +
         (ahead > 0 ? "ahead of" : "behind") + " the server's; set it (NTP)";
}

struct Known {
  std::string_view code;  // of S3
  Errc error;
  std::string_view what;
};
// What comes again with every attempt, by the server's own code.
constexpr std::array kKnown{
    Known{"NoSuchBucket", Errc::io, "there is no such bucket; create it, or mend its name"},
    Known{"AccessDenied", Errc::io,
          "access is denied; the policy has to allow s3:GetObject, s3:PutObject, s3:DeleteObject "
          "and s3:ListBucket"},
    Known{"InvalidAccessKeyId", Errc::io,
          "the server does not know the access key; look at AWS_ACCESS_KEY_ID"},
    Known{"SignatureDoesNotMatch", Errc::io,
          "the signature is refused; look at AWS_SECRET_ACCESS_KEY and AWS_REGION"},
    Known{"ExpiredToken", Errc::io,
          "the session token has expired; get new credentials (S3Storage::set_credentials)"},
    Known{"InvalidToken", Errc::io,
          "the session token is refused; look at AWS_SESSION_TOKEN, or unset it"},
    Known{"QuotaExceeded", Errc::out_of_memory,
          "the quota is used up; raise it, or delete objects"},
    Known{"EntityTooLarge", Errc::out_of_memory, "the server does not take so large an object"},
};

std::optional<S3Problem> known_code(const std::string& code, const S3Reply& reply,
                                    const S3Context& context) {
  for (const Known& known : kKnown) {
    if (code == known.code) {
      return problem(context, known.error, reply.status, std::string(known.what));
    }
  }
  if (code == "RequestTimeTooSkewed" || code == "RequestExpired") {
    const std::string clock = clock_text(reply);
    return problem(context, Errc::io, reply.status,
                   "the server finds the time of the request wrong; " +
                       (clock.empty() ? "look at the clocks of both machines (NTP)" : clock));
  }
  return std::nullopt;
}

/// Another region, or another server.
std::optional<S3Problem> elsewhere(const std::string& code, const S3Reply& reply,
                                   const S3Context& context) {
  std::string region = reply.region;
  if (region.empty()) region = s3_element(reply.body, "Region").value_or("");
  const bool known = !region.empty() && plain_text(region) && region.size() <= 40;
  if (known && region != context.region && reply.status >= 300) {
    return problem(context, Errc::unsupported, reply.status,
                   "the bucket is in the region " + region + ", not in " +
                       std::string(context.region) + "; set AWS_REGION=" + region);
  }
  if (code == "AuthorizationHeaderMalformed") {
    return problem(context, Errc::unsupported, reply.status,
                   "the server expects another region than " + std::string(context.region) +
                       "; set AWS_REGION");
  }
  if (reply.status < 300 || reply.status >= 400) return std::nullopt;
  // Only the server's name: what is behind it may hold anything.
  const std::string_view location = reply.location;
  const std::size_t host = location.find("://");
  std::string to;
  if (host != std::string_view::npos && plain_text(location.substr(0, host))) {
    to = location.substr(0, location.find_first_of("/?#", host + 3));
    if (!host_text(std::string_view(to).substr(host + 3)) || to.size() > 100) to.clear();
  }
  return problem(context, Errc::unsupported, reply.status,
                 "the server redirects" + (to.empty() ? "" : " to " + to) +
                     ", which is not followed; name the right server by AWS_ENDPOINT_URL");
}

}  // namespace

void S3Reply::header(std::string_view line) {
  if (line.starts_with("HTTP/")) {
    *this = {};
    status = status_of(line);
    return;
  }
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return;
  const std::string_view name = trimmed(line.substr(0, colon));
  const std::string_view value = trimmed(line.substr(colon + 1));
  if (value.size() > kMostText) return;
  if (same_name(name, "content-length")) {
    length = whole_number<std::uint64_t>(value);
  } else if (same_name(name, "content-range")) {
    range = range_of(value);
  } else if (same_name(name, "etag")) {
    etag = value;
  } else if (same_name(name, "location")) {
    location = value;
  } else if (same_name(name, "x-amz-bucket-region")) {
    region = value;
  } else if (same_name(name, "retry-after")) {
    const auto seconds = whole_number<unsigned>(value);
    if (seconds) retry_after = std::chrono::seconds(std::min(*seconds, 3600u));
  } else if (same_name(name, "date")) {
    const std::time_t when = curl_getdate(std::string(value).c_str(), nullptr);
    if (when > 0) date = when;
  }
}

std::optional<std::string> s3_element(std::string_view xml, std::string_view name) {
  const std::string open = std::string("<").append(name);
  const std::string close = std::string("</").append(name).append(">");
  for (std::size_t at = xml.find(open); at != std::string_view::npos; at = xml.find(open, at + 1)) {
    const std::size_t after = at + open.size();
    if (after >= xml.size() || (xml[after] != '>' && xml[after] != ' ')) continue;
    const std::size_t begin = xml.find('>', after);
    if (begin == std::string_view::npos) return std::nullopt;
    const std::size_t end = xml.find('<', begin + 1);
    if (end == std::string_view::npos || end - begin > 1024) return std::nullopt;
    if (xml.substr(end, close.size()) != close) return std::nullopt;
    return std::string(trimmed(xml.substr(begin + 1, end - begin - 1)));
  }
  return std::nullopt;
}

std::string s3_error_code(std::string_view xml) {
  if (xml.find("<Error") == std::string_view::npos) return "";
  const std::string code = s3_element(xml, "Code").value_or("");
  const bool good = code.size() <= 64 && std::all_of(code.begin(), code.end(), [](char c) {
                      return std::isalnum(static_cast<unsigned char>(c)) != 0;
                    });
  return good ? code : "";
}

S3Problem s3_refused(const S3Reply& reply, const S3Context& context) {
  const std::string code = s3_error_code(reply.body);
  const auto told = [&](const std::string& what) {
    return code.empty() ? what : what + " (" + code + ")";
  };
  if (auto known = known_code(code, reply, context)) return *known;
  if (auto other = elsewhere(code, reply, context)) return *other;
  const int status = reply.status;
  const std::string number = "HTTP " + std::to_string(status);
  if (status == 404)
    return problem(context, Errc::not_found, status, told("there is no such object"));
  if (status == 416) {
    return problem(context, Errc::corrupt, status, told("the object ends before the read does"));
  }
  if (status == 401 || status == 403) {
    const std::string clock = clock_text(reply);
    return problem(context, Errc::io, status,
                   told("access is denied") + "; " +
                       (clock.empty() ? "look at the credentials and at the policy of " +
                                            std::string(context.bucket) +
                                            " (without s3:ListBucket an object that is not there "
                                            "is answered so, too)"
                                      : clock));
  }
  if (status == 429 || status == 503 || code == "SlowDown") {
    return problem(context, Errc::io, status,
                   told("the server asks to slow down") +
                       "; lower S3Options::connections, or give it more power",
                   true);
  }
  if (status == 507) return problem(context, Errc::out_of_memory, status, "the server is full");
  if (status == 409 || status == 408 || status >= 500 || code == "RequestTimeout") {
    const bool again = status != 501;
    return problem(context, again ? Errc::io : Errc::unsupported, status,
                   told("the server failed: " + number) + "; look at its log", again);
  }
  return problem(context, Errc::io, status,
                 told("the server refuses: " + number) + "; look at its log");
}

S3Problem s3_broken(int curl_code, std::string_view why, const S3Context& context) {
  const std::string said =
      why.empty() ? curl_easy_strerror(static_cast<CURLcode>(curl_code)) : printable_text(why, 160);
  const auto make = [&](const std::string& what, bool again, bool no_way) {
    S3Problem made = problem(context, Errc::io, 0, what + " (" + said + ")", again);
    made.no_way = no_way;
    return made;
  };
  switch (curl_code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return make("the server's name is not known; look at AWS_ENDPOINT_URL and the name service",
                  true, true);
    case CURLE_COULDNT_CONNECT:
      return make("the server cannot be reached; look whether it runs, and at AWS_ENDPOINT_URL",
                  true, true);
    case CURLE_OPERATION_TIMEDOUT:
      return make("the server did not answer in time; look whether it runs", true, true);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return make(
          "the server's certificate is not trusted; name its authority by "
          "S3Options::ca_file (AWS_CA_BUNDLE)",
          false, true);
    case CURLE_SSL_CONNECT_ERROR:
      return make("no TLS with the server; look whether AWS_ENDPOINT_URL should begin with http://",
                  true, true);
    case CURLE_OUT_OF_MEMORY:
      return {{Errc::out_of_memory, 0, std::string(context.doing)}, false};
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return make("the server does not answer as HTTP; look at AWS_ENDPOINT_URL", true, false);
    default:
      return make("the connection broke; look at the server and the network", true, false);
  }
}

}  // namespace cake::inline CAKE_ABI::detail
