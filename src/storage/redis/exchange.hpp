// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One request with all its attempts and redirections.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "address.hpp"
#include "cake/storage/redis.hpp"
#include "cake/storage_backend.hpp"
#include "link.hpp"
#include "reply.hpp"
#include "resp.hpp"
#include "src/storage/remote/attempts.hpp"
#include "src/storage/remote/batch.hpp"
#include "src/storage/remote/landed_bytes.hpp"

namespace cake::inline CAKE_ABI::detail {

struct RedisCounters {
  using Count = std::atomic<std::uint64_t>;
  Count requests{0}, retries{0}, redirections{0}, connects{0}, stalls{0}, reads{0}, canceled{0};
  Count read_bytes{0}, published{0}, published_bytes{0}, already_stored{0}, replaced{0};
  Count lookup_problems{0}, topologies{0};
  std::atomic<unsigned> masters{0};
  std::atomic<bool> cluster{false};
};

/// What all requests of a store have in common.
struct RedisCommon {
  explicit RedisCommon(const RedisOptions& from) : options(from), address(from) {}

  RedisOptions options;  // without credentials
  const RedisAddress address;
  RedisCounters counters;
  std::unique_ptr<const RedisTls> tls;  // null: connections are plain
  std::mutex mutex;
  std::shared_ptr<const RedisCredentials> credentials;  // guarded by the mutex

  std::shared_ptr<const RedisCredentials> credentials_now() {
    const std::lock_guard lock(mutex);
    return credentials;
  }
};

/// What is asked of a server.
struct RedisRequest {
  enum class Share : std::uint8_t { reads, writes, calls };  // whose connections it takes
  static constexpr std::size_t kShares = 3;
  using Kind = RespReply::Kind;

  Share share = Share::calls;
  std::string doing;                  // for people: "read"
  std::string key;                    // that decides about the node; "": none does
  std::optional<unsigned> slot = {};  // decides instead
  RespFrame frame;                    // the command; of a read it is made anew for each attempt
  ConstBytes body = {};               // between head and tail; stays until it is over
  std::array<Kind, 2> expects{Kind::integer, Kind::integer};  // of good answers
  // Of a read: where its bytes go, and which these are.
  std::uint64_t offset = 0;
  MutableBytes out = {};
  std::shared_ptr<PieceSink> sink = {};
  bool ends_all = true;  // a failure ends the other requests of its batch
};

/// Thread:  one driver's thread, until the batch is ready; then whoever waited
class RedisExchange {
 public:
  using Clock = RemoteClock;
  enum class Next : std::uint8_t { over, now, later };

  RedisExchange(RedisRequest request, std::shared_ptr<RemoteBatch> batch,
                Clock::time_point deadline)
      : request_(std::move(request)),
        batch_(std::move(batch)),
        deadline_(deadline),
        slot_(request_.slot.value_or(redis_slot(request_.key))),
        landed_(request_.out, request_.sink) {}

  RedisExchange(const RedisExchange&) = delete;
  RedisExchange& operator=(const RedisExchange&) = delete;
  /// Whoever waits is told, also where there was no memory to go on.
  ~RedisExchange();

  const RedisRequest& request() const { return request_; }
  RemoteBatch& batch() const { return *batch_; }
  /// What came of it, once it is over.
  const RespReply& reply() const { return reply_; }
  const Status& status() const { return status_; }

  // ---- for the driver ----

  unsigned slot() const { return slot_; }
  /// The command of the next attempt.
  RespFrame begin_attempt(RedisCommon& common);
  /// Where a value of this attempt goes; empty: its answer is kept.
  MutableBytes out() const { return sizing_ ? MutableBytes() : landed_.rest(); }
  /// So many bytes more of the value are in out().
  void landed(std::size_t bytes) { landed_.add(bytes); }
  /// The attempt has an answer, which says what is next.
  Next answered(RespReply&& reply, const RedisEndpoint& node, RedisCommon& common,
                std::minstd_rand& random);
  /// The attempt failed without an answer, or could not begin.
  Next failed(const RedisCause& cause, const RedisEndpoint& node, RedisCommon& common,
              std::minstd_rand& random);
  /// It is over as it is: `why` is added to what the last attempt ended with.
  void end(Errc code, const char* why, RedisCommon& common) noexcept;
  /// Ends as the batch did.
  void end_with_batch(RedisCommon& common) noexcept;
  /// Tells the batch. Once, when the driver has let go of it.
  void tell() noexcept;

  Clock::time_point deadline() const { return deadline_; }
  Clock::time_point not_before() const { return not_before_; }
  /// How the last attempt went on, and where to.
  RedisProblem::Then then() const { return then_; }
  const RedisEndpoint& to() const { return to_; }
  /// The next attempt goes to to(), after ASKING.
  bool asks() const { return asks_; }
  void routed() { asks_ = false; }

 private:
  Next ended(RedisProblem problem, RedisCommon& common, std::minstd_rand& random);
  /// Of an answer that is as long as it may be, and no error.
  Next good(RespReply&& reply, const RedisContext& context, RedisCommon& common,
            std::minstd_rand& random);
  RedisContext context(const std::string& url, const RedisEndpoint& node) const {
    return {request_.doing, url, node};
  }

  RedisRequest request_;
  std::shared_ptr<RemoteBatch> batch_;
  Clock::time_point deadline_;
  unsigned slot_;
  LandedBytes landed_;  // in all attempts
  Clock::time_point not_before_{};
  unsigned attempts_ = 0;
  unsigned redirections_ = 0;
  bool begun_ = false;  // an attempt
  bool told_ = false;
  bool redirected_ = false;  // the next attempt is not counted
  bool sizing_ = false;      // a read came back short: is it the object that is?
  bool asks_ = false;
  RedisProblem::Then then_ = RedisProblem::Then::nothing;
  RedisEndpoint to_;
  RespReply reply_;
  Status status_;
};

}  // namespace cake::inline CAKE_ABI::detail
