// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the tests of cake::s3 share.
#pragma once

#include <chrono>
#include <string>

#include "cake/storage/s3.hpp"
#include "helpers.hpp"
#include "s3_server.hpp"

namespace cake_s3_test {

/// For the test's server: nothing ends by itself while the machine is slow.
inline cake::S3Options options_for(const Server& server, const ServerOptions& of = {}) {
  cake::S3Options options;
  options.bucket = of.bucket;
  options.prefix = "kv/v2";
  options.credentials = {of.keys.access, of.keys.secret, of.keys.token};
  options.region = of.keys.region;
  options.endpoint = server.endpoint();
  options.read_timeout = options.write_timeout = options.call_timeout = std::chrono::minutes(2);
  options.connect_timeout = options.stall_timeout = std::chrono::minutes(1);
  return options;
}

inline std::string name_of(const cake::ChunkKey& key) {
  return "kv/v2/" + key.hex().substr(0, 2) + "/" + key.hex() + ".ckv";
}

inline std::string text_of(cake::ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace cake_s3_test
