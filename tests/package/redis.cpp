// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Links cake::redis from outside: the errors of a server that is not there, and of TLS without its
// authority (OpenSSL).
#include <cake/storage/redis.hpp>
#include <cstdio>

int main() {
  cake::RedisOptions options = cake::redis_options("redis://127.0.0.1:9/kv").value();
  options.attempts = 1;
  cake::RedisStorage storage(options);
  const cake::Status status = storage.check_access();
  if (status) return 1;
  std::printf("%s\n", status.error().message().c_str());
  options.tls = true;
  options.ca_file = "/nothing.pem";
  try {
    const cake::RedisStorage encrypted(options);
    return 1;
  } catch (const cake::Exception& e) {
    std::printf("%s\n", e.what());
  }
  return status.error().code == cake::Errc::io ? 0 : 1;
}
