// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The drivers of one store, and requests through them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "address.hpp"
#include "driver.hpp"
#include "exchange.hpp"
#include "src/storage/remote/drivers.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class S3Client {
 public:
  using Clock = S3Exchange::Clock;
  using Exchanges = std::vector<std::shared_ptr<S3Exchange>>;

  /// Errors:  throws Exception, as S3Storage
  explicit S3Client(const S3Options& options);

  const S3Options& options() const { return common_.options; }
  const S3Address& address() const { return address_; }
  S3Counters& counters() { return common_.counters; }
  void set_credentials(S3Credentials credentials);

  /// As RemoteDrivers.
  std::shared_ptr<RemoteBatch> begin(std::vector<S3Request> requests, Clock::time_point deadline) {
    return drivers_.begin(std::move(requests), deadline);
  }
  std::shared_ptr<S3Exchange> ask(S3Request request, Clock::time_point deadline) {
    return drivers_.ask(std::move(request), deadline);
  }
  Exchanges ask_all(std::vector<S3Request> requests, Clock::time_point deadline) {
    return drivers_.ask_all(std::move(requests), deadline);
  }

  /// A request about an object, or something else that has a name.
  S3Request request(S3Request::Method method, S3Request::Share share, std::string doing,
                    std::string url) const;
  /// Digests `bytes` where the connection does not protect them on the way.
  std::string digest_of(ConstBytes bytes) const;

 private:
  S3Common common_;
  const S3Address address_;
  RemoteDrivers<S3Exchange, S3Driver, S3Request> drivers_;  // ends before what they use
};

}  // namespace cake::inline CAKE_ABI::detail
