// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Writing an object: whole or not at all, and the first writer wins.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "cake/result.hpp"
#include "client.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class S3Upload {
 public:
  explicit S3Upload(S3Client& client)
      : client_(client), conditional_(client.options().conditional_writes) {}

  /// Errors:  as S3Storage::write_new()
  Result<bool> write(const std::string& url, ConstBytes bytes);
  bool conditional() const { return conditional_; }

 private:
  using Clock = S3Client::Clock;
  /// What is under a name.
  enum class There { nothing, object, rubbish };
  Result<There> look(const std::string& url, Clock::time_point deadline);
  Status remove(const std::string& url, const std::string& query, Clock::time_point deadline);
  std::shared_ptr<S3Exchange> put(const std::string& url, ConstBytes bytes,
                                  Clock::time_point deadline);
  /// Whether a bad answer says that the store does not know If-None-Match. It is not used any more.
  bool refuses_condition(const S3Reply& reply);
  void add_condition(S3Request& request) const;

  Result<bool> write_whole(const std::string& url, ConstBytes bytes, Clock::time_point deadline);
  Result<bool> write_in_parts(const std::string& url, ConstBytes bytes, Clock::time_point deadline);
  Result<std::string> begin_parts(const std::string& url, Clock::time_point deadline);
  Result<std::string> send_parts(const std::string& url, const std::string& upload,
                                 ConstBytes bytes, Clock::time_point deadline);
  Result<bool> end_parts(const std::string& url, const std::string& upload, const std::string& list,
                         Clock::time_point deadline);

  S3Client& client_;
  std::atomic<bool> conditional_;
};

}  // namespace cake::inline CAKE_ABI::detail
