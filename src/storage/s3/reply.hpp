// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a server answered, and what it means. Nothing that it says is believed beyond its form.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Of "Content-Range: bytes 0-9/100".
struct S3Range {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t total = 0;
};

/// What of an answer counts. Texts are kept to a few hundred bytes each.
struct S3Reply {
  int status = 0;  // 0: there was no answer
  std::optional<std::uint64_t> length;
  std::optional<S3Range> range;
  std::optional<std::chrono::seconds> retry_after;
  std::optional<std::int64_t> date;  // of the server's clock, seconds since 1970
  std::string etag;
  std::string region;
  std::string location;
  std::string body;  // of what is no object, its first 64 KiB

  /// Takes one line of the head.
  void header(std::string_view line);
  bool good() const { return status >= 200 && status < 300; }
};

/// The text of the first such element of an XML document that has no elements in it, at most 1 KiB;
/// none where it is not there, or longer. Entities stay as they are.
std::optional<std::string> s3_element(std::string_view xml, std::string_view name);

/// The code of an error in a body, "NoSuchKey" say: letters and digits; "" where there is none.
std::string s3_error_code(std::string_view xml);

/// Why an attempt failed.
struct S3Problem {
  Error error;
  bool again = false;   // another attempt may succeed
  bool no_way = false;  // there was no way to the server: other requests have none either
};

/// What a request was about.
struct S3Context {
  std::string_view doing;   // "read"
  std::string_view url;     // without its query
  std::string_view region;  // that it was signed for
  std::string_view bucket;
};

/// Of an answer that is not a good one.
S3Problem s3_refused(const S3Reply& reply, const S3Context& context);

/// Of an attempt that brought no whole answer: a code of libcurl, and what libcurl says of it.
S3Problem s3_broken(int curl_code, std::string_view why, const S3Context& context);

}  // namespace cake::inline CAKE_ABI::detail
