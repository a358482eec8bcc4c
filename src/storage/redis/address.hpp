// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Where a server is, and what the keys of objects are.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cake/identity.hpp"
#include "cake/storage/redis.hpp"
#include "slots.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class RedisAddress {
 public:
  /// Errors:  throws Exception(invalid_argument) naming the member that cannot be
  explicit RedisAddress(const RedisOptions& options);

  /// "PREFIX:{<64 hex>}"
  std::string key_of(const ChunkKey& key) const { return key_of(key.hex()); }
  /// Of something that is no chunk.
  std::string key_of(std::string_view name) const { return prefix_ + std::string(name) + "}"; }
  /// The chunk of which this is the key; none: it is no chunk's.
  std::optional<ChunkKey> chunk_of(std::string_view key) const;
  /// The pattern of all keys: a prefix has nothing in it that a pattern reads otherwise.
  std::string pattern() const { return prefix_ + "*}"; }
  /// For people: the URL of a key.
  std::string url(std::string_view key) const { return base_ + "/" + std::string(key); }
  /// For people: the server and the prefix.
  const std::string& shown() const { return shown_; }
  const RedisEndpoint& server() const { return server_; }

 private:
  RedisEndpoint server_;
  std::string prefix_;  // up to the name: "PREFIX:{"
  std::string base_;    // "redis://HOST:PORT"
  std::string shown_;
};

}  // namespace cake::inline CAKE_ABI::detail
