// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Where a bucket is, and what the URLs of its objects are.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/storage/s3.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Names and values of a query, in any order.
using S3Query = std::vector<std::pair<std::string, std::string>>;

/// As it stands in a URL: sorted by name, each name with a "=", as a signature wants it. libcurl up to
/// 8.0 signs what it is given, so that any other order, and a name alone, would be refused.
///
/// Errors:  unsupported: a name or value has characters that have to be encoded, which versions of
///          libcurl sign in different ways
Result<std::string> s3_query(S3Query query);

/// Thread:  Safe for concurrent use
class S3Address {
 public:
  /// Errors:  throws Exception(invalid_argument) naming the member that cannot be
  explicit S3Address(const S3Options& options);

  /// Of an object's name: path and URL without query.
  std::string url(std::string_view name) const { return base_ + std::string(name); }
  std::string url(const ChunkKey& key) const { return url(name_of(key)); }
  /// "PREFIX/<2 hex>/<64 hex>.ckv"
  std::string name_of(const ChunkKey& key) const;
  /// Of something that is no chunk.
  std::string name_of(std::string_view other) const { return prefix_ + std::string(other); }
  /// For people: the bucket and the prefix in it.
  const std::string& shown() const { return shown_; }
  /// The key of the object that has this name; none: it is no object's.
  std::optional<ChunkKey> key_of(std::string_view name) const;
  /// What all names begin with: "" or with a "/" at its end.
  const std::string& prefix() const { return prefix_; }
  bool encrypted() const { return encrypted_; }
  const std::string& bucket() const { return bucket_; }

 private:
  std::string base_;    // up to the name: "https://HOST/BUCKET/", or "https://BUCKET.HOST/"
  std::string prefix_;  // "" or ends with "/"
  std::string shown_;
  std::string bucket_;
  bool encrypted_ = true;
};

}  // namespace cake::inline CAKE_ABI::detail
