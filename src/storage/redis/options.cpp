// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <optional>
#include <string>

#include "address.hpp"
#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI {
namespace {

Error bad(const std::string& what) {
  return {Errc::invalid_argument, 0,
          "the address of a server is redis://[USER:PASSWORD@]HOST[:PORT][/PREFIX], or rediss:// "
          "with TLS; " +
              what};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// %XX stands for a character. None: a % stands for nothing.
std::optional<std::string> decoded(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      plain += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_digit(text[i + 1]);
    const int low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    plain += static_cast<char>(16 * high + low);
    i += 2;
  }
  return plain;
}

/// "USER:PASSWORD", ":PASSWORD" or "USER". Nothing of it is repeated.
Status take_credentials(std::string_view text, RedisOptions& options) {
  const std::size_t colon = text.find(':');
  const auto user = decoded(text.substr(0, colon));
  const auto password =
      decoded(colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1));
  if (!user || !password) return bad("a % in USER:PASSWORD has to be followed by two hex digits");
  options.credentials = {*user, *password};
  return {};
}

Status take_host(std::string_view text, RedisOptions& options) {
  std::size_t end = text.find(':');
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return bad("an address of IPv6 ends with ]");
    options.host = text.substr(1, close - 1);
    end = close + 1 < text.size() ? close + 1 : std::string_view::npos;
    if (end != std::string_view::npos && text[end] != ':') return bad("what follows ] is no port");
  } else {
    options.host = text.substr(0, end);
  }
  if (options.host.empty()) return bad("HOST is missing");
  if (end == std::string_view::npos) return {};
  options.port = detail::whole_number<std::uint16_t>(text.substr(end + 1)).value_or(0);
  if (options.port == 0) return bad("PORT is a number from 1 to 65535");
  return {};
}

}  // namespace

Result<RedisOptions> redis_options(std::string_view url) {
  RedisOptions options;
  if (url.starts_with("rediss://")) {
    options.tls = true;
    url.remove_prefix(9);
  } else if (url.starts_with("redis://")) {
    url.remove_prefix(8);
  } else {
    return bad("it has to begin with one of them");
  }
  if (url.find_first_of("?#") != std::string_view::npos) return bad("it takes no query");
  // A password may hold a slash, a host may not hold an @.
  const std::size_t at = url.rfind('@');
  if (at != std::string_view::npos) {
    if (Status status = take_credentials(url.substr(0, at), options); !status) {
      return status.error();
    }
    url.remove_prefix(at + 1);
  }
  const std::size_t slash = url.find('/');
  if (Status status = take_host(url.substr(0, slash), options); !status) return status.error();
  if (slash != std::string_view::npos && slash + 1 < url.size()) {
    options.prefix = url.substr(slash + 1);
  }
  if (options.credentials.password.empty()) {
    options.credentials.password = detail::environment("REDISCLI_AUTH");
  }
  options.ca_file = detail::environment("CAKE_REDIS_CA_FILE");
  options.certificate_file = detail::environment("CAKE_REDIS_CERTIFICATE_FILE");
  options.key_file = detail::environment("CAKE_REDIS_KEY_FILE");
  if (!options.credentials.user.empty() && options.credentials.password.empty()) {
    return bad("a USER needs a PASSWORD (or REDISCLI_AUTH)");
  }
  try {
    const detail::RedisAddress checked(options);
  } catch (const Exception& e) {
    return e.error();
  }
  return options;
}

}  // namespace cake::inline CAKE_ABI
