// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <string>

#include "address.hpp"
#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI {
Result<S3Options> s3_options(std::string_view url) {
  constexpr std::string_view kScheme = "s3://";
  if (!url.starts_with(kScheme)) {
    return Error{Errc::invalid_argument, 0, "the address of a bucket is s3://BUCKET/PREFIX"};
  }
  url.remove_prefix(kScheme.size());
  const std::size_t slash = url.find('/');
  S3Options options;
  options.bucket = url.substr(0, slash);
  if (options.bucket.find_first_of("@:") != std::string::npos) {
    return Error{Errc::invalid_argument, 0,
                 "the address of a bucket is s3://BUCKET/PREFIX; credentials and servers are named "
                 "by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"};
  }
  if (slash != std::string_view::npos) options.prefix = url.substr(slash + 1);
  options.credentials = {detail::environment("AWS_ACCESS_KEY_ID"),
                         detail::environment("AWS_SECRET_ACCESS_KEY"),
                         detail::environment("AWS_SESSION_TOKEN")};
  if (auto region = detail::environment("AWS_REGION", "AWS_DEFAULT_REGION"); !region.empty()) {
    options.region = std::move(region);
  }
  options.endpoint = detail::environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
  options.ca_file = detail::environment("AWS_CA_BUNDLE");
  if (options.credentials.access_key.empty() || options.credentials.secret_key.empty()) {
    return Error{Errc::invalid_argument, 0,
                 "s3://" + detail::printable_text(options.bucket, 80) +
                     ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"};
  }
  try {
    const detail::S3Address checked(options);
  } catch (const Exception& e) {
    return e.error();
  }
  return options;
}

}  // namespace cake::inline CAKE_ABI
