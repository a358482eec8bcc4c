// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// RESP for tests, which knows nothing of how the library reads it, and a client that waits.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cake_redis_test {

/// Where the value ends that begins at `at`, a command or a reply; npos: not all of it is there.
inline std::size_t value_end(std::string_view text, std::size_t at = 0) {
  constexpr auto npos = std::string_view::npos;
  const std::size_t line = text.find("\r\n", at);
  if (line == npos) return npos;
  const long long number = std::atoll(std::string(text.substr(at + 1, line - at - 1)).c_str());
  std::size_t end = line + 2;
  if (text[at] == '$' && number >= 0) {
    end += static_cast<std::size_t>(number) + 2;
  } else if (text[at] == '*') {
    for (long long i = 0; i < number && end != npos; ++i) end = value_end(text, end);
  }
  return end <= text.size() ? end : npos;
}

/// The words of a command.
inline std::vector<std::string> words_of(std::string_view command) {
  std::vector<std::string> words;
  std::size_t at = command.find("\r\n") + 2;
  while (at < command.size()) {
    const std::size_t line = command.find("\r\n", at);
    const auto size = static_cast<std::size_t>(
        std::atoll(std::string(command.substr(at + 1, line - at - 1)).c_str()));
    words.emplace_back(command.substr(line + 2, size));
    at = line + 2 + size + 2;
  }
  return words;
}

inline std::string command_of(const std::vector<std::string>& words) {
  std::string text("*");
  text.append(std::to_string(words.size())).append("\r\n");
  for (const std::string& word : words) {
    text.append("$").append(std::to_string(word.size())).append("\r\n").append(word).append("\r\n");
  }
  return text;
}

inline std::string bulk_of(std::string_view text) {
  return std::string("$")
      .append(std::to_string(text.size()))
      .append("\r\n")
      .append(text)
      .append("\r\n");
}

inline std::string number_of(std::int64_t number) {
  return std::string(":").append(std::to_string(number)).append("\r\n");
}

/// A connection that is asked, and waits for each answer.
class Talk {
 public:
  explicit Talk(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    const timeval most{20, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    good_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  Talk(const Talk&) = delete;
  Talk& operator=(const Talk&) = delete;
  ~Talk() { ::close(fd_); }

  bool good() const { return good_; }
  int fd() const { return fd_; }
  /// The answer as it came; "" where there is none.
  std::string ask_raw(std::string_view command) {
    for (std::size_t at = 0; good_ && at < command.size();) {
      const auto n = ::send(fd_, command.data() + at, command.size() - at, MSG_NOSIGNAL);
      good_ = n > 0;
      if (good_) at += static_cast<std::size_t>(n);
    }
    std::string answer;
    std::vector<char> buffer(std::size_t{1} << 20);
    while (good_ && value_end(answer) == std::string::npos) {
      const auto n = ::recv(fd_, buffer.data(), buffer.size(), 0);
      good_ = n > 0;
      if (good_) answer.append(buffer.data(), static_cast<std::size_t>(n));
    }
    return good_ ? answer : "";
  }
  std::string ask(const std::vector<std::string>& words) { return ask_raw(command_of(words)); }

 private:
  int fd_;
  bool good_ = false;
};

}  // namespace cake_redis_test
