// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Stands between a store and its server, in this process, and does wrong what a test tells it to.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "redis_wire.hpp"
#include "tests/loopback_server.hpp"

namespace cake_redis_test {

/// What the server has answered, which a test may change.
struct Answer {
  std::string bytes;
  std::optional<std::size_t> cut = {};  // so much of it is sent, then:
  enum class Then { close, reset, hang } then = Then::close;
  unsigned milliseconds_per_kilobyte = 0;

  void error(const std::string& text) { bytes = "-" + text + "\r\n"; }
  void end_after(std::size_t size, Then how) {
    cut = size;
    then = how;
  }
};

/// Thread:  Safe for concurrent use
class RedisProxy final : public cake_loopback_test::LoopbackServer {
 public:
  using Words = std::vector<std::string>;
  using Fault = std::function<void(const Words& command, Answer&)>;

  explicit RedisProxy(int server) : LoopbackServer(false), server_(server) { begin(); }
  ~RedisProxy() override { kill(); }

  /// Called with every answer before it is sent.
  void misbehave(Fault fault) {
    const std::lock_guard lock(mutex_);
    fault_ = std::move(fault);
  }
  void behave() { misbehave(nullptr); }
  /// Commands so far; a value among their words is cut.
  std::vector<Words> log() const {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  /// Of these, those that begin with a word.
  std::size_t count(const std::string& word) const {
    std::size_t count = 0;
    for (const Words& each : log()) count += each[0] == word;
    return count;
  }

 private:
  void serve(Connection& connection) override {
    Talk server(server_);
    for (;;) {
      std::size_t end = 0;
      while ((end = value_end(connection.ahead)) == std::string::npos) {
        if (!connection.fill()) return;
      }
      const std::string command = connection.ahead.substr(0, end);
      connection.ahead.erase(0, end);
      Words words = words_of(command);
      for (std::string& word : words) word.resize(std::min<std::size_t>(word.size(), 256));
      Answer answer{server.ask_raw(command)};
      Fault fault;
      {
        const std::lock_guard lock(mutex_);
        log_.push_back(words);
        fault = fault_;
      }
      if (fault) fault(words, answer);
      if ((answer.bytes.empty() && !answer.cut) || !send(connection, answer.bytes, answer)) return;
    }
  }

  const int server_;
  mutable std::mutex mutex_;
  Fault fault_;
  std::vector<Words> log_;
};

}  // namespace cake_redis_test
