// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A thread that carries out requests over one multi handle of libcurl.
#pragma once

#include <curl/curl.h>

#include <array>
#include <atomic>
#include <chrono>
#include <list>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "exchange.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Requests of each share wait in the order in which they came, those of one share for none of
/// another one. Deadlines and cancellation are noticed within 20 ms, cancellation at once.
///
/// Thread:  Safe for concurrent use
class S3Driver final : public RemoteDriver {
 public:
  using Exchanges = std::list<std::shared_ptr<S3Exchange>>;
  /// `most`: requests in flight, of each S3Request::Share.
  ///
  /// Errors:  throws Exception(out_of_memory): no thread or no handle
  S3Driver(S3Common& common, std::array<unsigned, 3> most);
  /// Ends all requests as canceled.
  ~S3Driver() override;
  S3Driver(const S3Driver&) = delete;
  S3Driver& operator=(const S3Driver&) = delete;

  /// Takes all of them, and needs no memory for that.
  void submit(Exchanges& exchanges) noexcept;
  /// Something was canceled.
  void wake() noexcept override;
  /// As the destructor. Later requests end at once.
  void stop() noexcept;

 private:
  using Clock = S3Exchange::Clock;
  struct Active {
    std::shared_ptr<S3Exchange> exchange;
    CURL* handle = nullptr;
    bool added = false;
  };

  void work() noexcept;
  void take_new();
  /// Ends what is late, canceled or stalled.
  void sweep(Clock::time_point now);
  void start(Clock::time_point now);
  bool begin(std::shared_ptr<S3Exchange> exchange);
  void finish();
  void over(std::list<Active>::iterator active, CURLcode code);
  void release(Active& active) noexcept;
  void wait(Clock::time_point now);
  void end_all();
  static std::size_t share_of(const S3Exchange& exchange) {
    return static_cast<std::size_t>(exchange.request().share);
  }

  S3Common& common_;
  const std::array<unsigned, 3> most_;
  CURLM* multi_ = nullptr;
  std::atomic<bool> swept_{true};  // nothing was canceled since the last look

  std::mutex mutex_;
  Exchanges new_;  // guarded by the mutex
  bool stop_ = false;

  // Of the thread.
  std::array<Exchanges, 3> waiting_;
  Exchanges later_;  // those that pause
  std::list<Active> active_;
  std::array<unsigned, 3> running_{};
  std::vector<CURL*> idle_;
  Clock::time_point next_sweep_{};
  Clock::time_point closed_until_{};  // nothing is begun before: there was no way to the server
  std::minstd_rand random_;

  std::mutex joining_;
  std::thread thread_;
};

}  // namespace cake::inline CAKE_ABI::detail
