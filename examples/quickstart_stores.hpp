// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The stores that quickstart keeps KV in: a folder, or a bucket where the build has cake::s3.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "cake/storage/posix.hpp"
#ifdef CAKE_EXAMPLE_S3
#include "cake/storage/s3.hpp"
#endif

namespace cake::examples {

inline bool is_bucket(const std::filesystem::path& store) {
  return store.native().starts_with("s3:");
}

/// Whether there can be such a store at all.
inline Status check_store(const std::filesystem::path& store) {
  if (!is_bucket(store)) return {};
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

#ifdef CAKE_EXAMPLE_S3
struct InBucket {
  using Store = S3Storage;
  static Result<std::unique_ptr<Store>> open(const std::filesystem::path& address) {
    const auto options = s3_options(address.native());
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
#endif

}  // namespace cake::examples
