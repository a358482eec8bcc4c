// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What servers of tests have in common: on loopback, in this process, a thread for each connection.
#pragma once

#include <openssl/ssl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "certificate.hpp"

namespace cake_loopback_test {

/// Thread:  Safe for concurrent use
class LoopbackServer {
 public:
  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;

  std::uint16_t port() const { return port_; }
  std::size_t connections() const { return accepted_; }
  /// PEM file of its certificate, for 127.0.0.1; with TLS.
  const std::string& certificate() const { return certificate_->file(); }
  /// As a process that is killed: no listener and no connection is left.
  void kill();

 protected:
  struct Connection {
    int fd = -1;
    SSL* ssl = nullptr;
    std::string ahead;  // read, and not yet used
    std::thread thread;

    ~Connection();
    /// False at the end of the connection.
    bool fill();
    bool send(const char* data, std::size_t size);
    bool send(const std::string& text) { return send(text.data(), text.size()); }
    void reset() const;
    /// The other side sees a reset. Its number stays taken, since others may look at it.
    void break_off();
  };

  explicit LoopbackServer(bool tls);
  /// Needs:   kill() has been called, by the class that has serve()
  virtual ~LoopbackServer() = default;
  void begin();
  /// Until the connection ends.
  virtual void serve(Connection& connection) = 0;
  /// Until the other side gives up.
  void hang(const Connection& connection) const;
  /// Sends them as an answer says: only so many, slowly, and how it goes on then. False: the connection
  /// is over.
  template <class Answer>
  bool send(Connection& connection, const std::string& bytes, const Answer& answer) const {
    const std::size_t size = std::min(answer.cut.value_or(bytes.size()), bytes.size());
    const std::size_t step =
        answer.milliseconds_per_kilobyte != 0 ? 1024 : std::max<std::size_t>(size, 1);
    for (std::size_t at = 0; at < size; at += step) {
      if (!connection.send(bytes.data() + at, std::min(step, size - at))) return false;
      if (answer.milliseconds_per_kilobyte == 0 || stopping()) continue;
      std::this_thread::sleep_for(std::chrono::milliseconds(answer.milliseconds_per_kilobyte));
    }
    if (!answer.cut) return true;
    if (answer.then == Answer::Then::hang) hang(connection);
    if (answer.then == Answer::Then::reset) connection.break_off();
    return false;
  }
  bool stopping() const { return stop_; }

 private:
  void listen();
  void accept();
  void run(Connection& connection);

  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<std::size_t> accepted_{0};
  std::optional<Certificate> certificate_;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> tls_{nullptr, &SSL_CTX_free};
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> open_;
  std::thread acceptor_;
};

}  // namespace cake_loopback_test
