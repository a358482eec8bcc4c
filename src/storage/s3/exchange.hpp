// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One request of HTTP with all its attempts, and the work that several requests make up.
#pragma once

#include <curl/curl.h>

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

#include "cake/engine.hpp"
#include "cake/storage/s3.hpp"
#include "cake/storage_backend.hpp"
#include "reply.hpp"
#include "src/storage/remote/batch.hpp"
#include "src/storage/remote/landed_bytes.hpp"

namespace cake::inline CAKE_ABI::detail {

struct S3Counters {
  using Count = std::atomic<std::uint64_t>;
  Count requests{0}, retries{0}, connects{0}, reads{0}, canceled{0}, read_bytes{0};
  Count published{0}, published_bytes{0}, already_stored{0}, replaced{0}, lookup_problems{0};
};

/// What is asked of the server.
struct S3Request {
  enum class Method : std::uint8_t { get, head, put, post, remove };
  enum class Share : std::uint8_t { reads, writes, calls };  // whose connections it takes

  Method method = Method::get;
  Share share = Share::calls;
  std::string doing;  // for people: "read"
  std::string url;    // without its query
  std::string query;  // of s3_query()
  std::vector<std::string> headers = {};
  std::string digest = {};  // of the body, in hex, or UNSIGNED-PAYLOAD; "": of an empty one
  ConstBytes body = {};     // stays until the request is over
  std::string text = {};    // a body of its own instead
  std::size_t most_answer = std::size_t{64} << 10;  // that is kept of what is no object
  // Of a ranged GET: where its bytes go, and which these are.
  std::uint64_t offset = 0;
  MutableBytes out = {};
  std::shared_ptr<PieceSink> sink = {};
  bool ends_all = true;  // a failure ends the other requests of its batch
};

/// What all requests of a store have in common.
struct S3Common {
  S3Options options;
  std::string bucket;
  std::string user_agent;
  S3Counters counters;
  std::mutex mutex;
  std::shared_ptr<const S3Credentials> credentials;  // guarded by the mutex

  std::shared_ptr<const S3Credentials> credentials_now() {
    const std::lock_guard lock(mutex);
    return credentials;
  }
};

/// Thread:  one driver's thread, until the batch is ready; then whoever waited
class S3Exchange {
 public:
  using Clock = std::chrono::steady_clock;

  S3Exchange(S3Request request, std::shared_ptr<RemoteBatch> batch, Clock::time_point deadline)
      : request_(std::move(request)),
        batch_(std::move(batch)),
        deadline_(deadline),
        landed_(request_.out, request_.sink) {}

  const S3Request& request() const { return request_; }
  RemoteBatch& batch() const { return *batch_; }
  /// What came of it, once it is over.
  const S3Reply& reply() const { return reply_; }
  const Status& status() const { return status_; }

  // ---- for the driver ----

  /// Sets up the next attempt. The list of headers stays as long as the attempt.
  ///
  /// Errors:  out_of_memory
  Status prepare(CURL* handle, S3Common& common);
  /// The attempt is over. True: another one is to be made, at not_before().
  bool attempt_ended(CURLcode code, S3Common& common, std::minstd_rand& random);
  /// It is over as it is: `why` is added to what the last attempt ended with.
  void end(Errc code, const char* why, S3Common& common) noexcept;
  /// Ends as the batch did.
  void end_with_batch(S3Common& common) noexcept;
  /// Tells the batch. Once, when the driver has let go of it.
  void tell() noexcept;

  Clock::time_point deadline() const { return deadline_; }
  Clock::time_point not_before() const { return not_before_; }
  /// The last attempt found no way to the server.
  bool no_way() const { return no_way_; }
  /// Nothing has arrived for this long, where that is a reason to give up an attempt.
  bool stalled(Clock::time_point now, std::chrono::nanoseconds most) const {
    return !request_.out.empty() && now - progress_ > most;
  }

 private:
  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self);
  static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self);
  static std::size_t on_upload(char* to, std::size_t size, std::size_t count, void* self);
  static int on_seek(void* self, curl_off_t offset, int origin);

  struct FreeList {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  };

  bool add_header(const std::string& line);
  Status set_headers(CURL* handle, const S3Credentials& credentials, bool anonymous);
  void set_body(CURL* handle);
  void set_connection(CURL* handle, const S3Common& common);
  /// Whether the body of this answer is the bytes that were asked for. Sets wrong_ where it is not.
  void begin_body();
  bool take(ConstBytes bytes);
  S3Problem outcome(CURLcode code, const S3Common& common) const;
  S3Context context(const S3Common& common) const;
  ConstBytes body() const;

  S3Request request_;
  std::shared_ptr<RemoteBatch> batch_;
  Clock::time_point deadline_;
  LandedBytes landed_;  // in all attempts
  Clock::time_point not_before_{};
  Clock::time_point progress_{};
  unsigned attempts_ = 0;

  // Of the attempt.
  S3Reply reply_;
  std::unique_ptr<curl_slist, FreeList> headers_;
  std::array<char, CURL_ERROR_SIZE> error_{};
  std::optional<S3Problem> wrong_;  // why the answer is not taken
  bool begun_ = false;              // its head is over
  bool object_ = false;             // its body goes to `out`
  std::size_t dropped_ = 0;         // of a body that is too long to keep
  std::size_t sent_ = 0;

  bool no_way_ = false;
  bool fresh_ = false;  // the next attempt is to have a connection of its own
  Status status_;
};

}  // namespace cake::inline CAKE_ABI::detail
