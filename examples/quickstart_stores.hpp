// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The stores that quickstart keeps KV in: a folder, a bucket where the build has cake::s3, or Redis or
// Valkey where it has cake::redis.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "cake/storage/posix.hpp"
#ifdef CAKE_EXAMPLE_REDIS
#include "cake/storage/redis.hpp"
#endif
#ifdef CAKE_EXAMPLE_S3
#include "cake/storage/s3.hpp"
#endif

namespace cake::examples {

inline bool is_bucket(const std::filesystem::path& store) {
  return store.native().starts_with("s3:");
}

inline bool is_redis(const std::filesystem::path& store) {
  return store.native().starts_with("redis:") || store.native().starts_with("rediss:");
}

/// For people: without user and password.
inline std::string shown(const std::filesystem::path& store) {
  const std::string& text = store.native();
  const std::size_t at = text.rfind('@');
  if (!is_redis(store) || at == std::string::npos) return text;
  return text.substr(0, text.find("//") + 2) + text.substr(at + 1);
}

/// Whether there can be such a store at all.
inline Status check_store(const std::filesystem::path& store) {
  if (is_bucket(store)) {
#ifdef CAKE_EXAMPLE_S3
    const auto options = s3_options(store.native());
    return options ? Status() : Status(options.error());
#else
    return Error{
        Errc::unsupported, 0,
        "--store s3://...: this build has no cake::s3 (it needs libcurl 7.88; configure with "
        "-DCAKE_S3=ON to see what is missing)"};
#endif
  }
  if (is_redis(store)) {
#ifdef CAKE_EXAMPLE_REDIS
    const auto options = redis_options(store.native());
    return options ? Status() : Status(options.error());
#else
    return Error{Errc::unsupported, 0,
                 "--store redis://...: this build has no cake::redis (it needs libssl of OpenSSL "
                 "3; configure "
                 "with -DCAKE_REDIS=ON to see what is missing)"};
#endif
  }
  return {};
}

/// What differs between the stores: how one is opened.
struct InFolder {
  using Store = PosixStorage;
  static Result<std::unique_ptr<Store>> open(const std::filesystem::path& folder) {
    std::error_code error;
    if (folder.has_parent_path()) std::filesystem::create_directories(folder.parent_path(), error);
    try {
      return std::make_unique<Store>(PosixOptions{.directory = folder});
    } catch (const Exception& e) {
      return e.error();
    }
  }
};

/// `Options`: what an address means.
template <class S, auto Options>
struct Remote {
  using Store = S;
  static Result<std::unique_ptr<Store>> open(const std::filesystem::path& address) {
    const auto options = Options(address.native());
    if (!options) return options.error();
    try {
      auto store = std::make_unique<Store>(*options);
      if (Status status = store->check_access(); !status) return status.error();
      return store;
    } catch (const Exception& e) {
      return e.error();
    }
  }
};
#ifdef CAKE_EXAMPLE_S3
using InBucket = Remote<S3Storage, s3_options>;
#endif
#ifdef CAKE_EXAMPLE_REDIS
using InRedis = Remote<RedisStorage, redis_options>;
#endif

}  // namespace cake::examples
