// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "address.hpp"

#include <algorithm>

#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

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
  refuse("bucket is \"" + printable_text(bucket, 80) +
         "\"; a bucket's name has 3 to 63 letters, digits, dots and dashes");
}

/// Without slashes at its ends; "" or with one behind it.
std::string checked_prefix(const std::string& prefix) {
  const auto good = name_prefix(prefix);
  if (!good) {
    refuse("prefix is \"" + printable_text(prefix, 80) +
           "\"; it takes up to 512 letters, digits and . _ ~ - / , and no part \"..\"");
  }
  return good->empty() ? "" : *good + "/";
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
  if (!host_text(rest)) {
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

Result<std::string> s3_query(S3Query query) {
  std::sort(query.begin(), query.end());
  std::string text;
  for (const auto& [name, value] : query) {
    if (!plain_text(name) || !plain_text(value)) {
      return Error{Errc::unsupported, 0,
                   "the server's answer names something by characters that a signed request does "
                   "not take as they are"};
    }
    if (!text.empty()) text += '&';
    text += name;
    text += '=';
    text += value;
  }
  return text;
}

S3Address::S3Address(const S3Options& options) : bucket_(options.bucket) {
  check_bucket(options.bucket);
  prefix_ = checked_prefix(options.prefix);
  if (options.region.empty() || !plain_text(options.region)) {
    refuse("region is \"" + printable_text(options.region, 40) + "\"; it is a name like us-east-1");
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

std::optional<ChunkKey> S3Address::key_of(std::string_view name) const {
  // "ab/ab....ckv"
  constexpr std::size_t kHex = 64, kFolder = 3;
  if (name.size() != prefix_.size() + kFolder + kHex + 4) return std::nullopt;
  const auto key = ChunkKey::from_hex(name.substr(prefix_.size() + kFolder, kHex));
  if (!key || name_of(*key) != name) return std::nullopt;
  return key;
}

std::string S3Address::name_of(const ChunkKey& key) const {
  const std::string hex = key.hex();
  return prefix_ + hex.substr(0, 2) + "/" + hex + ".ckv";
}

}  // namespace cake::inline CAKE_ABI::detail
