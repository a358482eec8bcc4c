// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A small server of the S3 protocol on loopback, in this process, that checks signatures by itself and
// does wrong what a test tells it to.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "s3_signature.hpp"

namespace cake_s3_test {

/// What the server is about to answer, which a test may change.
struct Answer {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
  bool no_body = false;                      // of a HEAD
  std::optional<std::uint64_t> length = {};  // another Content-Length than the body's
  std::optional<std::size_t> cut = {};       // so much of the body is sent, then:
  enum class Then { close, reset, hang } then = Then::close;
  bool reset_at_once = false;              // nothing is sent
  bool hang_at_once = false;               // nothing is sent, and the connection stays
  std::string raw = {};                    // sent instead of all that
  unsigned milliseconds_per_kilobyte = 0;  // of the body

  void set(const std::string& name, const std::string& value) {
    for (auto& [key, old] : headers) {
      if (key == name) {
        old = value;
        return;
      }
    }
    headers.emplace_back(name, value);
  }
  /// An error as S3 tells it.
  void error(int with, const std::string& code, const std::string& more = "") {
    status = with;
    length.reset();
    headers.clear();
    body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>" + code + "</Code>" + more +
           "</Error>";
  }
};

/// How it is set up.
struct ServerOptions {
  Keys keys = {};
  std::string bucket = "bucket";
  std::string host_suffix = {};  // of virtual hosts: BUCKET.suffix
  bool knows_conditions = true;  // else it answers If-None-Match with 501
  bool ignores_conditions = false;
  bool tls = false;
};

/// Thread:  Safe for concurrent use
class Server {
 public:
  using Options = ServerOptions;
  using Fault = std::function<void(const Asked&, Answer&)>;

  explicit Server(Options options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::uint16_t port() const { return port_; }
  std::string endpoint() const;
  /// PEM file of its certificate, for 127.0.0.1; with tls.
  const std::string& certificate() const { return certificate_file_; }
  /// Called with every answer before it is sent.
  void misbehave(Fault fault);
  void behave() { misbehave(nullptr); }
  /// As a process that is killed: no listener and no connection is left.
  void kill();

  std::size_t requests() const { return requests_; }
  std::size_t connections() const { return accepted_; }
  std::size_t uploads() const;
  std::vector<std::string> bad_signatures() const;
  std::vector<Asked> log() const;  // without bodies
  std::map<std::string, std::string> objects() const;
  void put(const std::string& name, std::string bytes);

 private:
  struct Connection;
  struct Upload {
    std::string name;
    std::map<int, std::string> parts;
  };
  void listen();
  void accept();
  void serve(Connection& connection);
  bool send_answer(Connection& connection, const Asked& asked, const Answer& answer);
  Answer answer(const Asked& asked, std::string& name);
  Answer get(const Asked& asked, const std::string& name);
  Answer store(const Asked& asked, const std::string& name, std::string bytes);
  Answer parts(const Asked& asked, const std::string& name);
  void hang(const Connection& connection);
  void set_up_tls();

  const Options options_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<std::size_t> requests_{0}, accepted_{0};
  std::string certificate_file_;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> tls_{nullptr, &SSL_CTX_free};

  mutable std::mutex mutex_;
  Fault fault_;
  std::map<std::string, std::string> objects_;  // by name in the bucket
  std::map<std::string, Upload> uploads_;
  std::size_t next_upload_ = 0;
  std::vector<std::string> bad_;
  std::vector<Asked> log_;
  std::vector<std::unique_ptr<Connection>> open_;
  std::thread acceptor_;
};

}  // namespace cake_s3_test
