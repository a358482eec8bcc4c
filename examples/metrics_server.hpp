// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The least of HTTP that Prometheus needs: GET /metrics, on loopback, one client at a time. A service has
// a server already and gives it the text.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>

#include "cake/metrics.hpp"
#include "cake/result.hpp"

namespace cake::examples {

class MetricsServer {
 public:
  /// `port` 0: any that is free.
  explicit MetricsServer(std::uint16_t port) : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    const int on = 1;
    if (listener_ < 0 || ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(listener_, any, size) != 0 || ::listen(listener_, 8) != 0 ||
        ::getsockname(listener_, any, &size) != 0) {
      const int number = errno;
      if (listener_ >= 0) ::close(listener_);
      throw Exception(errno_error(
          number, "listen on 127.0.0.1:" + std::to_string(port) + " (choose another --port)"));
    }
    port_ = ntohs(address.sin_port);
  }
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;
  ~MetricsServer() { ::close(listener_); }

  std::uint16_t port() const { return port_; }

  /// Answers with text() until the standard input ends.
  template <class Text>
  void serve(Text&& text) {
    for (;;) {
      pollfd wait[] = {{listener_, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
      if (::poll(wait, 2, -1) < 0) continue;  // a signal
      char ignored[256];
      if (wait[1].revents != 0 && ::read(STDIN_FILENO, ignored, sizeof ignored) <= 0) return;
      if ((wait[0].revents & POLLIN) == 0) continue;
      const int client = ::accept(listener_, nullptr, nullptr);
      if (client < 0) continue;
      answer(client, text);
      ::close(client);
    }
  }

 private:
  template <class Text>
  static void answer(int client, Text& text) {
    const timeval longest{1, 0};  // a client that says nothing keeps nobody waiting
    ::setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof longest);
    ::setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest);
    std::string request;
    while (request.find("\r\n\r\n") == std::string::npos && request.size() < 8192) {
      char part[1024];
      const ssize_t n = ::recv(client, part, sizeof part, 0);
      if (n <= 0) return;
      request.append(part, static_cast<std::size_t>(n));
    }
    const std::string_view line = std::string_view(request).substr(0, request.find("\r\n"));
    if (!line.starts_with("GET ")) return send(client, "405 Method Not Allowed", "GET alone\n");
    if (!line.starts_with("GET /metrics ") && !line.starts_with("GET /metrics?")) {
      return send(client, "404 Not Found", "see /metrics\n");
    }
    send(client, "200 OK", text());
  }

  static void send(int client, const char* status, const std::string& body) {
    std::string text = std::string("HTTP/1.1 ") + status +
                       "\r\nContent-Type: " + kPrometheusContentType +
                       "\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
                       "\r\n\r\n" + body;
    while (!text.empty()) {
      const ssize_t n = ::send(client, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.erase(0, static_cast<std::size_t>(n));
    }
  }

  int listener_;
  std::uint16_t port_ = 0;
};

}  // namespace cake::examples
