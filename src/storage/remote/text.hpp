// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Texts of addresses, and of what somebody else wrote.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

inline bool letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/// Whether text needs no encoding in a URL.
inline bool plain_text(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return letter_or_digit(c) || c == '.' || c == '_' || c == '~' || c == '-';
  });
}

/// Whether text may be "HOST" or "HOST:PORT".
inline bool host_text(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return letter_or_digit(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' ||
           c == ']';
  });
}

/// The number that all of the text is, in decimal; none: it is no such number, or does not fit.
template <class T>
std::optional<T> whole_number(std::string_view text) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Printable characters of a text that somebody else wrote, at most `most` of them.
inline std::string printable_text(std::string_view text, std::size_t most) {
  std::string shown;
  for (const char c : text.substr(0, most)) shown += c >= ' ' && c <= '~' ? c : '?';
  return text.size() > most ? shown + "..." : shown;
}

/// A prefix of names without slashes at its ends; none where it cannot be one: it takes up to 512
/// letters, digits and . _ ~ - / , and no part that is empty, "." or "..".
inline std::optional<std::string> name_prefix(std::string prefix) {
  while (!prefix.empty() && prefix.front() == '/') prefix.erase(prefix.begin());
  while (!prefix.empty() && prefix.back() == '/') prefix.pop_back();
  const std::string around = "/" + prefix + "/";
  const auto has = [&](const char* part) { return around.find(part) != std::string::npos; };
  const bool plain = std::all_of(prefix.begin(), prefix.end(), [](char c) {
    return c == '/' || plain_text({&c, 1});
  });
  const bool parts = prefix.empty() || (!has("//") && !has("/./") && !has("/../"));
  if (!plain || !parts || prefix.size() > 512) return std::nullopt;
  return prefix;
}

/// The first of these variables that is set and not empty.
template <class... Name>
std::string environment(const Name*... names) {
  std::string found;
  const auto look = [&](const char* name) {
    const char* const value = std::getenv(name);
    if (found.empty() && value != nullptr) found = value;
  };
  (look(names), ...);
  return found;
}

}  // namespace cake::inline CAKE_ABI::detail
