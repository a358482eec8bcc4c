// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "client.hpp"

#include <array>
#include <utility>

namespace cake::inline CAKE_ABI::detail {
namespace {

using std::chrono::nanoseconds;

constexpr unsigned kLookupsAhead = 1024;

void check(bool good, const std::string& what) {
  if (!good) throw Exception({Errc::invalid_argument, 0, "RedisOptions::" + what});
}

void check_credentials(const RedisCredentials& credentials) {
  check(credentials.user.empty() || !credentials.password.empty(),
        "credentials have a user and no password");
}

const RedisOptions& checked(const RedisOptions& o) {
  constexpr std::size_t kKiB64 = std::size_t{64} << 10;
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  check_credentials(o.credentials);
  check(o.threads >= 1 && o.threads <= 16, "threads is not between 1 and 16");
  check(o.connections >= 1 && o.connections <= 64, "connections is not between 1 and 64");
  check(o.write_connections >= 1 && o.write_connections <= 64,
        "write_connections is not between 1 and 64");
  check(o.pipeline >= 1 && o.pipeline <= 64, "pipeline is not between 1 and 64");
  check(o.piece_bytes % kKiB64 == 0 && o.piece_bytes >= kKiB64 && o.piece_bytes <= 16 * kMiB,
        "piece_bytes is no multiple of 64 KiB from 64 KiB to 16 MiB");
  check(o.most_object_bytes >= kMiB, "most_object_bytes is less than 1 MiB");
  check(o.time_to_live.count() >= 0, "time_to_live is below 0");
  check(o.attempts >= 1 && o.attempts <= 100, "attempts is not between 1 and 100");
  check(o.redirections <= 100, "redirections is above 100");
  check(o.tls || (o.ca_file.empty() && o.certificate_file.empty() && o.key_file.empty()),
        "ca_file, certificate_file and key_file go with tls (rediss://)");
  for (const auto& [span, name] :
       {std::pair{o.read_timeout, "read_timeout"}, std::pair{o.write_timeout, "write_timeout"},
        std::pair{o.call_timeout, "call_timeout"}, std::pair{o.connect_timeout, "connect_timeout"},
        std::pair{o.stall_timeout, "stall_timeout"}}) {
    check(span > nanoseconds(0), std::string(name) + " is not above 0");
  }
  return o;
}

}  // namespace

RedisClient::RedisClient(const RedisOptions& options) : common_(checked(options)) {
  common_.options.credentials = {};
  common_.credentials = std::make_shared<const RedisCredentials>(options.credentials);
  if (options.tls) common_.tls = std::make_unique<const RedisTls>(options);
  const auto share = [&](unsigned all) { return (all + options.threads - 1) / options.threads; };
  const std::array most{share(options.connections), share(options.write_connections), 1u};
  const std::array ahead{options.pipeline, 1u, kLookupsAhead};
  for (unsigned i = 0; i < options.threads; ++i) {
    drivers_.add(RedisDriver::make(common_, most, ahead));
  }
}

void RedisClient::set_credentials(RedisCredentials credentials) {
  check_credentials(credentials);
  auto next = std::make_shared<const RedisCredentials>(std::move(credentials));
  const std::lock_guard lock(common_.mutex);
  common_.credentials.swap(next);
}

RedisRequest RedisClient::about(const char* word, std::string doing, std::string key) {
  RedisRequest made;
  made.frame = {resp_command({word, key}), ""};
  made.doing = std::move(doing);
  made.key = std::move(key);
  return made;
}

}  // namespace cake::inline CAKE_ABI::detail
