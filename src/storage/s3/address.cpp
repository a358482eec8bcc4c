// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "address.hpp"

#include <algorithm>
#include <cctype>

namespace cake::inline CAKE_ABI::detail {
namespace {

bool letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

[[noreturn]] void refuse(const std::string& what) {
  throw Exception({Errc::invalid_argument, 0, "S3Options::" + what});
}

void check_bucket(const std::string& bucket) {
  const bool good = bucket.size() >= 3 && bucket.size() <= 63 && letter_or_digit(bucket.front()) &&
                    letter_or_digit(bucket.back()) && bucket.find("..") == std::string::npos &&
                    std::all_of(bucket.begin(), bucket.end(), [](char c) {
                      return letter_or_digit(c) || c == '.' || c == '-' || c == '_';
                    });
  if (good) return;
  refuse("bucket is \"" + s3_printable(bucket, 80) +
         "\"; a bucket's name has 3 to 63 letters, digits, dots and dashes");
}

/// Without slashes at its ends; "" or with one behind it.
std::string checked_prefix(std::string prefix) {
  while (!prefix.empty() && prefix.front() == '/') prefix.erase(prefix.begin());
  while (!prefix.empty() && prefix.back() == '/') prefix.pop_back();
  if (prefix.empty()) return prefix;
  const std::string around = "/" + prefix + "/";
  const auto has = [&](const char* part) { return around.find(part) != std::string::npos; };
  const bool plain = std::all_of(prefix.begin(), prefix.end(), [](char c) {
    return c == '/' || s3_plain({&c, 1});
  });
  if (!plain || has("//") || has("/./") || has("/../") || prefix.size() > 512) {
    refuse("prefix is \"" + s3_printable(prefix, 80) +
           "\"; it takes up to 512 letters, digits and . _ ~ - / , and no part \"..\"");
  }
  return prefix + "/";
}

/// "host[:port]" of an endpoint. What is wrong with it is said without it: it may hold a password.
std::string host_of(const std::string& endpoint, bool& encrypted) {
  std::string_view rest = endpoint;
  if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
    encrypted = false;
  } else {
    refuse("endpoint (AWS_ENDPOINT_URL) has to begin with https:// or http://");
  }
  while (rest.ends_with('/')) rest.remove_suffix(1);
  if (!s3_host(rest)) {
    refuse(
        "endpoint (AWS_ENDPOINT_URL) has to be https://HOST or https://HOST:PORT, without user, "
        "path or query");
  }
  return std::string(rest);
}

std::string aws_host(const std::string& region) {
  return "s3." + region + (region.starts_with("cn-") ? ".amazonaws.com.cn" : ".amazonaws.com");
}

/// A certificate for *.HOST does not cover a dot in front of it.
bool may_be_host(const std::string& bucket) {
  return std::all_of(bucket.begin(), bucket.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

}  // namespace

bool s3_plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return letter_or_digit(c) || c == '.' || c == '_' || c == '~' || c == '-';
  });
}

bool s3_host(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return letter_or_digit(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' ||
           c == ']';
  });
}

std::string s3_printable(std::string_view text, std::size_t most) {
  std::string shown;
  for (const char c : text.substr(0, most)) shown += c >= ' ' && c <= '~' ? c : '?';
  return text.size() > most ? shown + "..." : shown;
}

Result<std::string> s3_query(S3Query query) {
  std::sort(query.begin(), query.end());
  std::string text;
  for (const auto& [name, value] : query) {
    if (!s3_plain(name) || !s3_plain(value)) {
      return Error{Errc::unsupported, 0,
                   "the server's answer names something by characters that a signed request does "
                   "not take as they are"};
    }
    text += (text.empty() ? "" : "&") + name + "=" + value;
  }
  return text;
}

S3Address::S3Address(const S3Options& options) : bucket_(options.bucket) {
  check_bucket(options.bucket);
  prefix_ = checked_prefix(options.prefix);
  if (options.region.empty() || !s3_plain(options.region)) {
    refuse("region is \"" + s3_printable(options.region, 40) + "\"; it is a name like us-east-1");
  }
  const bool own = !options.endpoint.empty();
  const std::string host = own ? host_of(options.endpoint, encrypted_) : aws_host(options.region);
  const bool in_host =
      options.addressing == S3Addressing::virtual_host ||
      (options.addressing == S3Addressing::automatic && !own && may_be_host(options.bucket));
  const std::string scheme = encrypted_ ? "https://" : "http://";
  base_ =
      scheme + (in_host ? options.bucket + "." + host + "/" : host + "/" + options.bucket + "/");
  shown_ = base_ + prefix_;
  shown_.pop_back();
}

std::string S3Address::name_of(const ChunkKey& key) const {
  const std::string hex = key.hex();
  return prefix_ + hex.substr(0, 2) + "/" + hex + ".ckv";
}

}  // namespace cake::inline CAKE_ABI::detail
