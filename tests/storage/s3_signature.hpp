// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Checks the signature of a request by the rules of AWS (Signature Version 4), without anything of
// the store that is tested: what a server does.
#pragma once

#include <openssl/hmac.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cake_s3_test {

/// A request as it came in. Names of headers are in lower case.
struct Asked {
  std::string method;
  std::string path;   // as it came, without the query
  std::string query;  // as it came
  std::map<std::string, std::string> headers;
  std::string body;
  std::size_t number = 0;  // counts all requests from 1

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct Keys {
  std::string access = "AKIDEXAMPLE";
  std::string secret = "wJalrXUtnFEMI+K7MDENG/bPxRfiCYEXAMPLEKEY";
  std::string token = {};
  std::string region = "eu-test-7";
};

inline std::string hex(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    constexpr const char* digits = "0123456789abcdef";
    text += digits[static_cast<unsigned char>(c) >> 4];
    text += digits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}
inline std::string sha256(const std::string& text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}
inline std::string hmac(const std::string& key, const std::string& text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  unsigned size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(),
       reinterpret_cast<unsigned char*>(digest.data()), &size);
  return digest;
}

inline std::string decoded(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      plain += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}
inline std::string encoded(std::string_view text, bool keep_slash) {
  std::string safe;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' ||
                       c == '_' || c == '~' || (keep_slash && c == '/');
    if (plain) {
      safe += c;
      continue;
    }
    std::string code = hex(std::string(1, c));
    std::transform(code.begin(), code.end(), code.begin(),
                   [](unsigned char d) { return static_cast<char>(std::toupper(d)); });
    safe += "%" + code;
  }
  return safe;
}

inline std::vector<std::pair<std::string, std::string>> parameters(const std::string& query) {
  std::vector<std::pair<std::string, std::string>> all;
  for (std::size_t at = 0; at < query.size();) {
    const std::size_t end = std::min(query.find('&', at), query.size());
    const std::string one = query.substr(at, end - at);
    const std::size_t equals = std::min(one.find('='), one.size());
    all.emplace_back(decoded(one.substr(0, equals)),
                     equals < one.size() ? decoded(one.substr(equals + 1)) : "");
    at = end + 1;
  }
  return all;
}
inline std::string parameter(const std::string& query, const std::string& name) {
  for (const auto& [key, value] : parameters(query)) {
    if (key == name) return value;
  }
  return "";
}

/// Sorted and encoded as the rules want it, whatever order it came in.
inline std::string canonical_query(const std::string& query) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& [key, value] : parameters(query)) {
    all.emplace_back(encoded(key, false), encoded(value, false));
  }
  std::sort(all.begin(), all.end());
  std::string text;
  for (const auto& [key, value] : all) text += (text.empty() ? "" : "&") + key + "=" + value;
  return text;
}

/// What is wrong with the signature; "" where nothing is.
inline std::string signature_fault(const Asked& asked, const Keys& keys) {
  const std::string authorization = asked.header("authorization");
  const auto part = [&](const std::string& name) {
    const std::size_t at = authorization.find(name + "=");
    if (at == std::string::npos) return std::string();
    const std::size_t begin = at + name.size() + 1;
    return authorization.substr(begin, authorization.find_first_of(", ", begin) - begin);
  };
  if (!authorization.starts_with("AWS4-HMAC-SHA256 ")) return "no AWS4-HMAC-SHA256";
  const std::string date = asked.header("x-amz-date");
  if (date.size() != 16) return "no x-amz-date";
  const std::string scope = date.substr(0, 8) + "/" + keys.region + "/s3/aws4_request";
  if (part("Credential") != keys.access + "/" + scope) return "credential " + part("Credential");
  if (asked.header("x-amz-security-token") != keys.token) return "session token";
  std::string names = part("SignedHeaders");
  std::string headers;
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end = std::min(names.find(';', at), names.size());
    const std::string name = names.substr(at, end - at);
    headers += name + ":" + asked.header(name) + "\n";
    at = end + 1;
  }
  const auto is_signed = [&](const std::string& name) {
    return (";" + names + ";").find(";" + name + ";") != std::string::npos;
  };
  // All headers of Amazon's own are to be signed, and the host.
  for (const auto& [name, value] : asked.headers) {
    if ((name.starts_with("x-amz-") || name == "host") && !is_signed(name)) {
      return name + " is not signed";
    }
  }
  const std::string payload = asked.header("x-amz-content-sha256");
  if (payload != "UNSIGNED-PAYLOAD" && payload != hex(sha256(asked.body))) return "payload";
  const std::string canonical = asked.method + "\n" + encoded(decoded(asked.path), true) + "\n" +
                                canonical_query(asked.query) + "\n" + headers + "\n" + names +
                                "\n" + payload;
  const std::string text =
      "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + hex(sha256(canonical));
  std::string key = hmac("AWS4" + keys.secret, date.substr(0, 8));
  for (const std::string& step : {keys.region, std::string("s3"), std::string("aws4_request")}) {
    key = hmac(key, step);
  }
  return hex(hmac(key, text)) == part("Signature") ? "" : "signature";
}

}  // namespace cake_s3_test
