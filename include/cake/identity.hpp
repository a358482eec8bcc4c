// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Who a chunk is. A key names one chunk of one prefix of one model for one tenant: SHA-256 over the
// parent's key and the chunk's token ids, from a root over everything that changes KV bytes. Equal
// keys mean equal bytes; nothing else does.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cake/kv_layout.hpp"
#include "cake/plan.hpp"
#include "cake/result.hpp"

namespace cake {

using Sha256Digest = std::array<std::byte, 32>;

/// Names one stored chunk.
struct ChunkKey {
  Sha256Digest bytes{};
  std::string hex() const;
  friend auto operator<=>(const ChunkKey&, const ChunkKey&) = default;
};

/// Everything that changes the KV bytes of given tokens, as one digest. Built with
/// FingerprintBuilder.
struct ModelFingerprint {
  Sha256Digest bytes{};
  std::string hex() const;
  friend auto operator<=>(const ModelFingerprint&, const ModelFingerprint&) = default;
};

/// SHA-256 over fields that are each written as (tag length, tag, value length, value), so that no
/// two lists of fields run together.
///
/// Thread:  one thread at a time
/// Errors:  throws Exception(unsupported) where OpenSSL offers no SHA-256
/// Source:  FIPS 180-4, by OpenSSL's EVP
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  Sha256& update(std::span<const std::byte> bytes);
  Sha256& update(std::string_view text) { return update(std::as_bytes(std::span(text))); }
  Sha256& field(std::string_view tag, std::span<const std::byte> value);
  /// Returns the digest and starts anew.
  Sha256Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Collects what makes a model's KV its own. Put in all that applies: "weights" (a digest), "rope",
/// "tp_rank", "tp_size", "lora", "numerics". The loader adds layout, chunk size and codec by
/// itself.
///
///     auto fingerprint = cake::FingerprintBuilder().add("weights", sha256_of_file).add("tp_rank",
///     0).finish();
class FingerprintBuilder {
 public:
  FingerprintBuilder();
  FingerprintBuilder& add(std::string_view tag, std::string_view value);
  FingerprintBuilder& add(std::string_view tag, std::span<const std::byte> value);
  FingerprintBuilder& add(std::string_view tag, std::uint64_t value);
  ModelFingerprint finish();

 private:
  Sha256 sha_;
};

/// The root of all chains of one model, layout, chunk size and tenant. Two salts share nothing.
ChunkKey root_key(const ModelFingerprint& fingerprint, const KvLayout& layout,
                  std::uint32_t chunk_tokens, std::string_view tenant_salt);

/// 16 bytes that tell tenants apart in a stored object without storing the salt.
std::array<std::byte, 16> tenant_tag(std::string_view tenant_salt);

/// One key per full chunk: tokens.size() / chunk_tokens keys, each over all tokens before it.
///
/// Errors:  throws Exception(invalid_argument) when chunk_tokens is 0
std::vector<ChunkKey> prefix_chain(const ChunkKey& root, Tokens tokens, std::uint32_t chunk_tokens);

}  // namespace cake

template <>
struct std::hash<cake::ChunkKey> {
  std::size_t operator()(const cake::ChunkKey& key) const noexcept {
    std::size_t value;
    std::memcpy(&value, key.bytes.data(), sizeof value);  // SHA-256 is uniform already
    return value;
  }
};
