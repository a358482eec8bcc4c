// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Stores by their address: a directory, a bucket, or a server of Redis or Valkey.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/storage/listing.hpp"
#include "cake/storage/posix.hpp"
#include "cake/types.hpp"

namespace cake::tools {

/// What all commands do with a store, whatever kind it is.
///
/// Errors:  texts name the directory or the URL, without user and password
/// Thread:  Safe for concurrent use
class OpenStore {
 public:
  virtual ~OpenStore() = default;
  /// For people: without user and password.
  virtual std::string shown() const = 0;
  /// Where an object is: its path or URL.
  virtual std::string place_of(const ChunkKey& key) const = 0;
  virtual Result<Listing> list(const std::string& from) = 0;
  /// What is under the names of these keys; size 0: nothing.
  ///
  /// Shape:   as `keys`
  virtual Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) = 0;
  /// What is there of a key, damaged or not; none: nothing is.
  virtual Result<std::optional<ListedObject>> find(const ChunkKey& key) = 0;
  virtual Status read(const ChunkKey& key, std::uint64_t offset, MutableBytes out) = 0;
  /// Whether this call made the object visible.
  virtual Result<bool> write(const ChunkKey& key, ConstBytes bytes) = 0;
  virtual Status erase(const ChunkKey& key) = 0;
  /// Errors:  unsupported: the store itself evicts nothing
  virtual Result<PosixTrim> trim(std::uint64_t bytes) = 0;
};

/// What a command may do with a store. Without `create` a directory has to be there.
enum class Access : std::uint8_t { read, change, create };

/// Errors:  invalid_argument: the address cannot be one; unsupported: this build has no such store;
///          else why it cannot be used
Result<std::unique_ptr<OpenStore>> open_store(const std::string& address, Access access,
                                              bool trust_directory);

/// The same text without what stands between "://" and "@".
std::string without_secrets(const std::string& text);

}  // namespace cake::tools
