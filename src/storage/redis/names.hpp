// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Addresses of a host, which the name service may take long to tell.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "slots.hpp"
#include "src/storage/remote/batch.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Begun when it is made. A name is asked for on a thread of its own, which nobody waits for: it
/// ends by itself, also after this object.
///
/// Thread:  Requires external synchronization
class RedisNames {
 public:
  struct Address {
    sockaddr_storage data{};
    socklen_t size = 0;
  };
  /// `driver` is woken when they are known.
  ///
  /// Errors:  throws std::bad_alloc, std::system_error
  RedisNames(const RedisEndpoint& node, std::weak_ptr<RemoteDriver> driver);

  bool known() const;
  /// None: there are none, and why().
  std::vector<Address> addresses() const;
  std::string why() const;

 private:
  struct Answer {
    std::mutex mutex;
    bool known = false;
    int code = 0;
    std::vector<Address> addresses;
  };
  static void ask(const RedisEndpoint& node, int flags, Answer& answer);
  std::shared_ptr<Answer> answer_ = std::make_shared<Answer>();
};

}  // namespace cake::inline CAKE_ABI::detail
