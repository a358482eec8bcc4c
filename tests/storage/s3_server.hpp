// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A small server of the S3 protocol on loopback, in this process, that checks signatures by itself and
// does wrong what a test tells it to.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "s3_signature.hpp"
#include "tests/loopback_server.hpp"

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
  std::size_t most_names = 1000;  // of one LIST
};

/// Thread:  Safe for concurrent use
class Server final : public cake_loopback_test::LoopbackServer {
 public:
  using Options = ServerOptions;
  using Fault = std::function<void(const Asked&, Answer&)>;

  explicit Server(Options options = {});
  ~Server() override;

  std::string endpoint() const;
  /// Called with every answer before it is sent.
  void misbehave(Fault fault);
  void behave() { misbehave(nullptr); }

  std::size_t requests() const { return requests_; }
  std::size_t uploads() const;
  std::vector<std::string> bad_signatures() const;
  std::vector<Asked> log() const;  // without bodies
  std::map<std::string, std::string> objects() const;
  void put(const std::string& name, std::string bytes);

 private:
  struct Upload {
    std::string name;
    std::map<int, std::string> parts;
  };
  void serve(Connection& connection) override;
  static bool read(Connection& from, Asked& asked);
  bool send_answer(Connection& connection, const Asked& asked, const Answer& answer);
  Answer answer(const Asked& asked, std::string& name);
  Answer get(const Asked& asked, const std::string& name);
  Answer list(const Asked& asked) const;
  Answer store(const Asked& asked, const std::string& name, std::string bytes);
  Answer parts(const Asked& asked, const std::string& name);

  const Options options_;
  std::atomic<std::size_t> requests_{0};

  mutable std::mutex mutex_;
  Fault fault_;
  std::map<std::string, std::string> objects_;  // by name in the bucket
  std::map<std::string, Upload> uploads_;
  std::size_t next_upload_ = 0;
  std::vector<std::string> bad_;
  std::vector<Asked> log_;
};

}  // namespace cake_s3_test
